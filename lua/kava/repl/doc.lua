-- kava.repl.doc: what the annotations under lua/kava/meta say, by name. Read when first asked for.
local doc = {}

-- entries[full name] = { name, signature, text (list of lines), returns (class or nil) }; members[class] = { name = entry }
local entries, members

local function meta_files()
  local fs, folder = require("kava").fs, package.searchpath("kava.repl.doc", package.path):gsub("repl/doc%.lua$", "meta")
  local list = {}
  for _, name in ipairs(fs.list(folder) or {}) do
    if name:match "%.lua$" then list[#list + 1] = folder .. "/" .. name end
  end
  return list
end

local function add(name, signature, text, returns)
  local entry = { name = name, signature = signature, text = text, returns = returns }
  entries[name] = entry
  local class, member = name:match "^(.*)[.:]([%w_]+)$"
  if class then
    members[class] = members[class] or {}
    members[class][member] = entry
  end
end

-- One file: a block of --- lines belongs to the function, class or field that follows it.
local function read(path)
  local class_of, class, block, returns = { kava = "kava" }, nil, {}, nil
  for line in io.lines(path) do
    local comment = line:match "^%-%-%-%s?(.*)$"
    if comment then
      local opened, field, rest = comment:match "^@class%s+([%w_.]+)", comment:match "^@field%s+([%w_]+)%??%s+(.*)$"
      returns = returns or comment:match "^@return%s+(kava%.%u%w*)"
      if opened then
        class = opened
        if not entries[class] then add(class, class, block) end
        block = {}
      elseif field and class then
        add(class .. "." .. field, ("%s.%s: %s"):format(class, field, rest), block)
        block = {}
      elseif comment ~= "@meta" then
        block[#block + 1] = comment
      end
    else
      local variable = line:match "^local%s+([%w_]+)%s*=%s*{"
      if variable and class then class_of[variable], class = class, nil end
      local owner, separator, name, arguments = line:match "^function%s+([%w_.]-)([.:])([%w_]+)%s*(%b())"
      if owner then
        local first, rest = owner:match "^([%w_]+)(.*)$"
        local full = (class_of[owner] or class_of[first] and class_of[first] .. rest or owner) .. separator .. name
        add(full, full .. arguments, block, returns)
      end
      block, returns = {}, nil
    end
  end
end

local function index()
  if entries then return end
  entries, members = {}, {}
  for _, path in ipairs(meta_files()) do read(path) end
end

--- The members that are documented of a class or module: { name = entry }, an entry's name having a `:` where it is a method.
function doc.members(class)
  index()
  return members[class] or {}
end

--- The class of what a function or method returns, when the annotations name one.
function doc.returns(name)
  index()
  return entries[name] and entries[name].returns
end

local function lines_of(entry)
  local out = { entry.signature }
  for _, line in ipairs(entry.text) do
    local parameter, rest = line:match "^@param%s+([%w_.]+%??)%s+(.*)$"
    local result = line:match "^@return%s+(.*)$"
    if parameter then out[#out + 1] = ("    %s: %s"):format(parameter, rest)
    elseif result then out[#out + 1] = "    -> " .. result
    elseif not line:match "^@" then out[#out + 1] = "  " .. line end
  end
  local list = {}
  for name, member in pairs(doc.members(entry.name)) do
    list[#list + 1] = (member.name:sub(#entry.name + 1, #entry.name + 1)) .. name
  end
  table.sort(list)
  if #list > 0 then out[#out + 1] = "  " .. table.concat(list, "  ") end
  return table.concat(out, "\n")
end

--- What is documented under a name: its full one, or its end (`load`, `model.load`, `Tensor:narrow`). -> text | nil, message
function doc.find(name)
  index()
  local wanted = name:gsub("%(.*$", ""):gsub("%s+$", "")
  if entries[wanted] then return lines_of(entries[wanted]) end
  local plain, found = wanted:gsub(":", "."), {}
  for full in pairs(entries) do
    local other = full:gsub(":", ".")
    if other == plain or other:sub(-#plain - 1) == "." .. plain then found[#found + 1] = full end
  end
  table.sort(found)
  if #found == 1 then return lines_of(entries[found[1]]) end
  if #found > 1 then return ("%s is several: %s"):format(wanted, table.concat(found, ", ")) end
  local last = {}
  for full in pairs(entries) do last[full:match "[%w_]+$"] = true end
  local near = require("kava.config").nearest(wanted:match "[%w_]*$", last)
  return nil, ("nothing is documented as %s%s"):format(wanted, near and ("; did you mean %s?"):format(near) or "")
end

return doc

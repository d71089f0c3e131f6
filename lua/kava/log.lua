-- kava.log: what a run leaves behind while it goes: metrics.jsonl (everything), metrics.csv (the columns one plots), config.lua (the
-- resolved config). Every record is flushed, so that a killed run loses none that it reported. A resumed run first drops the records
-- after its checkpoint's step: they are about to be made again.
local log = {}

local COLUMNS = { "step", "kind", "loss", "kv", "ce", "kl", "cos_sim", "agreement", "cosine", "lr", "grad_norm", "tokens",
  "tokens_per_s", "effective_rank", "mean_direction", "shuffled" }

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(c)
    return c == '"' and '\\"' or c == "\\" and "\\\\" or ("\\u%04x"):format(c:byte())
  end) .. '"'
end

-- JSON has no inf and nan: they are written as null.
local function encode(value)
  if type(value) == "string" then return quoted(value) end
  if math.type(value) == "integer" then return ("%d"):format(value) end
  if type(value) == "number" then
    return value == value and value ~= math.huge and value ~= -math.huge and ("%.9g"):format(value) or "null"
  end
  if type(value) == "boolean" then return tostring(value) end
  local parts = {}
  if #value > 0 then
    for i, item in ipairs(value) do parts[i] = encode(item) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  local names = {}
  for name in pairs(value) do names[#names + 1] = name end
  table.sort(names, function(a, b) -- the step first, the rest by name
    if (a == "step") ~= (b == "step") then return a == "step" end
    return a < b
  end)
  for i, name in ipairs(names) do parts[i] = quoted(name) .. ":" .. encode(value[name]) end
  return "{" .. table.concat(parts, ",") .. "}"
end
log.encode = encode

---@class kava.Log
local Log = {}
Log.__index = Log

local function write(self, file, path, text)
  local ok, message = file:write(text)
  if ok then ok, message = file:flush() end
  if not ok then return nil, ("%s: %s"):format(path, message) end
  return self
end

-- Keeps the lines for which keep(line) is true, in a file of its own: another copy of the run that still has the old one open writes to
-- what nobody will read.
local function filter(path, keep)
  local file = io.open(path, "rb")
  if not file then return end
  local lines = {}
  for line in file:lines "L" do
    if line:sub(-1) == "\n" and keep(line) then lines[#lines + 1] = line end
  end
  file:close()
  local fresh = path .. ".new"
  local out = assert(io.open(fresh, "wb"))
  assert(out:write(table.concat(lines)))
  assert(out:close())
  assert(os.rename(fresh, path))
end

--- Opens a folder's logs. step: the records up to it are kept, later ones dropped; nil: start with none. -> log | nil, message
function log.open(folder, step)
  local self = setmetatable({ jsonl = folder .. "/metrics.jsonl", csv = folder .. "/metrics.csv" }, Log)
  local function upto(pattern)
    return function(line)
      local at = line:match(pattern)
      return not at or step ~= nil and tonumber(at) <= step
    end
  end
  if not step then
    os.remove(self.jsonl)
    os.remove(self.csv)
  end
  local ok, message = pcall(function()
    filter(self.jsonl, upto '^{"step":(%d+)')
    filter(self.csv, upto "^(%d+),")
  end)
  if not ok then return nil, message end
  for _, name in ipairs { "jsonl", "csv" } do
    local file, problem = io.open(self[name], "ab")
    if not file then return nil, problem end
    self[name .. "_file"] = file
  end
  if self.csv_file:seek "end" == 0 then return write(self, self.csv_file, self.csv, table.concat(COLUMNS, ",") .. "\n") end
  return self
end

--- One record: { step =, kind = "train" | "eval", … }. -> log | nil, message where the disk refuses
function Log:record(record)
  local ok, message = write(self, self.jsonl_file, self.jsonl, encode(record) .. "\n")
  if not ok then return nil, message end
  local cells = {}
  for i, name in ipairs(COLUMNS) do
    local value = record[name]
    cells[i] = value == nil and "" or type(value) == "string" and value or (encode(value):gsub("^null$", ""))
  end
  return write(self, self.csv_file, self.csv, table.concat(cells, ",") .. "\n")
end

function Log:close()
  if self.jsonl_file then self.jsonl_file:close() end
  if self.csv_file then self.csv_file:close() end
  self.jsonl_file, self.csv_file = nil, nil
end
Log.__close = Log.close
Log.__gc = Log.close

return log

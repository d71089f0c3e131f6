-- The .def lists say what is there: each op has its file, its declaration and a spec that names it; each kernel its plain
-- reference, and a comment above its line; each SIMD family its source.
local files = require "scripts.checks.files"

-- The lines of a .def as { number, arguments }, with the comment that stands above each group.
local function entries(path, macro)
  local list, comment, in_comment = {}, nil, false
  for number, line in files.lines(files.read(path)) do
    if line:match "^%s*/%*" then comment, in_comment = line, true end
    if in_comment then
      if line:match "%*/%s*$" then in_comment = false end
    elseif line:match "^%s*$" then
      comment = nil
    end
    local arguments = line:match("^%s*" .. macro .. "%((.*)%)%s*$") or line:match("^%s*" .. macro .. "%((.*)%)%s*/%*")
    if arguments then list[#list + 1] = { number = number, arguments = arguments, comment = comment or line:match "/%*.*%*/" } end
  end
  return list
end

return function()
  local complaints = {}
  local function complain(...) complaints[#complaints + 1] = string.format(...) end

  for _, op in ipairs(entries("src/ops/ops.def", "KAVA_OP")) do
    local name, stem = op.arguments:match "^([%w_]+),%s*([%w_]+)$"
    local where = ("src/ops/ops.def:%d: %s"):format(op.number, name or op.arguments)
    if not name then
      complain("%s: KAVA_OP(name, stem) expected", where)
    else
      local source, header, spec = "src/ops/" .. stem .. ".c", "src/ops/" .. stem .. ".h", "spec/ops/" .. stem .. "_spec.lua"
      local call = "kava_op_" .. name .. "%f[^%w_]"
      if not files.exists(source) then complain("%s: %s is missing", where, source)
      elseif not files.read(source):find(call) then complain("%s: %s does not define it", where, source) end
      if not files.exists(header) then complain("%s: %s is missing", where, header)
      elseif not files.read(header):find(call) then complain("%s: %s does not declare it", where, header) end
      if not files.exists(spec) then complain("%s: %s is missing", where, spec)
      elseif not files.read(spec):find("%f[%w_]" .. name .. "%f[^%w_]") then complain("%s: %s does not name it", where, spec) end
    end
  end

  local references = {}
  for _, path in ipairs(files.list("%.c$", { "kernels/cpu" })) do
    for name in files.read(path):gmatch "kava_ref_([%w_]+)%s*%(" do references[name] = true end
  end
  for _, kernel in ipairs(entries("kernels/kernels.def", "KAVA_KERNEL")) do
    local name = kernel.arguments:match "^[%w_ %*]-,%s*([%w_]+),"
    local where = ("kernels/kernels.def:%d: %s"):format(kernel.number, name or kernel.arguments)
    if not name then complain("%s: KAVA_KERNEL(result, name, (signature)) expected", where)
    else
      if not references[name] then complain("%s: no kava_ref_%s in kernels/cpu", where, name) end
      if not kernel.comment then complain("%s: no comment above it says what it does", where) end
    end
  end
  for _, family in ipairs(entries("kernels/cpu/simd/families.def", "FAMILY")) do
    local source = "kernels/cpu/simd/" .. family.arguments .. ".c"
    if not files.exists(source) then complain("kernels/cpu/simd/families.def:%d: %s is missing", family.number, source) end
  end
  return complaints
end

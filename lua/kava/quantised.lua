-- kava.quantised: weights of quantised Hugging Face checkpoints, as stored: which tensors of a file make up a weight, for each
-- quant_method of config.json. What they mean, bit by bit: kernels/args.h (kava_scaling), kernels/cpu/quant.c.
-- Codes and scales are used where they lie in the mapped file; GPTQ's and AWQ's, packed along the other dimension, are turned once.
local kava = require "kava"
local families = require "kava.families"

local quantised = {}

local function fail(message, code) error({ message = message, code = code or "format" }, 0) end
local function unsupported(message) fail(message, "unsupported") end

local dtypes = { float32 = "f32", float16 = "f16", bfloat16 = "bf16" }

-- The tensors of a file, as a method sees them: each one that it takes is told apart from those that belong to nobody.
local Parts = {}
Parts.__index = Parts

function Parts:find(name)
  local t = self.tensors[name]
  if t then self.taken[name] = true end
  return t
end

function Parts:need(name, dims)
  local t = self:find(name)
  if not t then fail(("%s: tensor %s is missing"):format(self.file, name)) end
  if dims and #t.shape ~= dims then
    fail(("%s: tensor %s: %d dimensions expected, got [%s]"):format(self.file, name, dims, table.concat(t.shape, ", ")))
  end
  return t
end

function Parts:words(name)
  local t = self:need(name, 2)
  if t.dtype ~= "i32" then fail(("%s: tensor %s: i32 expected, got %s"):format(self.file, name, t.dtype)) end
  return t
end

-- A result of kava.quant, or its failure with the tensor's name.
function Parts:check(name, t, message, code)
  if not t then fail(("%s: tensor %s: %s"):format(self.file, name, message), code) end
  return t
end

function Parts:coded(name, parts) return self:check(name, kava.quant.coded(parts)) end

local function turned(t) return t:permute(2, 1):contiguous() end

-- Zero points that are all the same need no table.
local function add_zeros(parts, zeros)
  local numbers = zeros:to { dtype = "f32" }
  local least, most = numbers:min():item(), numbers:max():item()
  if least == most then parts.zero = least else parts.zeros = zeros end
  return parts
end

local function count(t)
  local n = 1
  for _, size in ipairs(t.shape) do n = n * size end
  return n
end

-- Each method: check(config) raises for what it cannot read, before any weight is read; weight(parts, prefix, config) gives the
-- tensor of prefix.weight, or nil where it is not quantised.
local methods = {}

-- ---------------------------------------------------------------------------------------------------------- bitsandbytes

methods.bitsandbytes = {
  check = function(config)
    if not (config.load_in_4bit or config._load_in_4bit or config.load_in_8bit or config._load_in_8bit) then
      unsupported "bitsandbytes with neither load_in_4bit nor load_in_8bit"
    end
  end,
}

local function four_bits(parts, name, kind)
  local state_name = ("%s.quant_state.bitsandbytes__%s"):format(name, kind)
  local bytes = parts:find(state_name)
  if not bytes then return nil end
  if bytes.dtype ~= "u8" or #bytes.shape ~= 1 or bytes.shape[1] > 65536 then
    fail(("%s: tensor %s: text expected"):format(parts.file, state_name))
  end
  local text = {}
  for i, byte in ipairs(bytes:totable()) do text[i] = string.char(byte) end
  local state, message = kava.json.decode(table.concat(text))
  local function need(key, ok)
    if ok then return state[key] end
    fail(("%s: tensor %s: %s is %s"):format(parts.file, state_name, key, tostring(state[key])))
  end
  if type(state) ~= "table" then fail(("%s: tensor %s: %s"):format(parts.file, state_name, message or "an object expected")) end
  local shape = need("shape", type(state.shape) == "table")
  need("shape", #shape == 2 and math.type(shape[1]) == "integer" and math.type(shape[2]) == "integer")
  local coded = {
    dtype = kind, rows = shape[1], columns = shape[2], flat = true,
    group = need("blocksize", math.type(state.blocksize) == "integer"),
    round = need("dtype", dtypes[state.dtype]) and dtypes[state.dtype],
    codes = parts:need(name), scales = parts:need(name .. ".absmax"),
  }
  parts:find(name .. ".quant_map") -- always the type's own table
  if coded.scales.dtype == "u8" then
    need("nested_dtype", state.nested_dtype == nil or state.nested_dtype == "float32")
    coded.map, coded.outer = parts:need(name .. ".nested_quant_map"), parts:need(name .. ".nested_absmax")
    coded.outer_group = need("nested_blocksize", math.type(state.nested_blocksize) == "integer")
    coded.offset = need("nested_offset", type(state.nested_offset) == "number")
  end
  return parts:coded(name, coded)
end

function methods.bitsandbytes.weight(parts, prefix)
  local name = prefix .. ".weight"
  local weight = four_bits(parts, name, "nf4") or four_bits(parts, name, "fp4")
  if weight then return weight end
  local scales = parts:find(prefix .. ".SCB")
  if not scales then return nil end
  local format = parts:find(prefix .. ".weight_format")
  if format and format:to({ dtype = "f32" }):max():item() ~= 0 then
    unsupported(("%s: tensor %s.weight_format: only row-major weights (0) are known"):format(parts.file, prefix))
  end
  local codes = parts:need(name, 2)
  return parts:coded(name, { dtype = "int8", rows = codes.shape[1], columns = codes.shape[2], codes = codes, scales = scales / 127 })
end

-- ------------------------------------------------------------------------------------------------------------------- fp8

methods.fp8 = {
  check = function(config)
    local block = config.weight_block_size
    if block == nil then return end
    if type(block) ~= "table" or math.type(block[1]) ~= "integer" or math.type(block[2]) ~= "integer" then
      unsupported "fp8: weight_block_size must be two integers"
    end
  end,
}

function methods.fp8.weight(parts, prefix, config)
  local name = prefix .. ".weight"
  local scales = parts:find(name .. "_scale_inv") or parts:find(name .. "_scale") -- multiplied with, either of them
  if not scales then return nil end
  local codes = parts:need(name, 2)
  local block = config.weight_block_size or count(scales) == codes.shape[1] and { 1, codes.shape[2] } or codes.shape
  return parts:coded(name, {
    dtype = "fp8", rows = codes.shape[1], columns = codes.shape[2], codes = codes, scales = scales,
    group_rows = block[1], group = block[2],
  })
end

-- ------------------------------------------------------------------------------------------------------------ gptq, awq

local function check_bits(method, config, known)
  for _, bits in ipairs(known) do
    if config.bits == bits then return end
  end
  unsupported(("%s: %s bits; known: %s"):format(method, tostring(config.bits), table.concat(known, ", ")))
end

-- The group size in a matrix of `inputs` columns, from the configuration: -1 is one group.
local function group_size(parts, name, config, inputs)
  local size = config.group_size
  if size == nil or size == -1 then return inputs end
  if math.type(size) ~= "integer" or size < 1 then fail(("%s: tensor %s: group_size %s"):format(parts.file, name, tostring(size))) end
  return size
end

methods.gptq = {
  check = function(config)
    check_bits("gptq", config, { 2, 3, 4, 8 })
    local format = config.checkpoint_format or "gptq"
    if format ~= "gptq" and format ~= "gptq_v2" then
      unsupported(("gptq: checkpoint_format '%s'; known: gptq, gptq_v2"):format(tostring(format)))
    end
  end,
}

-- Words packed along the inputs, low bits first: turned, they are rows of codes. Zero points are stored less one (gptq) or as they
-- are (gptq_v2); less one, 0 wraps to the largest code, as the program that wrote them wrapped it.
function methods.gptq.weight(parts, prefix, config)
  local name = prefix .. ".qweight"
  if not parts.tensors[name] then return nil end
  local bits, words = config.bits, parts:words(name)
  local inputs, outputs = words.shape[1] * 32 // bits, words.shape[2]
  local zeros = parts:need(prefix .. ".qzeros", 2)
  zeros = parts:check(prefix .. ".qzeros", kava.quant.unpack(zeros, bits, outputs, config.checkpoint_format == "gptq_v2" and 0 or 1))
  local scales, index = turned(parts:need(prefix .. ".scales", 2)), parts:find(prefix .. ".g_idx")
  local group, in_order = group_size(parts, name, config, inputs), true
  if index then
    for i, g in ipairs(#index.shape == 1 and index:totable() or {}) do
      in_order = in_order and g == (i - 1) // group
    end
    in_order = in_order and count(index) == inputs
  end
  return parts:coded(name, add_zeros({
    dtype = bits == 8 and "uint8" or "int" .. bits, rows = outputs, columns = inputs, codes = turned(words), scales = scales,
    group = group, group_of = not in_order and index or nil, round = scales.dtype,
  }, turned(zeros)))
end

methods.awq = {
  check = function(config)
    check_bits("awq", config, { 4 })
    local version = tostring(config.version or "gemm"):lower()
    if version ~= "gemm" then unsupported(("awq: version '%s'; known: gemm"):format(version)) end
  end,
}

function methods.awq.weight(parts, prefix, config)
  local name = prefix .. ".qweight"
  if not parts.tensors[name] then return nil end
  local words = parts:words(name)
  local inputs, outputs = words.shape[1], words.shape[2] * 8
  local codes = parts:check(name, kava.quant.awq_rows(words))
  local zeros = parts:check(prefix .. ".qzeros", kava.quant.unpack(parts:need(prefix .. ".qzeros", 2), 4, outputs, 0, true))
  local scales = turned(parts:need(prefix .. ".scales", 2))
  return parts:coded(name, add_zeros({
    dtype = "int4", rows = outputs, columns = inputs, codes = codes, scales = scales,
    group = group_size(parts, name, config, inputs), round = scales.dtype,
  }, turned(zeros)))
end

-- ---------------------------------------------------------------------------------------------------- compressed-tensors

local compressed_formats = {
  ["pack-quantized"] = true, ["int-quantized"] = true, ["float-quantized"] = true, ["naive-quantized"] = true, ["mixed-precision"] = true,
}

-- The weights' arguments of every group of modules.
local function schemes(config)
  local list = {}
  for _, group in pairs(config.config_groups or {}) do
    if type(group) == "table" and type(group.weights) == "table" then list[#list + 1] = group.weights end
  end
  return list
end

methods["compressed-tensors"] = {
  check = function(config)
    local function check(format)
      if format ~= nil and not compressed_formats[format] then unsupported(("compressed-tensors: format '%s'"):format(tostring(format))) end
    end
    check(config.format)
    for _, group in pairs(config.config_groups or {}) do check(type(group) == "table" and group.format or nil) end
    for _, weights in ipairs(schemes(config)) do
      local kind, bits = weights.type or "int", weights.num_bits
      if not (kind == "int" and (bits == 2 or bits == 3 or bits == 4 or bits == 8) or kind == "float" and bits == 8) then
        unsupported(("compressed-tensors: weights of %s bits, type %s"):format(tostring(bits), tostring(kind)))
      end
    end
    if next(config.transform_config or {}) ~= nil then unsupported "compressed-tensors: transform_config" end
    local sparsity = config.sparsity_config and config.sparsity_config.format
    if sparsity and sparsity ~= "dense" then unsupported(("compressed-tensors: sparsity '%s'"):format(tostring(sparsity))) end
  end,
}

-- How far a scale reaches, told by how many there are: one, a row's, a group's, a block's.
local function spread(coded, config)
  local scales, rows, columns = coded.scales, coded.rows, coded.columns
  local n = count(scales)
  coded.group_rows, coded.group = 1, columns
  if n == 1 then
    coded.group_rows = rows
  elseif n ~= rows and #scales.shape == 2 then
    local block
    for _, weights in ipairs(schemes(config)) do block = block or weights.strategy == "block" and weights.block_structure end
    if type(block) == "table" and math.type(block[1]) == "integer" and math.type(block[2]) == "integer" then
      coded.group_rows, coded.group = block[1], block[2]
    else
      coded.group = columns // math.max(scales.shape[2], 1)
    end
  end
  return coded
end

methods["compressed-tensors"].weight = function(parts, prefix, config)
  local name = prefix .. ".weight"
  local scales = parts:find(name .. "_scale")
  if not scales then return nil end
  local coded = { scales = scales, round = scales.dtype }
  local zeros, index = parts:find(name .. "_zero_point"), parts:find(name .. "_g_idx")
  if parts.tensors[name .. "_packed"] then
    local packed = parts:words(name .. "_packed")
    local shape = parts:need(name .. "_shape"):totable()
    local rows, columns = shape[1], shape[2]
    local bits
    for _, weights in ipairs(schemes(config)) do
      if columns and packed.shape[2] == (columns * weights.num_bits + 31) // 32 then bits = weights.num_bits end
    end
    if not bits or columns * bits % 32 ~= 0 then -- rows of whole words, no bits left between
      unsupported(("%s: tensor %s_packed: words [%s] for a weight of [%s]"):format(
        parts.file, name, table.concat(packed.shape, ", "), table.concat(shape, ", ")))
    end
    coded.dtype, coded.codes, coded.rows, coded.columns = bits == 8 and "uint8" or "int" .. bits, packed, rows, columns
    coded.zero = 1 << bits - 1 -- signed codes are stored with half their range added, and so are their zero points
    if zeros and zeros.dtype == "i32" then -- packed as the weight is, but along the outputs
      local along = turned(parts:need(name .. "_zero_point", 2))
      coded.zeros = turned(parts:check(name .. "_zero_point", kava.quant.unpack(along, bits, rows)))
    elseif zeros then
      coded.zeros = (zeros:to { dtype = "i64" } + coded.zero):to { dtype = "u8" }
    end
  else
    local codes = parts:need(name, 2)
    coded.dtype = ({ i8 = "int8", fp8 = "fp8" })[codes.dtype]
    if not coded.dtype then unsupported(("%s: tensor %s: codes of type %s"):format(parts.file, name, codes.dtype)) end
    coded.codes, coded.rows, coded.columns, coded.zeros = codes, codes.shape[1], codes.shape[2], zeros
    if zeros and codes.dtype == "fp8" then -- some files have them; they are nothing
      if zeros:to({ dtype = "f32" }):abs():max():item() ~= 0 then
        unsupported(("%s: tensor %s_zero_point: zero points of fp8 codes"):format(parts.file, name))
      end
      coded.zeros = nil
    end
  end
  spread(coded, config)
  if index then -- -1: the groups are in order
    local order = index:totable()
    local in_order = true
    for i, g in ipairs(order) do in_order = in_order and (g == (i - 1) // coded.group or g == -1) end
    if not in_order then coded.group_of = index end
  end
  return parts:coded(name, coded)
end

-- -------------------------------------------------------------------------------------------------------------- binding

local function known()
  local names = {}
  for name in pairs(methods) do names[#names + 1] = name end
  table.sort(names)
  return table.concat(names, ", ")
end

-- config.json's quantization_config, without its nulls; nil where there is none. Raises, before any weight is read, for weights
-- that cannot be. where: what to call the configuration.
function quantised.of(config, where)
  local settings = families.without_nulls(config.quantization_config)
  if type(settings) ~= "table" then return nil end
  local method = methods[settings.quant_method]
  if not method then
    unsupported(("%s: weights quantised by '%s' are not supported; known: %s, and GGUF files' types"):format(
      where, tostring(settings.quant_method), known()))
  end
  local ok, err = pcall(method.check, settings)
  if not ok then
    if type(err) == "table" then err.message = where .. ": " .. err.message end
    error(err, 0)
  end
  return settings
end

-- What belongs to a weight without being read: the scales of activations and of caches.
local beside = { "input_scale", "output_scale", "activation_scale", "k_scale", "v_scale", "q_scale", "weight_format" }

-- config: what quantised.of gave; tensors: {name = tensor} of `file` -> tensor(name), names(): as if the weights were plain
function quantised.bind(config, tensors, file)
  local method = methods[config.quant_method]
  local parts = setmetatable({ tensors = tensors, file = file, taken = {} }, Parts)
  local function tensor(name)
    local prefix = name:match "^(.*)%.weight$"
    local t = prefix and method.weight(parts, prefix, config)
    if t then return t end
    t = tensors[name]
    if t and (t.dtype:find "^[iu]%d" or t.dtype == "fp8") then
      fail(("%s: tensor %s is %s and has no scales that %s gives"):format(file, name, t.dtype, config.quant_method))
    end
    return t
  end
  local function names()
    local list = {}
    for name in pairs(tensors) do
      local last = name:match "[^.]*$"
      local ignored = parts.taken[name]
      for _, suffix in ipairs(beside) do ignored = ignored or last == suffix end
      if not ignored then list[#list + 1] = name end
    end
    return list
  end
  return tensor, names
end

return quantised

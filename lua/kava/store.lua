-- kava.store: where a model's configuration and tensors come from and go to: Hugging Face directories and GGUF files.
local kava = require "kava"
local families = require "kava.families"
local gguf_model = require "kava.gguf_model"
local gguf_tokenizer = require "kava.gguf_tokenizer"
local quantised = require "kava.quantised"
local rope = require "kava.rope"

local store = {}

-- Whether a path names a GGUF file.
function store.is_gguf(path) return path:find "%.[gG][gG][uU][fF]$" ~= nil end

-- A failure of the world, with the code that model.load returns beside the message.
local function fail(message, code) error({ message = message, code = code or "format" }, 0) end

local function try(value, message, code)
  if value == nil then fail(message, code) end
  return value
end

local function exists(path)
  local file = io.open(path)
  if file then file:close() end
  return file ~= nil
end

local function open_directory(path)
  local config_path = path .. "/config.json"
  local config, message, code = kava.json.load(config_path)
  if not config then fail(message, code) end
  if type(config) ~= "table" or not config.model_type then fail(config_path .. ": model_type is missing") end
  local quantization = quantised.of(config, config_path)
  local ok, family = pcall(families.of, config.model_type)
  if not ok then fail(config_path .. ": " .. family, "unsupported") end
  config = families.complete(family, config)
  local file = path .. "/model.safetensors"
  if not exists(file) then file = path .. "/model.safetensors.index.json" end
  if not exists(file) then fail(("%s: neither model.safetensors nor model.safetensors.index.json is there"):format(path), "io") end
  local tensors, metadata, lacking = kava.safetensors.load(file)
  if not tensors then fail(metadata, lacking) end
  local by_name, names, why = {}, {}, {}
  local function known_as(name) return family.hf_name and family.hf_name(name) or not family.hf_name and name end
  for name, t in pairs(tensors) do
    name = known_as(name)
    if name then
      by_name[name] = t
      names[#names + 1] = name
    end
  end
  for name, reason in pairs(lacking or {}) do why[known_as(name) or name] = reason end
  setmetatable(by_name, { __index = function(_, name)
    if why[name] then fail(("%s: tensor %s: %s"):format(file, name, why[name]), "unsupported") end
  end })
  local source = {
    config = config,
    family = family,
    tensor = function(name) return by_name[name] end,
    names = function() return names end,
  }
  if quantization then source.tensor, source.names = quantised.bind(quantization, by_name, file) end
  return source
end

local function open_gguf(path)
  local file, message, code = kava.gguf.open(path)
  if not file then fail(message, code) end
  local architecture = file:metadata "general.architecture"
  local ok, family = pcall(families.of_gguf, architecture)
  if not ok then fail(path .. ": " .. family, "unsupported") end
  local function get(key) return file:metadata(architecture .. "." .. key) end
  local function absent(key)
    fail(("%s: metadata %s.%s must be a number, got %s"):format(path, architecture, key, tostring(get(key))))
  end
  local present = {}
  for _, name in ipairs(file:names()) do present[name] = true end
  local function list(name) return present[name] and file:tensor(name):totable() end
  local config
  ok, config = pcall(gguf_model.config, family, get, list, absent)
  if not ok then
    if type(config) == "table" then error(config, 0) end
    fail(path .. ": " .. config, "unsupported")
  end
  config.tie_word_embeddings = not present["output.weight"]
  if not present["token_embd.weight"] then fail(path .. ": tensor token_embd.weight is missing") end
  config.vocab_size = try(file:tensor("token_embd.weight")).shape[1]
  config.bos_token_id = file:metadata "tokenizer.ggml.bos_token_id"
  config.eos_token_id = file:metadata "tokenizer.ggml.eos_token_id"
  config.pad_token_id = file:metadata "tokenizer.ggml.padding_token_id"
  return {
    config = families.complete(family, config),
    family = family,
    gguf = true,
    tensor = function(name)
      if not present[name] then return nil end
      local t, why, kind = file:tensor(name)
      if not t then fail(why, kind) end -- a type that is not known here
      return t
    end,
    names = function() return file:names() end,
  }
end

function store.open(path)
  if kava.fs.isdir(path) then return open_directory(path) end
  if not exists(path) then fail(path .. ": no such file or directory", "io") end
  if store.is_gguf(path) then return open_gguf(path) end
  fail(path .. ": neither a directory nor a .gguf file", "unsupported")
end


-- config.json with both spellings that transformers 4 and 5 read
local function saved_config(m, dtype)
  local config = {}
  for key, value in pairs(m.config) do config[key] = value end
  local names = { f32 = "float32", f16 = "float16", bf16 = "bfloat16", f64 = "float64" }
  config.torch_dtype, config.dtype = names[dtype], names[dtype]
  config.architectures = { m.family.architecture }
  config.quantization_config = nil
  if m.spec.rope[1] then rope.spell(config) end
  return families.spelled(m.family, config)
end

-- What belongs to a tokenizer, in the folders of its many generations.
local tokenizer_files = {
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model",
  "chat_template.jinja",
}

local function read(path)
  local file = io.open(path, "rb")
  if not file then return nil end
  local text = file:read "a"
  file:close()
  return text
end

-- The tokenizer travels with the model: files byte for byte, or written from a GGUF's vocabulary.
local function save_tokenizer(m, dir)
  local from = m.tokenizer_path or m.path
  if not from then return end
  if not kava.fs.isdir(from) then
    try(try(kava.tokenizer.load(from)):save(dir))
    local file <close> = try(kava.gguf.open(from))
    local template = file:metadata "tokenizer.chat_template"
    if template then try(kava.fs.write(dir .. "/chat_template.jinja", template)) end
    return
  end
  for _, name in ipairs(tokenizer_files) do
    local text = read(from .. "/" .. name)
    if text then try(kava.fs.write(dir .. "/" .. name, text)) end
  end
end

-- generation_config.json: the teacher's own where there is one.
local function save_generation(m, dir, config)
  local from = m.tokenizer_path or m.path
  local text = from and kava.fs.isdir(from) and read(from .. "/generation_config.json")
  if not text then
    local generation = { bos_token_id = config.bos_token_id, eos_token_id = config.eos_token_id, pad_token_id = config.pad_token_id }
    generation._from_model_config = true
    text = try(kava.json.encode(generation, { indent = 2 })) .. "\n"
  end
  try(kava.fs.write(dir .. "/generation_config.json", text))
end

local widths = { f64 = 8, f32 = 4, f16 = 2, bf16 = 2 }

-- Tensors in files of at most `most` bytes (or one tensor), converted a file at a time: one file, or shards with an index.
local function save_tensors(dir, tensors, dtype, most)
  local names, shards, total = {}, {}, 0
  for name in pairs(tensors) do names[#names + 1] = name end
  table.sort(names)
  local size = math.huge
  for _, name in ipairs(names) do
    local bytes = tensors[name]:numel() * widths[dtype]
    if size + bytes > most then
      shards[#shards + 1], size = {}, 0
    end
    table.insert(shards[#shards], name)
    size, total = size + bytes, total + bytes
  end
  local map = {}
  for i, shard in ipairs(shards) do
    local file = #shards == 1 and "model.safetensors" or ("model-%05d-of-%05d.safetensors"):format(i, #shards)
    local part = {}
    for _, name in ipairs(shard) do part[name], map[name] = tensors[name]:detach():to { dtype = dtype }, file end
    try(kava.safetensors.save(dir .. "/" .. file, part, { format = "pt" }))
  end
  -- what an earlier save may have left there is not this model
  local index = dir .. "/model.safetensors.index.json"
  if #shards == 1 then
    os.remove(index)
  else
    try(kava.fs.write(index, kava.json.encode({ metadata = { total_size = total }, weight_map = map }, { indent = 2 }) .. "\n"))
    os.remove(dir .. "/model.safetensors")
  end
end

local function stored_dtype(m)
  local dtype = m.weights.layer[1].o.dtype
  return widths[dtype] and dtype or "f32"
end

local function save_folder(m, dir, opts)
  local dtype = opts.dtype or stored_dtype(m)
  if not widths[dtype] then error(("save: dtype: f32, f16, bf16 or f64 expected for a folder, got %s"):format(tostring(dtype)), 0) end
  try(kava.fs.mkdir(dir))
  save_tensors(dir, m:stored(), dtype, opts.shard_size or 5000000000)
  local config = saved_config(m, dtype)
  try(kava.fs.write(dir .. "/config.json", try(kava.json.encode(config, { indent = 2 })) .. "\n"))
  save_generation(m, dir, config)
  if opts.tokenizer ~= false then save_tokenizer(m, dir) end
end

local file_types = { f32 = 0, f16 = 1, q4_0 = 2, q4_1 = 3, q8_0 = 7, bf16 = 32 } -- general.file_type

-- A matrix as a GGUF file of `dtype` holds it: the embedding and the head in no fewer than 8 bits, rows that are no whole blocks in f16.
local function as_gguf(t, key, dtype)
  if key == "positions" then return t:to { dtype = "f32" } end
  if not dtype or t.dtype == dtype then return t end
  if widths[dtype] then return t:to { dtype = dtype } end
  local plain = widths[t.dtype] and t or t:to { dtype = "f32" }
  if t.shape[2] % 32 ~= 0 then return plain:to { dtype = "f16" } end
  return kava.gguf.quantize(plain, (key == "embed" or key == "head") and "q8_0" or dtype)
end

-- What a file says of itself for people: its name, license, authors.
local function description(from)
  local out = { ["general.name"] = from:gsub("/+$", ""):match "[^/]*$" }
  if not store.is_gguf(from) then return out end
  local file <close> = try(kava.gguf.open(from))
  for _, field in ipairs(file:fields()) do
    local name = field.key:match "^general%.(.*)$"
    if name and name ~= "architecture" and name ~= "alignment" then
      out[field.key] = { type = field.type, element = field.element, value = field.value }
    end
  end
  return out
end

local function save_gguf(m, path, opts)
  local dtype, from = opts.dtype, m.tokenizer_path or m.path
  if dtype and not file_types[dtype] then
    error(("save: dtype: f32, f16, bf16, q8_0, q4_0 or q4_1 expected for GGUF, got %s"):format(tostring(dtype)), 0)
  end
  local metadata, lost = gguf_model.metadata(m)
  if #lost > 0 and not opts.lossy then
    fail(("%s: GGUF cannot be told of this model: %s (lossy = true leaves it out)"):format(path, table.concat(lost, "; ")), "unsupported")
  end
  if opts.tokenizer ~= false and from then
    for key, value in pairs(try(gguf_tokenizer.metadata(from, m.spec.vocab))) do metadata[key] = value end
  end
  for key, value in pairs(from and description(from) or { ["general.name"] = m.family.name }) do metadata[key] = value end
  metadata["general.file_type"] = dtype and file_types[dtype] or metadata["general.file_type"] or file_types[stored_dtype(m)]
  metadata["general.quantization_version"] = 2
  local tensors = gguf_model.tensors(m, function(t, key) return as_gguf(t, key, dtype) end)
  try(kava.gguf.save(path, tensors, metadata))
end

local known = { dtype = true, tokenizer = true, shard_size = true, lossy = true }

-- A folder as Hugging Face's, or a GGUF file, as the path's end says. -> true | nil, message, code
function store.save(m, path, opts)
  for key in pairs(opts) do
    if not known[key] then error(("save: unknown option '%s'"):format(tostring(key)), 3) end
  end
  local ok, failure = pcall(kava.no_grad, store.is_gguf(path) and save_gguf or save_folder, m, path, opts)
  if ok then return true end
  if type(failure) == "table" then return nil, failure.message, failure.code end
  error(failure, 3)
end

return store

-- kava.store: where a model's configuration and tensors come from and go to: Hugging Face directories and GGUF files.
local kava = require "kava"
local families = require "kava.families"
local gguf_model = require "kava.gguf_model"
local quantised = require "kava.quantised"
local rope = require "kava.rope"

local store = {}

-- A failure of the world, with the code that model.load returns beside the message.
local function fail(message, code) error({ message = message, code = code or "format" }, 0) end

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
  local tensors
  tensors, message, code = kava.safetensors.load(file)
  if not tensors then fail(message, code) end
  local by_name, names = {}, {}
  for name, t in pairs(tensors) do
    name = family.hf_name and family.hf_name(name) or not family.hf_name and name
    if name then
      by_name[name] = t
      names[#names + 1] = name
    end
  end
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
  config.vocab_size = file:tensor("token_embd.weight").shape[1]
  config.bos_token_id = file:metadata "tokenizer.ggml.bos_token_id"
  config.eos_token_id = file:metadata "tokenizer.ggml.eos_token_id"
  config.pad_token_id = file:metadata "tokenizer.ggml.padding_token_id"
  return {
    config = families.complete(family, config),
    family = family,
    gguf = true,
    tensor = function(name) return present[name] and file:tensor(name) or nil end,
    names = function() return file:names() end,
  }
end

function store.open(path)
  if kava.fs.isdir(path) then return open_directory(path) end
  if not exists(path) then fail(path .. ": no such file or directory", "io") end
  if path:find "%.[gG][gG][uU][fF]$" then return open_gguf(path) end
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

local tokenizer_files = {
  "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt", "chat_template.jinja",
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
  if not from then return true end
  if not kava.fs.isdir(from) then
    local tok, message, code = kava.tokenizer.load(from)
    if not tok then return nil, message, code end
    return tok:save(dir)
  end
  for _, name in ipairs(tokenizer_files) do
    local text = read(from .. "/" .. name)
    if text then
      local ok, message, code = kava.fs.write(dir .. "/" .. name, text)
      if not ok then return nil, message, code end
    end
  end
  return true
end

function store.save(m, dir, opts)
  for key in pairs(opts) do
    if key ~= "dtype" and key ~= "tokenizer" then error(("save: unknown option '%s'"):format(tostring(key)), 3) end
  end
  local ok, message, code = kava.fs.mkdir(dir)
  if not ok then return nil, message, code end
  local dtype = opts.dtype
  if not dtype then
    dtype = m.weights.layer[1].o.dtype
    if not (dtype == "f32" or dtype == "f16" or dtype == "bf16" or dtype == "f64") then dtype = "f32" end
  end
  local tensors = {}
  for name, t in pairs(m:stored()) do tensors[name] = t:detach():to { dtype = dtype } end
  ok, message, code = kava.safetensors.save(dir .. "/model.safetensors", tensors, { format = "pt" })
  if not ok then return nil, message, code end
  local config = saved_config(m, dtype)
  ok, message, code = kava.fs.write(dir .. "/config.json", kava.json.encode(config, { indent = 2 }) .. "\n")
  if not ok then return nil, message, code end
  local generation = { bos_token_id = config.bos_token_id, eos_token_id = config.eos_token_id, pad_token_id = config.pad_token_id }
  generation._from_model_config = true
  ok, message, code = kava.fs.write(dir .. "/generation_config.json", kava.json.encode(generation, { indent = 2 }) .. "\n")
  if not ok then return nil, message, code end
  if opts.tokenizer == false then return true end
  return save_tokenizer(m, dir)
end

return store

-- kava.model: decoder models: loaded from Hugging Face directories and GGUF files, derived from a teacher's layers, or fresh.
local kava = require "kava"
local families = require "kava.families"
local store = require "kava.store"

---@class kava.Model
local Model = {}
Model.__index = Model
Model.__name = "kava.Model"

local model = { class = Model }

model.family, model.family_of_gguf = families.of, families.of_gguf

local halves = { f16 = true, bf16 = true }

-- A product adds its bias in its matrix's type, or beside codes in the activations': kept so, it is not converted step by step.
local function settle_biases(layer)
  for key, t in pairs(layer) do
    local matrix = key:find "_bias$" and layer[key:gsub("_bias$", "")]
    if matrix and #matrix.shape == 2 then
      local coded = not matrix.dtype:find "^[bf]*f%d+$"
      local dtype = coded and t.device ~= "cpu" and kava.matmul_precision() or matrix.dtype
      if halves[dtype] then layer[key] = t:to { dtype = dtype } end
    end
  end
end

-- What one product can compute: matrices of one x, and their biases.
local side_by_side = { { "q", "k", "v" }, { "gate", "up" }, { "q_bias", "k_bias", "v_bias" }, { "gate_bias", "up_bias" } }

-- On a GPU such weights are put behind one another, views of one buffer. They stay parameters of their own.
local function join(layer)
  for _, keys in ipairs(side_by_side) do
    local list, alike = {}, true
    for i, key in ipairs(keys) do
      local t = layer[key]
      alike = alike and t ~= nil and t.device ~= "cpu" and t.dtype:find "^[bf]*f%d+$" and t.dtype == layer[keys[1]].dtype
      list[i] = t
    end
    if alike then
      local whole, first = kava.cat(list, 1), 1
      for i, key in ipairs(keys) do
        local rows = list[i].shape[1]
        layer[key] = whole:narrow(1, first, rows)
        first = first + rows
      end
    end
  end
end

-- weights: {embed=, …, layer = {{q=, …}, …}} in canonical names -> a model
local function assemble(family, config, spec, weights, fields)
  kava.no_grad(function()
    for _, layer in ipairs(weights.layer) do
      settle_biases(layer)
      join(layer)
    end
  end)
  local self = setmetatable(fields or {}, Model)
  self.family, self.config, self.spec, self.weights = family, config, spec, weights
  self.decoder = kava.decoder(spec, families.decoder_weights(family, spec, weights))
  self.layer_map = self.layer_map or config.kava and config.kava.layer_map
  return self
end

-- Vectors are f32, or f64 in an f64 model, as norms' kernels read them; biases are settled later.
local function convert(t, dtype)
  local wanted = #t.shape < 2 and ((dtype or t.dtype) == "f64" and "f64" or "f32") or dtype
  if not wanted or t.dtype == wanted then return t end
  return t:to { dtype = wanted }
end

-- A weight where the model computes.
local function place(t, device) return device and t:to { device = device } or t end

local load_keys = { device = true, dtype = true, quantize = true, quantize_parts = true }

local dtypes = { f64 = true, f32 = true, f16 = true, bf16 = true }

local function check_options(opts, keys, what)
  for key in pairs(opts) do
    if not keys[key] then error(("%s: unknown option '%s'"):format(what, tostring(key)), 3) end
  end
  if opts.dtype ~= nil and not dtypes[opts.dtype] then
    error(("%s: dtype: f64, f32, f16 or bf16 expected, got %s"):format(what, tostring(opts.dtype)), 3)
  end
end

-- A tensor as GGUF holds it -> as Hugging Face does.
local function from_gguf(family, t, key, entry, layer)
  if family.gguf_permuted and entry.rotary then t = kava.rope_rows(t, layer[entry.rotary]) end
  if family.gguf_norm_shift and key:find "norm$" then t = t:to { dtype = "f32" } - family.gguf_norm_shift end
  if families.is_turned(entry, t) then t = t:permute(2, 1):contiguous() end
  return t
end

local encodings = { nf4 = true, ["nf4-dq"] = true, int8 = true, fp8 = true, ["fp8-rows"] = true }
local mlp = { gate = true, up = true, gate_up = true, down = true }

-- The encoding of a layer's matrices, and which get it. On a GPU fp8 means a scale a row, which is what is multiplied without being
-- widened, and the MLP alone: it is most of the work, and K, which is taught, comes from the others.
local function coding(opts)
  local encoding, on_gpu = opts.quantize, opts.device and opts.device ~= "cpu"
  local fast = encoding == "fp8" and on_gpu or encoding == "fp8-rows"
  return fast and "fp8-rows" or encoding, opts.quantize_parts or (fast and "mlp" or "all")
end

-- A layer's matrix in codes, made where the model computes; the others are converted. What was read of the file is let go: beside the
-- codes there is one weight.
local function hold(path, name, key, t, opts, entry, layer)
  local held
  local encoding, parts = coding(opts)
  if t.dtype:find "^[iub]%d" or t.dtype == "bool" then
    error(("%s: tensor %s is %s; a float or quantised type expected"):format(path, name, t.dtype), 0)
  end
  if encoding and layer and #t.shape == 2 and (parts == "all" or mlp[key]) then
    local there = place(t, opts.device)
    if families.is_turned(entry, t) then there = there:permute(2, 1) end
    local ok, made = pcall(kava.quant.encode, there, encoding)
    if not ok then error(("%s: tensor %s: %s"):format(path, name, made), 0) end
    held = made
  else
    held = convert(t, opts.dtype)
  end
  if held ~= t then t:forget() end
  return held
end

local function load(path, opts)
  local source = store.open(path) -- {config=, family=, tensor(hf or gguf name) -> t|nil, names(), gguf=bool}
  local family, config = source.family, source.config
  local spec, weights, used = families.spec(family, config), {}, {}
  families.each(family, spec, weights, function(into, key, hf, gguf, entry, layer)
    local name = source.gguf and gguf or hf
    if not name then return end
    used[name] = true
    if key == "head" and spec.tied then return end
    local t = source.tensor(name)
    if not t then
      if entry.optional then return end
      error(("%s: tensor %s is missing"):format(path, name), 0)
    end
    if source.gguf then t = from_gguf(family, t, key, entry, layer) end
    into[key] = place(hold(path, name, key, t, opts, entry, layer), opts.device)
  end)
  for _, name in ipairs(source.names()) do
    if not used[name] and not name:find "inv_freq$" and not name:find "^rope_f" then
      error(("%s: tensor %s does not belong to a model of family %s"):format(path, name, family.name), 0)
    end
  end
  local ok, self = pcall(assemble, family, config, spec, weights, { path = path })
  if not ok then error(("%s: %s"):format(path, self), 0) end
  return self
end

-- path: a Hugging Face directory or a GGUF file. opts.dtype: "f32" | "bf16" | "f16" | "f64"; nil keeps what is stored,
-- quantised weights included. opts.quantize: the layers' matrices of a float model in codes ("nf4" | "nf4-dq" | "int8" | "fp8" |
-- "fp8-rows"), made one by one; opts.quantize_parts: "all" of them or "mlp". -> model, or nil, message, code
function model.load(path, opts)
  opts = opts or {}
  if type(path) ~= "string" then error(("model.load: a path expected, got %s"):format(type(path)), 2) end
  check_options(opts, load_keys, "model.load")
  if opts.device then
    local there, why, code = kava.device(opts.device)
    if not there then return nil, why, code end
  end
  if opts.quantize and not encodings[opts.quantize] then
    error(("model.load: quantize: nf4, nf4-dq, int8, fp8 or fp8-rows expected, got %s"):format(tostring(opts.quantize)), 2)
  end
  if opts.quantize_parts ~= nil and opts.quantize_parts ~= "all" and opts.quantize_parts ~= "mlp" then
    error(("model.load: quantize_parts: all or mlp expected, got %s"):format(tostring(opts.quantize_parts)), 2)
  end
  local ok, result = pcall(kava.lasting, load, path, opts)
  if ok then return result end
  if type(result) == "table" then return nil, result.message, result.code end
  local message = tostring(result) -- what is said of a configuration names its key, but no file
  return nil, message:find(path, 1, true) and message or ("%s: %s"):format(path, message), "format"
end

-- A fresh model of a configuration (model_type and the family's keys): matrices N(0, std), norms 1 (whatever a family adds to their
-- weights), biases 0.
function model.create(config, opts)
  opts = opts or {}
  check_options(opts, { device = true, dtype = true, std = true }, "model.create")
  local family = families.of(config.model_type)
  config = families.complete(family, config)
  local spec, weights = families.spec(family, config), {}
  local std, dtype = opts.std or config.initializer_range or 0.02, opts.dtype or "f32"
  -- pairs() has no fixed order, and the random numbers are drawn in order: sort the keys
  local plan = {}
  families.each(family, spec, weights, function(into, key, hf, _, entry, layer)
    if key == "head" and spec.tied or entry.optional and not config[entry.optional] then return end
    plan[#plan + 1] = { into = into, key = key, name = hf, shape = families.shape(family, spec, key, entry, layer) }
  end)
  table.sort(plan, function(a, b) return a.name < b.name end)
  for _, w in ipairs(plan) do
    local small = { dtype = dtype == "f64" and "f64" or "f32" }
    local t -- made on the CPU: the same numbers for every device
    if #w.shape == 2 and std == 0 then t = kava.zeros(w.shape, { dtype = dtype })
    elseif #w.shape == 2 then t = (kava.randn(w.shape, { dtype = "f32" }) * std):to { dtype = dtype }
    elseif w.key:find "norm$" then t = kava.full(w.shape, 1 - (spec.norm_shift or 0), small)
    else t = kava.zeros(w.shape, small) end
    w.into[w.key] = kava.lasting(place, t, opts.device)
  end
  return kava.lasting(assemble, family, config, spec, weights)
end

-- Which teacher layers a student keeps. A number n: n layers evenly spread, the last one kept (15 of 30: 2, 4, …, 30);
-- with keep = "ends": the first and the last kept. A list; or a function(total) -> list.
local function chosen_layers(total, layers, keep)
  if type(layers) == "function" then layers = layers(total) end
  if math.type(layers) == "integer" then
    local n, list = layers, {}
    if n < 1 or n > total then error(("derive: layers from 1 to %d expected, got %d"):format(total, n), 3) end
    for i = 1, n do
      if keep == "ends" then list[i] = n == 1 and total or 1 + ((i - 1) * (total - 1) * 2 + (n - 1)) // (2 * (n - 1))
      else list[i] = i * total // n end
    end
    layers = list
  end
  if type(layers) ~= "table" or #layers == 0 then error("derive: layers: a number, a list or a function expected", 3) end
  for n, i in ipairs(layers) do
    if math.type(i) ~= "integer" or i < 1 or i > total then
      error(("derive: layers[%d]: a layer from 1 to %d expected, got %s"):format(n, total, tostring(i)), 3)
    end
  end
  return layers
end

-- A student from chosen layers of a teacher, dequantised copies of its weights. student.layer_map[i] = the teacher's layer.
function model.derive(teacher, opts)
  opts = opts or {}
  check_options(opts, { layers = true, dtype = true, keep = true }, "derive")
  if opts.keep and opts.keep ~= "ends" and opts.keep ~= "last" then error('derive: keep = "last" or "ends" expected', 2) end
  local map = chosen_layers(#teacher.spec.layer, opts.layers or (#teacher.spec.layer + 1) // 2, opts.keep)
  local dtype = opts.dtype or "f32"
  local family, config, weights = teacher.family, {}, { layer = {} }
  for key, value in pairs(teacher.config) do config[key] = value end
  config.num_hidden_layers, config.quantization_config, config.torch_dtype, config.dtype = #map, nil, nil, nil
  config.kava = { layer_map = map }
  for _, key in ipairs(families.lists_of_layers) do
    local list = teacher.config[key]
    config[key] = list and {}
    for i, from in ipairs(list and map or {}) do config[key][i] = list[from] end
  end
  local spec = families.spec(family, config)
  local function own(entry, t)
    return kava.lasting(function()
      local copy = convert(families.stored(entry, t), dtype)
      return copy == t and t:clone() or copy
    end)
  end
  for key, t in pairs(teacher.weights) do
    if key ~= "layer" then weights[key] = own(family.model[key], t) end
  end
  for i, from in ipairs(map) do
    local difference = families.difference(spec, i, teacher.spec, from)
    if difference then
      error(("derive: the teacher's layer %d cannot be the student's layer %d: in this family %s follows from the position"):format(from, i,
        difference), 2)
    end
    weights.layer[i] = {}
    for key, t in pairs(teacher.weights.layer[from]) do weights.layer[i][key] = own(family.layer[key], t) end
  end
  return kava.lasting(assemble, family, config, spec, weights, { layer_map = map, tokenizer_path = teacher.tokenizer_path or teacher.path })
end

-- {HF name = tensor}; a tied head is the embedding and does not appear again.
function Model:parameters()
  local out = {}
  families.each(self.family, self.spec, self.weights, function(from, key, hf) out[hf] = from[key] end)
  return out
end

--- The same, every one in the shape that Hugging Face has it in (see families.stored).
function Model:stored()
  local out = self:parameters()
  families.each(self.family, self.spec, self.weights, function(from, key, hf, _, entry)
    if from[key] then out[hf] = families.stored(entry, from[key]) end
  end)
  return out
end

function Model:weight(name)
  local t = self:stored()[name]
  if not t then error(("weight: no parameter named '%s'"):format(tostring(name)), 2) end
  return t.dtype == "f64" and t or t:to { dtype = "f32" }
end

function Model:requires_grad(on)
  for _, t in pairs(self:parameters()) do t:requires_grad(on) end
  return self
end

-- The matrix that hidden states are multiplied with to give logits.
function Model:head()
  local w = self.weights.head or self.weights.embed
  return w:offloaded() and w:clone() or w
end

-- On a GPU a frozen model's weights that forward(request) reads little of, or nothing, move to host memory: the embedding, of which
-- rows are looked up, and with neither logits nor hidden states the matrices after the last layer's keys. What reads them all the
-- same fetches them each time. least: only where the embedding is this part of the GPU's memory. -> bytes that are free again
function Model:offload(request, least)
  if self:device() == "cpu" then return 0 end
  local width = ({ f32 = 4, f64 = 8 })[self.weights.embed.dtype] or 2
  if self.weights.embed:numel() * width < (least or 0) * kava.memory().cuda.total then return 0 end
  for name, t in pairs(self:parameters()) do
    if t:requires_grad() then error(("offload: '%s' is trained; a frozen model expected"):format(name), 2) end
  end
  local function used()
    collectgarbage()
    collectgarbage()
    return kava.memory().cuda.current
  end
  local weights, before = self.weights, used()
  local whole = request.logits ~= false or request.hidden
  local function move(from, key)
    local t = from[key]
    if t and #t.shape == 2 and not t:offloaded() then from[key] = t:offload() end
  end
  if weights.head or not whole then move(weights, "embed") end
  local ends = request.up_to or #weights.layer
  for i = ends, whole and 0 or #weights.layer do
    local layer, last = weights.layer[i], i == ends
    for _, key in ipairs { "q", "v", "o", "gate", "up", "gate_up", "down" } do
      local read = last and (key == "q" and request.queries or key == "v" and request.values ~= false)
      if not read then move(layer, key) end
    end
    for _, key in ipairs { "q", "k", "v" } do -- which lay behind one another with those that went
      local t = layer[key]
      if t and last and not t:offloaded() and t.dtype:find "^[bf]*f%d+$" then layer[key] = kava.lasting(t.clone, t) end
    end
  end
  self.decoder = kava.decoder(self.spec, families.decoder_weights(self.family, self.spec, weights))
  return before - used()
end

-- how: "none" | "mlp" | "layer", with ":N" of the first N layers: what the backward pass computes again.
function Model:recompute(how)
  local what, count = tostring(how):match "^(%a+):?(%d*)$"
  if what ~= "none" and what ~= "mlp" and what ~= "layer" then
    error(("recompute: none, mlp, layer, mlp:N or layer:N (of the first N layers) expected, got '%s'"):format(tostring(how)), 2)
  end
  self.decoder:recompute(what, math.tointeger(tonumber(count)))
  return self
end

-- opts: input_ids [B,T], attention_mask | start, positions, longest (the last position + 1, where positions are not to be looked at),
-- logits (default true), hidden, values, queries, up_to
function Model:forward(opts)
  if type(opts) ~= "table" then error("forward: a table {input_ids = …} expected", 2) end
  local request = {}
  for key, value in pairs(opts) do request[key] = value end
  if request.logits == nil then request.logits = true end
  if type(request.input_ids) == "table" then request.input_ids = kava.tensor(request.input_ids, { dtype = "i64" }) end
  request.longest = nil
  if self.spec.rope_limit then -- how the rotation is stretched depends on the length
    local length = request.input_ids.shape[2]
    if length > self.spec.rope_limit and request.positions then
      length = opts.longest or math.tointeger(request.positions:max():item()) + 1
    end
    if length > self.spec.rope_limit then request.rope = families.rope_at(self.spec, length) end
  end
  local raw = self.decoder:forward(request)
  return { logits = raw.logits, hidden = raw.hidden, start = raw.start, kv = kava.kv.wrap(raw) }
end

--- Layer i's attention of a forward pass that kept queries, averaged over heads: [B,T,T].
function Model:attention_map(out, i)
  local start = out.start
  local function by_token(t) return t:permute(1, 3, 2, 4) end
  local layer, q, k = self.spec.layer[i], by_token(out.kv:queries(i)), by_token(out.kv:keys(i))
  local batch, length = q.shape[1], q.shape[2]
  if layer.window and length > layer.window then
    local edge = (kava.arange(length, { device = q.device }) - (layer.window - 1)):clamp(0, nil):expand(batch, length)
    start = start and start:to { dtype = "i64", device = q.device }
    start = start and kava.where(start:gt(edge), start, edge) or edge
  end
  return kava.attention_map { q = q, k = k, start = start, scale = layer.attention_scale, softcap = layer.softcap }
end

--- How far this model's keys and values are from those of `reference`, layer by layer: a quantised teacher against its 16-bit self.
function Model:quantisation_error(opts) return require("kava.fidelity").of_model(self, opts) end

-- One layer's part of a layout, and the whole's sums.
local function add_layer(out, heads, dim, value_dim)
  out.per_layer[#out.per_layer + 1] = { kv_heads = heads, head_dim = dim, dim = heads * dim, value_dim = value_dim }
  out.total_dim = out.total_dim + heads * dim
end

local function finish_layout(out)
  local first = out.per_layer[1]
  out.kv_heads, out.head_dim, out.layer_dim = first.kv_heads, first.head_dim, first.dim
  return out
end

-- Where its weights are, and where it computes.
function Model:device() return self.weights.embed.device end

-- The KV layout as a forward pass really gives it, beside what the configuration claims (config_dim = hidden_size); with measure = false
-- only as the configuration has it.
function Model:probe(opts)
  opts = opts or {}
  check_options(opts, { batch = true, length = true, measure = true }, "probe")
  local batch, length = opts.batch or 1, opts.length or 32
  if opts.measure == false then
    local out = { layers = #self.spec.layer, per_layer = {}, total_dim = 0, config_dim = self.config.hidden_size, device = self:device() }
    for _, layer in ipairs(self.spec.layer) do add_layer(out, layer.kv_heads, layer.head_dim, layer.kv_heads * layer.head_dim) end
    return finish_layout(out)
  end
  return kava.no_grad(function()
    local ids = kava.zeros({ batch, length }, { dtype = "i64" })
    local cache = self:forward({ input_ids = ids, logits = false }).kv
    local out = { layers = cache:layers(), per_layer = {}, total_dim = 0, config_dim = self.config.hidden_size, device = self:device() }
    for i = 1, out.layers do
      local keys, values = cache:keys(i), cache:values(i)
      local shape = keys.shape
      if shape[1] ~= batch or shape[3] ~= length then
        error(("probe: layer %d's keys are [%s], expected [%d, heads, %d, dim]"):format(i, table.concat(shape, ", "), batch, length))
      end
      add_layer(out, shape[2], shape[4], values.shape[2] * values.shape[4])
      out.dtype = keys.dtype
    end
    return finish_layout(out)
  end)
end

-- Writes a Hugging Face directory: config.json, generation_config.json, model.safetensors (shards above opts.shard_size bytes) and the
-- tokenizer's files; or, where the path ends in .gguf, such a file. opts.dtype: what to store; nil: as the weights are (in a folder
-- quantised ones as f32, in GGUF only codes). -> true, or nil, message, code
function Model:save(dir, opts)
  if type(dir) ~= "string" then error(("save: a path expected, got %s"):format(type(dir)), 2) end
  return store.save(self, dir, opts or {})
end

function Model:__tostring()
  local spec = self.spec
  return ("kava.Model: %s, %d layers, hidden %d, vocabulary %d"):format(self.family.name, #spec.layer, spec.hidden, spec.vocab)
end

kava.model = model
return model

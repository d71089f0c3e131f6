-- kava.fidelity: how far a model's keys and values are from those of the model it stands for: layer by layer, the relative RMS of the
-- difference and the mean cosine of each token's vectors in each head. For a quantised teacher against its 16-bit self this is the
-- noise that a student of it is taught as well: a KV loss cannot be expected to go below it.
local kava = require "kava"

local fidelity = {}

local function wide(t) return t.dtype == "f64" and t or t:to { dtype = "f32" } end

-- What is summed over batches for one part of one layer.
local function add(sums, a, b, mask, count)
  a, b = wide(a), wide(b)
  local difference = a - b
  local function total(t) return (t * mask):sum():item() end
  local product, aa, bb = (a * b):sum(4), (a * a):sum(4), (b * b):sum(4)
  sums.difference = sums.difference + total((difference * difference):sum(4))
  sums.reference = sums.reference + total(bb)
  sums.cosine = sums.cosine + total(product / ((aa * bb):sqrt() + 1e-30))
  sums.vectors = sums.vectors + count * a.shape[2]
end

local function figures(sums)
  return { rms = (sums.difference / math.max(sums.reference, 1e-300)) ^ 0.5, cosine = sums.cosine / math.max(sums.vectors, 1) }
end

local parts = { "keys", "values" }

-- batches: a list of {input_ids= [B,T], attention_mask= [B,T] or nil}. -> {layers = {{keys = {rms=, cosine=}, values = …}, …},
-- keys = over all layers, values = …, tokens =}
function fidelity.compare(m, reference, batches)
  if #m.spec.layer ~= #reference.spec.layer then
    error(("quantisation_error: %d layers against the reference's %d"):format(#m.spec.layer, #reference.spec.layer), 0)
  end
  local sums, tokens = {}, 0
  local function fresh() return { difference = 0, reference = 0, cosine = 0, vectors = 0 } end
  for i = 1, #m.spec.layer do sums[i] = { keys = fresh(), values = fresh() } end
  for _, batch in ipairs(batches) do
    kava.no_grad(function()
      local request = { input_ids = batch.input_ids, attention_mask = batch.attention_mask, logits = false }
      local ours, theirs = m:forward(request).kv, reference:forward(request).kv
      local shape = ours:keys(1).shape
      local mask = batch.attention_mask and batch.attention_mask:to { dtype = "f32" } or kava.ones { shape[1], shape[3] }
      local count = math.tointeger(mask:sum():item()) or mask:sum():item()
      mask = mask:to({ device = ours:keys(1).device }):reshape(shape[1], 1, shape[3])
      tokens = tokens + count
      for i, layer in ipairs(sums) do
        for _, part in ipairs(parts) do
          local a, b = ours[part](ours, i), theirs[part](theirs, i)
          if table.concat(a.shape, " ") ~= table.concat(b.shape, " ") then
            error(("quantisation_error: layer %d's %s are [%s], the reference's [%s]"):format(
              i, part, table.concat(a.shape, ", "), table.concat(b.shape, ", ")), 0)
          end
          add(layer[part], a, b, mask, count)
        end
      end
    end)
  end
  if tokens == 0 then error("quantisation_error: there is no token to measure on", 0) end
  local out = { layers = {}, tokens = tokens }
  for _, part in ipairs(parts) do
    local all = fresh()
    for i, layer in ipairs(sums) do
      for key, value in pairs(layer[part]) do all[key] = all[key] + value end
      out.layers[i] = out.layers[i] or {}
      out.layers[i][part] = figures(layer[part])
    end
    out[part] = figures(all)
  end
  return out
end

-- Texts as batches of one row of at most `length` tokens each.
local function rows_of(texts, tokenizer, length)
  local batches = {}
  for _, text in ipairs(texts) do
    local ids = tokenizer:encode(text)
    if #ids > length then ids = table.move(ids, 1, length, 1, {}) end
    if #ids > 0 then batches[#batches + 1] = { input_ids = kava.tensor({ ids }, { dtype = "i64" }) } end
  end
  return batches
end

local known = { reference = true, input_ids = true, attention_mask = true, text = true, tokenizer = true, length = true }

-- m:quantisation_error{reference=, input_ids= | text=, …}
function fidelity.of_model(m, opts)
  if type(opts) ~= "table" then error("quantisation_error: a table {reference = …, text = …} expected", 3) end
  for key in pairs(opts) do
    if not known[key] then error(("quantisation_error: unknown option '%s'"):format(tostring(key)), 3) end
  end
  local reference = opts.reference
  if type(reference) == "string" then reference = assert(kava.model.load(reference)) end
  if type(reference) ~= "table" or not reference.forward then error("quantisation_error: reference: a model or its path expected", 3) end
  if opts.input_ids then
    local ids = opts.input_ids
    if type(ids) == "table" then ids = kava.tensor(ids, { dtype = "i64" }) end
    return fidelity.compare(m, reference, { { input_ids = ids, attention_mask = opts.attention_mask } })
  end
  local texts = type(opts.text) == "string" and { opts.text } or opts.text
  if type(texts) ~= "table" then error("quantisation_error: input_ids, or text (a string or a list of them) expected", 3) end
  local tokenizer = opts.tokenizer or assert(kava.tokenizer.load(reference.path or m.path))
  return fidelity.compare(m, reference, rows_of(texts, tokenizer, opts.length or 512))
end

return fidelity

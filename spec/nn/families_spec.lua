-- Every family against tiny models of transformers (spec/golden/make_families.py): logits, K, V, loss, gradients; derived, saved and
-- loaded again.
local kava = require "kava"
local gguf_model = require "kava.gguf_model"
local helper = require "spec.helper"

local folder = "spec/golden/families"

-- the largest difference over the largest value
local function off(a, b)
  local _, most = kava.allclose(a, b, { rtol = 0, atol = 0 })
  return most / math.max(b:abs():max():item(), 1e-30)
end

local function near(what, got, want, limit)
  local r = off(got, want)
  assert.is_true(r <= limit, ("%s is off by %.2e of the largest"):format(what, r))
end

local function same(a, b) assert.is_true((kava.allclose(a, b, { rtol = 0, atol = 0 }))) end

local function open(name)
  local dir = folder .. "/" .. name
  return assert(kava.model.load(dir)), assert(kava.safetensors.load(dir .. "/ref.safetensors")), dir
end

local function rows(mask)
  local lengths = {}
  for b, row in ipairs(mask:totable()) do
    lengths[b] = 0
    for _, real in ipairs(row) do lengths[b] = lengths[b] + math.tointeger(real) end
  end
  return lengths
end

local function compare(m, ref)
  local out = m:forward { input_ids = ref.input_ids, attention_mask = ref.attention_mask }
  for b, length in ipairs(rows(ref.attention_mask)) do
    local function real(t, dim) return t:narrow(1, b, 1):narrow(dim, 1, length):contiguous() end
    near("logits", real(out.logits, 2), real(ref.logits, 2), 1e-5)
    for i = 1, out.kv:layers() do
      near("keys of layer " .. i, real(out.kv:keys(i), 3), real(ref["k." .. i - 1], 3), 1e-5)
      near("values of layer " .. i, real(out.kv:values(i), 3), real(ref["v." .. i - 1], 3), 1e-5)
    end
  end
  return kava.loss.cross_entropy(out.logits, ref.input_ids, ref.attention_mask)
end

-- What llama.cpp has as a constant, where these models have something else.
local not_in_gguf = {
  qwen2_sliding = "layer 2: window",
  mistral = "layer 1: window, layer 2: window",
  gpt2 = "layer 2: attention_scale",
  gemma2 = "layer 1: attention_scale, layer 2: attention_scale",
  rope_yarn_mscale = "layer 1: rotation", -- truncate = false
  gemma3 = "layer 1: attention_scale, layer 2: attention_scale",
  smollm3 = "layer 2: window",
}

local names = {}
for _, name in ipairs(kava.fs.list(folder)) do names[#names + 1] = name end
table.sort(names)

for _, name in ipairs(names) do
  describe("family golden " .. name, function()
    it("gives transformers' logits, keys, values, loss and gradients", function()
      local m, ref = open(name)
      m:requires_grad(true)
      local ce = compare(m, ref)
      assert.near(1, ce:item() / ref.ce_loss:item(), 1e-5)
      local wanted, seen = 0, 0
      for key in pairs(ref) do
        if key:find "^grad%." then wanted = wanted + 1 end
      end
      if wanted > 0 then
        ce:backward()
        for key, p in pairs(m:parameters()) do
          near("gradient of " .. key, p.grad, ref["grad." .. key], 5e-5)
          seen = seen + 1
        end
      end
      assert.equal(wanted, seen)
      if ref["short.input_ids"] then
        local out = m:forward { input_ids = ref["short.input_ids"] }
        near("logits of a short sequence", out.logits, ref["short.logits"], 1e-5)
        near("keys of a short sequence", out.kv:keys(1), ref["short.k.0"], 1e-5)
      end
    end)

    it("gives the loss that its head in pieces gives", function()
      local m, ref = open(name)
      local out = m:forward { input_ids = ref.input_ids, attention_mask = ref.attention_mask, logits = false, hidden = true }
      local ce = kava.loss.head { hidden = out.hidden, weight = m:head(), softcap = m.spec.logit_softcap,
        targets = kava.loss.targets(ref.input_ids, ref.attention_mask) }
      assert.near(1, ce:item() / ref.ce_loss:item(), 1e-5)
    end)

    it("is saved in its own layout, and loaded again the same", function()
      local m, ref, dir = open(name)
      local saved = helper.tmp()
      assert(m:save(saved, { tokenizer = false }))
      local stored = assert(kava.safetensors.load(dir .. "/model.safetensors"))
      local again = assert(kava.safetensors.load(saved .. "/model.safetensors"))
      for key, t in pairs(stored) do
        assert.is_not_nil(again[key], key)
        same(t, again[key])
      end
      for key in pairs(again) do assert.is_not_nil(stored[key], key) end
      -- config.json says the same in both spellings: all that was there is there, and what transformers 4 reads beside it
      local given, kept = kava.json.load(dir .. "/config.json"), kava.json.load(saved .. "/config.json")
      local function within(a, b, path)
        if type(a) ~= "table" then
          if a == nil or a == kava.json.null then return end
          return assert.equal(a, b, path)
        end
        assert.equal("table", type(b), path)
        for key, value in pairs(a) do within(value, b[key], path .. "." .. key) end
      end
      given.transformers_version = nil
      within(given, kept, "config")
      compare(assert(kava.model.load(saved)), ref)
      -- as transformers 4 spelled it: rope_theta and rope_scaling alone, and no list of what a pattern says
      kept.rope_parameters, kept.layer_types, kept.dtype = nil, nil, nil
      if kept.model_type == "gemma3_text" then kept.sliding_window_pattern = 2 end
      helper.write(saved .. "/config.json", kava.json.encode(kept))
      compare(assert(kava.model.load(saved)), ref)
    end)

    it("is the same model in GGUF, or it is said what GGUF cannot hold", function()
      local m, ref = open(name)
      local path = helper.tmp() .. "/model.gguf"
      local ok, metadata, lost = pcall(gguf_model.metadata, m)
      if not ok then return assert.equal("GGUF has no name for the rope type dynamic", metadata) end
      assert(kava.gguf.save(path, gguf_model.tensors(m), metadata))
      local again = assert(kava.model.load(path))
      assert.equal(not_in_gguf[name] or "", table.concat(lost, ", "))
      if #lost == 0 then compare(again, ref) end
    end)

    it("is quantised while loading, whatever is fused and turned", function()
      local m, ref, dir = open(name)
      local coded = assert(kava.model.load(dir, { quantize = "int8" }))
      assert.equal("int8", coded.weights.layer[1].o.dtype)
      near("logits of 8 bits", coded:forward({ input_ids = ref.input_ids }).logits, m:forward({ input_ids = ref.input_ids }).logits, 0.1)
      for key, t in pairs(m:parameters()) do near(key, coded:weight(key), t, 0.01) end
    end)

    it("is derived from: the layers kept are the teacher's, saved or not", function()
      local m = open(name)
      local last = #m.spec.layer
      local ok, student = pcall(kava.model.derive, m, { layers = { last } })
      if not ok then
        return assert.truthy(student:find "cannot be the student's layer 1: in this family attention_scale follows from the position")
      end
      assert.equal(1, student:probe().layers)
      for key, t in pairs(student.weights.layer[1]) do same(t, m.weights.layer[last][key]) end
      local saved = helper.tmp()
      assert(student:save(saved, { tokenizer = false }))
      local ids = kava.tensor({ { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4 } }, { dtype = "i64" })
      same(student:forward({ input_ids = ids }).logits, assert(kava.model.load(saved)):forward({ input_ids = ids }).logits)
    end)

    it("teaches a student of its kind: layers' keys and values, CE and KL", function()
      local m, ref = open(name)
      kava.seed(4)
      local student = kava.model.create(m.config, { std = 0.1 }):requires_grad(true)
      local loss = kava.loss.build("layer_matched", { teacher = m, student = student, loss = { ce = 0.5, kl = 0.5, weight = 1 } })
      local optimizer = kava.optim.adamw({ { params = student:parameters(), lr = 1e-2 } }, {})
      local batch = { input_ids = ref.input_ids, attention_mask = ref.attention_mask }
      local first, last
      for step = 1, 6 do
        local scope <close> = kava.scope() -- luacheck: ignore 211
        local total = loss:step(batch, step)
        total:backward()
        optimizer:step()
        optimizer:zero_grad()
        last = total:item()
        first = first or last
      end
      assert.is_true(last < 0.95 * first, ("%g after %g"):format(last, first))
    end)

    it("is made fresh with the same parameters, whose gradients finite differences confirm", function()
      local m = open(name)
      kava.seed(3)
      local fresh = kava.model.create(m.config, { dtype = "f64", std = 0.3 })
      for key, t in pairs(m:parameters()) do
        assert.is_not_nil(fresh:parameters()[key], key)
        assert.same(t.shape, fresh:parameters()[key].shape, key)
      end
      for key in pairs(fresh:parameters()) do assert.is_not_nil(m:parameters()[key], key) end
      fresh:requires_grad(true)
      local ids = kava.tensor({ { 3, 1, 4, 1, 5, 9, 2, 6, 5, 3 } }, { dtype = "i64" })
      local function loss() return kava.loss.cross_entropy(fresh:forward({ input_ids = ids }).logits, ids) end
      loss():backward()
      for key, p in pairs(fresh:parameters()) do
        local flat = p:detach():reshape(-1)
        local at = flat:narrow(1, (flat:numel() + 1) // 2, 1)
        local value, eps = at:item(), 1e-4
        local function shifted(by)
          at:fill_(value + by)
          return kava.no_grad(function() return loss():item() end)
        end
        local slope = (8 * (shifted(eps) - shifted(-eps)) - (shifted(2 * eps) - shifted(-2 * eps))) / (12 * eps)
        at:fill_(value)
        assert.near(slope, p.grad:reshape(-1):narrow(1, (flat:numel() + 1) // 2, 1):item(), 1e-8, key)
      end
    end)
  end)
end

describe("families", function()
  it("keep fused and turned weights quantised as GGUF stores them, and save them as Hugging Face has them", function()
    local ids = kava.tensor({ { 3, 1, 4, 1, 5, 9, 2, 6 } }, { dtype = "i64" })
    for _, config in ipairs {
      { model_type = "phi3", vocab_size = 40, hidden_size = 32, intermediate_size = 64, num_hidden_layers = 2, num_attention_heads = 4,
        num_key_value_heads = 2, rms_norm_eps = 1e-6, max_position_embeddings = 64 },
      { model_type = "gpt2", vocab_size = 40, n_embd = 32, n_layer = 2, n_head = 4, n_positions = 16 },
    } do
      kava.seed(11)
      local m = kava.model.create(config, { std = 0.2 })
      local path, dir = helper.tmp() .. "/model.gguf", helper.tmp()
      local tensors = gguf_model.tensors(m, function(t) return kava.gguf.quantize(t, "q8_0") end)
      assert(kava.gguf.save(path, tensors, (gguf_model.metadata(m))))
      local quantised = assert(kava.model.load(path))
      assert.equal("q8_0", quantised.weights.layer[1].qkv.dtype)
      local logits = quantised:forward({ input_ids = ids }).logits
      near("logits of 8 bits", logits, m:forward({ input_ids = ids }).logits, 0.05)
      assert(quantised:save(dir, { tokenizer = false }))
      local widened = assert(kava.model.load(dir))
      near("logits of what was saved", widened:forward({ input_ids = ids }).logits, logits, 1e-5)
      for key, t in pairs(m:parameters()) do
        assert.same(t.shape, widened:parameters()[key].shape, key)
        assert.same(t.shape, quantised:weight(key).shape, key)
      end
      local student = kava.model.derive(quantised, { layers = { 2 } }):requires_grad(true)
      student:forward({ input_ids = ids }).logits:sum():backward()
      for key, p in pairs(student:parameters()) do assert.same(p.shape, p.grad.shape, key) end
    end
  end)

  it("name a position that was not learnt", function()
    local m = open "gpt2"
    local ok, text = pcall(function() m:forward { input_ids = kava.zeros({ 2, 33 }, { dtype = "i64" }) } end)
    assert.is_false(ok)
    assert.truthy(text:find("position 32 (row 1, token 33): the model has learnt positions 0 to 31", 1, true))
  end)

  it("are trained in 16 bits", function()
    for _, name in ipairs { "gpt2", "phi3", "gemma2" } do
      local m, ref = open(name)
      local student = kava.model.derive(m, { layers = { 1 }, dtype = "bf16" }):requires_grad(true)
      local loss = kava.loss.build("layer_matched", { teacher = m, student = student, loss = { ce = 1 } })
      loss:step({ input_ids = ref.input_ids, attention_mask = ref.attention_mask }, 1):backward()
      for key, p in pairs(student:parameters()) do assert.same(p.shape, p.grad and p.grad.shape, key) end
    end
  end)

  it("read GPT-2 as its hub has it: without a prefix, with masks", function()
    local m, ref, dir = open "gpt2"
    local bare, folder_of = {}, helper.tmp()
    for key, t in pairs(assert(kava.safetensors.load(dir .. "/model.safetensors"))) do bare[key:gsub("^transformer%.", "")] = t end
    bare["h.0.attn.bias"], bare["h.1.attn.masked_bias"] = kava.ones { 1, 1, 8, 8 }, kava.ones { 1 }
    assert(kava.safetensors.save(folder_of .. "/model.safetensors", bare, { format = "pt" }))
    helper.write(folder_of .. "/config.json", kava.json.encode(kava.json.load(dir .. "/config.json")))
    local again = assert(kava.model.load(folder_of))
    same(m:forward({ input_ids = ref.input_ids }).logits, again:forward({ input_ids = ref.input_ids }).logits)
  end)

  it("say what they do not know", function()
    local config = { model_type = "llama", vocab_size = 40, hidden_size = 16, intermediate_size = 20, num_hidden_layers = 1,
      num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-6, max_position_embeddings = 64 }
    local function message(changes)
      local changed = {}
      for key, value in pairs(config) do changed[key] = value end
      for key, value in pairs(changes) do changed[key] = value end
      local ok, text = pcall(kava.model.create, changed)
      assert.is_false(ok)
      return text
    end
    assert.equal("unknown model_type 'mamba'; known: gemma2, gemma3_text, gpt2, granite, llama, mistral, olmo2, phi3, qwen2, qwen3, "
      .. "smollm3", message { model_type = "mamba" })
    assert.equal("config: unknown rope type 'ntk'; known: default, dynamic, linear, llama3, longrope, yarn",
      message { rope_scaling = { type = "ntk" } })
    assert.equal("config: rope type yarn needs the number factor, got x", message { rope_scaling = { type = "yarn", factor = "x" } })
    assert.equal("config: rope type longrope needs short_factor, a list of 2 numbers, got 1",
      message { rope_scaling = { type = "longrope", short_factor = { 1 }, long_factor = { 1 } } })
    assert.truthy(message({ hidden_act = "mish" }):find "^config: unknown activation 'mish'; known: gelu, ")
    assert.equal("config: num_attention_heads must be a whole number from 1, got 0", message { num_attention_heads = 0 })
    assert.equal("config: num_hidden_layers must be a whole number from 1, got 1e+15", message { num_hidden_layers = 1e15 })
    assert.equal("config: n_layer must be a whole number from 1, got 2.5", message { model_type = "gpt2", n_layer = 2.5 })
    assert.equal("config: layer_types must be a list with an entry for each of 1 layers", message { layer_types = "all" })
    assert.equal("config: rope_theta must be a number above 0, got -1", message { rope_theta = -1 })
    assert.equal("config: 3 of 4 dimensions of a head are to be rotated: an even number of them expected",
      message { partial_rotary_factor = 0.9 })
    assert.equal("config: use_bidirectional_attention: attention to later tokens is not supported",
      message { model_type = "gemma3_text", use_bidirectional_attention = true })
    assert.equal("config: n_embd must be a number, got x", message { model_type = "gpt2", n_embd = "x" })
  end)

  it("are all checked against a reference", function()
    local checked = {}
    for _, name in ipairs(names) do checked[kava.json.load(folder .. "/" .. name .. "/config.json").model_type] = true end
    for _, file in ipairs(kava.fs.list "lua/kava/family") do
      for _, kind in ipairs(require("kava.family." .. file:match "^(.+)%.lua$").model_types) do
        assert.is_true(checked[kind], kind .. " has no folder under " .. folder)
      end
    end
  end)
end)

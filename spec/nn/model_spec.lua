local kava = require "kava"
local helper = require "spec.helper"

local tiny = { model_type = "llama", vocab_size = 61, hidden_size = 32, intermediate_size = 48, num_hidden_layers = 4,
  num_attention_heads = 4, num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 10000.0, tie_word_embeddings = true }

local function with(changes)
  local config = {}
  for k, v in pairs(tiny) do config[k] = v end
  for k, v in pairs(changes or {}) do config[k] = v end
  return config
end

local function model(changes, opts)
  kava.seed(5)
  return kava.model.create(with(changes), opts or { std = 0.2 })
end

local function ids(rows) return kava.tensor(rows, { dtype = "i64" }) end

local function random_ids(batch, length, vocab)
  local rows = {}
  for b = 1, batch do
    rows[b] = {}
    for t = 1, length do rows[b][t] = (b * 31 + t * t * 7 + t) % vocab end
  end
  return ids(rows)
end

describe("golden models of transformers", function()
  for _, family in ipairs { "qwen2", "llama", "qwen3", "llama3", "gpt2" } do
    it(family .. ": logits, K, V, loss and gradients", function()
      local script = helper.shared "conformance/golden.lua"
      if not script then return pending("skipped: ../shared is not here") end
      local run = assert(io.popen(("%s %s ../shared/golden %s 2>&1"):format(helper.program(), script, family)))
      local text = run:read "a"
      assert(run:close(), text)
    end)
  end
end)

describe("a model", function()
  it("computes the same keys whether or not logits are asked for", function()
    local m = model()
    local x = random_ids(2, 9, 61)
    local all = m:forward { input_ids = x, logits = true }
    local keys = m:forward { input_ids = x, logits = false, values = false }
    for i = 1, 4 do
      assert.is_true(kava.allclose(all.kv:keys(i), keys.kv:keys(i), { rtol = 0, atol = 0 }))
      assert.same({ 2, 2, 9, 8 }, keys.kv:keys(i).shape)
    end
    assert.is_nil(keys.logits)
    assert.has_error(function() keys.kv:values(4) end)
  end)

  it("gives no gradient to what a loss on keys does not need", function()
    local m = model():requires_grad(true)
    local out = m:forward { input_ids = random_ids(1, 6, 61), logits = false, values = false }
    out.kv:keys(4):sum():backward()
    local p = m:parameters()
    for name, t in pairs(p) do
      local dead = name:find "layers.3.self_attn.[qvo]_proj" or name:find "layers.3.mlp" or name:find "layers.3.post"
        or name == "model.norm.weight"
      assert.equal(dead ~= nil and dead ~= false, t.grad == nil, name)
    end
  end)

  it("keeps packed documents apart: each as if it stood alone", function()
    local m = model()
    local a, b = { 3, 9, 27, 20, 60 }, { 7, 14, 28 }
    local packed = ids { { 3, 9, 27, 20, 60, 7, 14, 28 } }
    local start = kava.tensor({ { 0, 0, 0, 0, 0, 5, 5, 5 } }, { dtype = "i32" })
    local positions = kava.tensor({ { 0, 1, 2, 3, 4, 0, 1, 2 } }, { dtype = "i32" })
    local both = m:forward { input_ids = packed, start = start, positions = positions }
    local first, second = m:forward { input_ids = ids { a } }, m:forward { input_ids = ids { b } }
    assert.is_true(kava.allclose(both.logits:narrow(2, 1, 5), first.logits, { rtol = 1e-5, atol = 1e-6 }))
    assert.is_true(kava.allclose(both.logits:narrow(2, 6, 3), second.logits, { rtol = 1e-5, atol = 1e-6 }))
    for i = 1, 4 do
      assert.is_true(kava.allclose(both.kv:keys(i):narrow(3, 6, 3), second.kv:keys(i), { rtol = 1e-5, atol = 1e-6 }))
    end
  end)

  it("attends within its windows, and says so in its attention maps", function()
    local m = model { model_type = "mistral", sliding_window = 3, num_hidden_layers = 2 }
    local a, b = ids { { 9, 9, 9, 4, 5, 6, 7, 8 } }, ids { { 1, 2, 3, 4, 5, 6, 7, 8 } }
    -- two layers of 3 reach four tokens back: the last token's logits do not know what stands before
    local one, other = m:forward { input_ids = a, queries = true }, m:forward { input_ids = b }
    assert.is_true(kava.allclose(one.logits:narrow(2, 8, 1), other.logits:narrow(2, 8, 1), { rtol = 1e-5, atol = 1e-6 }))
    assert.is_false((kava.allclose(one.logits:narrow(2, 7, 1), other.logits:narrow(2, 7, 1), { rtol = 1e-5, atol = 1e-6 })))
    local start = kava.tensor({ { 0, 0, 0, 0, 0, 5, 5, 5 } }, { dtype = "i32" })
    for _, first in ipairs { false, start } do
      one.start = first or nil
      local map = m:attention_map(one, 2):totable()[1]
      for t = 1, 8 do
        local sum = 0
        for j = 1, 8 do
          local seen = j <= t and j > t - 3 and (not first or t < 6 or j > 5)
          assert.equal(seen, map[t][j] > 0)
          sum = sum + map[t][j]
        end
        assert.near(1, sum, 1e-5)
      end
    end
  end)

  it("sees no padding, on either side", function()
    local m = model()
    local alone = m:forward { input_ids = ids { { 5, 6, 7 } } }
    local right = m:forward { input_ids = ids { { 5, 6, 7, 0, 0 } }, attention_mask = ids { { 1, 1, 1, 0, 0 } } }
    assert.is_true(kava.allclose(right.logits:narrow(2, 1, 3), alone.logits, { rtol = 1e-5, atol = 1e-6 }))
    local left = m:forward { input_ids = ids { { 0, 0, 5, 6, 7 } }, attention_mask = ids { { 0, 0, 1, 1, 1 } },
      positions = kava.tensor({ { 0, 0, 0, 1, 2 } }, { dtype = "i32" }) }
    assert.is_true(kava.allclose(left.logits:narrow(2, 3, 3), alone.logits, { rtol = 1e-5, atol = 1e-6 }))
    assert.has_error(function() m:forward { input_ids = ids { { 5, 6, 7 } }, attention_mask = ids { { 1, 0, 1 } } } end)
  end)

  it("probes what is there, not what the configuration claims", function()
    local p = model():probe { batch = 1, length = 32 }
    assert.same({ 4, 2, 8, 16, 64, 32 }, { p.layers, p.kv_heads, p.head_dim, p.layer_dim, p.total_dim, p.config_dim })
    assert.equal(4, #p.per_layer)
  end)

  it("has gradients that finite differences confirm, through all of it", function()
    local m = model({ num_hidden_layers = 2 }, { dtype = "f64", std = 0.3 })
    local x = random_ids(1, 5, 61)
    local function loss() return kava.loss.cross_entropy(m:forward({ input_ids = x }).logits, x) end
    m:requires_grad(true)
    loss():backward()
    local names = { "model.layers.0.self_attn.k_proj.weight", "model.layers.1.mlp.gate_proj.weight", "model.embed_tokens.weight" }
    for _, name in ipairs(names) do
      local p = m:parameters()[name]
      local row, column = 4, 3
      local at = p:detach():narrow(1, row, 1):narrow(2, column, 1)
      local value, eps = at:item(), 1e-5
      local function shifted(by)
        at:fill_(value + by)
        return kava.no_grad(function() return loss():item() end)
      end
      local slope = (shifted(eps) - shifted(-eps)) / (2 * eps)
      at:fill_(value)
      local grad = p.grad:narrow(1, row, 1):narrow(2, column, 1):item()
      assert.is_true(math.abs(slope - grad) <= 1e-6 * math.max(1, math.abs(slope)), name .. ": " .. slope .. " against " .. grad)
    end
  end)
end)

describe("a derived student", function()
  it("keeps chosen layers and remembers which", function()
    local teacher = model()
    assert.same({ 2, 4 }, kava.model.derive(teacher, { layers = 2 }).layer_map)
    assert.same({ 1, 4 }, kava.model.derive(teacher, { layers = 2, keep = "ends" }).layer_map)
    assert.same({ 1, 3, 4 }, kava.model.derive(teacher, { layers = { 1, 3, 4 } }).layer_map)
    assert.same({ 4 }, kava.model.derive(teacher, { layers = function(total) return { total } end }).layer_map)
    assert.has_error(function() kava.model.derive(teacher, { layers = 5 }) end)
    assert.has_error(function() kava.model.derive(teacher, { layers = { 0 } }) end)
  end)

  it("owns its weights", function()
    local teacher = model()
    local student = kava.model.derive(teacher, { layers = { 1, 2, 3, 4 } })
    local x = random_ids(1, 7, 61)
    local before = teacher:forward({ input_ids = x }).logits
    assert.is_true(kava.allclose(before, student:forward({ input_ids = x }).logits, { rtol = 0, atol = 0 }))
    for _, t in pairs(student:parameters()) do t:zero_() end
    assert.is_true(kava.allclose(before, teacher:forward({ input_ids = x }).logits, { rtol = 0, atol = 0 }))
  end)
end)

describe("saving and loading", function()
  it("gives the same model back", function()
    local m = model({ tie_word_embeddings = false })
    local dir = helper.tmp()
    assert(m:save(dir))
    local again = assert(kava.model.load(dir))
    local x = random_ids(2, 6, 61)
    assert.is_true(kava.allclose(m:forward({ input_ids = x }).logits, again:forward({ input_ids = x }).logits, { rtol = 0, atol = 0 }))
    local config = kava.json.load(dir .. "/config.json")
    assert.equal("LlamaForCausalLM", config.architectures[1])
    assert.equal(config.torch_dtype, config.dtype)
    assert.equal(config.rope_theta, config.rope_parameters.rope_theta)
    local student = kava.model.derive(m, { layers = 2 })
    assert(student:save(dir))
    assert.same({ 2, 4 }, kava.model.load(dir).layer_map)
  end)

  it("says what is wrong with a directory", function()
    local dir = helper.tmp()
    local function message(config)
      helper.write(dir .. "/config.json", config)
      local m, text = kava.model.load(dir)
      assert.is_nil(m)
      return text
    end
    assert.truthy(select(2, kava.model.load(dir .. "/absent")):find "no such file")
    assert.truthy(message("{"):find "config.json")
    assert.truthy(message('{"model_type": "mamba"}'):find "unknown model_type 'mamba'; known: .*gpt2, .*llama, mistral, .*qwen3")
    assert.truthy(message('{"model_type": "llama", "quantization_config": {"quant_method": "awq"}}'):find "awq")
    assert.truthy(message('{"model_type": "llama"}'):find "model.safetensors")
    assert(model():save(dir))
    assert.truthy(message('{"model_type": "llama", "hidden_size": 32}'):find "must be a number, got nothing")
    local config = with { hidden_size = 36 }
    assert.truthy(message(kava.json.encode(config)):find "expected")
    config = with { rope_scaling = { type = "strange" } }
    assert.truthy(message(kava.json.encode(config)):find "unknown rope type 'strange'")
  end)

  it("names arguments that are not what they should be", function()
    local m, path = model(), helper.tmp()
    local floats = "dtype: f64, f32, f16 or bf16 expected, got [iq]"
    assert.error_matches(function() kava.model.load(path, { dtype = "i32" }) end, floats)
    assert.error_matches(function() kava.model.derive(m, { dtype = "q4_0" }) end, floats)
    assert.error_matches(function() m:probe { lenght = 3 } end, "probe: unknown option 'lenght'")
    assert.error_matches(function() m:save() end, "save: a path expected, got nil")
    assert.error_matches(function() m:forward { input_ids = { { 1 } }, up_to = 1 << 32 } end, "up_to: 4294967296 is out of range")
    assert.error_matches(function() m:forward { input_ids = { { 1 } }, completely_else = 1 } end, "'completely_else'; known: input_ids, ")
    assert.error_matches(function() kava.kv.aggregate(nil, "concat") end, "aggregate: the kv of a forward pass expected, got nil")
    assert.error_matches(function() kava.projector { in_dim = 2, out_dim = 2 }() end, "projector: a tensor expected, got nil")
    assert.error_matches(function() kava.json.encode { 1, nil, 3 } end, "an array for JSON has no holes")
  end)

  it("is saved and loaded, or says that memory ran out", function()
    local m, dir = model(), helper.tmp()
    assert.is_true(require("spec.starve")(function()
      assert(m:save(dir .. "/saved"))
      assert(kava.model.load(dir .. "/saved"))
    end) > 50)
  end)

  it("names ids that are out of range", function()
    local ok, text = pcall(function() return model():forward { input_ids = ids { { 1, 61 } } } end)
    assert.is_false(ok)
    assert.truthy(text:find "61")
  end)
end)

describe("the distillation run of PyTorch", function()
  it("is reproduced: losses, gradients, weights after three steps", function()
    local script = helper.shared "conformance/distill.lua"
    if not script then return pending("skipped: ../shared is not here") end
    local run = assert(io.popen(("%s %s ../shared/golden/distill 2>&1"):format(helper.program(), script)))
    local text = run:read "a"
    assert(run:close(), text)
  end)
end)

describe("a real 4-bit model", function()
  it("gives the reference's logits, K and V", function()
    local path, gguf = helper.shared "golden/gguf/smollm2.safetensors", "local_models/SmolLM2-135M-Instruct.Q4_1.gguf"
    local there = io.open(gguf)
    if there then there:close() end
    if not path or not there then return pending("skipped: ../shared or " .. gguf .. " is not here (scripts/get_model)") end
    local m, ref = assert(kava.model.load(gguf)), assert(kava.safetensors.load(path))
    local p = m:probe()
    assert.same({ 30, 3, 64, 5760, 576 }, { p.layers, p.kv_heads, p.head_dim, p.total_dim, p.config_dim })
    for j = 0, 1 do
      local stored_ids = ref[j .. ".ids"]
      local length = stored_ids.shape[1]
      local out = m:forward { input_ids = stored_ids:reshape(1, length), logits = true }
      local function close(what, got, want)
        local _, difference = kava.allclose(got, want, { rtol = 0, atol = 0 })
        assert.is_true(difference <= 1e-5 * want:abs():max():item(), ("%s differs by %g"):format(what, difference))
      end
      close("logits", out.logits:narrow(2, length - 3, 4):reshape(4, -1), ref[j .. ".logits"])
      for i = 1, 30 do
        -- The reference's numbers lie in [1,T,H,D] order although its header says [1,H,T,D]: a transposed array's memory was written.
        local function stored(name)
          local t = ref[("%d.%s.%d"):format(j, name, i - 1)]
          return t and t:reshape(1, length, 3, 64):permute(1, 3, 2, 4)
        end
        close("keys", out.kv:keys(i), stored "k")
        close("values", out.kv:values(i), stored "v")
        if stored "kpre" then close("keys before rotation", out.kv:keys(i, { rope = "pre" }), stored "kpre") end
      end
    end
  end)
end)

describe("a large vocabulary in a mapped file", function()
  it("does not become resident row by row", function()
    local hidden, vocab, dir = 64, 600000, helper.tmp()
    local config = with { vocab_size = vocab, hidden_size = hidden, intermediate_size = 64, num_hidden_layers = 1 }
    assert(kava.fs.write(dir .. "/config.json", kava.json.encode(config)))
    local header, at = {}, 0
    local function entry(name, ...)
      local size = 2
      for _, n in ipairs { ... } do size = size * n end
      header[name] = { dtype = "BF16", shape = kava.json.array { ... }, data_offsets = kava.json.array { at, at + size } }
      at = at + size
    end
    entry("model.embed_tokens.weight", vocab, hidden)
    entry("model.norm.weight", hidden)
    for name, rows in pairs { q_proj = hidden, k_proj = hidden // 2, v_proj = hidden // 2, o_proj = hidden } do
      entry(("model.layers.0.self_attn.%s.weight"):format(name), rows, hidden)
    end
    for _, name in ipairs { "gate_proj", "up_proj", "down_proj" } do entry(("model.layers.0.mlp.%s.weight"):format(name), 64, hidden) end
    for _, name in ipairs { "input_layernorm", "post_attention_layernorm" } do entry(("model.layers.0.%s.weight"):format(name), hidden) end
    local text = kava.json.encode(header)
    local file = assert(io.open(dir .. "/model.safetensors", "wb"))
    file:write(string.pack("<s8", text))
    file:seek("set", 8 + #text + at - 1) -- a file of holes
    file:write "\0"
    file:close()
    local function resident()
      local status = helper.read "/proc/self/status"
      return tonumber(status:match "RssFile:%s+(%d+)") + tonumber(status:match "RssShmem:%s+(%d+)")
    end
    local m = assert(kava.model.load(dir))
    local row = {}
    for i = 1, 400 do row[i] = i * 1499 end
    m:forward { input_ids = ids { { 1 } }, logits = false }
    local before = resident()
    local out = m:forward { input_ids = ids { row }, logits = false }
    assert.equal(0, out.kv:keys(1):abs():max():item())
    assert.is_true(resident() - before < 4096, ("%d KiB more are resident"):format(resident() - before))
  end)
end)

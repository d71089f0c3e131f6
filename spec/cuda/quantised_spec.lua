-- Quantised weights on a GPU: made there to the codes that the CPU makes, multiplied in fp8 or widened.
local missing = require "spec.cuda.gpu" ()
local kava = require "kava"
local helper = require "spec.helper"

local methods = { "nf4", "nf4-dq", "int8", "fp8", "fp8-rows" }

local function same(a, b) return kava.allclose(a, b, { rtol = 0, atol = 0 }) end

-- Codes and scales of one tensor against another's, to the bit.
local function agree(here, there)
  local want, is = kava.quant.parts(here), kava.quant.parts(there)
  for name, value in pairs(want) do
    if type(value) == "number" then assert.equal(value, is[name], name)
    else assert.is_true(same(value:to { dtype = "f32" }, is[name]:to { dtype = "f32" }), name) end
  end
end

describe("weights quantised on a GPU", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end

  it("have the codes that the CPU makes", function()
    kava.seed(3)
    for _, dtype in ipairs { "f32", "bf16" } do
      for _, shape in ipairs { { 130, 136 }, { 5, 26 } } do
        local x = kava.randn(shape):to { dtype = dtype }
        for _, method in ipairs(methods) do
          local there = kava.quant.encode(x:to { device = "cuda" }, method)
          assert.equal("cuda", there.device)
          agree(kava.quant.encode(x, method), there:to { device = "cpu" })
        end
        local turned = kava.quant.encode(x:to({ device = "cuda" }):permute(2, 1), "int8")
        agree(kava.quant.encode(x:permute(2, 1), "int8"), turned:to { device = "cpu" })
      end
    end
    local x = kava.randn { 9, 64 }
    for _, dtype in ipairs { "q4_0", "q4_1", "q8_0" } do
      local there = kava.gguf.quantize(x:to { device = "cuda", dtype = "bf16" }, dtype)
      assert.is_true(same(kava.gguf.quantize(x:to { dtype = "bf16" }, dtype):to { dtype = "f32" },
        there:to({ device = "cpu" }):to { dtype = "f32" }), dtype)
    end
  end)

  it("are bitsandbytes' own", function()
    local golden = helper.shared "golden/quant/nf4.safetensors"
    if not golden then return pending "skipped: ../shared/golden/quant is not there" end
    local g = assert(kava.safetensors.load(golden))
    for i = 0, 2 do
      for _, dq in ipairs { "", "-dq" } do
        local name = ("%d.nf4%s"):format(i, dq == "" and "" or ".dq")
        local t = kava.quant.encode(g[i .. ".source"]:to { device = "cuda" }, "nf4" .. dq)
        assert.is_true(same(t:to({ dtype = "f32" }):to { device = "cpu" }, g[name .. ".deq"]:to { dtype = "f32" }), name)
        local parts = kava.quant.parts(t:to { device = "cpu" })
        local theirs = { codes = "packed", scales = "absmax", map = parts.map and "nested_code", outer = parts.outer and "nested_absmax" }
        for part, of in pairs(theirs) do
          local want = g[name .. "." .. of]:to({ dtype = "f32" }):reshape(-1)
          assert.is_true(same(parts[part]:to({ dtype = "f32" }):reshape(-1), want), name .. part)
        end
      end
    end
  end)

  it("are refused where a value is not finite", function()
    for _, bad in ipairs { math.huge, 0 / 0 } do
      local x = kava.cat({ kava.ones { 3, 32 }, kava.full({ 1, 32 }, bad) }, 1):to { device = "cuda" }
      for _, method in ipairs(methods) do
        assert.error_matches(function() kava.quant.encode(x, method) end, "element 97 is .*" .. (bad == bad and "inf" or "nan"))
      end
      assert.error_matches(function() kava.gguf.quantize(x, "q8_0") end, "element 97 is")
    end
    assert.error_matches(function() kava.quant.parts(kava.quant.encode(kava.ones({ 2, 32 }, { device = "cuda" }), "int8")) end,
      "on the cpu expected")
  end)
end)

-- A teacher's keys as its MLP's codes leave them, against those of bf16.
describe("a teacher quantised while it is loaded onto a GPU", function()
  if missing then return it("needs a GPU", function() pending(missing) end) end
  local config = { model_type = "llama", vocab_size = 40, hidden_size = 48, intermediate_size = 112, num_hidden_layers = 3,
    num_attention_heads = 3, num_key_value_heads = 1, rms_norm_eps = 1e-6, rope_theta = 1e4 }
  local folder, ids, plain
  setup(function()
    folder = helper.tmp()
    kava.matmul_precision "bf16"
    kava.seed(11)
    assert(kava.model.create(config, { std = 0.1 }):save(folder, { dtype = "bf16" }))
    ids = (kava.rand { 2, 10 } * 39):to { dtype = "i64" }
    plain = assert(kava.model.load(folder, { device = "cuda" }))
  end)
  teardown(function() kava.matmul_precision "f32" end)

  local function error_of(options)
    options.device = "cuda"
    local m = assert(kava.model.load(folder, options))
    return m, m:quantisation_error { reference = plain, input_ids = ids:to { device = "cuda" } }
  end

  it("multiplies the MLP in fp8, and K of the first layer is what it was", function()
    local m, found = error_of { quantize = "fp8" }
    for name, t in pairs(m:parameters()) do
      local coded = name:find "mlp" and #t.shape == 2
      assert.equal(coded and "fp8" or #t.shape == 2 and "bf16" or "f32", t.dtype, name)
    end
    assert.equal(0, found.layers[1].keys.rms)
    -- Each product is off by 3.7 % of its size: two of them make the gated product's 5.2 %, the third adds its own: 6.4 % of what an
    -- MLP adds to the stream, which is a part of it; a layer's error at most adds to the ones before.
    for i = 2, 3 do
      local rms = found.layers[i].keys.rms
      assert.is_true(rms > 0.002 and rms < 0.064 * (i - 1), ("layer %d: %g"):format(i, rms))
    end
    -- gate and up of the two layers whose MLP is run read codes that the norm before them wrote; what they make goes into codes at once
    local report = kava.profile.run(function() m:forward { input_ids = ids, logits = false } end)
    local quantised, at_once, norms = 0, 0, 0
    for _, kernel in ipairs(report.kernels) do -- by the launch's name, or by the function's
      if kernel.name:find "gated: fp8" or kernel.name:find "gated_rows" then at_once = at_once + kernel.calls
      elseif kernel.name:find "fp8 rows" or kernel.name:find "rows_kernel" then quantised = quantised + kernel.calls
      elseif kernel.name:find "norm" then norms = norms + kernel.calls end
    end
    assert.same({ 2, 2, 3 }, { quantised, at_once, norms })
    -- codes of the same weights that are widened err less: what is left is the activations'
    local wide = m
    for _, layer in ipairs(wide.weights.layer) do
      for key, t in pairs(layer) do
        if t.dtype == "fp8" then layer[key] = t:to({ dtype = "f32" }):to { dtype = "bf16" } end
      end
    end
    wide.decoder = kava.decoder(wide.spec, wide.weights)
    local less = wide:quantisation_error { reference = plain, input_ids = ids:to { device = "cuda" } }
    assert.is_true(less.keys.rms < 0.9 * found.keys.rms and less.keys.rms > 0.4 * found.keys.rms)
  end)

  it("runs the MLP as one where there are rows enough, to the same but for codes", function()
    -- as many tiles as the emulated GPU, of few multiprocessors, takes for enough
    local wide, own = {}, helper.tmp()
    for key, value in pairs(config) do wide[key] = value end
    wide.hidden_size, wide.num_attention_heads, wide.intermediate_size, wide.num_hidden_layers = 912, 19, 400, 1
    assert(kava.model.create(wide, { std = 0.05 }):save(own, { dtype = "bf16" }))
    local m = assert(kava.model.load(own, { device = "cuda", quantize = "fp8" }))
    local many = (kava.rand { 1, 129 } * 39):to({ dtype = "i64" }):to { device = "cuda" }
    local function logits(tokens, of)
      return (of or m):forward({ input_ids = tokens, logits = true }).logits:to { device = "cpu", dtype = "f32" }
    end
    local all, calls = nil, 0
    local report = kava.profile.run(function() all = logits(many) end)
    for _, kernel in ipairs(report.kernels) do
      if kernel.name:find "gated_mlp: gate" then calls = calls + kernel.calls end
    end
    if kava.device("cuda").name == "emulated" then assert.equal(1, calls) end
    local few = logits(many:narrow(2, 1, 20)) -- which see nothing of those behind them
    -- f(gate) up becomes codes either way, with scales of another choice: each is as far from the model as it was
    local function rms(t) return (t * t):mean():item() ^ 0.5 end
    local exact = logits(many, assert(kava.model.load(own, { device = "cuda" }))):narrow(2, 1, 20)
    all = all:narrow(2, 1, 20)
    local off, apart = rms(few - exact) / rms(exact), rms(all - few) / rms(exact)
    assert.near(1, rms(all - exact) / rms(few - exact), 0.1)
    assert.is_true(off < 0.064 and apart < 0.037, ("%g %g"):format(off, apart))
  end)

  it("takes all matrices where it is told to, and other codes for all of them", function()
    local m, all = error_of { quantize = "fp8", quantize_parts = "all" }
    assert.equal("fp8", m:parameters()["model.layers.0.self_attn.k_proj.weight"].dtype)
    assert.is_true(all.layers[1].keys.rms > 0.01 and all.layers[1].keys.rms < 0.05) -- one product's 3.7 %
    local bounds = { nf4 = 0.3, ["nf4-dq"] = 0.3, int8 = 0.03 }
    for method, bound in pairs(bounds) do
      local coded, found = error_of { quantize = method }
      assert.equal(method:match "^%w+", coded:parameters()["model.layers.0.self_attn.k_proj.weight"].dtype)
      assert.is_true(found.keys.rms > 0 and found.keys.rms < bound, ("%s: %g"):format(method, found.keys.rms))
    end
    assert.error_matches(function() kava.model.load(folder, { quantize = "fp8", quantize_parts = "some" }) end, "all or mlp expected")
  end)
end)

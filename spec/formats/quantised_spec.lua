local helper = require "spec.helper"
local kava = require "kava"
local quant = kava.quant

local function same(a, b, what)
  local ok, difference = kava.allclose(a:to({ dtype = "f32" }):reshape(-1), b:to({ dtype = "f32" }):reshape(-1), { rtol = 0, atol = 0 })
  assert.is_true(ok, ("%s: %g"):format(what, difference))
end

-- values of codes in plain Lua: the definition
local function words_of(list, bits) -- integers -> i32 words, low bits first
  local words, at = {}, 0
  for _ = 1, (#list * bits + 31) // 32 do words[#words + 1] = 0 end
  for _, value in ipairs(list) do
    for b = 0, bits - 1 do
      if value >> b & 1 == 1 then words[at // 32 + 1] = words[at // 32 + 1] | 1 << at % 32 end
      at = at + 1
    end
  end
  for i, word in ipairs(words) do words[i] = word >= 1 << 31 and word - (1 << 32) or word end
  return words
end

local function random_codes(count, bits)
  local list = {}
  for i = 1, count do list[i] = math.random(0, (1 << bits) - 1) end
  return list
end

local function matrix_of(list, rows, columns, value)
  local out = {}
  for r = 1, rows do
    out[r] = {}
    for c = 1, columns do out[r][c] = value(list[(r - 1) * columns + c], r - 1, c - 1) end
  end
  return kava.tensor(out)
end

describe("codes with scales", function()
  setup(function() math.randomseed(7) end)

  it("mean (code - zero) scale, for every width, group and zero point", function()
    for _, bits in ipairs { 2, 3, 4, 8 } do
      local rows, columns, group = 6, 96, 32
      local list, zeros = random_codes(rows * columns, bits), random_codes(rows * 3, bits)
      local scales = kava.randn { rows, 3 }
      local numbers = scales:totable()
      local words = kava.tensor({ words_of(list, bits) }, { dtype = "i32" })
      local dtype = bits == 8 and "uint8" or "int" .. bits
      local function check(options, zero_of, group_of)
        options.dtype, options.rows, options.columns, options.codes, options.scales = dtype, rows, columns, words, scales
        options.group = group
        local t = assert(quant.coded(options))
        local want = matrix_of(list, rows, columns, function(code, r, c)
          return (code - zero_of(r, group_of(c))) * numbers[r + 1][group_of(c) + 1]
        end)
        assert.equal(dtype, t.dtype)
        assert.is_true(kava.allclose(t:to { dtype = "f32" }, want, { rtol = 1e-6, atol = 0 }))
        -- and as a weight, whole and cut, for few rows and for many
        for _, n in ipairs { 1, 40 } do
          local x = kava.randn { n, columns }
          assert.is_true(kava.allclose(kava.linear(x, t), kava.linear(x, want), { rtol = 1e-4, atol = 1e-3 }))
          local cut = kava.linear(x, want:narrow(1, 3, 3):contiguous())
          assert.is_true(kava.allclose(kava.linear(x, t:narrow(1, 3, 3)), cut, { rtol = 1e-4, atol = 1e-3 }))
        end
        local ids = kava.tensor({ 5, 0, 3 }, { dtype = "i64" })
        same(kava.embedding(ids, t), t:to({ dtype = "f32" }):index_select(1, ids + 1), "rows")
      end
      local function in_order(c) return c // group end
      check({}, function() return 0 end, in_order)
      check({ zero = 3 }, function() return 3 end, in_order)
      check({ zeros = kava.tensor(zeros, { dtype = "u8" }) }, function(r, g) return zeros[r * 3 + g + 1] end, in_order)
      local order = {}
      for c = 0, columns - 1 do order[c + 1] = (c * 7 + 1) % 3 end
      check({ zeros = kava.tensor(zeros, { dtype = "u8" }), group_of = kava.tensor(order, { dtype = "i32" }) },
        function(r, g) return zeros[r * 3 + g + 1] end, function(c) return order[c + 1] end)
    end
  end)

  it("pass gradients on to what they are multiplied with, and are a head's weight", function()
    kava.seed(2)
    for _, method in ipairs { "nf4", "int8", "fp8" } do
      local t = quant.encode(kava.randn { 150, 160 }, method)
      local wide = t:to { dtype = "f32" }
      local g, x = kava.randn { 20, 150 }, kava.randn { 20, 160 }
      local a, b = x:clone():requires_grad(true), x:clone():requires_grad(true);
      (kava.linear(a, t) * g):sum():backward();
      (kava.linear(b, wide) * g):sum():backward()
      assert.is_true(kava.allclose(a.grad, b.grad, { rtol = 1e-5, atol = 1e-4 }))
      local ids = kava.arange(20)
      local cut, plain = t:narrow(1, 2, 149), wide:narrow(1, 2, 149):contiguous()
      local want = kava.loss.head { hidden = x, weight = plain, targets = ids }
      assert.is_true(kava.allclose(kava.loss.head { hidden = x, weight = cut, targets = ids }, want, { rtol = 1e-5, atol = 0 }))
    end
  end)

  it("round to the type that is asked for, after the product", function()
    local scales = kava.randn { 4 }
    local codes = kava.arange(4 * 32):to { dtype = "u8" }
    for _, round in ipairs { "f16", "bf16" } do
      local wide = assert(quant.coded { dtype = "uint8", rows = 4, columns = 32, codes = codes, scales = scales })
      local t = assert(quant.coded { dtype = "uint8", rows = 4, columns = 32, codes = codes, scales = scales, round = round })
      same(t, wide:to({ dtype = "f32" }):to({ dtype = round }), round)
    end
  end)

  it("read e4m3, its subnormals and its NaN", function()
    local all = {}
    for i = 0, 255 do all[i + 1] = i end
    local codes = kava.tensor(all, { dtype = "u8" })
    local t = assert(quant.coded { dtype = "fp8", rows = 1, columns = 256, codes = codes, scales = kava.ones { 1 } })
    local values = t:to({ dtype = "f32" }):totable()[1]
    for i = 0, 255 do
      local exponent, mantissa = i >> 3 & 15, i & 7
      local want = (exponent == 0 and mantissa * 2.0 ^ -9 or (8 + mantissa) * 2.0 ^ (exponent - 10)) * (i > 127 and -1 or 1)
      if i & 127 == 127 then assert.is_true(values[i + 1] ~= values[i + 1]) else assert.equal(want, values[i + 1]) end
    end
  end)

  it("unpack words, GPTQ's zero points and AWQ's order", function()
    for _, bits in ipairs { 2, 3, 4, 8 } do
      local list = random_codes(64, bits)
      local words = kava.tensor({ words_of(list, bits) }, { dtype = "i32" })
      assert.same(list, assert(quant.unpack(words, bits, 64)):totable()[1])
      local more = assert(quant.unpack(words, bits, 64, 1)):totable()[1]
      for i, value in ipairs(list) do assert.equal((value + 1) % (1 << bits), more[i]) end
    end
    -- one word of AWQ holds columns 0 2 4 6 1 3 5 7
    local word = kava.tensor({ { 0x76543210 } }, { dtype = "i32" })
    assert.same({ 0, 4, 1, 5, 2, 6, 3, 7 }, quant.unpack(word, 4, 8, 0, true):totable()[1])
    assert.is_nil((quant.unpack(word, 4, 4, 0, true))) -- AWQ's order is that of eight
    local inputs, outputs = 24, 16
    local rows = {}
    for i = 1, inputs do rows[i] = words_of(random_codes(outputs, 4), 4) end
    local qweight = kava.tensor(rows, { dtype = "i32" })
    local plain = quant.unpack(qweight, 4, outputs, 0, true) -- [in, out]
    local turned = assert(quant.awq_rows(qweight))
    assert.same({ outputs, inputs // 8 }, turned.shape)
    same(quant.unpack(turned, 4, inputs), plain:permute(2, 1):contiguous(), "awq")
  end)

  it("say which part does not fit", function()
    local codes, scales = kava.zeros({ 32 }, { dtype = "u8" }), kava.ones { 4 }
    local function message(change)
      local parts = { dtype = "int4", rows = 4, columns = 16, codes = codes, scales = scales }
      for key, value in pairs(change) do parts[key] = value end
      local t, text, code = quant.coded(parts)
      assert.is_nil(t)
      assert.is_true(code == "format" or code == "unsupported", code)
      return text
    end
    local u8, i32 = { dtype = "u8" }, { dtype = "i32" }
    for expected, change in pairs {
      ["scales: 4 elements expected, got [3]"] = { scales = kava.ones { 3 } },
      ["scales: f32, f16, bf16 or u8 expected, got i64"] = { scales = kava.arange(4) },
      ["scales: u8 ones need map"] = { scales = kava.zeros({ 4 }, u8) },
      ["scales: 8 elements"] = { group = 8 },
      ["zeros: u8 expected, got i32"] = { zeros = kava.zeros({ 4 }, i32) },
      ["zeros: 4 elements"] = { zeros = kava.zeros({ 5 }, u8) },
      ["group_of: column 3 is in group 1 of 1"] = {
        scales = kava.ones { 4, 1 }, group_of = kava.tensor({ 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 }, i32) },
      ["group_of: column 1 is in group -1"] = { scales = kava.ones { 4, 1 }, group_of = kava.full({ 16 }, -1, i32) },
      ["group_of: 16 elements"] = { scales = kava.ones { 4, 1 }, group_of = kava.zeros({ 8 }, i32) },
      ["codes: 32 bytes of a whole tensor expected"] = { codes = kava.zeros({ 31 }, u8) },
      ["no matrix"] = { rows = -1 },
      ["not whole bytes"] = { columns = 15, scales = kava.ones { 4 } },
      ["map: 256 elements"] = { scales = kava.zeros({ 4 }, u8), map = kava.ones { 3 }, outer = kava.ones { 1 }, outer_group = 256 },
      ["outer: 1 elements"] = { scales = kava.zeros({ 4 }, u8), map = kava.ones { 256 }, outer = kava.ones { 2 }, outer_group = 256 },
    } do
      local text = message(change)
      assert.truthy(text:find(expected, 1, true), text)
    end
    assert.is_nil((quant.unpack(kava.zeros({ 1, 2 }, i32), 4, 17)))
    assert.is_nil((quant.unpack(kava.zeros({ 1, 2 }, i32), 5, 8)))
    assert.is_nil((quant.awq_rows(kava.zeros({ 12, 2 }, i32))))
    assert.is_nil((quant.awq_rows(kava.zeros { 8, 2 })))
  end)

  it("mean nothing without their scales: they are neither saved nor changed", function()
    local t = quant.encode(kava.randn { 4, 64 }, "nf4")
    local path = helper.tmp() .. "/x.safetensors"
    assert.has_error(function() kava.safetensors.save(path, { t = t }) end)
    assert.has_error(function() kava.gguf.save(path, { t = t }) end)
    assert.has_error(function() t:permute(2, 1) end)
    assert.has_error(function() kava.rope_rows(t, 1) end)
    same(t:clone(), t, "clone")
    assert.is_nil(quant.parts(kava.ones { 2, 2 }))
  end)
end)

describe("codes made of floats", function()
  local golden = helper.shared "golden/quant/nf4.safetensors"

  it("are bitsandbytes' own", function()
    if not golden then return pending "skipped: ../shared/golden/quant is not there" end
    local g = assert(kava.safetensors.load(golden))
    for i = 0, 2 do
      local source = g[i .. ".source"]
      for _, dq in ipairs { "", "-dq" } do
        local name = ("%d.nf4%s"):format(i, dq == "" and "" or ".dq")
        local t = quant.encode(source, "nf4" .. dq)
        local parts = quant.parts(t)
        same(parts.codes, g[name .. ".packed"], name)
        same(parts.scales, g[name .. ".absmax"], name)
        same(t, g[name .. ".deq"], name)
        if dq ~= "" then
          same(parts.map, g[name .. ".nested_code"], name)
          same(parts.outer, g[name .. ".nested_absmax"], name)
        end
      end
      -- its int8 divides by an approximation: of halves between two codes some go the other way
      local t = quant.encode(source:to { dtype = "f16" }, "int8")
      local codes = assert(quant.coded { dtype = "int8", rows = t.shape[1], columns = t.shape[2], codes = quant.parts(t).codes,
        scales = kava.ones { t.shape[1] } }):to { dtype = "f32" }
      local difference = (codes - g[i .. ".int8.q"]:to { dtype = "f32" }):abs()
      assert.is_true(difference:max():item() <= 1 and difference:sum():item() <= 1)
      assert.is_true(kava.allclose(quant.parts(t).scales * 127, g[i .. ".int8.scb"], { rtol = 1e-6, atol = 0 }))
      -- and what it stored is read as it reads it
      for _, kind in ipairs { "nf4", "fp4" } do
        local name = i .. "." .. kind
        local shape = { dtype = kind, rows = source.shape[1], columns = source.shape[2], flat = true, group = 64, round = source.dtype }
        shape.codes, shape.scales = g[name .. ".packed"], g[name .. ".absmax"]
        same(assert(quant.coded(shape)), g[name .. ".deq"], name)
        shape.codes, shape.scales, shape.map = g[name .. ".dq.packed"], g[name .. ".dq.absmax"], g[name .. ".dq.nested_code"]
        shape.outer, shape.outer_group, shape.offset = g[name .. ".dq.nested_absmax"], 256, g[name .. ".dq.offset"]:totable()[1]
        same(assert(quant.coded(shape)), g[name .. ".dq.deq"], name)
      end
    end
  end)
end)

describe("a quantised checkpoint", function()
  -- made by transformers with bitsandbytes; ref: their own dequantised weights, and logits and keys computed on those in f32
  for _, case in ipairs { "nf4_dq_bf16", "nf4_fp16", "fp4_bf16", "int8", "fp8_block" } do
    it(("is loaded as stored, and means the same: %s"):format(case), function()
      local dir = helper.shared("golden/quant/" .. case .. "/config.json")
      if not dir then return pending "skipped: ../shared/golden/quant is not there" end
      dir = dir:gsub("/config.json$", "")
      local ref = assert(kava.safetensors.load(dir .. "/ref.safetensors"))
      local m = assert(kava.model.load(dir))
      local coded = 0
      for _, t in pairs(m:parameters()) do
        if kava.quant.parts(t) then coded = coded + 1 end
      end
      for key, want in pairs(ref) do
        local name = key:match "^deq%.(.+)$"
        if name then
          assert.is_true(kava.allclose(m:weight(name), want:to { dtype = "f32" }, { rtol = 1e-6, atol = 1e-8 }), name)
        end
      end
      assert.equal(7 * #m.spec.layer, coded) -- every projection, and nothing else, is held as codes
      local out = m:forward { input_ids = ref.input_ids, attention_mask = ref.attention_mask }
      local function first(t) return t:narrow(1, 1, 1):contiguous() end
      assert.is_true(kava.allclose(first(out.logits), first(ref.logits), { rtol = 0, atol = 2e-4 }))
      for i = 1, out.kv:layers() do
        assert.is_true(kava.allclose(first(out.kv:keys(i)), first(ref["k." .. i - 1]), { rtol = 0, atol = 2e-4 }))
        assert.is_true(kava.allclose(first(out.kv:values(i)), first(ref["v." .. i - 1]), { rtol = 0, atol = 2e-4 }))
      end
    end)
  end
end)

describe("a model quantised while it is loaded", function()
  local dir
  local config = {
    model_type = "llama", hidden_size = 64, intermediate_size = 96, num_hidden_layers = 2, num_attention_heads = 4, vocab_size = 80,
    num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 10000.0, max_position_embeddings = 64, tie_word_embeddings = false,
  }
  setup(function()
    dir = helper.tmp()
    kava.seed(3)
    assert(kava.model.create(config, { std = 0.3 }):save(dir, { dtype = "bf16" }))
  end)

  it("holds its layers' matrices in codes, the others as they were", function()
    local plain = assert(kava.model.load(dir))
    local ids = kava.tensor({ { 1, 5, 79, 0, 33, 2 } }, { dtype = "i64" })
    for method, dtype in pairs { nf4 = "nf4", ["nf4-dq"] = "nf4", int8 = "int8", fp8 = "fp8" } do
      local m = assert(kava.model.load(dir, { quantize = method }))
      for name, t in pairs(m:parameters()) do
        local want = plain:parameters()[name]
        if name:find "_proj" then
          assert.equal(dtype, t.dtype)
          same(t, quant.encode(want, method), name)
        else
          assert.equal(want.dtype, t.dtype)
          same(t, want, name)
        end
      end
      -- the codes are multiplied with as they are: the same as with their values
      local wide = { layer = {} }
      for key, t in pairs(m.weights) do
        if key ~= "layer" then wide[key] = t end
      end
      for i, layer in ipairs(m.weights.layer) do
        wide.layer[i] = {}
        for key, t in pairs(layer) do wide.layer[i][key] = t:to { dtype = "f32" } end
      end
      local other = kava.decoder(m.spec, wide)
      assert.is_true(kava.allclose(m:forward({ input_ids = ids }).logits, other:forward({ input_ids = ids, logits = true }).logits,
        { rtol = 1e-4, atol = 1e-4 }), method)
    end
  end)

  it("may be of any family: fused and turned matrices, norms that are moved", function()
    local folder, out = "spec/golden/families", helper.tmp()
    for _, name in ipairs(kava.fs.list(folder)) do
      if kava.fs.exists(folder .. "/" .. name .. "/ref.safetensors") then
        local ids = assert(kava.safetensors.load(folder .. "/" .. name .. "/ref.safetensors")).input_ids
        local m = assert(kava.model.load(folder .. "/" .. name, { quantize = name:find "^g" and "nf4" or "fp8" }))
        assert(m:save(out, { dtype = "f32", tokenizer = false })) -- their values
        local logits = assert(kava.model.load(out)):forward({ input_ids = ids }).logits
        local most = logits:abs():max():item()
        assert.is_true(kava.allclose(m:forward({ input_ids = ids }).logits, logits, { rtol = 0, atol = 1e-5 * most }), name)
      end
    end
  end)

  it("is a float model, and quantised in a known way", function()
    assert.has_error(function() kava.model.load(dir, { quantize = "int3" }) end)
    local golden = helper.shared "golden/quant/int8/config.json"
    if not golden then return pending "skipped: ../shared/golden/quant is not there" end
    local m, message = kava.model.load(golden:gsub("/config.json$", ""), { quantize = "nf4" })
    assert.is_nil(m)
    assert.truthy(message:find "tensor model%.layers%.%d%.[%w_.]+: quantise: a float matrix expected, got int8", message)
  end)
end)

describe("the layouts of", function()
  local quantised = require "kava.quantised"
  -- made by spec/golden/make_quantised.py from the formats' definitions
  local file = "spec/golden/quant/checkpoints.safetensors"
  local all, configs = assert(kava.safetensors.load(file))
  configs.format = nil

  local function case_of(name)
    local parts = {}
    for key, t in pairs(all) do
      local case, part = key:match "^(.-)/(.*)$"
      if case == name and part ~= "values" then parts[part] = t end
    end
    return quantised.of({ quantization_config = kava.json.decode(configs[name]) }, "config.json"), parts
  end

  for name in pairs(configs) do
    it(name .. " give their values, and nothing is left over", function()
      local config, parts = case_of(name)
      local tensor, names = quantised.bind(config, parts, file)
      local t = tensor "l.weight"
      same(t, all[name .. "/values"], name)
      assert.same({}, names())
      assert.truthy(quant.parts(t), "it is held in codes")
    end)
  end

  it("a part that is missing, lies or is of another type is named with its file", function()
    local function reject(name, change, expected)
      local config, parts = case_of(name)
      local settings = {}
      for key, value in pairs(config) do settings[key] = value end
      change(parts, settings)
      local tensor = quantised.bind(settings, parts, file)
      local ok, failure = pcall(tensor, "l.weight")
      assert.is_false(ok, name .. ": " .. expected)
      local text = type(failure) == "table" and failure.message or tostring(failure)
      assert.truthy(text:find(expected, 1, true), text)
      assert.truthy(text:find(file, 1, true), text)
    end
    reject("gptq4-sym", function(p) p["l.scales"] = nil end, "tensor l.scales is missing")
    reject("gptq4-order", function(p) p["l.scales"] = p["l.scales"]:narrow(1, 1, 1) end, "tensor l.qweight: zeros: 16 elements expected")
    reject("gptq4-order", function(p) p["l.g_idx"] = p["l.g_idx"] - 1 end, "is in group -1 of 2")
    reject("gptq4-order", function(p) p["l.g_idx"] = p["l.g_idx"]:narrow(1, 1, 8) end, "group_of: 64 elements expected, got [8]")
    reject("gptq4-sym", function(p) p["l.scales"] = p["l.scales"]:narrow(1, 1, 1) end, "tensor l.qweight: scales: 32 elements expected")
    reject("gptq4-sym", function(_, c) c.group_size = 0 end, "group_size 0")
    reject("gptq3-sym", function(p) p["l.qzeros"] = p["l.qzeros"]:narrow(2, 1, 2) end, "tensor l.qzeros: packed integers")
    reject("gptq4-sym", function(p) p["l.qweight"] = p["l.qweight"]:to { dtype = "f32" } end, "tensor l.qweight: i32 expected, got f32")
    reject("awq", function(p) p["l.qweight"] = p["l.qweight"]:narrow(1, 1, 12) end, "tensor l.qweight: ")
    reject("awq", function(p) p["l.qzeros"] = p["l.qzeros"]:reshape(-1) end, "tensor l.qzeros: 2 dimensions expected")
    reject("packed4-sym", function(p) p["l.weight_shape"] = kava.tensor({ 8, 1 << 40 }, { dtype = "i64" }) end, "l.weight_packed: words")
    reject("packed4-sym", function(p) p["l.weight_shape"] = nil end, "tensor l.weight_shape is missing")
    reject("packed4-order", function(p) p["l.weight_g_idx"] = p["l.weight_g_idx"] * 9 end, "of 2")
    reject("int8-channel", function(p) p["l.weight_scale"] = nil end, "tensor l.weight is i8 and has no scales")
    reject("fp8-block", function(p) p["l.weight_scale"] = p["l.weight_scale"]:narrow(1, 1, 1) end, "scales: 4 elements expected")
  end)

  it("integers that nobody scales, and types that are not known, are not taken for weights", function()
    local dir = helper.tmp()
    assert(kava.model.create({ model_type = "llama", vocab_size = 8, hidden_size = 8, intermediate_size = 8, num_hidden_layers = 1,
      num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-5 }):save(dir))
    local tensors = {}
    for name, t in pairs(assert(kava.safetensors.load(dir .. "/model.safetensors"))) do tensors[name] = t:clone() end
    local function message_of()
      local m, message = kava.model.load(dir)
      assert.is_nil(m)
      return message
    end
    tensors["model.layers.0.mlp.up_proj.weight"] = kava.ones({ 8, 8 }, { dtype = "i8" })
    assert(kava.safetensors.save(dir .. "/model.safetensors", tensors))
    assert.truthy(message_of():find("tensor model.layers.0.mlp.up_proj.weight is i8; a float or quantised type expected", 1, true))
    local text = helper.read(dir .. "/model.safetensors"):gsub('"I8"', '"F8_E5M2"'):gsub("^........", function(size)
      return string.pack("<I8", string.unpack("<I8", size) + 5)
    end)
    helper.write(dir .. "/model.safetensors", text)
    local message = message_of()
    assert.truthy(message:find("up_proj.weight: its dtype (F8_E5M2) is not supported", 1, true), message)
  end)

  it("other methods are refused before a weight is read", function()
    local function reject(settings, expected)
      local dir = helper.tmp()
      helper.write(dir .. "/config.json", kava.json.encode { model_type = "llama", quantization_config = settings })
      local m, message, code = kava.model.load(dir) -- there is no model.safetensors at all
      assert.is_nil(m)
      assert.equal("unsupported", code)
      assert.truthy(message:find(expected, 1, true) and message:find(dir .. "/config.json", 1, true), message)
    end
    reject({ quant_method = "hqq" },
      "quantised by 'hqq' are not supported; known: awq, bitsandbytes, compressed-tensors, fp8, gptq, and GGUF files' types")
    reject({ quant_method = "mxfp4" }, "quantised by 'mxfp4'")
    reject({ bits = 4 }, "quantised by 'nil'")
    reject({ quant_method = "gptq", bits = 5 }, "gptq: 5 bits; known: 2, 3, 4, 8")
    reject({ quant_method = "gptq", bits = 4, checkpoint_format = "marlin" }, "checkpoint_format 'marlin'")
    reject({ quant_method = "awq", bits = 4, version = "GEMV" }, "version 'gemv'")
    reject({ quant_method = "bitsandbytes" }, "neither load_in_4bit nor load_in_8bit")
    reject({ quant_method = "fp8", weight_block_size = { 128 } }, "weight_block_size")
    reject({ quant_method = "compressed-tensors", format = "nvfp4-pack-quantized" }, "format 'nvfp4-pack-quantized'")
    reject({ quant_method = "compressed-tensors", config_groups = { g = { weights = { num_bits = 4, type = "float" } } } },
      "weights of 4 bits, type float")
  end)
end)

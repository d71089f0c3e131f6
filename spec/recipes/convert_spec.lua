local helper = require "spec.helper"
local kava = require "kava"
local program = require "spec.program"
local tiny = require "spec.tiny"

local exact = { rtol = 0, atol = 0 }

local function same_weights(a, b, tolerance)
  local mine, count = b:parameters(), 0
  for name, t in pairs(a:parameters()) do
    assert.truthy(mine[name], name)
    assert.is_true(kava.allclose(mine[name]:to { dtype = "f32" }, t:to { dtype = "f32" }, tolerance or exact), name)
    count = count + 1
  end
  for _ in pairs(mine) do count = count - 1 end
  assert.equal(0, count)
end

local function same_ids(a, b)
  for _, text in ipairs { "Two and 2 are 4.", "é\n\n  x" } do assert.same(a:encode(text), b:encode(text)) end
end

local function load(path) return assert(kava.model.load(path)) end

describe("convert", function()
  local dir, out
  setup(function()
    dir, out = tiny.model(helper.tmp(), { hidden = 64 }), helper.tmp()
    helper.write(dir .. "/generation_config.json", '{"eos_token_id": [3, 4],\n   "do_sample": true}')
    helper.write(dir .. "/special_tokens_map.json", '{ "odd" :  "spacing kept" }')
  end)

  it("makes a GGUF file of a folder and a folder of that, the same model", function()
    local code, text, errors = program.run(("recipes/convert.lua %s %s/m.gguf type=f32"):format(dir, out))
    assert.equal(0, code, errors)
    assert.truthy(text:find "tokenizer: the same", text)
    local plain, there = load(dir), load(out .. "/m.gguf")
    same_weights(plain, there)
    same_ids(assert(kava.tokenizer.load(dir)), assert(kava.tokenizer.load(out .. "/m.gguf")))
    -- rows of Q and K stand as llama.cpp computes with them
    local q = plain:weight "model.layers.0.self_attn.q_proj.weight"
    local stored = assert(kava.gguf.load(out .. "/m.gguf"))["blk.0.attn_q.weight"]
    assert.is_false((kava.allclose(q, stored, exact)))
    assert.is_true((kava.allclose(q:narrow(1, 9, 1), stored:narrow(1, 2, 1), exact))) -- head_dim 16: row 8 of a head is row 1 there
    assert.equal(0, (program.run(("recipes/convert.lua from=%s/m.gguf to=%s/back type=f32"):format(out, out))))
    same_weights(plain, load(out .. "/back"))
    same_ids(assert(kava.tokenizer.load(dir)), assert(kava.tokenizer.load(out .. "/back")))
  end)

  it("keeps a GGUF file's own types, metadata of the tokenizer and template", function()
    local fields = { ["tokenizer.chat_template"] = "{{ messages }}", ["general.license"] = "apache-2.0" }
    for _, field in ipairs(assert(kava.gguf.open "assets/demo/teacher.gguf"):fields()) do fields[field.key] = field end
    local tensors = assert(kava.gguf.load("assets/demo/teacher.gguf", { dequantize = false }))
    assert(kava.gguf.save(out .. "/a.gguf", tensors, fields))
    assert.equal(0, (program.run(("recipes/convert.lua %s/a.gguf %s/b.gguf"):format(out, out))))
    local a, b = assert(kava.gguf.open(out .. "/a.gguf")), assert(kava.gguf.open(out .. "/b.gguf"))
    for _, key in ipairs { "model", "pre", "tokens", "token_type", "merges", "padding_token_id", "add_bos_token" } do
      assert.same(a:metadata("tokenizer.ggml." .. key), b:metadata("tokenizer.ggml." .. key))
    end
    for _, key in ipairs { "tokenizer.chat_template", "general.license", "general.name", "general.architecture", "general.file_type" } do
      assert.equal(a:metadata(key), b:metadata(key))
    end
    assert.equal(#a:names(), #b:names())
    for _, name in ipairs(a:names()) do
      assert.equal(a:tensor(name).dtype, b:tensor(name).dtype)
      assert.is_true(kava.allclose(a:tensor(name, { dequantize = true }), b:tensor(name, { dequantize = true }), exact), name)
    end
    assert.equal(0, (program.run(("recipes/convert.lua %s/b.gguf %s/folder"):format(out, out))))
    assert.equal("{{ messages }}", helper.read(out .. "/folder/chat_template.jinja"))
    same_weights(load(out .. "/a.gguf"), load(out .. "/folder"), { rtol = 1e-3, atol = 1e-6 }) -- f16
    a:release()
    b:release()
  end)

  it("quantises, all but what has no whole blocks or is looked up", function()
    local plain = load(dir)
    for dtype, worst in pairs { q8_0 = 0.01, q4_0 = 0.15, q4_1 = 0.15, f16 = 1e-3, bf16 = 4e-3 } do
      assert(plain:save(out .. "/q.gguf", { dtype = dtype }))
      local q = load(out .. "/q.gguf")
      assert.equal(dtype, q.weights.layer[1].v.dtype)
      assert.equal(dtype:find "^q" and "q8_0" or dtype, q.weights.embed.dtype)
      local a, b = plain:weight "model.layers.2.mlp.up_proj.weight", q:weight "model.layers.2.mlp.up_proj.weight"
      assert.is_true((a - b):norm():item() < worst * a:norm():item(), dtype)
      local file_type = ({ q8_0 = 7, q4_0 = 2, q4_1 = 3, f16 = 1, bf16 = 32 })[dtype]
      assert.equal(file_type, assert(kava.gguf.open(out .. "/q.gguf")):metadata "general.file_type")
    end
  end)

  it("copies what goes with a folder byte for byte, and cuts into shards", function()
    local to = out .. "/shards"
    assert.equal(0, (program.run(("recipes/convert.lua %s %s shard=0.2MB"):format(dir, to))))
    for _, name in ipairs { "tokenizer.json", "generation_config.json", "special_tokens_map.json" } do
      assert.equal(helper.read(dir .. "/" .. name), helper.read(to .. "/" .. name))
    end
    local index = assert(kava.json.load(to .. "/model.safetensors.index.json"))
    local files, total = {}, 0
    for name, file in pairs(index.weight_map) do files[file], total = true, total + load(dir):weight(name):numel() * 4 end
    assert.equal(total, index.metadata.total_size)
    local count = 0
    for file in pairs(files) do
      count = count + 1
      assert.is_true(kava.fs.size(to .. "/" .. file) < 0.2e6 + 4096)
    end
    assert.is_true(count > 2)
    assert.is_true(files[("model-00001-of-%05d.safetensors"):format(count)])
    same_weights(load(dir), load(to))
    -- what an earlier save left is not taken for this one's
    assert.equal(0, (program.run(("recipes/convert.lua %s %s"):format(dir, to))))
    assert.is_nil(io.open(to .. "/model.safetensors.index.json"))
    same_weights(load(dir), load(to))
    assert(load(dir):save(to, { shard_size = 200000 }))
    assert.is_nil(io.open(to .. "/model.safetensors"))
    same_weights(load(dir), load(to))
  end)

  it("leaves out what GGUF cannot be told only when that is asked for", function()
    local m = kava.model.create { model_type = "mistral", vocab_size = 40, hidden_size = 32, intermediate_size = 64, num_hidden_layers = 1,
      num_attention_heads = 2, num_key_value_heads = 1, sliding_window = 8, rms_norm_eps = 1e-5, max_position_embeddings = 64 }
    local ok, message, code = m:save(out .. "/window.gguf")
    assert.is_nil(ok)
    assert.equal("unsupported", code)
    assert.truthy(message:find("layer 1: window", 1, true), message)
    assert(m:save(out .. "/window.gguf", { lossy = true }))
    same_weights(m, load(out .. "/window.gguf"))
  end)

  it("writes the values of codes", function()
    local m = assert(kava.model.load(dir, { quantize = "nf4" }))
    assert(m:save(out .. "/codes.gguf"))
    assert(m:save(out .. "/codes"))
    same_weights(m, load(out .. "/codes.gguf"))
    same_weights(m, load(out .. "/codes"))
  end)

  it("says what is wrong", function()
    local function refuse(arguments, expected, wanted)
      local code, _, errors = program.run("recipes/convert.lua " .. arguments)
      assert.equal(wanted or 2, code, errors)
      assert.truthy(errors:find(expected, 1, true), errors)
    end
    refuse("", "usage:")
    refuse(dir, "usage:")
    refuse(dir .. " x.gguf y.gguf", "y.gguf")
    refuse(("%s %s/x type=q4_0"):format(dir, out), "a folder holds f32, f16 or bf16")
    refuse(("%s %s/x shard=5"):format(dir, out), "a number with MB or GB")
    refuse("/nowhere x.gguf", "/nowhere", 1)
  end)
end)

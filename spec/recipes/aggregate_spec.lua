local kava = require "kava"
local helper = require "spec.helper"

-- Layers [B,Hkv,T,D] whose every number says where it stands: layer, batch, head, token, dim.
local function layers_of(...)
  local list = {}
  for n, size in ipairs { ... } do
    local heads, dim = size[1], size[2]
    local values = {}
    for b = 1, 2 do
      for h = 1, heads do
        for t = 1, 3 do
          for d = 1, dim do values[#values + 1] = n * 10000 + b * 1000 + h * 100 + t * 10 + d end
        end
      end
    end
    list[n] = kava.tensor(values, { shape = { 2, heads, 3, dim } })
  end
  return list
end

local function aggregation(name) return (kava.kv.aggregation(name)) end

describe("aggregations", function()
  it("concat puts a token's heads and layers side by side, widths may differ", function()
    local out = aggregation "concat"(layers_of({ 2, 2 }, { 1, 3 }))
    assert.same({ 2, 3, 7 }, out.shape)
    assert.same({ 12121, 12122, 12221, 12222, 22121, 22122, 22123 }, out:totable()[2][2])
  end)

  it("mean is the average, weighted leans to later layers, last is the last", function()
    local layers = layers_of({ 1, 2 }, { 1, 2 }, { 1, 2 })
    local row = { 1111, 1112 }
    local function at(out) return out:totable()[1][1] end
    assert.near(20000 + row[1], at(aggregation "mean"(layers))[1], 1e-2)
    -- 0.5, 0.75, 1.0 by their sum
    local expected = (0.5 * 10000 + 0.75 * 20000 + 1.0 * 30000) / 2.25
    assert.near(expected + row[2], at(aggregation "weighted"(layers, {}))[2], 1e-2)
    assert.near(10000 + row[1], at(aggregation "weighted"(layers, { weights = { 3, 0, 0 } }))[1], 1e-2)
    assert.same({ 30000 + row[1], 30000 + row[2] }, at(aggregation "last"(layers)))
  end)

  it("of one layer are that layer", function()
    local one = layers_of { 2, 2 }
    local expected = aggregation "concat"(one)
    for _, name in ipairs { "mean", "weighted", "last" } do
      assert.is_true(kava.allclose(aggregation(name)(one, {}), expected, { rtol = 1e-6 }))
    end
  end)

  it("pass gradients to every layer they use", function()
    for name, wanted in pairs { concat = { 1, 1 }, mean = { 0.5, 0.5 }, weighted = { 1 / 3, 2 / 3 }, last = { 0, 1 } } do
      local layers = { kava.randn({ 1, 2, 2, 2 }):requires_grad(true), kava.randn({ 1, 2, 2, 2 }):requires_grad(true) }
      aggregation(name)(layers, {}):sum():backward()
      for i, layer in ipairs(layers) do
        if wanted[i] == 0 then
          assert.is_nil(layer.grad)
        else
          assert.near(wanted[i], layer.grad:max():item(), 1e-6)
          assert.near(wanted[i], layer.grad:min():item(), 1e-6)
        end
      end
    end
  end)

  it("name the layers that do not fit, and the weights that are not enough", function()
    local unlike = layers_of({ 2, 2 }, { 1, 4 })
    for _, name in ipairs { "mean", "weighted" } do
      local ok, message = pcall(aggregation(name), unlike, {})
      assert.is_false(ok)
      assert.matches("layer 2 has 1 heads of 4, layer 1 has 2 of 2", message)
    end
    assert.has_error(function() aggregation "weighted"(layers_of({ 1, 1 }, { 1, 1 }), { weights = { 1 } }) end)
  end)
end)

describe("an aggregation of the user's own", function()
  local tiny = [[
    local kava = require "kava"
    kava.seed(1)
    local function tiny(layers, hidden)
      return kava.model.create({ model_type = "llama", vocab_size = 32, hidden_size = hidden, intermediate_size = 2 * hidden,
        num_hidden_layers = layers, num_attention_heads = 2, num_key_value_heads = 2, rms_norm_eps = 1e-5, rope_theta = 1e4,
        tie_word_embeddings = true }, { std = 0.3 })
    end
    local teacher, student = tiny(3, 16), tiny(2, 8):requires_grad(true)
    local batch = { input_ids = kava.tensor({ { 1, 2, 3, 4, 5, 6 }, { 7, 8, 9, 10, 11, 12 } }, { dtype = "i64" }) }
  ]]

  local function run(folder, script)
    helper.write(folder .. "/run.lua", tiny .. script)
    return helper.run(("program=$PWD/%s && cd '%s' && $program run.lua"):format(helper.program(), folder))
  end

  it("is found by its file's name and trained with", function()
    local folder = helper.tmp()
    os.execute(("mkdir -p '%s/recipes/aggregate'"):format(folder))
    helper.write(folder .. "/recipes/aggregate/ends.lua", [[
      local kava = require "kava"
      return { name = "ends", about = "first and last layer", aggregate = function(layers)
        local function flat(t) local s = t.shape return t:permute(1, 3, 2, 4):reshape(s[1], s[3], s[2] * s[4]) end
        return kava.cat({ flat(layers[1]), flat(layers[#layers]) }, 3)
      end }
    ]])
    local text, code = run(folder, [[
      local loss = kava.loss.build("mercator", { teacher = teacher, student = student, loss = { ce = 0 }, kv = { method = "ends" } })
      local optimizer = kava.optim.adamw({ { params = student:parameters(), lr = 1e-2 }, { params = loss:parameters(), lr = 1e-2 } })
      local first, last
      for step = 1, 20 do
        local scope <close> = kava.scope()
        local total = loss:step(batch, step)
        last = total:item()
        first = first or last
        total:backward()
        optimizer:step()
        optimizer:zero_grad()
      end
      print(loss:describe())
      print(last < 0.7 * first and "learnt" or ("%g -> %g"):format(first, last))
    ]])
    assert.equal(0, code, text)
    assert.matches("mercator %(ends", text)
    assert.matches("learnt", text)
  end)

  it("that fails or gives a wrong shape is reported with its file and line, before training", function()
    local folder = helper.tmp()
    os.execute(("mkdir -p '%s/recipes/aggregate'"):format(folder))
    helper.write(folder .. "/recipes/aggregate/broken.lua", "return function(layers)\n  return layers[1].nothing + 1\nend\n")
    helper.write(folder .. "/recipes/aggregate/flat.lua", "return function(layers)\n  return layers[1]\nend\n")
    helper.write(folder .. "/recipes/aggregate/number.lua", "return 3\n")
    for name, wanted in pairs { broken = "recipes/aggregate/broken.lua:2", flat = "recipes/aggregate/flat.lua.*%[%d+, 2, %d+, 8%]",
      number = "recipes/aggregate/number.lua.*function", missing = "unknown aggregate 'missing'.*concat" } do
      local text, code = run(folder, ([[
        kava.loss.build("mercator", { teacher = teacher, student = student, kv = { method = "%s" } })
      ]]):format(name))
      assert.equal(1, code, text)
      assert.matches(wanted, text)
    end
  end)
end)

-- embedding: rows of a table by id, and the gradient that goes back into them.
local kava = require "kava"
local agree = require "spec.agree"
local gradcheck = require "spec.gradcheck"
local starve = require "spec.starve"

local function ids(list) return kava.tensor(list, { dtype = "i64" }) end

describe("embedding", function()
  before_each(function() kava.seed(14) end)

  it("gathers rows, whatever the integer type of the ids", function()
    local w = kava.tensor { { 1, 2 }, { 3, 4 }, { 5, 6 } }
    for _, dtype in ipairs { "i64", "i32", "u8" } do
      assert.same({ { { 5, 6 }, { 1, 2 } } }, kava.embedding(kava.tensor({ { 2, 0 } }, { dtype = dtype }), w):totable())
    end
  end)

  it("widens f16 and bf16 tables and reads strided ones", function()
    local w = kava.randn { 5, 6 }
    for _, dtype in ipairs { "f16", "bf16" } do
      local narrow = w:to { dtype = dtype }
      local y = kava.embedding(ids { 4, 0 }, narrow)
      assert.equal("f32", y.dtype)
      assert.is_true(kava.allclose(y, narrow:to({ dtype = "f32" }):index_select(1, ids { 5, 1 }), { rtol = 0, atol = 0 }))
    end
    assert.same(kava.embedding(ids { 1 }, w:permute(2, 1):contiguous()):totable(), kava.embedding(ids { 1 }, w:permute(2, 1)):totable())
  end)

  it("widens the rows it needs of a quantised table", function()
    local w = kava.randn { 8, 64 }
    for _, dtype in ipairs { "q4_0", "q4_1", "q8_0" } do
      local quantised = kava.gguf.quantize(w, dtype)
      local expected = quantised:to({ dtype = "f32" }):index_select(1, ids { 8, 1, 8 })
      assert.is_true(kava.allclose(kava.embedding(ids { 7, 0, 7 }, quantised), expected, { rtol = 0, atol = 0 }))
    end
  end)

  it("gives the row of the padding id no gradient", function()
    local w = kava.randn({ 4, 2 }):requires_grad(true)
    kava.embedding(ids { 1, 3, 1, 0 }, w, 1):sum():backward()
    assert.same({ { 1, 1 }, { 0, 0 }, { 0, 0 }, { 1, 1 } }, w.grad:totable())
    w.grad = nil
    kava.embedding(ids { 1, 1 }, w, 1):sum():backward()
    assert.same({ { 0, 0 }, { 0, 0 }, { 0, 0 }, { 0, 0 } }, w.grad:totable())
  end)

  it("has the gradients that finite differences have, ids repeated", function()
    gradcheck(function(w) return kava.embedding(ids { { 1, 4, 1 }, { 1, 0, 4 } }, w) end, { kava.randn({ 6, 3 }, { dtype = "f64" }) })
  end)

  it("is the same in f32 and f64, for any number of threads", function()
    local many = {}
    for i = 1, 3000 do many[i] = (i * i) % 97 end
    agree(function(w) return kava.embedding(ids(many), w) end, { kava.randn({ 100, 37 }, { dtype = "f64" }) }, 5e-6)
  end)

  it("adds to a gradient that is there, and writes no row that was not asked for", function()
    local w = kava.zeros({ 4, 3 }):requires_grad(true)
    w:sum():backward()
    kava.embedding(ids { 2, 2 }, w):sum():backward()
    assert.same({ { 1, 1, 1 }, { 1, 1, 1 }, { 3, 3, 3 }, { 1, 1, 1 } }, w.grad:totable())
  end)

  it("names an id outside the vocabulary and its position", function()
    local w = kava.zeros { 4, 3 }
    assert.has_error(function() kava.embedding(ids { 0, 4 }, w) end, "embedding: id 4 at position 2 is outside the vocabulary of 4")
    assert.has_error(function() kava.embedding(ids { -1 }, w) end, "embedding: id -1 at position 1 is outside the vocabulary of 4")
    assert.has_error(function() kava.embedding(kava.zeros { 1 }, w) end)
    assert.has_error(function() kava.embedding(ids { 0 }, kava.zeros { 4 }) end)
  end)

  it("comes back from every failed allocation", function()
    local w = kava.randn({ 5, 3 }):requires_grad(true)
    local which = kava.tensor({ 1, 2, 1 }, { dtype = "i32" })
    assert.is_true(starve(function()
      kava.embedding(which, w):sum():backward()
    end, function() w.grad = nil end) > 6)
  end)
end)

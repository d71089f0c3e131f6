local kava = require "kava"
local gradcheck = require "spec.gradcheck"

describe("index_select", function()
  it("picks slices by position, from 1, as often as they are named", function()
    local x = kava.tensor { { 1, 2, 3 }, { 4, 5, 6 } }
    assert.same({ { 3, 1, 3 }, { 6, 4, 6 } }, x:index_select(2, { 3, 1, 3 }):totable())
    assert.same({ { 4, 5, 6 } }, x:index_select(1, kava.tensor({ 2 }, { dtype = "i32" })):totable())
    assert.same({ { 2 }, { 5 } }, x:transpose(1, 2):index_select(1, { 2 }):transpose(1, 2):totable())
    assert.same({ 0, 3 }, x:index_select(1, {}).shape)
    assert.same({ 7, 5 }, kava.tensor({ 5, 7 }, { dtype = "u8" }):index_select(-1, { 2, 1 }):totable())
  end)

  it("has the gradients that finite differences say; repeated slices collect theirs", function()
    local x = kava.randn({ 3, 4, 2 }, { dtype = "f64" })
    for dim = 1, 3 do
      gradcheck(function(t) return t:index_select(dim, { 2, 1, 2 }) end, { x })
    end
  end)

  it("keeps its positions though the caller changes them", function()
    local x = kava.tensor({ 1, 2, 3 }, { requires_grad = true })
    local at = kava.tensor({ 3 }, { dtype = "i64" })
    local y = x:index_select(1, at):sum()
    at:fill_(1)
    y:backward()
    assert.same({ 0, 0, 1 }, x.grad:totable())
  end)

  it("says what is wrong", function()
    local x = kava.zeros(2, 3)
    assert.error_matches(function() x:index_select(2, { 4 }) end, "dimension 2 has 3")
    assert.error_matches(function() x:index_select(2, { 0 }) end, "index_select")
    assert.error_matches(function() x:index_select(2, { "a" }) end, "position 1 is a string")
    assert.error_matches(function() x:index_select(2, kava.zeros(1)) end, "the positions are f32, i64 or i32 is expected")
    assert.error_matches(function() x:index_select(3, { 1 }) end, "dimension 3 is not one of")
  end)
end)

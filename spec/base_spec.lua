local kava = require "kava"

describe("the runtime's base", function()
  it("draws a permutation: each index once", function()
    for _, count in ipairs { 1, 2, 3, 10, 257, 1000 } do
      local seen = {}
      for i = 1, count do
        local j = kava.permute(7, count, i)
        assert.is_true(j >= 1 and j <= count and not seen[j])
        seen[j] = true
      end
    end
  end)

  it("says which argument is wrong", function()
    assert.has_error(function() kava.permute(1, 0, 1) end)
    assert.has_error(function() kava.permute(1, 5, 6) end)
  end)
end)

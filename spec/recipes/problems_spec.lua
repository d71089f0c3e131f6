local problems = dofile "recipes/problems.lua"
local helper = require "spec.helper"

describe("word problems", function()
  it("are a function of the seed", function()
    local a, b = problems.rows { seed = 7, count = 50 }, problems.rows { seed = 7, count = 50 }
    assert.same(a, b)
    assert.same(a[1], problems.rows({ seed = 7, count = 3 })[1])
    assert.are_not.same(a[1], problems.rows({ seed = 8, count = 1 })[1])
  end)

  it("compute rightly, in every step and in the end", function()
    local compute = {
      ["+"] = function(a, b) return a + b end, ["-"] = function(a, b) return a - b end,
      ["*"] = function(a, b) return a * b end, ["/"] = function(a, b) return a / b end,
    }
    for _, row in ipairs(problems.rows { seed = 3, count = 2000 }) do
      local last
      for a, op, b, c in row.answer:gmatch "(%d+)([-+*/])(%d+)=(%d+)" do
        assert.equal(tonumber(c), compute[op](tonumber(a), tonumber(b)), row.answer)
        last = c
      end
      assert.equal(last, row.answer:match "\n#### (%d+)\n$")
    end
  end)

  it("keeps the splits apart, whatever the seeds", function()
    local train = {}
    for seed = 1, 3 do
      for _, row in ipairs(problems.rows { seed = seed, count = 3000, split = "train" }) do train[row.question] = true end
    end
    for seed = 1, 3 do
      for _, row in ipairs(problems.rows { seed = seed, count = 500, split = "heldout" }) do
        assert.is_nil(train[row.question])
        assert.equal("heldout", problems.split_of(row.question))
      end
    end
  end)

  it("repeats no question within a call", function()
    local seen = {}
    for _, row in ipairs(problems.rows { seed = 1, count = 5000 }) do
      assert.is_nil(seen[row.question])
      seen[row.question] = true
    end
  end)

  it("writes JSON lines that read back", function()
    local cjson = require "cjson"
    local path = helper.tmp() .. "/rows.jsonl"
    local rows = problems.rows { seed = 1, count = 5 }
    assert.is_true(problems.write(path, rows))
    local i = 0
    for line in io.lines(path) do
      i = i + 1
      assert.same(rows[i], cjson.decode(line))
    end
    assert.equal(5, i)
    local ok, message = problems.write("/nowhere/at/all.jsonl", rows)
    assert.is_nil(ok)
    assert.matches("nowhere", message)
  end)

  it("refuses what it does not know", function()
    assert.has_error(function() problems.rows { count = 0 } end)
    assert.has_error(function() problems.rows { count = 1, split = "test" } end)
  end)
end)

local helper = require "spec.helper"

describe("recipes/compare.lua", function()
  it("runs six losses with every seed, at equal steps and at equal compute, and writes the tables", function()
    local out = helper.tmp() .. "/table.md"
    local command = "%s recipes/compare.lua steps=1 seeds=2 batch=2 rows=20 heldout=4 answers=0 threads=1 out='%s'"
    local text, code = helper.run(command:format(helper.program(), out))
    assert.equal(0, code, text)
    local runs = select(2, text:gsub("\nequal steps ", "")) + select(2, text:gsub("\nequal compute ", ""))
    assert.equal(6 * 2 + 5 * 2, runs) -- CE's own runs are its equal-compute runs
    local written = helper.read(out)
    for _, name in ipairs { "| CE |", "| logit KL |", "| logit KL + CE |", "| the original |", "| layer-matched KV + CE |",
      "| layer-matched KV + logit KL + CE |" } do
      assert.equal(2, select(2, written:gsub("\n" .. name:gsub("[|+-]", "%%%0"), "")), name)
    end
    -- mean (least–most), the mean between them
    local rows = 0
    for mean, low, high in written:gmatch "(%d+%.%d+) %((%d+%.%d+)–(%d+%.%d+)%)" do
      rows = rows + 1
      assert.is_true(tonumber(low) <= tonumber(mean) and tonumber(mean) <= tonumber(high))
    end
    assert.equal(2 * 6 * 4, rows) -- no answers: exact match is not a number
    assert.matches("A step costs, in steps of CE: CE 1.00", written)
  end)

  it("says what it does not know", function()
    local text, code = helper.run(helper.program() .. " recipes/compare.lua sedes=3")
    assert.equal(2, code)
    assert.matches("unknown key 'sedes' %(command line%); did you mean 'seeds'%?", text)
    text, code = helper.run(helper.program() .. " recipes/compare.lua teacher=nowhere.gguf")
    assert.equal(1, code)
    assert.matches("nowhere.gguf", text)
    text, code = helper.run(helper.program() .. " recipes/compare.lua --help")
    assert.equal(0, code)
    assert.matches("steps=", text)
  end)
end)

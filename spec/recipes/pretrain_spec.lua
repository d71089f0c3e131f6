local kava = require "kava"
local helper = require "spec.helper"

describe("recipes/pretrain.lua", function()
  it("trains, goes on where it was left, and writes a 4-bit model that loads with its tokenizer", function()
    local folder = helper.tmp()
    local function run(steps, ffn)
      return helper.run(("%s recipes/pretrain.lua steps=%d batch=4 rows=60 heldout=4 layers=2 hidden=32 ffn=%d heads=2 kv_heads=1 "
        .. "save_every=2 threads=1 work='%s/work' out='%s/teacher.gguf'"):format(helper.program(), steps, ffn or 64, folder, folder))
    end
    local text, code = run(2)
    assert.equal(0, code, text)
    assert.not_matches("resumed", text)
    text, code = run(4)
    assert.equal(0, code, text)
    assert.matches("resumed after step 2", text)
    local other
    other, code = run(4, 96)
    assert.equal(2, code)
    assert.matches("of another plan:.* ffn=64 .* there.* ffn=96 .* here", other)
    local in_f32, in_4_bits = text:match "trained: held%-out CE ([%d.]+)", text:match "MB, held%-out CE ([%d.]+)"
    -- Rows of Q and K permuted there and back, 4 bits: hardly another model.
    assert.near(tonumber(in_f32), tonumber(in_4_bits), 0.1)
    local model, tokenizer = assert(kava.model.load(folder .. "/teacher.gguf")), assert(kava.tokenizer.load(folder .. "/teacher.gguf"))
    assert.equal("q4_1", model.weights.layer[1].q.dtype)
    assert.equal(tokenizer.vocab_size, model.config.vocab_size)
    local text_of = "Tom has 12 apples.\n1+2=3\n#### 3\n"
    assert.equal(text_of, tokenizer:decode(tokenizer:encode(text_of)))
    assert.same(assert(kava.tokenizer.load(folder .. "/work")):encode(text_of), tokenizer:encode(text_of))
  end)

  it("says what it does not know", function()
    local text, code = helper.run(helper.program() .. " recipes/pretrain.lua step=3")
    assert.equal(2, code)
    assert.matches("unknown key 'step' %(command line%); did you mean 'steps'%?", text)
    text, code = helper.run(helper.program() .. " recipes/pretrain.lua steps=many")
    assert.equal(2, code)
    assert.matches('steps = "many"', text)
  end)
end)

local helper = require "spec.helper"
local kava = require "kava"
local program = require "spec.program"
local tiny = require "spec.tiny"

describe("quantisation_error", function()
  local dir, m
  setup(function()
    dir = tiny.model(helper.tmp(), { hidden = 64 })
    m = assert(kava.model.load(dir))
  end)
  teardown(function() m = nil end)

  it("is the relative RMS and the mean cosine of K and V, layer by layer", function()
    local q = assert(kava.model.load(dir, { quantize = "nf4" }))
    local ids = { { 1, 2, 3, 250, 17 }, { 9, 8, 7, 0, 0 } }
    local mask = kava.tensor({ { 1, 1, 1, 1, 1 }, { 1, 1, 1, 0, 0 } }, { dtype = "i64" })
    local found = q:quantisation_error { reference = m, input_ids = ids, attention_mask = mask }
    assert.equal(8, found.tokens)
    assert.equal(4, #found.layers)
    local a = q:forward({ input_ids = ids, attention_mask = mask, logits = false }).kv
    local b = m:forward({ input_ids = ids, attention_mask = mask, logits = false }).kv
    for i = 1, 4 do
      for _, part in ipairs { "keys", "values" } do
        local x, y = a[part](a, i):totable(), b[part](b, i):totable()
        local difference, reference, cosine, vectors = 0, 0, 0, 0
        for row, tokens in ipairs { 5, 3 } do
          for head = 1, 2 do
            for t = 1, tokens do
              local xx, yy, xy = 0, 0, 0
              for d, value in ipairs(x[row][head][t]) do
                local other = y[row][head][t][d]
                difference, reference = difference + (value - other) ^ 2, reference + other ^ 2
                xx, yy, xy = xx + value ^ 2, yy + other ^ 2, xy + value * other
              end
              cosine, vectors = cosine + xy / (xx * yy) ^ 0.5, vectors + 1
            end
          end
        end
        local got = found.layers[i][part]
        assert.is_true(math.abs(got.rms / (difference / reference) ^ 0.5 - 1) < 1e-4)
        assert.is_true(math.abs(got.cosine - cosine / vectors) < 1e-5)
        assert.is_true(got.rms > 0.01 and got.rms < 0.5)
      end
    end
  end)

  it("is nothing against itself, and less with more bits", function()
    local text = { "How far is it?", "As far as the codes reach." }
    local own = m:quantisation_error { reference = dir, text = text }
    assert.equal(0, own.keys.rms)
    assert.is_true(math.abs(own.values.cosine - 1) < 1e-6)
    local function error_of(method)
      local q = assert(kava.model.load(dir, { quantize = method }))
      return q:quantisation_error({ reference = m, text = text }).values.rms
    end
    local nf4, fp8, int8 = error_of "nf4", error_of "fp8", error_of "int8"
    assert.is_true(nf4 > 2 * fp8 and fp8 > 2 * int8 and int8 > 0)
  end)

  it("says what is wrong", function()
    assert.error_matches(function() m:quantisation_error { reference = m } end, "input_ids, or text")
    assert.error_matches(function() m:quantisation_error { input_ids = { { 1 } } } end, "reference: a model or its path")
    assert.error_matches(function() m:quantisation_error { reference = m, texts = "a" } end, "unknown option 'texts'")
    assert.error_matches(function() m:quantisation_error { reference = m, text = "" } end, "no token")
    local other = assert(kava.model.load(tiny.model(helper.tmp(), { layers = 3 })))
    local function unlike() m:quantisation_error { reference = other, input_ids = { { 1 } } } end
    assert.error_matches(unlike, "4 layers against the reference's 3")
  end)

  it("is shown by a recipe", function()
    local text = helper.write(helper.tmp() .. "/text.txt", "One paragraph.\n\nAnother one.\n")
    local command = ("recipes/probe_quantisation.lua teacher=%s text=%s threads=1"):format(dir, text)
    local code, out = program.run(command .. " quantize=nf4")
    assert.equal(0, code, out)
    assert.truthy(out:find "as nf4 against itself: 2 texts, 26 tokens", out)
    assert.truthy(out:find "\n4 +%d+%.%d+%% +0%.%d+ +%d+%.%d+%% +0%.%d+\nall ", out)
    code, out = program.run(command .. " quantize=int8 --json")
    assert.equal(0, code, out)
    assert.equal(4, #kava.json.decode(out).layers)
    code, out = program.run(command)
    assert.equal(2, code, out)
    local _, errors
    code, _, errors = program.run(command .. " quantize=nf4 reference=/nowhere")
    assert.equal(1, code)
    assert.truthy(errors:find("/nowhere", 1, true), errors)
  end)
end)

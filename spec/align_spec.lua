-- A teacher and a student with different tokenizers: which positions share a target, and a run that learns from them.
local kava = require "kava"
local helper = require "spec.helper"
local program = require "spec.program"

local sentences = {}
for i = 1, 60 do sentences[i] = ("Tom has %d apples and buys %d more. How many apples does he have? %d"):format(i, i % 7, i + i % 7) end

-- A model with the tokenizer of another folder, or one that is learnt here.
local function folder(dir, options)
  require("spec.tiny").model(dir, options)
  if not options.vocab then return dir end
  local tok = assert(kava.tokenizer.train { texts = sentences, vocab_size = options.vocab, pattern = "gpt2", special = { "<end>" } })
  assert(tok:save(dir))
  local config = assert(kava.json.load(dir .. "/config.json"))
  config.vocab_size = options.vocab
  kava.seed(5)
  assert(kava.model.create(config):save(dir))
  return dir
end

describe("a teacher aligned to a student's tokens", function()
  local dir, teacher_dir, student_dir, teacher_tok, student_tok

  setup(function()
    dir = helper.tmp()
    teacher_dir = folder(dir .. "/teacher", { layers = 3, hidden = 16, vocab = 300 })
    student_dir = folder(dir .. "/student", { layers = 2, hidden = 16 })
    teacher_tok, student_tok = assert(kava.tokenizer.load(teacher_dir)), assert(kava.tokenizer.load(student_dir))
  end)

  local function batch_of(tok, texts)
    local rows, longest, ids, mask = {}, 0, {}, {}
    for b, text in ipairs(texts) do
      rows[b] = tok:encode(text)
      longest = math.max(longest, #rows[b])
    end
    for b = 1, #rows do
      for i = 1, longest do
        ids[#ids + 1], mask[#mask + 1] = rows[b][i] or 0, rows[b][i] and 1 or 0
      end
    end
    local shape = { #rows, longest }
    local batch = { input_ids = kava.tensor(ids, { shape = shape, dtype = "i64" }) }
    batch.mask = kava.tensor(mask, { shape = shape, dtype = "u8" })
    return batch, rows
  end

  it("has its keys where both have read the same bytes", function()
    local model = assert(kava.model.load(teacher_dir, { dtype = "f32" }))
    local texts = { "Tom has 5 apples.", "buys é\u{1f600} more, How?" }
    local batch, rows = batch_of(student_tok, texts)
    local out = kava.no_grad(function()
      return kava.align.new({ teacher = teacher_tok, student = student_tok }):forward(model, batch, { logits = false, values = true })
    end)
    local mask, matched = batch.kv_mask:totable(), 0
    for b, text in ipairs(texts) do
      local own = teacher_tok:encode(text)
      local alone = kava.no_grad(function()
        return model:forward { input_ids = kava.tensor({ own }, { dtype = "i64" }), logits = false }
      end)
      local there = {} -- bytes read -> the teacher's position: its tokens are without gaps here
      local read = 0
      for i, id in ipairs(own) do
        read = read + #teacher_tok:decode({ id }):gsub("\u{fffd}", "x")
        there[read] = i
      end
      for i = 1, #rows[b] do -- the student's tokens are bytes
        local place = b == 1 and there[i]
        if b == 1 then assert.are.equal(place and 1 or 0, math.tointeger(mask[b][i])) end
        if mask[b][i] == 1 and place then
          matched = matched + 1
          for layer = 1, 3 do
            for _, part in ipairs { "keys", "values" } do
              local got, expected = out.kv[part](out.kv, layer), alone.kv[part](alone.kv, layer)
              assert.is_true((kava.allclose(expected:narrow(3, place, 1):contiguous(),
                got:narrow(1, b, 1):narrow(3, i, 1):contiguous(), { rtol = 1e-4, atol = 1e-5 })))
            end
          end
        end
      end
      for i = #rows[b] + 1, #mask[b] do assert.are.equal(0, math.tointeger(mask[b][i])) end
      assert.are.equal(1, math.tointeger(mask[b][#rows[b]])) -- the end of the text is the end for both
    end
    assert.are.equal(#teacher_tok:encode(texts[1]), matched) -- whatever its tokens, a byte ends there as well
    assert.are.equal(matched, batch.kv_mask:narrow(1, 1, 1):to({ dtype = "f32" }):sum():item())
  end)

  it("is itself where the tokenizers are the same", function()
    local model = assert(kava.model.load(teacher_dir, { dtype = "f32" }))
    local batch = batch_of(teacher_tok, { "Tom has 5 apples.", "more" })
    local aligned, direct
    kava.no_grad(function()
      aligned = kava.align.new({ teacher = teacher_tok, student = teacher_tok }):forward(model, batch, { logits = false })
      direct = model:forward { input_ids = batch.input_ids, logits = false }
    end)
    assert.are.same(batch.mask:totable(), batch.kv_mask:totable())
    local length = #teacher_tok:encode "more"
    for layer = 1, 3 do
      local a, b = aligned.kv:keys(layer), direct.kv:keys(layer)
      assert.is_true((kava.allclose(a:narrow(1, 1, 1):contiguous(), b:narrow(1, 1, 1):contiguous(), { rtol = 1e-5, atol = 1e-6 })))
      a, b = a:narrow(1, 2, 1):narrow(3, 1, length), b:narrow(1, 2, 1):narrow(3, 1, length)
      assert.is_true((kava.allclose(a:contiguous(), b:contiguous(), { rtol = 1e-5, atol = 1e-6 })))
    end
  end)

  it("gives rows that were cut no target at their end, and ends of text one another", function()
    local aligner = kava.align.new { teacher = student_tok, student = teacher_tok }
    local ids = teacher_tok:encode "Tom has many apples"
    local theirs, map = aligner:row(ids)
    assert.are.equal(#theirs, map[#ids])
    local _, with_end = aligner:row(table.move({ teacher_tok.eos_id }, 1, 1, #ids + 1, table.move(ids, 1, #ids, 1, {})))
    assert.are.equal(0, with_end[#ids + 1]) -- the bytes' tokenizer names no end
    assert.are.equal(map[#ids], with_end[#ids])
  end)

  it("is what the training uses, when asked", function()
    local lines = {}
    for i, text in ipairs(sentences) do lines[i] = kava.json.encode { question = text, answer = tostring(i) } end
    helper.write(dir .. "/rows.jsonl", table.concat(lines, "\n") .. "\n")
    local experiment = helper.write(dir .. "/unlike.lua", ([[return {
      name = "unlike", teacher = { path = "DIR/teacher" }, student = { path = "DIR/student" }, data = { train = "DIR/rows.jsonl",
      eval = "DIR/rows.jsonl", max_length = 96, eos = false }, training = { steps = 12 }, target_batch = 8, batch_size = 8,
      schedule = { name = "constant", warmup = 0 }, learning_rate = { student = 1e-2, projector = 1e-2 }, kv = { rope = "pre" },
      eval = { every = 0, rows = 8, generate = 0 }, paths = { output = "DIR/runs", cache = "DIR/cache" } }]]):gsub("DIR", dir))
    local function train(arguments)
      return program.shell(("%s recipes/train_adaptive.lua --config=%s output=%s/out %s"):format(program.path, experiment, dir, arguments))
    end
    local code, _, errors = train ""
    assert.are.equal(1, code)
    assert.matches("tokenise row 1 of [^\n]*rows.jsonl differently %(byte 1: Tom against T%)", errors)
    assert.matches("alignment=bytes matches keys and values", errors)
    for setting, message in pairs {
      ["kv.rope=post"] = "kv.rope=pre", ["data.mode=pack"] = "cannot be aligned", ["loss.kl=1"] = "loss.kl=0",
    } do
      code, _, errors = train("alignment=bytes " .. setting)
      assert.are.equal(2, code, errors)
      assert.matches(message, errors, 1, true)
    end
    if not require "spec.cuda.gpu" () then
      code, _, errors = train "alignment=bytes device=cuda precision=f16"
      assert.are.equal(2, code, errors)
      assert.matches("precision=f16 %(precision as given%) is not for unlike tokenizers", errors)
    end
    local out
    code, out, errors = train "alignment=bytes"
    assert.are.equal(0, code, errors)
    assert.matches("%% of the student's tokens have a target", out)
    local first, last
    for line in io.lines(dir .. "/out/metrics.jsonl") do
      local record = assert(kava.json.decode(line))
      if record.kind == "eval" then
        first, last = first or record, record
        assert.is_nil(record.teacher_ce)
      end
    end
    assert.is_true(last.kv < 0.9 * first.kv, ("KV loss %s -> %s"):format(first.kv, last.kv))
    assert.is_true(last.ce < first.ce)
  end)
end)

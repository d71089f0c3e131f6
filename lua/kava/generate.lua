-- kava.generate: greedy generation and exact match of worked answers.
-- Prompts of like length go through the model together, padded on the right: attention is causal, so padding is never seen, and each
-- row's next token is read at its own last position. Every token is a full pass; nothing but that position reaches the head.
local kava = require "kava"

local generate = {}

local known = { max_tokens = true, stop = true, batch = true, tokenizer = true, each = true }

-- The next token of each row: argmax over the vocabulary at its last position.
local function next_tokens(model, rows, ids)
  local longest = 0
  for _, row in ipairs(rows) do longest = math.max(longest, #ids[row]) end
  local flat, last = {}, {}
  for n, row in ipairs(rows) do
    local own = ids[row]
    for t = 1, longest do flat[(n - 1) * longest + t] = own[t] or own[#own] end
    last[n] = (n - 1) * longest + #own
  end
  local input = kava.tensor(flat, { shape = { #rows, longest }, dtype = "i64" })
  local out = model:forward { input_ids = input, logits = false, hidden = true, values = false }
  local hidden = out.hidden
  local picked = hidden:reshape(#rows * longest, hidden.shape[3]):index_select(1, kava.tensor(last, { dtype = "i64" }))
  return kava.linear(picked, model:head()):argmax(2):totable()
end

local function finished(text, stop)
  for _, pattern in ipairs(stop) do
    if text:find(pattern) then return true end
  end
  return false
end

local function complete(model, tokenizer, prompts, opts)
  local order, ids, made, out = {}, {}, {}, {}
  for i, prompt in ipairs(prompts) do
    ids[i] = tokenizer:encode(prompt, { add_special_tokens = true })
    if #ids[i] == 0 then error(("generate: prompt %d has no tokens"):format(i), 0) end
    order[i], made[i], out[i] = i, {}, ""
  end
  table.sort(order, function(a, b) return #ids[a] < #ids[b] or #ids[a] == #ids[b] and a < b end)
  local stop, ends = opts.stop or { "####%s*%-?%d[%d,]*%D" }, model.config.eos_token_id
  local is_end = {}
  for _, id in ipairs(type(ends) == "table" and ends or { ends }) do is_end[id] = true end
  local width, limit = opts.batch or 32, opts.max_tokens or 64
  for first = 1, #order, width do
    local rows = table.move(order, first, math.min(first + width - 1, #order), 1, {})
    for _ = 1, limit do
      if opts.each then opts.each() end
      local step <close> = kava.scope() -- luacheck: ignore 211
      local ids_next, going = next_tokens(model, rows, ids), {}
      for n, row in ipairs(rows) do
        local id = math.tointeger(ids_next[n]) - 1 -- positions count from 1, token ids from 0
        if not is_end[id] then
          table.insert(ids[row], id)
          table.insert(made[row], id)
          out[row] = tokenizer:decode(made[row], { skip_special_tokens = true, errors = "replace" })
          if not finished(out[row], stop) then going[#going + 1] = row end
        end
      end
      rows = going
      if #rows == 0 then break end
    end
  end
  return out
end

--- Completes each prompt greedily -> list of texts (the prompts not repeated).
--- opts: max_tokens (64), stop (list of Lua patterns that end a text; default: an answer "#### N" and one character more), batch (32),
--- each (called before every token: an error it raises ends the generation).
function generate.complete(model, tokenizer, prompts, opts)
  opts = opts or {}
  for key in pairs(opts) do
    if not known[key] then error(("generate: unknown option '%s'"):format(tostring(key)), 2) end
  end
  local training = kava.train()
  kava.train(false)
  local ok, out = pcall(kava.no_grad, complete, model, tokenizer, prompts, opts)
  kava.train(training)
  if not ok then error(out, 0) end
  return out
end

--- The final answer of a worked solution: the number after the last "####", without signs of thousands; nil: none.
function generate.final(text)
  local found
  for number in text:gmatch "####%s*(%-?%d[%d,]*)" do found = number end
  return found and (found:gsub(",", ""))
end

--- Exact match of final answers. rows: {{question =, answer =}, …}; the prompt is the question and a line's end.
--- -> share of rows answered rightly, list of {question =, expected =, got =, text =, right =}
function generate.exact_match(model, tokenizer, rows, opts)
  local prompts = {}
  for i, row in ipairs(rows) do prompts[i] = row.question .. "\n" end
  local texts = generate.complete(model, tokenizer, prompts, opts)
  local right, details = 0, {}
  for i, row in ipairs(rows) do
    local expected, got = generate.final(row.answer), generate.final(texts[i])
    local same = expected ~= nil and got == expected
    if same then right = right + 1 end
    details[i] = { question = row.question, expected = expected, got = got, text = texts[i], right = same }
  end
  return #rows > 0 and right / #rows or 0, details
end

kava.generate = generate
return generate

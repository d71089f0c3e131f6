-- Our own arithmetic word problems: one to three steps, small whole numbers, worked answers that end in "#### N" as GSM8K's do.
-- The demo's teacher is trained on them and its student distilled on them, so that a fresh machine needs no download.
--
--   local problems = require "recipes.problems"          (or dofile "recipes/problems.lua")
--   local rows = problems.rows { seed = 1, count = 1000, split = "train" }       -- { {question =, answer =}, … }
--   kava recipes/problems.lua out=DIR train=20000 heldout=400 seed=1             -- writes DIR/train.jsonl, DIR/heldout.jsonl
--
-- Rows are a function of (seed, split, index alone). The splits are disjoint whatever the seeds: a hash of the question's text
-- says to which split it belongs, and a generator only keeps its own.
local problems = {}

-- The share of all questions that is held out: 1 in 8.
local HELD_OUT = 8
-- Stories stay below this, and whatever is added or taken away at most 12 (boxes: 25): sums a model of a million weights can learn.
local LARGEST = 60

-- splitmix64 (Steele, Lea, Flood 2014) on Lua's wrapping integers: the same rows on every machine, without math.random's state.
local function generator(seed)
  local state = seed
  local function next_bits()
    state = state + 0x9E3779B97F4A7C15
    local z = state
    z = (z ~ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ~ (z >> 27)) * 0x94D049BB133111EB
    return z ~ (z >> 31)
  end
  local random = {}
  function random.int(low, high) return low + (next_bits() >> 1) % (high - low + 1) end
  function random.pick(list) return list[random.int(1, #list)] end
  return random
end

-- FNV-1a, 64 bits.
local function hash(text)
  local h = 0xCBF29CE484222325
  for i = 1, #text do h = (h ~ text:byte(i)) * 0x100000001B3 end
  return h
end

-- Which split a question belongs to, by its text alone.
function problems.split_of(question) return (hash(question) >> 1) % HELD_OUT == 0 and "heldout" or "train" end

local people = {
  { "Tom", "he" }, { "Ann", "she" }, { "Max", "he" }, { "Eva", "she" }, { "Ben", "he" }, { "Mia", "she" },
  { "Leo", "he" }, { "Zoe", "she" }, { "Sam", "he" }, { "Ida", "she" }, { "Jan", "he" }, { "Lea", "she" },
}
local things = { "apples", "books", "coins", "cards", "shells", "stamps", "pens", "eggs", "nuts", "stones", "keys", "plums" }
local boxes = { "boxes", "bags", "baskets", "jars" }

local function capital(word) return word:sub(1, 1):upper() .. word:sub(2) end

local function two_people(random)
  local first = random.int(1, #people)
  local second = random.int(1, #people - 1)
  if second >= first then second = second + 1 end
  return people[first], people[second]
end

-- Things happen to one amount: gains, losses, doublings, boxes brought; "now" is asked.
local function story(random)
  local who, other = two_people(random)
  local what = random.pick(things)
  local amount = random.int(3, 25)
  local question = { ("%s has %d %s."):format(who[1], amount, what) }
  local steps = {}
  for _ = 1, random.int(1, 3) do
    local kind = random.int(1, 5)
    local before = amount
    if kind == 1 and amount <= LARGEST - 12 then
      local n = random.int(2, 12)
      amount = before + n
      question[#question + 1] = ("%s %s %d more."):format(capital(who[2]), random.pick { "finds", "buys", "gets" }, n)
      steps[#steps + 1] = ("%d+%d=%d"):format(before, n, amount)
    elseif kind == 2 and amount >= 4 then
      local n = random.int(2, math.min(12, amount - 1))
      amount = before - n
      question[#question + 1] = ("%s gives %d to %s."):format(capital(who[2]), n, other[1])
      steps[#steps + 1] = ("%d-%d=%d"):format(before, n, amount)
    elseif kind == 3 and amount >= 4 then
      local n = random.int(2, math.min(12, amount - 1))
      amount = before - n
      question[#question + 1] = ("%s loses %d."):format(capital(who[2]), n)
      steps[#steps + 1] = ("%d-%d=%d"):format(before, n, amount)
    elseif kind == 4 and amount * 2 <= LARGEST then
      amount = before * 2
      question[#question + 1] = ("%s doubles what %s has."):format(other[1], who[2])
      steps[#steps + 1] = ("%d*2=%d"):format(before, amount)
    elseif amount <= LARGEST - 25 then
      local count, each = random.int(2, 5), random.int(2, 5)
      amount = before + count * each
      question[#question + 1] = ("%s brings %d %s of %d."):format(other[1], count, random.pick(boxes), each)
      steps[#steps + 1] = ("%d*%d=%d"):format(count, each, count * each)
      steps[#steps + 1] = ("%d+%d=%d"):format(before, count * each, amount)
    end
  end
  if #steps == 0 then return story(random) end
  question[#question + 1] = ("How many %s does %s have now?"):format(what, who[1])
  return question, steps, amount
end

-- Two amounts compared, then asked for together.
local function together(random)
  local a, b = two_people(random)
  local what = random.pick(things)
  local first = random.int(3, 24)
  local second, question, step
  if random.int(1, 2) == 1 then
    local more = random.int(2, 12)
    second = first + more
    question = ("%s has %d more than %s."):format(b[1], more, a[1])
    step = ("%d+%d=%d"):format(first, more, second)
  else
    local fewer = random.int(1, math.min(12, first - 1))
    second = first - fewer
    question = ("%s has %d fewer than %s."):format(b[1], fewer, a[1])
    step = ("%d-%d=%d"):format(first, fewer, second)
  end
  return { ("%s has %d %s."):format(a[1], first, what), question, "How many do they have together?" },
    { step, ("%d+%d=%d"):format(first, second, first + second) }, first + second
end

-- A price, and the change.
local function shopping(random)
  local who = random.pick(people)
  local what = random.pick(things)
  local count, price = random.int(2, 9), random.int(2, 9)
  local cost = count * price
  local question = { ("%s buys %d %s for %d euros each."):format(who[1], count, what, price) }
  local steps = { ("%d*%d=%d"):format(count, price, cost) }
  if random.int(1, 3) == 1 then
    question[#question + 1] = ("How many euros does %s pay?"):format(who[2])
    return question, steps, cost
  end
  local paid = cost + random.int(1, 12)
  question[#question + 1] = ("%s pays with %d euros. How many euros does %s get back?"):format(capital(who[2]), paid, who[2])
  steps[#steps + 1] = ("%d-%d=%d"):format(paid, cost, paid - cost)
  return question, steps, paid - cost
end

-- Equal shares, some of them eaten or added to.
local function sharing(random)
  local who = random.pick(people)
  local what = random.pick(things)
  local friends, each = random.int(2, 9), random.int(2, 9)
  local total = friends * each
  local question = { ("%s shares %d %s among %d friends."):format(who[1], total, what, friends) }
  local steps = { ("%d/%d=%d"):format(total, friends, each) }
  if random.int(1, 2) == 1 then
    question[#question + 1] = "How many does each friend get?"
    return question, steps, each
  end
  local had = random.int(2, 25)
  question[#question + 1] = ("One friend had %d before. How many does that friend have now?"):format(had)
  steps[#steps + 1] = ("%d+%d=%d"):format(had, each, had + each)
  return question, steps, had + each
end

local kinds = { story, story, story, together, shopping, sharing }

-- One problem of a split: {question =, answer =}. The end of the line is part of the answer: it says that the number is over.
local function draw(random, split)
  while true do
    local question, steps, result = random.pick(kinds)(random)
    local text = table.concat(question, " ")
    if problems.split_of(text) == split then
      return { question = text, answer = ("%s\n#### %d\n"):format(table.concat(steps, "; "), result) }
    end
  end
end

-- opts: seed (1), count, split ("train" | "heldout"). No question appears twice in one call's rows.
function problems.rows(opts)
  local split, count = opts.split or "train", math.tointeger(opts.count)
  if split ~= "train" and split ~= "heldout" then
    error(("problems.rows: split: train or heldout expected, got %s"):format(tostring(split)), 2)
  end
  if not count or count < 1 then error(("problems.rows: count: a positive integer expected, got %s"):format(tostring(opts.count)), 2) end
  local random, seen, rows = generator(hash(("%s %d"):format(split, opts.seed or 1))), {}, {}
  while #rows < count do
    local row = draw(random, split)
    if not seen[row.question] then
      seen[row.question] = true
      rows[#rows + 1] = row
    end
  end
  return rows
end

-- Writes rows as JSON lines, all of them or none. -> true | nil, message
function problems.write(path, rows)
  local kava = require "kava"
  local lines = {}
  for i, row in ipairs(rows) do
    lines[i] = ('{"question": %s, "answer": %s}\n'):format(kava.json.encode(row.question), kava.json.encode(row.answer))
  end
  return kava.fs.write(path, table.concat(lines))
end

-- Rows as batches for pretraining and comparison: texts tokenised once; per epoch a shuffle that is a function of (seed, epoch); rows
-- of like length share a batch, so that little is padded. -> function(step) -> {input_ids =, attention_mask =} [B,T], steps an epoch.
-- opts: batch, seed (1), shuffle (true)
function problems.batches(rows, tokenizer, opts)
  local kava = require "kava"
  local ids, size, seed = {}, opts.batch, opts.seed or 1
  for i, row in ipairs(rows) do ids[i] = tokenizer:encode(row.question .. "\n" .. row.answer) end
  local per_epoch = (#rows + size - 1) // size
  local WINDOW = 16 -- batches that are sorted by length together
  local cached_epoch, plan

  local function plan_of(epoch)
    local order = {}
    for i = 1, #rows do order[i] = opts.shuffle == false and i or kava.permute(seed * 1000003 + epoch, #rows, i) end
    local batches = {}
    for first = 1, #order, WINDOW * size do
      local window = table.move(order, first, math.min(first + WINDOW * size - 1, #order), 1, {})
      table.sort(window, function(a, b) return #ids[a] < #ids[b] or #ids[a] == #ids[b] and a < b end)
      for start = 1, #window, size do
        batches[#batches + 1] = table.move(window, start, math.min(start + size - 1, #window), 1, {})
      end
    end
    return batches
  end

  return function(step)
    local epoch = (step - 1) // per_epoch
    if epoch ~= cached_epoch then cached_epoch, plan = epoch, plan_of(epoch) end
    local at = (step - 1) % per_epoch + 1
    local chosen = plan[opts.shuffle == false and at or kava.permute(seed * 1000003 + epoch, #plan, at)]
    local longest, flat, mask = 0, {}, {}
    for _, row in ipairs(chosen) do longest = math.max(longest, #ids[row]) end
    for n, row in ipairs(chosen) do
      for t = 1, longest do
        flat[(n - 1) * longest + t] = ids[row][t] or 0
        mask[(n - 1) * longest + t] = ids[row][t] and 1 or 0
      end
    end
    local shape = { #chosen, longest }
    return { input_ids = kava.tensor(flat, { shape = shape, dtype = "i64" }),
      attention_mask = kava.tensor(mask, { shape = shape, dtype = "i64" }) }
  end, per_epoch
end

local function main(opts)
  local cli = require "kava.cli"
  for _, split in ipairs { "train", "heldout" } do
    local path = ("%s/%s.jsonl"):format(opts.out, split)
    cli.try(problems.write(path, problems.rows { seed = opts.seed, count = opts[split], split = split }))
    print(("%s: %d problems"):format(path, opts[split]))
  end
end

-- Run as a program (kava recipes/problems.lua …), not when a recipe asks for its functions.
if arg and arg[0] and arg[0]:find "problems%.lua$" then
  return require("kava.cli").recipe({
    name = "problems",
    about = "Writes arithmetic word problems as JSON lines with the fields question and answer.",
    keys = {
      { "out", "string", "folder to write train.jsonl and heldout.jsonl into" },
      { "train", "integer", "rows of the training split", min = 1 },
      { "heldout", "integer", "rows of the held-out split; no question is in both, whatever the seeds", min = 1 },
      { "seed", "integer", "every row is a function of it" },
    },
    defaults = { out = ".", train = 20000, heldout = 400, seed = 1 },
    run = main,
  }, ...)
end
return problems

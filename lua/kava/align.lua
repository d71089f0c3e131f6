-- kava.align: a teacher for batches that another tokenizer made.
--
-- The batch is in the student's tokens. Each row is turned back into text and read by the teacher in its own tokens; of its keys and
-- values those rows are taken whose token ends at the byte where a student's token ends (kava.tokenizer.align): at these positions both
-- have read the same bytes and no more. The rest has no target: batch.kv_mask says which positions have one.
-- The KV term is a mean over these positions; between the micro-batches of a step it is weighed by all their tokens, as the rest is.
-- Logits have no common vocabulary, and keys after rotation carry each tokenizer's own positions: both are refused by whoever sets this
-- up (recipes/train_adaptive.lua).
local kava = require "kava"

local align = {}

---@class kava.Aligner
local Aligner = {}
Aligner.__index = Aligner
Aligner.__name = "kava.Aligner"

--- tokenizers.teacher, tokenizers.student.
function align.new(tokenizers)
  local self = setmetatable({ teacher = tokenizers.teacher, student = tokenizers.student }, Aligner)
  self.around = self.student:encode "" -- the template's ids
  return self
end

-- The teacher's ids for a row of the student's, and for each of the row's positions the teacher's (0: none).
function Aligner:row(ids)
  local from, to = 1, #ids
  while from <= to and self.around[from] == ids[from] do from = from + 1 end
  local ended = to >= from and ids[to] == self.student.eos_id
  if ended then to = to - 1 end
  local text = self.student:decode(table.move(ids, from, to, 1, {}))
  local both = kava.tokenizer.align(self.teacher, self.student, text, { errors = "replace" })
  local theirs, map = both.a, {}
  local same = 0 -- a row that was cut may end in other tokens than its text has: what differs has no target
  while same < #ids and both.b[same + 1] == ids[same + 1] do same = same + 1 end
  for i = 1, #ids do map[i] = i <= same and both.map[i] or 0 end
  if ended and same == #ids - 1 and self.teacher.eos_id then -- both read an end behind the text
    if theirs[#theirs] ~= self.teacher.eos_id then theirs[#theirs + 1] = self.teacher.eos_id end
    map[#ids] = #theirs
  end
  return theirs, map
end

--- The batch in the teacher's tokens -> { input_ids }, positions [B*T] to gather (into its rows laid end to end, from 1), mask [B,T].
function Aligner:batch(batch)
  local rows, mask = batch.input_ids:totable(), kava.loss.mask(batch)
  local real = mask and mask:totable()
  local count, length, longest, theirs, maps = #rows, #rows[1], 1, {}, {}
  for b, row in ipairs(rows) do
    local n = length
    while real and n > 0 and real[b][n] == 0 do n = n - 1 end
    for i = 1, n do row[i] = math.tointeger(row[i]) end
    theirs[b], maps[b] = self:row(table.move(row, 1, n, 1, {}))
    longest = math.max(longest, #theirs[b])
  end
  local ids, positions, matched, any = {}, {}, {}, 0
  for b = 1, count do
    for i = 1, longest do ids[#ids + 1] = theirs[b][i] or theirs[b][1] or 0 end
    for i = 1, length do
      local at = maps[b][i] or 0
      positions[#positions + 1] = (b - 1) * longest + math.max(at, 1)
      matched[#matched + 1] = at > 0 and 1 or 0
      any = any + matched[#matched]
    end
  end
  return { input_ids = kava.tensor(ids, { shape = { count, longest }, dtype = "i64" }) }, kava.tensor(positions, { dtype = "i64" }),
    kava.tensor(matched, { shape = { count, length }, dtype = "u8" }), any
end

--- Says which positions of the batch have a target: batch.kv_mask, batch.kv_count.
function Aligner:mark(batch)
  local _
  _, _, batch.kv_mask, batch.kv_count = self:batch(batch)
end

--- The teacher's pass over a batch: out.kv has a row for each of the student's positions; batch.kv_mask and batch.kv_count say which of
--- them are targets.
function Aligner:forward(model, batch, needs)
  local own, positions, mask, any = self:batch(batch)
  batch.kv_mask, batch.kv_count = mask, any
  local out = model:forward(kava.loss.request(own, needs))
  local count, length = batch.input_ids.shape[1], batch.input_ids.shape[2]
  local raw = { layers = out.kv.raw.layers }
  for _, part in ipairs { "keys", "keys_before", "values" } do
    raw[part] = {}
    for i = 1, raw.layers do
      local t = out.kv.raw[part] and out.kv.raw[part][i]
      if t then
        local heads, dim = t.shape[3], t.shape[4]
        local rows = t:reshape(t.shape[1] * t.shape[2], heads * dim):index_select(1, positions)
        raw[part][i] = rows:reshape(count, length, heads, dim)
      end
    end
  end
  return { kv = kava.kv.wrap(raw) }
end

align.class = Aligner
kava.align = align
return align

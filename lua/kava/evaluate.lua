-- kava.evaluate: what a student has learnt, on held-out batches, and whether its loss still says anything.
--
--   local figures = kava.evaluate(loss, batches, opts)      loss: from kava.loss.build; batches: a list or an iterator function
--
-- Nothing is recorded and dropout is off; the losses come from the same Loss:compute that trains, weighted by tokens.
-- Collapse figures: a loss can fall because the student has learnt, or because its target has become a constant. Three numbers tell:
--   effective rank   exp of the entropy of the target's spectrum (Roy and Vetterli 2007): how many directions it uses
--   mean direction   norm of the mean of the unit targets: 1 when all point one way
--   shuffled         the KV term against the teacher's rows of *another document*: what remains without any information
local kava = require "kava"

local evaluate = {}

-- kava.effective_rank looks at no more rows than this, so no rank can be above it.
local SPECTRUM_ROWS = 256
-- Collapse is named when the student agrees with its target almost wholly, agrees as well with another document's target, and the
-- target is one direction. The original's loss, measured: on SmolLM2-135M (PyTorch) loss 0.0025, mean direction 0.983, effective
-- rank 12.6; on the demo after 40 steps cosine 0.988, with another document's target 0.983, mean direction 0.957, effective rank 30
-- of 192 (120 before training). Layer-matched targets there: mean direction 0.19, and shuffling costs 0.07 and more once learnt.
evaluate.thresholds = {
  agreement = 0.95, -- cosine with the target, at least
  gap = 0.02, --       cosine lost by shuffling the documents, at most
  direction = 0.9, --  norm of the target's mean direction, at least
  rank = 0.25, --      effective rank as a share of the most it could be, at most
  near_agreement = 0.9, near_gap = 0.05, -- on the way there: said, but neither warned of nor stopped
}

-- Weighted means by name; what is absent from a batch is not counted for it.
local function averages()
  local sum, weight = {}, {}
  local self = {}
  function self.add(name, value, tokens)
    if value == nil then return end
    if type(value) ~= "number" then value = value:item() end
    sum[name] = (sum[name] or 0) + value * tokens
    weight[name] = (weight[name] or 0) + tokens
  end
  function self.get(name) return sum[name] and sum[name] / weight[name] end
  return self
end

local function count(mask, ids) return mask and mask:to({ dtype = "f32" }):sum():item() or ids:numel() end

-- The kept parts of a cache with each row replaced by the row before it, so that every row meets another document's.
local function rotated(cache)
  local raw = { layers = cache.raw.layers }
  for _, part in ipairs { "keys", "keys_before", "values", "queries" } do
    raw[part] = {}
    for i = 1, raw.layers do
      local t = cache.raw[part] and cache.raw[part][i]
      if t then
        local rows = t.shape[1]
        raw[part][i] = kava.cat({ t:narrow(1, rows, 1), t:narrow(1, 1, rows - 1) }, 1)
      end
    end
  end
  return kava.kv.wrap(raw)
end

local function rotated_rows(t)
  local rows = t.shape[1]
  return kava.cat({ t:narrow(1, rows, 1), t:narrow(1, 1, rows - 1) }, 1)
end

-- Keys of matched layers by cosine: {number, …}; nil where widths differ (no map says which direction is which).
local function key_cosines(map, teacher_out, student_out, mask)
  local list = {}
  for i, from in ipairs(map) do
    local mine, target = student_out.kv:keys(i), teacher_out.kv:keys(from)
    local a, b = mine.shape, target.shape
    if a[2] * a[4] == b[2] * b[4] then
      mine = mine:permute(1, 3, 2, 4):reshape(a[1], a[3], a[2] * a[4])
      target = target:permute(1, 3, 2, 4):reshape(b[1], b[3], b[2] * b[4])
      list[i] = 1 - kava.loss.cosine(mine, target, { mask = mask }):item()
    end
  end
  return list
end

-- Collapse figures of one batch's pairs, averaged over pairs.
local function collapse_of(loss, batch, teacher_out, student_out)
  local mask = kava.loss.kv_mask(batch)
  local pairs_list = loss.term.pairs(teacher_out, student_out)
  local out = { agreement = 0, shuffled_agreement = 0, effective_rank = 0, mean_direction = 0, dim = 0, most = 0 }
  local rows = batch.input_ids.shape[1]
  local shuffled, both = nil, mask
  if rows > 1 then
    local other = { kv = rotated(teacher_out.kv), hidden = teacher_out.hidden, start = teacher_out.start }
    both = mask and mask * rotated_rows(mask)
    if not both or count(both) > 0 then
      shuffled = loss.term.pairs(other, student_out)
      -- The KV term again, exactly as trained, with another document's keys and values.
      out.shuffled = loss.term.loss(shuffled, both, other, student_out, batch):item()
    end
  end
  for i, pair in ipairs(pairs_list) do
    out.agreement = out.agreement + 1 - kava.loss.cosine(pair.student, pair.target, { mask = mask }):item()
    out.effective_rank = out.effective_rank + kava.effective_rank(pair.target, mask)
    out.mean_direction = out.mean_direction + kava.mean_direction_norm(pair.target, mask)
    local dim = pair.target.shape[3]
    out.most = out.most + math.min(SPECTRUM_ROWS, count(mask, batch.input_ids), dim)
    out.dim = out.dim + dim
    if shuffled then
      local other = shuffled[i]
      out.shuffled_agreement = out.shuffled_agreement + 1 - kava.loss.cosine(other.student, other.target, { mask = both }):item()
    end
  end
  for _, key in ipairs { "agreement", "shuffled_agreement", "effective_rank", "mean_direction", "dim", "most" } do
    out[key] = out[key] / #pairs_list
  end
  if not shuffled then out.shuffled_agreement = nil end
  return out
end

--- The verdict on collapse figures: true and a sentence when the loss has collapsed, false and a sentence when it has not.
function evaluate.verdict(c)
  local limits = evaluate.thresholds
  local share = c.effective_rank / c.most
  if not c.shuffled_agreement then return false, "not judged: a batch needs two rows, so that one can meet another document's" end
  local gap = c.agreement - c.shuffled_agreement
  local flat = c.mean_direction >= limits.direction and share <= limits.rank
  if c.agreement >= limits.agreement and gap <= limits.gap and flat then
    return true, ("COLLAPSED: the student agrees with its target (cosine %.4f), but as well with another document's (%.4f): the target has "
      .. "become one direction (mean direction %.3f, effective rank %.1f of %d). The loss is near its floor and teaches nothing; add an "
      .. "anchor (loss.ce or loss.kl), or use loss.name=layer_matched"):format(c.agreement, c.shuffled_agreement, c.mean_direction,
      c.effective_rank, math.floor(c.most))
  end
  if c.agreement >= limits.near_agreement and gap <= limits.near_gap then
    return false, ("near collapse: another document's target is matched almost as well (cosine %.4f against %.4f; mean direction %.3f, "
      .. "effective rank %.1f of %d)"):format(c.shuffled_agreement, c.agreement, c.mean_direction, c.effective_rank, math.floor(c.most))
  end
  return false, ("no collapse: cosine %.4f with its own document's target, %.4f with another's"):format(c.agreement, c.shuffled_agreement)
end

-- The first rows of a batch: of every tensor of it.
local function first_rows(batch, rows)
  local fewer = {}
  for name, field in pairs(batch) do
    if type(field) == "userdata" then fewer[name] = field:narrow(1, 1, rows) end
  end
  return fewer
end

-- The batches up to `rows` rows; nil: all.
local function iterate(batches, rows)
  local i, left = 0, rows or math.huge
  return function()
    if left <= 0 then return nil end
    i = i + 1
    local batch
    if type(batches) == "function" then batch = batches() else batch = batches[i] end
    local has = batch and batch.input_ids.shape[1] or 0
    if has > left then batch = first_rows(batch, left) end
    left = left - has
    return batch
  end
end

local function run(loss, batches, opts)
  local sums, by_layer = averages(), {}
  local teacher, student = loss.teacher, loss.student
  local map = teacher and (loss.term and loss.term.map or kava.loss.layer_map("recorded", student, teacher))
  local needs = loss:needs()
  local wants_teacher = teacher ~= nil
  local wants_logits = wants_teacher and not loss.align -- aligned, teacher and student have no vocabulary in common
  local tokens, batch_count = 0, 0
  for batch in iterate(batches, opts.rows) do
    batch_count = batch_count + 1
    local mask = kava.loss.mask(batch)
    local real = count(mask, batch.input_ids)
    tokens = tokens + real
    local teacher_out
    if wants_teacher then
      local wanted = kava.loss.join_needs({ hidden = wants_logits }, needs.teacher or {})
      wanted.logits = false
      teacher_out = loss:teach(batch, wanted)
    end
    local wanted = kava.loss.join_needs({ hidden = true }, needs.student)
    wanted.logits = false
    local student_out = student:forward(kava.loss.request(batch, wanted))
    local _, metrics = loss:compute(batch, teacher_out, student_out, opts.step or 1)
    sums.add("loss", metrics.loss, real)
    sums.add("kv", metrics.kv, real)
    -- CE, KL and agreement are wanted whatever the loss's weights are.
    if kava.loss.predicts(batch) then
      local _, heads = kava.loss.apply_head(loss, batch, teacher_out, student_out, 1, wants_logits and 1 or 0)
      heads = kava.loss.numbers(heads)
      for _, name in ipairs { "ce", "kl", "agreement" } do sums.add(name, heads[name], heads.count) end
      if wants_logits then
        local _, own = kava.loss.head { hidden = teacher_out.hidden, weight = teacher:head(), softcap = teacher.spec.logit_softcap,
          targets = kava.loss.batch_targets(batch) }
        own = kava.loss.numbers(own)
        sums.add("teacher_ce", own.ce, own.count)
      end
    end
    if wants_teacher and not loss.align then -- aligned, keys after rotation are not comparable
      for i, value in pairs(key_cosines(map, teacher_out, student_out, mask)) do
        by_layer[i] = by_layer[i] or averages()
        by_layer[i].add("cosine", value, real)
      end
    end
    if loss.term and batch.kv_count ~= 0 and opts.collapse ~= false and batch_count <= (opts.collapse_batches or 4) then
      for name, value in pairs(collapse_of(loss, batch, teacher_out, student_out)) do sums.add("collapse." .. name, value, real) end
    end
    if opts.after_batch then opts.after_batch(batch_count) end
  end
  if batch_count == 0 then error("evaluate: no batches: the held-out data is empty", 0) end
  if not sums.get "ce" then error("evaluate: no held-out row has a second token: there is nothing to predict", 0) end
  local figures = { tokens = math.tointeger(tokens) or tokens, batches = batch_count }
  for _, name in ipairs { "loss", "kv", "ce", "kl", "agreement", "teacher_ce" } do figures[name] = sums.get(name) end
  if wants_teacher then
    figures.cosine_by_layer = {}
    local sum, layers = 0, 0
    for i = 1, #map do
      local value = by_layer[i] and by_layer[i].get "cosine"
      figures.cosine_by_layer[i] = value or false
      if value then sum, layers = sum + value, layers + 1 end
    end
    figures.cosine = layers > 0 and sum / layers or nil
  end
  if sums.get "collapse.effective_rank" then
    local c = {}
    for _, name in ipairs { "agreement", "shuffled_agreement", "shuffled", "effective_rank", "mean_direction", "dim", "most" } do
      c[name] = sums.get("collapse." .. name)
    end
    c.collapsed, c.verdict = evaluate.verdict(c)
    figures.collapse = c
  end
  return figures
end

--- figures: tokens, loss, kv, ce, kl, agreement (same top-1 token), teacher_ce: nats a token; cosine, cosine_by_layer (keys of matched
--- layers; false where widths differ); collapse = {agreement, shuffled_agreement, shuffled, effective_rank, mean_direction, dim,
--- collapsed, verdict}. opts: rows (no more of them), step (of scheduled weights), collapse = false, collapse_batches (4), after_batch(n).
function evaluate.run(loss, batches, opts)
  local training = kava.train()
  kava.train(false)
  local ok, figures = pcall(kava.no_grad, run, loss, batches, opts or {})
  kava.train(training)
  if not ok then error(figures, 0) end
  return figures
end

setmetatable(evaluate, { __call = function(_, ...) return evaluate.run(...) end })
kava.evaluate = evaluate
return evaluate

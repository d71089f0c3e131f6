-- kava.loss: what is taught. The C part gives the functions (mercator, cosine, mse, smooth_l1, cross_entropy, kl_divergence, head);
-- this part builds a training loss from them:
--
--     total = weight * KV term  +  ce * cross-entropy  +  kl * KL(teacher || student)
--
-- The KV term is a file, recipes/loss/<name>.lua, found by its name. Such a file returns function(context) -> term, where
--   term.parameters   {name = tensor} it trains beside the student (projectors, maps); may be empty
--   term.needs        {teacher = {values =, queries =, up_to =, layers =}, student = {…}}: what a forward pass must give besides keys;
--                     layers = {[i] = true, …}: whose keys and values are read (a cache keeps no others), all where absent
--   term.pairs(teacher_out, student_out) -> { {name =, student = [B,T,D], target = [B,T,D]}, … }: what is to become alike
--   term.loss(pairs, mask, teacher_out, student_out, batch) -> loss, {name = number or tensor}
-- Training and evaluation both call Loss:compute, so that their figures are the same means over the same tokens.
local kava = require "kava"
local find = require "kava.find"

local loss = setmetatable(rawget(kava, "loss") or {}, nil)

---@class kava.Loss
local Loss = {}
Loss.__index = Loss
Loss.__name = "kava.Loss"

-- Everything a loss may be told, with its default. The default is what was measured to teach: layer-matched K and V by cosine,
-- anchored by cross-entropy.
loss.defaults = {
  name = "layer_matched",
  weight = 1.0, -- of the KV term:  numbers, or {from =, to =, schedule = "linear", steps =}
  ce = 1.0, --     of the cross-entropy with the text
  kl = 0.0, --     of KL(teacher || student) over the vocabulary
  temperature = 1.0, -- of the KL
  alpha = 1.0, beta = 0.01, eps = 1e-8, -- mercator: direction, magnitude
  delta = 1.0, -- smooth_l1: where the parabola ends
  relative = false, -- mse: divided by the target's own square
  attention = 1.0, -- structural: weight of the attention maps
  layer_map = "recorded", -- layer_matched: "recorded" (by derive; else depth), "depth", a list, or function(i, students, teachers)
}
loss.kv_defaults = {
  method = "concat", -- aggregation: recipes/aggregate/<name>.lua, or a function
  part = "both", --     layer_matched: keys, values or both
  rope = "post", --     keys after ("post") or before ("pre") rotation
  project = "teacher", -- whose aggregate goes through the projector: "teacher" (towards the student), "student", or "none"
  hidden_ratio = nil, --  of the projector; nil: 1.0 below 30 billion teacher weights, 2.0 from there
  dropout = 0.1, --       of the projector
  initialization = "xavier_uniform", -- of the projector's matrices
  dtype = "f32", -- of its parameters
  validate_shapes = true, -- try the loss on a test batch while building it
  layers = nil, --  "all", "last", a list of layers to aggregate, or {teacher =, student =}; layer_matched: the student's layers
  weights = nil, -- of the aggregation "weighted": a list, or {teacher = list, student = list}
}

local function merged(defaults, given, what)
  local out = {}
  for key, value in pairs(defaults) do out[key] = value end
  for key, value in pairs(given or {}) do out[key] = value end
  local function one_of(key, choices)
    if out[key] == nil then return end
    for _, choice in ipairs(choices) do
      if out[key] == choice then return end
    end
    error(("%s.%s: %s expected, got %s"):format(what, key, table.concat(choices, ", "), tostring(out[key])), 0)
  end
  if what == "kv" then
    one_of("part", { "keys", "values", "both" })
    one_of("rope", { "post", "pre" })
    one_of("project", { "teacher", "student", "none" })
  end
  return out
end

-- ------------------------------------------------------------------------------------------------------------ weights

-- A number, or {from =, to =, schedule =, steps =, warmup =} -> function(step) -> number, and the largest it will be.
local function weight_function(value, name)
  if type(value) == "number" then
    if value < 0 or value ~= value then error(("loss.%s: a weight of at least 0 expected, got %s"):format(name, value), 0) end
    return function() return value end, value
  end
  if type(value) ~= "table" then
    error(("loss.%s: a number or {from =, to =, schedule =, steps =} expected, got %s"):format(name, type(value)), 0)
  end
  local from, to, steps = value.from, value.to or 0, value.steps
  if type(from) ~= "number" or type(to) ~= "number" or math.type(steps) ~= "integer" or from < 0 or to < 0 or steps < 1 then
    error(("loss.%s: from, to (at least 0) and steps (a positive integer) expected"):format(name), 0)
  end
  local schedule = loss.schedule(value.schedule or "linear")
  return function(step)
    return to + (from - to) * schedule(math.min(step, steps + 1), { steps = steps, warmup = value.warmup or 0 })
  end, math.max(from, to)
end

-- recipes/schedule/<name>.lua -> function(step, {steps =, warmup =}) -> factor; a function is itself.
function loss.schedule(how)
  if type(how) == "function" then return how end
  local f, path = find.recipe("schedule", how)
  if type(f) ~= "function" then error(("%s: a schedule file returns a function, got %s"):format(path, type(f)), 0) end
  return f
end

-- ------------------------------------------------------------------------------------------------- what terms are made of

-- [B,Hkv,T,D] -> [B,T,Hkv*D]: a token's heads side by side.
local function rows(t)
  local batch, heads, length, dim = table.unpack(t.shape)
  return t:permute(1, 3, 2, 4):reshape(batch, length, heads * dim)
end

local function part_of(cache, part, i, rope)
  return rows(part == "keys" and cache:keys(i, { rope = rope }) or cache:values(i))
end

local function side(value, which)
  if type(value) == "table" and (value.teacher or value.student) then return value[which] end
  return value
end

local function width(probe, part, i) return part == "keys" and probe.per_layer[i].dim or probe.per_layer[i].value_dim end

-- One part aggregated over layers on both sides, one side through a projector.
-- -> {parameters =, needs =, pair = function(teacher_out, student_out) -> {name =, student =, target =}}
function loss.aggregated(context, part)
  local kv = context.kv
  local function aggregate(out, which)
    return kava.kv.aggregate(out.kv, kv.method,
      { part = part, rope = kv.rope, layers = side(kv.layers, which), weights = side(kv.weights, which) })
  end
  -- How wide an aggregation is, only the aggregation knows: ask it, with a forward pass over a few tokens.
  local function wide(which)
    local out = kava.no_grad(function()
      return context[which]:forward { input_ids = kava.zeros({ 1, 4 }, { dtype = "i64" }), logits = false, values = part == "values" }
    end)
    local shape = kava.no_grad(aggregate, out, which).shape
    return shape[3]
  end
  local dims = { teacher = wide "teacher", student = wide "student" }
  local project = kv.project
  if project == "none" and dims.teacher ~= dims.student then
    error(("kv.project = none: the teacher's %s aggregate to %d numbers a token, the student's to %d; project one of them"):format(
      part, dims.teacher, dims.student), 0)
  end
  local projector
  if project ~= "none" then
    local into = project == "teacher" and "student" or "teacher"
    projector = kava.projector { in_dim = dims[project], out_dim = dims[into], hidden_ratio = kv.hidden_ratio or context.hidden_ratio,
      dropout = kv.dropout, initialization = kv.initialization, dtype = kv.dtype,
      device = context.student:device() }
  end
  local parameters = {}
  for name, t in pairs(projector and projector:parameters() or {}) do parameters[part .. "." .. name] = t end
  local read
  for _, i in ipairs(side(kv.layers, "teacher") or {}) do
    read = read or {}
    read[i] = true
  end
  return {
    parameters = parameters,
    needs = { teacher = { values = part == "values", layers = read }, student = { values = part == "values" } },
    dims = dims,
    projector = projector,
    source = function(teacher_out) return aggregate(teacher_out, "teacher") end,
    pair = function(teacher_out, student_out)
      local target, mine = aggregate(teacher_out, "teacher"), aggregate(student_out, "student")
      if project == "teacher" then target = projector(target) end
      if project == "student" then mine = projector(mine) end
      return { name = part, student = mine, target = target }
    end,
  }
end

-- Which teacher layer each student layer is matched to: a list.
function loss.layer_map(how, student, teacher)
  local students, teachers = #student.spec.layer, #teacher.spec.layer
  local recorded = student.layer_map
  local map = {}
  if type(how) == "function" then
    for i = 1, students do map[i] = how(i, students, teachers) end
  elseif type(how) == "table" then
    map = how
  elseif how == "recorded" and recorded then
    map = recorded
  elseif how == "recorded" or how == "depth" or how == nil then
    -- The same depth, rounded up, so that the last is matched to the last.
    for i = 1, students do map[i] = (i * teachers + students - 1) // students end
  else
    error(("loss.layer_map: recorded, depth, a list or a function expected, got %s"):format(tostring(how)), 0)
  end
  if #map ~= students then error(("loss.layer_map: %d entries for the student's %d layers"):format(#map, students), 0) end
  for i, j in ipairs(map) do
    if math.type(j) ~= "integer" or j < 1 or j > teachers then
      error(("loss.layer_map: entry %d: a teacher layer from 1 to %d expected, got %s"):format(i, teachers, tostring(j)), 0)
    end
  end
  return map
end

-- One part, layer by layer. Where widths differ, one linear map a layer turns the *student's* rows into the teacher's width: the
-- target stays the teacher's own keys, so there is nothing the map could learn that makes the target easier. (A map on the teacher's
-- side could: all to one direction.)
-- -> {parameters =, needs =, map =, pairs = function(teacher_out, student_out) -> list}
function loss.matched(context, part)
  local map = loss.layer_map(context.loss.layer_map, context.student, context.teacher)
  local kv, parameters, chosen, last, read = context.kv, {}, {}, { teacher = 0, student = 0 }, {}
  local wanted = side(kv.layers, "student")
  if wanted == "last" then
    wanted = { #map }
  elseif not wanted or wanted == "all" then
    wanted = {}
    for i = 1, #map do wanted[i] = i end
  end
  for n, i in ipairs(wanted) do
    if not map[i] then error(("kv.layers: a student layer from 1 to %d expected, got %s"):format(#map, tostring(i)), 0) end
    local from, into = width(context.student_probe, part, i), width(context.teacher_probe, part, map[i])
    local w
    if from ~= into then
      local bound = math.sqrt(6 / (from + into)) -- Glorot and Bengio 2010
      w = ((kava.rand({ into, from }) - 0.5) * (2 * bound)):to({ device = context.student:device() }):requires_grad(true)
      parameters[("%s.%d.weight"):format(part, i)] = w
    end
    chosen[n] = { student = i, teacher = map[i], weight = w, name = ("%s.%d"):format(part, i) }
    last.student, last.teacher, read[map[i]] = math.max(last.student, i), math.max(last.teacher, map[i]), true
  end
  return {
    map = map,
    parameters = parameters,
    needs = {
      teacher = { values = part == "values", up_to = last.teacher, layers = read },
      student = { values = part == "values", up_to = last.student },
    },
    pairs = function(teacher_out, student_out)
      local list, at, xs, ws = {}, {}, {}, {}
      for n, layer in ipairs(chosen) do
        list[n] = { name = layer.name, part = part, layer = layer.student, student = part_of(student_out.kv, part, layer.student, kv.rope),
          target = part_of(teacher_out.kv, part, layer.teacher, kv.rope) }
        if layer.weight then
          at[#at + 1], xs[#xs + 1], ws[#ws + 1] = n, list[n].student, layer.weight
        end
      end
      for i, y in ipairs(xs[1] and kava.linear_each(xs, ws) or {}) do list[at[i]].student = y end
      return list
    end,
  }
end

-- Joins pieces made by loss.aggregated and loss.matched into a term; `compare` gives a term's loss from its pairs.
function loss.term(pieces, compare)
  local term = { parameters = {}, needs = { teacher = {}, student = {} }, loss = compare, pieces = pieces }
  for _, piece in ipairs(pieces) do
    for name, t in pairs(piece.parameters) do term.parameters[name] = t end
    for which, needs in pairs(piece.needs) do loss.join_needs(term.needs[which], needs) end
    term.map = term.map or piece.map
  end
  function term.pairs(teacher_out, student_out)
    local list = {}
    for _, piece in ipairs(pieces) do
      if piece.pair then
        list[#list + 1] = piece.pair(teacher_out, student_out)
      else
        for _, pair in ipairs(piece.pairs(teacher_out, student_out)) do list[#list + 1] = pair end
      end
    end
    return list
  end
  return term
end

-- Two sets of layers as one; nil: all.
local function either(a, b)
  if not a or not b then return nil end
  local out = {}
  for i in pairs(a) do out[i] = true end
  for i in pairs(b) do out[i] = true end
  return out
end

-- What two askers of one forward pass need together. up_to absent: all layers; layers absent: any of them is read.
function loss.join_needs(into, needs)
  local first = next(into) == nil
  into.values = into.values or needs.values or false
  into.queries = into.queries or needs.queries or false
  into.hidden = into.hidden or needs.hidden or false
  if first then
    into.up_to, into.layers = needs.up_to, needs.layers
  else
    if into.up_to then into.up_to = needs.up_to and math.max(into.up_to, needs.up_to) or nil end
    into.layers = either(into.layers, needs.layers)
  end
  if into.hidden then into.up_to = nil end
  return into
end

-- The mean of compare(student, target, mask) -> loss, metrics over pairs, and of each metric.
function loss.mean_over(pairs_list, mask, compare)
  local sum, metrics = nil, {}
  for _, pair in ipairs(pairs_list) do
    local value, more = compare(pair.student, pair.target, mask)
    sum = sum and sum + value or value
    for name, metric in pairs(more or {}) do metrics[name] = metrics[name] and metrics[name] + metric or metric end
  end
  for name, metric in pairs(metrics) do metrics[name] = metric / #pairs_list end
  return sum / #pairs_list, metrics
end

-- Pieces by make (loss.aggregated or loss.matched) of the parts that kv.part names.
function loss.parts(context, make)
  if context.kv.part ~= "both" then return { make(context, context.kv.part) } end
  return { make(context, "keys"), make(context, "values") }
end

-- A term that is the mean over its pairs of compare(student, target, mask) -> loss, metrics.
function loss.mean_term(pieces, compare)
  return loss.term(pieces, function(pairs_list, mask) return loss.mean_over(pairs_list, mask, compare) end)
end

-- ------------------------------------------------------------------------------------------------------------- the loss

local function load_term(name, context)
  local recipe, path
  if type(name) == "function" then
    local info = debug.getinfo(name, "S")
    recipe, path = name, ("%s:%d"):format(info.short_src, info.linedefined)
  else
    recipe, path = find.recipe("loss", name)
  end
  if type(recipe) ~= "function" then error(("%s: a loss file returns a function, got %s"):format(path, type(recipe)), 0) end
  local term = recipe(context)
  for _, field in ipairs { "pairs", "loss" } do
    if type(term) ~= "table" or type(term[field]) ~= "function" then
      error(("%s: the loss has no function '%s'"):format(path, field), 0)
    end
  end
  term.parameters = term.parameters or {}
  term.needs = term.needs or { teacher = {}, student = {} }
  return term, path
end

local function parameter_count(model)
  local count = 0
  for _, t in pairs(model:parameters()) do count = count + t:numel() end
  return count
end

--- name: a file under recipes/loss, or a function(context) -> term; nil: context.loss.name.
--- context: teacher, student (kava.Model); loss, kv (settings: see loss.defaults, loss.kv_defaults); teacher_probe, student_probe;
--- seed: what projectors and maps are drawn from (the global generator is left where it was); align: a kava.Aligner, where the
--- batches are in tokens that the teacher does not know.
function loss.build(name, context)
  if type(context) ~= "table" or not context.student then error("loss.build: a context {student =, teacher =} expected", 2) end
  local settings = merged(loss.defaults, context.loss or context.config, "loss")
  settings.name = name or settings.name
  local self = setmetatable({ name = settings.name, settings = settings, kv = merged(loss.kv_defaults, context.kv, "kv"),
    teacher = context.teacher, student = context.student, align = context.align, weight = {}, most = {} }, Loss)
  for _, which in ipairs { "weight", "ce", "kl" } do
    self.weight[which], self.most[which] = weight_function(settings[which], which)
  end
  if self.name == "none" then self.weight.weight, self.most.weight = function() return 0 end, 0 end
  if self.most.weight + self.most.ce + self.most.kl == 0 then error("loss: every weight is 0: nothing would be taught", 0) end
  if not self.teacher and self.most.weight + self.most.kl > 0 then error("loss: a teacher is needed for the KV term and for KL", 0) end
  if self.align and self.most.kl > 0 then error("loss.kl: logits of unlike vocabularies cannot be compared: loss.kl=0", 0) end
  if self.align and self.most.weight > 0 and self.kv.rope ~= "pre" then
    error("kv.rope: keys after rotation carry the positions of each tokenizer's own tokens; aligned they want kv.rope=pre", 0)
  end
  if self.most.kl > 0 and self.teacher.spec.vocab ~= self.student.spec.vocab then
    error(("loss.kl: the teacher's vocabulary has %d entries, the student's %d: their logits cannot be compared"):format(
      self.teacher.spec.vocab, self.student.spec.vocab), 0)
  end
  if self.most.weight > 0 then
    local inner = { teacher = self.teacher, student = self.student, loss = settings, kv = self.kv,
      teacher_probe = context.teacher_probe or self.teacher:probe(), student_probe = context.student_probe or self.student:probe() }
    inner.hidden_ratio = self.kv.hidden_ratio or (parameter_count(self.teacher) >= 30e9 and 2.0 or 1.0)
    local seed, position
    if context.seed then
      seed, position = kava.rng_state()
      kava.seed(context.seed)
    end
    local ok, term, path = pcall(load_term, self.name, inner)
    if seed then kava.rng_state(seed, position) end
    if not ok then error(term, 0) end
    self.term, self.path = term, path
    if self.align and (term.needs.teacher or {}).queries then
      error(("loss.name = %s: attention maps of unlike tokens cannot be aligned"):format(tostring(self.name)), 0)
    end
  end
  if self.kv.validate_shapes then self:check() end
  return self
end

--- {name = tensor}: what is trained beside the student, at the projector's learning rate.
function Loss:parameters() return self.term and self.term.parameters or {} end

--- {teacher = options of its forward or nil when no teacher is needed, student = options}: only this is computed.
function Loss:needs()
  if self.wanted then return self.wanted end
  local teacher, student = {}, {}
  if self.term then
    loss.join_needs(teacher, self.term.needs.teacher or {})
    loss.join_needs(student, self.term.needs.student or {})
  end
  if self.most.ce > 0 or self.most.kl > 0 then loss.join_needs(student, { hidden = true }) end
  if self.most.kl > 0 then loss.join_needs(teacher, { hidden = true, layers = {} }) end
  teacher.logits, student.logits = false, false
  teacher.values, student.values = teacher.values or false, student.values or false
  self.wanted = { teacher = (self.term or self.most.kl > 0) and teacher or nil, student = student }
  return self.wanted
end

local inputs = { "input_ids", "attention_mask", "start", "positions", "longest" }

--- A batch's inputs, and what is wanted of the pass, as one argument for forward.
function loss.request(batch, needs)
  local request = {}
  for key, value in pairs(needs) do request[key] = value end
  request.layers = nil -- which of them are read; all up to the last are run
  for _, key in ipairs(inputs) do request[key] = batch[key] end
  if request.start then request.attention_mask = nil end
  return request
end

--- targets [B,T] of a batch: batch.targets (packed documents bring their own), or the next token within the mask.
function loss.batch_targets(batch)
  if not batch.targets then batch.targets = loss.targets(batch.input_ids, batch.attention_mask) end
  return batch.targets
end

--- Whether a batch has a token to predict: rows of one token have none.
function loss.predicts(batch)
  if batch.predicts == nil then batch.predicts = loss.batch_targets(batch):max():item() >= 0 end
  return batch.predicts
end

--- mask [B,T] of real tokens: batch.mask or batch.attention_mask; nil: all are real.
function loss.mask(batch) return batch.mask or batch.attention_mask end

--- mask [B,T] of the tokens whose keys and values have a target: all real ones, unless teacher and student are aligned (kava.align).
function loss.kv_mask(batch) return batch.kv_mask or loss.mask(batch) end

-- Cross-entropy and KL from hidden states: the logits are never whole in memory.
local function head(self, batch, teacher_out, student_out, ce, kl)
  local with_teacher = teacher_out and teacher_out.hidden
  return loss.head {
    hidden = student_out.hidden,
    weight = self.student:head(),
    targets = loss.batch_targets(batch),
    teacher_hidden = with_teacher and teacher_out.hidden or nil,
    teacher_weight = with_teacher and self.teacher:head() or nil,
    softcap = self.student.spec.logit_softcap, teacher_softcap = with_teacher and self.teacher.spec.logit_softcap or nil,
    ce_weight = ce, kl_weight = kl, temperature = self.settings.temperature,
  }
end
loss.apply_head = head

local WHOLE = { kv = 1, text = 1 }

-- A share is a number; where a step is recorded it is a tensor of no dimensions on the device, since it is another one at every run.
local function on_device(share) return type(share.kv) ~= "number" end

--- What each term is multiplied by at optimizer step `step` (from 1; default 1): its weight, times the batch's share of a larger one
--- (numbers; see compute). {weight =, ce =, kl =}, numbers; only terms above 0 are computed.
function Loss:factors(step, share)
  local weight = self.weight
  step, share = step or 1, share or WHOLE
  return { weight = weight.weight(step) * share.kv, ce = weight.ce(step) * share.text, kl = weight.kl(step) * share.text }
end

--- Whether a term that there is at a step reads what the teacher gives.
function Loss:asks(step)
  local factors = self:factors(step)
  return factors.weight > 0 or factors.kl > 0
end

--- The total at optimizer step `step`, and its parts: numbers or tensors not yet read (see loss.numbers).
--- A total that has no record (requires_grad() is false) teaches nothing. share (loss.shares): the batch's part of a larger one; the
--- totals of all parts then add up to the whole one's. Its entries are numbers, or f32 tensors of no dimensions; then share.weight,
--- share.ce and share.kl are what each term is multiplied by (Loss:factors): a schedule's weight, too, is another one at every run.
function Loss:compute(batch, teacher_out, student_out, step, share)
  share = share or WHOLE
  local device = on_device(share)
  local factors = self:factors(step, not device and share or WHOLE)
  local by, total, metrics = device and share or factors, nil, {}
  for name in pairs(factors) do
    if not by[name] then error(("share.%s: a tensor expected, as share.kv is one"):format(name), 2) end
  end
  if self.term and factors.weight > 0 and batch.kv_count ~= 0 then
    local value, more = self.term.loss(self.term.pairs(teacher_out, student_out), loss.kv_mask(batch), teacher_out, student_out, batch)
    for name, metric in pairs(more or {}) do metrics[name] = metric end
    metrics.kv = value:detach()
    total = by.weight == 1 and value or value * by.weight
  end
  local ce, kl = factors.ce > 0, factors.kl > 0
  if (ce or kl) and loss.predicts(batch) then
    local value, more = head(self, batch, kl and teacher_out or nil, student_out, ce and by.ce or 0, kl and by.kl or 0)
    metrics.ce, metrics.kl, metrics.agreement = more.ce, more.kl, more.agreement
    total = total and total + value or value
  end
  -- Nothing to learn from: a schedule has ended at 0, or CE alone has nothing to predict.
  total = total or kava.zeros({}, { device = self.student:device() })
  metrics.loss = total:detach()
  return total, metrics
end

--- The teacher's pass over a batch: through the aligner where its tokens are others than the batch's.
function Loss:teach(batch, needs)
  if self.align then return self.align:forward(self.teacher, batch, needs) end
  return self.teacher:forward(loss.request(batch, needs))
end

-- Tokens whose keys count, and tokens that predict one.
local function counts(batch)
  return { kv = batch.tokens, text = loss.batch_targets(batch):ge(0):to({ dtype = "f32" }):sum():item() }
end

--- What each of a step's batches is of the whole: { kv =, text = }, by real tokens for what is a mean over them, by predicted ones for
--- the cross entropy and the KL.
function loss.shares(batches)
  local list, sum = {}, { kv = 0, text = 0 }
  for i, batch in ipairs(batches) do
    list[i] = counts(batch)
    sum.kv, sum.text = sum.kv + list[i].kv, sum.text + list[i].text
  end
  for _, share in ipairs(list) do share.kv, share.text = share.kv / sum.kv, share.text / math.max(sum.text, 1) end
  return list
end

local BY_TEXT = { ce = true, kl = true, agreement = true }

--- Adds a batch's metrics to those of the whole step: numbers, or where shares are tensors, tensors that nobody waits for.
function loss.gather(sums, metrics, share)
  for name, value in pairs(on_device(share) and metrics or loss.numbers(metrics)) do
    if name ~= "loss" then value = value * (BY_TEXT[name] and share.text or share.kv) end
    sums[name] = sums[name] and sums[name] + value or value
  end
end

-- f(…) as a part of a profile.
local function named(name, f, ...)
  local range <close> = kava.range(name) -- luacheck: ignore 211
  return f(...)
end

--- Runs the teacher (nothing recorded; self.cache, a kava.TeacherCache, may know what it would give) and the student as far as needed,
--- and computes the total; share: see compute.
function Loss:step(batch, step, share)
  local needs = self:needs()
  local teacher_out = needs.teacher and self:asks(step) and named("teacher", kava.no_grad, function()
    return self.cache and self.cache:teach(batch) or self:teach(batch, needs.teacher)
  end)
  local student_out = named("student", self.student.forward, self.student, loss.request(batch, needs.student))
  return named("loss", self.compute, self, batch, teacher_out, student_out, step, share)
end

--- Reads what metrics hold: {name = number}.
function loss.numbers(metrics)
  local out = {}
  for name, value in pairs(metrics) do out[name] = type(value) == "number" and value or value:item() end
  return out
end

--- A test run over a few tokens, nothing recorded: raises, naming what does not fit, before any training is begun.
function Loss:check()
  local training = kava.train()
  kava.train(false)
  local length = 8
  local batch = { input_ids = kava.zeros({ 2, length }, { dtype = "i64" }) }
  local ok, message = pcall(kava.no_grad, function()
    local needs = self:needs()
    local teacher_out = needs.teacher and self.teacher:forward(loss.request(batch, needs.teacher))
    local student_out = self.student:forward(loss.request(batch, needs.student))
    for _, pair in ipairs(self.term and self.term.pairs(teacher_out, student_out) or {}) do
      local mine, target = pair.student.shape, pair.target.shape
      local same = #mine == 3 and #target == 3 and mine[1] == 2 and mine[2] == length
      for i = 1, 3 do same = same and mine[i] == target[i] end
      if not same then
        error(("%s: student [%s] and target [%s] must both be [2, %d, D]"):format(pair.name, table.concat(mine, ", "),
          table.concat(target, ", "), length), 0)
      end
    end
    local total = self:compute(batch, teacher_out, student_out, 1)
    if total:numel() ~= 1 then error(("a loss of one element expected, got [%s]"):format(table.concat(total.shape, ", ")), 0) end
    local value = total:item()
    if value ~= value then error("it is NaN on a test batch", 0) end
  end)
  kava.train(training)
  if not ok then error(("loss %s%s: %s"):format(tostring(self.name), self.path and " (" .. self.path .. ")" or "", message), 0) end
  return self
end

--- One line for a status block.
function Loss:describe()
  local parts = {}
  if self.term then
    local kv = self.kv
    local how = self.term.map and ("layers %s, %s"):format(table.concat(self.term.map, " "), kv.part)
      or ("%s, projector on the %s's side"):format(type(kv.method) == "string" and kv.method or "own aggregation", kv.project)
    parts[#parts + 1] = ("%g * %s (%s, rope %s)"):format(self.most.weight, self.name, how, kv.rope)
  end
  if self.most.ce > 0 then parts[#parts + 1] = ("%g * CE"):format(self.most.ce) end
  if self.most.kl > 0 then parts[#parts + 1] = ("%g * KL at temperature %g"):format(self.most.kl, self.settings.temperature) end
  return table.concat(parts, " + ")
end

loss.class = Loss
kava.loss = loss
return loss

-- An optimizer step on a GPU: gradients of all its parts, clipping, AdamW, in one body that never waits and reads nothing: what changes
-- from step to step lies in tensors at fixed places (ids, masks, targets, each part's share and its terms' weights), in the optimizer's
-- rates and in the random numbers' position. So the body is recorded when its shapes come for the second time, and replayed from then on:
-- the same kernels with the same bits as called. A term whose weight is 0 is not computed, so a schedule that reaches or leaves 0 has a
-- recording for each set of terms. A part's length is filled up to a multiple of LENGTHS, which makes shapes few; padding
-- counts for nothing.
--
-- A step's figures are fetched behind it (kava.fetch) and read when somebody asks: the next step's batches are drawn, and their copies and
-- the step itself enqueued, while this one computes.
--
-- precision=f16: losses are multiplied by a scale that lies on the device, gradients divided by it while they are clipped. It is halved
-- where a gradient is not finite (the step is skipped), and doubled after GROWTH steps without that.
local kava = require "kava"
local fit = require "recipes.fit"

local device_step = {}

local LENGTHS = 32 -- GSM8K has rows of 20 to 512 tokens: 16 shapes, and 6 % of padding
local RECORDINGS = 16 -- kept at most, those that ran last; they share their memory
local SCALE, GROWTH, MOST = 65536, 2000, 2.0 ^ 24

---@class kava.DeviceStep
local Step = {}
Step.__index = Step

--- options: objective, optimizer, parameters (a list of maps), clip (0: never), device, record (false: every step is called; "auto": those
--- that cannot be recorded are), scaling (whether losses are scaled: precision=f16), say (function(line)), lengths (instead of LENGTHS),
--- relieve() -> whether it has made room, where a step could not be recorded for want of it.
function device_step.new(options)
  local self = setmetatable({ entries = {}, clock = 0, lengths = LENGTHS }, Step)
  for key, value in pairs(options) do self[key] = value end
  if self.scaling then
    self.scale = kava.full({ 1 }, SCALE, { device = self.device })
    self.good = kava.zeros({ 1 }, { device = self.device })
  end
  return self
end

local FILL = { input_ids = 0, positions = 0, mask = 0, targets = -100 } -- of padding; it sees only itself
local TENSORS = { "input_ids", "start", "positions", "mask", "targets" }
local SHARES = { "kv", "text", "weight", "ce", "kl" } -- what part of the step, and what its terms are multiplied by

-- A part whose length is a multiple of `lengths`.
local function filled(part, lengths)
  local rows, length = part.input_ids.shape[1], part.input_ids.shape[2]
  local more = -length % lengths
  if more == 0 then return part end
  local wide = { tokens = part.tokens, pieces = part.pieces }
  for _, name in ipairs(TENSORS) do
    local t = part[name]
    local tail
    if name == "start" then
      tail = kava.arange(length, length + more):to({ dtype = t.dtype }):reshape(1, more) + kava.zeros({ rows, more }, { dtype = t.dtype })
    else
      tail = kava.full({ rows, more }, FILL[name], { dtype = t.dtype })
    end
    wide[name] = kava.cat({ t, tail }, 2)
  end
  return wide
end

-- Ids that a model does not know would be read beside its embedding: a GPU does not look.
local function check_ids(self, parts)
  for _, part in ipairs(parts) do
    local most, least = part.input_ids:max():item(), part.input_ids:min():item()
    for _, which in ipairs { "student", "teacher" } do
      local model = self.objective[which]
      if model and (most >= model.spec.vocab or least < 0) then
        error(("token %d: the %s's vocabulary has %d entries"):format(most, which, model.spec.vocab), 0)
      end
    end
  end
end

-- How long the longest text of a part is, where that decides how a model rotates: a recording could not read it.
local function longest(self, part)
  for _, which in ipairs { "student", "teacher" } do
    local model = self.objective[which]
    local limit = model and model.spec.rope_limit
    if limit and part.input_ids.shape[2] > limit then return math.tointeger(part.positions:max():item()) + 1 end
  end
end

-- What a recording depends on beside the contents of tensors.
local function signature(self, parts, step)
  local names, factors = {}, self.objective:factors(step)
  for i, part in ipairs(parts) do
    names[i] = ("%dx%d%s%s%s"):format(part.input_ids.shape[1], part.input_ids.shape[2], part.predicts and "" or " predicts nothing",
      part.taught and " taught" or part.keeps and " keeps" or "", part.longest and " up to " .. part.longest or "")
  end
  return ("%s; %s %s %s"):format(table.concat(names, ", "), factors.weight > 0, factors.ce > 0, factors.kl > 0)
end

-- Fixed places for parts like these.
local function places(self, parts)
  local list = {}
  for i, part in ipairs(parts) do
    local place = { predicts = part.predicts, share = {}, keeps = part.keeps, longest = part.longest }
    if part.taught then
      local cache, shape = self.objective.cache, part.input_ids.shape
      place.taught = kava.zeros({ shape[1], shape[2], cache.width }, { dtype = cache.dtype, device = self.device })
      place.staged = kava.fetch(place.taught):read() -- pinned: from there copies need nobody
    end
    for _, name in ipairs(TENSORS) do
      place[name] = kava.zeros(part[name].shape, { dtype = part[name].dtype, device = self.device })
    end
    place.shares = kava.zeros({ #SHARES }, { device = self.device }) -- one copy a step
    for at, name in ipairs(SHARES) do place.share[name] = place.shares:narrow(1, at, 1):reshape {} end
    list[i] = place
  end
  return list
end

local function put(self, entry, parts, shares, step)
  for i, place in ipairs(entry.places) do
    local by, list = self.objective:factors(step, shares[i]), {}
    for at, name in ipairs(SHARES) do list[at] = shares[i][name] or by[name] end
    if place.taught then
      if place.copied then place.copied:read() end -- the copy before has left
      self.objective.cache:fill(parts[i], place.staged)
      place.taught:copy_(place.staged)
      place.copied = kava.fetch(place.share.kv)
    end
    for _, name in ipairs(TENSORS) do place[name]:copy_(parts[i][name]) end
    place.shares:copy_(kava.tensor(list, { dtype = "f32" }))
  end
end

-- The scale for the next step, and how many there were since it was halved: of a gate's step.
local function rescaled(self, gate)
  local one = kava.ones({ 1 }, { device = self.device })
  local fine = (gate * 0):eq(0)
  local good = kava.where(fine, self.good + one, one * 0)
  local grown = good:ge(GROWTH)
  local larger = kava.where(grown, (self.scale * 2):clamp(1, MOST), self.scale)
  return kava.where(fine, larger, (self.scale * 0.5):clamp(1, MOST)), kava.where(grown, one * 0, good)
end

-- The sums as one f64 tensor, and their names.
local function listed(sums)
  local names, figures = {}, {}
  for name in pairs(sums) do names[#names + 1] = name end
  table.sort(names)
  for i, name in ipairs(names) do figures[i] = sums[name]:to({ dtype = "f64" }):reshape(1) end
  return kava.cat(figures, 1), names
end

-- The step itself -> its figures as one f64 tensor, their names. Whatever wants memory comes before anything is changed.
local function body(self, list, step)
  local sums, taught = {}, false
  for _, place in ipairs(list) do
    local scope <close> = kava.scope() -- luacheck: ignore 211
    local share = place.share
    if self.scale then
      local scale = self.scale:reshape {}
      share = { plain = share }
      for name, t in pairs(share.plain) do share[name] = t * scale end
    end
    local loss, metrics = self.objective:step(place, step, share)
    if loss:requires_grad() then
      loss:backward()
      taught = true
    end
    kava.loss.gather(sums, metrics, share.plain or share)
  end
  if self.scale then
    sums.scale = self.scale:reshape({}):clone() -- as it was for this step
    sums.loss = sums.loss / sums.scale
  end
  local gate = sums.loss:to { dtype = "f64" }
  sums.grad_norm = gate * 0
  if taught then
    local norm = kava.optim.clip_gradients(self.parameters, self.clip > 0 and self.clip or math.huge, self.scale)
    sums.grad_norm = norm:narrow(1, 1, 1):reshape {}
    gate = (gate * 0 + sums.grad_norm):reshape(1)
  end
  local figures, names = listed(sums)
  if taught then
    local scale, good
    if self.scale then scale, good = rescaled(self, gate) end
    local ok, message = self.optimizer:step(gate)
    if not ok then error(message, 0) end
    if scale then
      self.scale:copy_(scale)
      self.good:copy_(good)
    end
  end
  self.optimizer:zero_grad()
  return figures, names
end

-- The entry of a signature; the one that ran longest ago makes room for it.
local function entry_of(self, key, parts)
  local entry = self.entries[key]
  self.clock = self.clock + 1
  if not entry then
    local count, oldest = 0, nil
    for name, other in pairs(self.entries) do
      count = count + 1
      if not oldest or other.last < self.entries[oldest].last then oldest = name end
    end
    if count >= RECORDINGS then
      if self.entries[oldest].replay then self.entries[oldest].replay:release() end
      self.entries[oldest] = nil
    end
    entry = { key = key, places = places(self, parts), runs = 0 }
    self.entries[key] = entry
  end
  entry.last, entry.runs = self.clock, entry.runs + 1
  return entry
end

--- Lets all recordings go -> whether there were any.
function Step:forget()
  local had = false
  for _, entry in pairs(self.entries) do
    if entry.replay then
      entry.replay:release()
      had = true
    end
  end
  self.entries = {}
  if self.recorder then self.recorder:release() end
  self.recorder = nil
  return had
end

local function record(self, entry, step, rows)
  self.recorder = self.recorder or kava.recorder()
  local ok, replay, figures, names = pcall(self.recorder.record, self.recorder, body, self, entry.places, step)
  if ok then
    entry.replay, entry.figures, entry.names = replay, figures, names
    return true
  end
  local message = fit.out_of_memory(replay)
  if not message and self.record ~= "auto" then error(replay, 0) end
  self.optimizer:zero_grad()
  if message and self.relieve and self.relieve() then
    self.say(("recording: %s: the room for a checkpoint's copy is given back"):format(message))
    collectgarbage()
    collectgarbage()
    return record(self, entry, step, rows)
  end
  local others = self:forget()
  if not message then -- a loss that reads a value, or draws a random number; what else is wrong with it, calling it says
    self.record = false
    self.say(("recording: %s: steps are called from here on"):format(tostring(replay):match "[^\n]*"))
    return
  end
  collectgarbage()
  collectgarbage()
  if others then -- what they held may do for this one
    self.entries[entry.key] = entry
    return record(self, entry, step, rows)
  end
  self.too_many = rows
  self.say(("recording: %s: steps with %d row%s at once are called from here on"):format(message, rows, rows == 1 and "" or "s"))
end

---@class kava.Figures
local Figures = {}
Figures.__index = Figures

--- The step's metrics: numbers; waits for the step.
function Figures:read()
  local list, metrics = self.list or self.fetch:read():totable(), { tokens = self.tokens }
  for i, name in ipairs(self.names) do metrics[name] = list[i] end
  for _, name in ipairs { "loss", "grad_norm" } do
    local x = metrics[name]
    if x ~= x or x == math.huge or x == -math.huge then metrics.skipped = true end
  end
  if self.fetch then self.fetch:release() end
  return metrics
end

-- f's result; nil where there is no memory for it.
local function with_room(f, ...)
  local ok, result = pcall(f, ...)
  if ok then return result end
  if not fit.out_of_memory(result) then error(result, 0) end
end

--- One step over its batches, at most `rows` rows at once -> its figures, not yet read. each(): called before and between parts, may
--- raise; nothing has changed when this raises.
function Step:run(batches, rows, step, each)
  local parts, tokens = {}, 0
  for _, batch in ipairs(batches) do
    tokens = tokens + batch.tokens
    for _, part in ipairs(fit.cut(batch, rows)) do parts[#parts + 1] = filled(part, self.lengths) end
  end
  check_ids(self, parts)
  local shares = kava.loss.shares(parts)
  local cache, asks = self.objective.cache, self.objective:asks(step)
  for i, part in ipairs(parts) do
    local cached = cache and asks and part.pieces
    part.predicts, part.longest = shares[i].text > 0, longest(self, part)
    part.taught = cached and cache:knows(part)
    part.keeps = cached and not part.taught
  end
  if each then each() end
  local entry = entry_of(self, signature(self, parts, step), parts)
  put(self, entry, parts, shares, step)
  local figures, names
  local small = not self.too_many or rows < self.too_many
  if not entry.replay and self.record and small and entry.runs > 1 then record(self, entry, step, rows) end
  if entry.replay then
    entry.replay:run()
    figures, names = entry.figures, entry.names
  else
    figures, names = body(self, entry.places, step)
  end
  -- The step is done, and must not be begun again for want of room: what cannot be fetched is waited for, or not kept.
  local fetch = with_room(kava.fetch, figures)
  if cache then with_room(cache.settle, cache) end -- what earlier steps gave
  for i, place in ipairs(entry.places) do
    local gave = place.gave and with_room(kava.fetch, place.gave)
    if gave then cache:expect(parts[i], gave) end
    if not entry.replay then place.gave = nil end
  end
  return setmetatable({ fetch = fetch, list = not fetch and figures:totable(), names = names, tokens = tokens }, Figures)
end

--- What a checkpoint holds of it: {name = tensor}.
function Step:state() return self.scaling and { scale = self.scale, good = self.good } or {} end

function Step:load_state(state)
  for name, t in pairs(self:state()) do
    if state[name] then t:copy_(state[name]) end
  end
end

return device_step

-- When a job whose time is limited has to save and leave: before the limit, by the run's own clock, from what steps and checkpoints have
-- taken so far. A scheduler's warning may come late or not at all. Effects (the clock, asking the scheduler) are handed in.
local deadline = {}

local SLACK = 1.5 --      the next one may take this much longer than the slowest of the last
local LAST = 16 --        of each are remembered
local MARGIN = 10 --      seconds for the program to end, and for the scheduler's own clock
local RATE = 100 << 20 -- bytes a second a checkpoint is written at, until one was

---@class kava.Deadline
local Deadline = {}
Deadline.__index = Deadline

local function seconds(n) return ("%.3g s"):format(n) end

--- options: left (seconds; nil: no limit is known), clock() (seconds, monotonic), ask() -> seconds left now, or nil: limits are prolonged,
--- and a suspended job's clock stands still, so that the scheduler has the last word.
function deadline.new(options)
  local self = setmetatable({ clock = options.clock, ask = options.ask, began = options.clock(), times = {} }, Deadline)
  self.first_left = options.left
  self.ends = options.left and self.began + options.left
  self.save = 0
  return self
end

--- How many bytes a checkpoint will have, about: until one was written.
function Deadline:expect(bytes)
  self.save = bytes / RATE
end

--- How long a "step" or a "save" took.
function Deadline:took(what, duration)
  local list = self.times[what] or {}
  self.times[what] = list
  list[#list + 1] = duration
  if #list > LAST then table.remove(list, 1) end
end

local function slowest(list)
  local most
  for _, duration in ipairs(list or {}) do most = math.max(most or 0, duration) end
  return most
end

--- Seconds that must be left to save and end, with `step` to make a step before, with `writing` to end a checkpoint that is being
--- written; and how they are made up.
function Deadline:needs(step, writing)
  local one, save = step and slowest(self.times.step) or 0, slowest(self.times.save) or self.save
  if writing then save = 2 * save end
  return SLACK * (one + save) + MARGIN, one, save
end

--- Whether it is time to leave, before a step or (without `step`) in the middle of one, while a checkpoint is being written or not.
--- -> the reason, or nil
function Deadline:reached(step, writing)
  if not self.ends then return nil end
  local need, one, save = self:needs(step, writing)
  if self.ends - self.clock() >= need then return nil end
  local left = self.ask and self.ask()
  if left then self.ends = self.clock() + left end
  left = self.ends - self.clock()
  if left >= need then return nil end
  local work = writing and "two checkpoints take " .. seconds(save) or "a checkpoint takes " .. seconds(save)
  if one > 0 then work = ("a step takes %s, "):format(seconds(one)) .. work end
  return ("%s are left of the job's time, and %s"):format(seconds(math.max(0, left)), work)
end

--- What to do about a job that was stopped before a step was done; "" where no limit is known.
function Deadline:advice()
  if not self.ends then return "" end
  return (". The job had %s when this began, and %s of them went by without a step: where that is too little, ask the scheduler for more "
    .. "time, or make less of a step (batch_size, target_batch, data.max_length) or of what comes before (eval.before=false)"):format(
    seconds(self.first_left), seconds(self.clock() - self.began))
end

return deadline

-- kava.checkpoints: which checkpoints a run keeps, and which one it goes on from. How one is written so that no crash can harm it
-- (temporary file, fsync, rename, checksums) is kava.checkpoint's affair.
-- On a GPU a state is copied there, which takes milliseconds, and the copy is written behind the steps that follow (behind, advance):
-- a thread reads it a piece at a time, beside their work. A GPU without room for the copy gives it to pinned memory of the host, for
-- which the steps wait (about 20 ms a GB).
-- It is written under the name of the folder's claim first: what a copy that has lost the folder was writing never gets its final name.
--   step-00000200.kava   the state after 200 optimizer steps; the newest and `keep` more stay
--   best.kava            the state with the best figure on the held-out rows
local kava = require "kava"

local checkpoints = {}

---@class kava.Checkpoints
local Checkpoints = {}
Checkpoints.__index = Checkpoints

-- Of the time between two calls of prepare, that one may pin host memory for, or for one tensor's, if that takes more: the step after
-- the one that runs is under way to the GPU meanwhile.
local SHARE = 0.5

--- options.keep: periodic checkpoints kept beside the last. claim: of the run's folder; what others left unfinished is removed.
--- took(seconds): told how long each took to write, behind or not.
--- -> store | nil, message
function checkpoints.open(folder, options)
  local ok, message = kava.fs.mkdir(folder)
  if not ok then return nil, message end
  for _, name in ipairs(kava.fs.list(folder)) do
    if name:find "%.kava%." then os.remove(folder .. "/" .. name) end
  end
  return setmetatable({ folder = folder, keep = options.keep, claim = options.claim, took = options.took or function() end,
    share = SHARE }, Checkpoints)
end

local function path_of(self, step)
  return ("%s/step-%08d.kava"):format(self.folder, step)
end

--- The steps there are checkpoints of, the newest first.
function Checkpoints:steps()
  local steps = {}
  for _, name in ipairs(kava.fs.list(self.folder)) do
    local step = name:match "^step%-(%d+)%.kava$"
    if step then steps[#steps + 1] = math.tointeger(tonumber(step)) end
  end
  table.sort(steps, function(a, b) return a > b end)
  return steps
end

local function unnamed(self, path) return ("%s.%s"):format(path, self.claim.holder) end

-- Gives what was written its name, and removes older ones that need not be kept: afterwards, never before. -> true | nil, message
local function name_it(self, path, best)
  local from = unnamed(self, path)
  local ok, message = self.claim:held()
  if ok then ok, message = kava.fs.rename(from, path) end
  if not ok then
    os.remove(from)
    return nil, message
  end
  for i, old in ipairs(best and {} or self:steps()) do
    if i > 1 + self.keep then os.remove(path_of(self, old)) end
  end
  return true
end

local function place(self, step, best) return best and self.folder .. "/best.kava" or path_of(self, step) end

--- Saves a state: tensors { name = tensor }, meta (numbers, strings, booleans, tables of them); what is being written behind comes
--- first. -> path | nil, message
function Checkpoints:save(step, tensors, meta, best)
  local path, started = place(self, step, best), kava.clock()
  local ok, message = self:advance(true)
  if ok then ok, message = kava.checkpoint.save(unnamed(self, path), tensors, meta) end
  if ok then ok, message = name_it(self, path, best) end
  if not ok then return nil, message end
  self.took(kava.clock() - started)
  return path
end

local function contiguous(tensors)
  local whole = {}
  for name, t in pairs(tensors) do whole[name] = t:contiguous() end
  return whole
end

-- f(…), or nil where there is no room for what it makes.
local function with_room(f, ...)
  local ok, result, more = pcall(f, ...)
  if ok then return result, more end
  if not tostring(result):find("out of memory", 1, true) then error(result, 0) end
end

local WIDTHS = { f64 = 8, i64 = 8, f32 = 4, i32 = 4, f16 = 2, bf16 = 2, i16 = 2 } -- bytes of a number; of others 1

-- Whether copies take no more than half of what is free on the GPU: steps come first.
local function spared(tensors)
  local bytes, stats = 0, kava.memory().cuda
  for _, t in pairs(tensors) do bytes = bytes + (WIDTHS[t.dtype] or 1) * t:numel() end
  local free = stats.free + stats.reserved - stats.current
  if stats.limit > 0 then free = math.min(free, stats.limit - stats.current) end
  return bytes <= free / 2
end

-- A copy on the GPU -> {name = tensor}, or nil: there is no room, and it is not asked for again.
local function copy_there(self, tensors)
  self.crowded = self.crowded or not self.room and not spared(tensors)
  if self.crowded then return nil end
  local copies, room = with_room(kava.snapshot, contiguous(tensors), self.room)
  self.room, self.crowded = room, not copies
  return copies
end

-- A copy on its way to the host -> {name = kava.Fetch}, or nil: there is no room.
local function copy_here(self, tensors)
  for _, fetch in ipairs(self.pinned or {}) do fetch:release() end -- prepare's, for these
  self.pinned, self.todo = {}, {}
  local fetched = {}
  for name, t in pairs(contiguous(tensors)) do
    fetched[name] = with_room(kava.fetch, t)
    if not fetched[name] then
      for _, fetch in pairs(fetched) do fetch:release() end
      return nil
    end
  end
  return fetched
end

--- Takes the room for a state's copies, so that the first checkpoint need not: on the GPU, at once; or of the host, where it is pinned a
--- little at a call, between steps: at once it would keep a GPU idle for seconds (1.3 a GB). state(): the tensors that will be saved,
--- asked for in the first call alone, and in the first after yield. -> whether all is there
function Checkpoints:prepare(state)
  local now = kava.clock()
  local share = self.share * (now - (self.asked or now))
  self.asked = now
  if not self.prepared then
    self.prepared, self.todo, self.pinned = true, {}, {}
    local tensors = state()
    local copies = copy_there(self, tensors)
    if copies then
      for _, t in pairs(copies) do t:release() end -- nobody writes them
      return true
    end
    for _, t in pairs(contiguous(tensors)) do self.todo[#self.todo + 1] = t end
  end
  repeat
    local t = table.remove(self.todo)
    local fetch = t and with_room(kava.fetch, t)
    if t and not fetch then self.todo = {} end -- as far as it went
    self.pinned[#self.pinned + 1] = fetch
  until not self.todo[1] or kava.clock() - now >= share
  return not self.todo[1]
end

--- Gives the room on the GPU back, where steps lack it; states go over the host from then on. -> whether there was any; raises where
--- what was being written there failed
function Checkpoints:yield()
  if not self.room then return false end
  local ok, message = self:advance(true)
  self.room:release()
  self.room, self.crowded, self.prepared = nil, true, false
  if not ok then error(message, 0) end
  return true
end

-- A thread that writes what there is to its first place, unless there is one -> true | nil, message
local function start(writing, path)
  local message
  if not writing.thread then writing.thread, message = kava.checkpoint.save_behind(path, writing.tensors, writing.places[1].meta) end
  return writing.thread and true, message
end

--- The step whose checkpoint is to be taken now: each `every`th (0: none), or the first behind it that need not wait. nil: none
function Checkpoints:due(step, every)
  if every > 0 and step % every == 0 then self.wanted = self.wanted or step end
  if not self.wanted or not self:free(step) then return nil end
  local wanted = self.wanted
  self.wanted = nil
  return wanted
end

--- As save, of tensors on a GPU, which may change as soon as this returns: advance goes on with it, and says what went wrong.
function Checkpoints:behind(step, tensors, meta, best)
  local path, writing = place(self, step, best), self.writing
  if writing and writing.step == step then -- the same state under another name
    writing.places[#writing.places + 1] = { path = path, best = best, meta = meta }
    return path
  end
  local ok, message = self:advance(true)
  if not ok then return nil, message end
  local copies, fetched = copy_there(self, tensors), nil
  if not copies then
    fetched = copy_here(self, tensors)
    if not fetched then return self:save(step, tensors, meta, best) end
  end
  writing = { step = step, tensors = copies, fetched = fetched, places = { { path = path, best = best, meta = meta } } }
  if copies then ok, message = start(writing, unnamed(self, path)) end
  if not ok then return nil, message end
  self.writing = writing
  return path
end

--- Whether behind would neither wait for one that is being written nor take room that prepare has yet to find.
function Checkpoints:free(step)
  return (not self.writing or self.writing.step == step) and not (self.todo and self.todo[1])
end

--- Goes on with what is written behind, as far as that goes without waiting; wait: to its end. -> true | nil, message
function Checkpoints:advance(wait)
  local writing = self.writing
  if not writing then return true end
  if not writing.tensors then
    for _, fetch in pairs(writing.fetched) do
      if not wait and not fetch:ready() then return true end
    end
    writing.tensors = {}
    for name, fetch in pairs(writing.fetched) do
      writing.tensors[name] = fetch:read()
      fetch:release() -- its memory is the tensor's alone: given back when that is written, not when Lua collects, for the next one
    end
  end
  while writing.places[1] do
    local to = writing.places[1]
    local ok, message = start(writing, unnamed(self, to.path))
    if ok and not wait and not writing.thread:done() then return true end
    if ok then ok, message = writing.thread:wait() end
    if ok then self.took(message) end
    if ok then ok, message = name_it(self, to.path, to.best) end
    writing.thread = nil
    table.remove(writing.places, 1)
    if not ok then
      self.writing = nil
      return nil, message
    end
  end
  for _, t in pairs(writing.tensors) do t:release() end
  self.writing = nil
  return true
end

--- Removes the checkpoints after a step, for a run that takes another road from there; after step 0, the best one as well.
function Checkpoints:clear(after)
  for _, step in ipairs(self:steps()) do
    if step > after then os.remove(path_of(self, step)) end
  end
  if after == 0 then os.remove(self.folder .. "/best.kava") end
end

--- The newest checkpoint that is whole: one that is not is named by note(message), and an older one is tried.
--- -> { tensors =, meta =, path = } | nil: there is none
function Checkpoints:latest(note)
  for _, step in ipairs(self:steps()) do
    local path = path_of(self, step)
    local tensors, meta = kava.checkpoint.load(path)
    if tensors then return { tensors = tensors, meta = meta, path = path } end
    note(("%s cannot be used: %s"):format(path, meta))
  end
end

return checkpoints

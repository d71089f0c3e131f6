-- kava.checkpoints: which checkpoints a run keeps, and which one it goes on from. How one is written so that no crash can harm it
-- (temporary file, fsync, rename, checksums) is kava.checkpoint's affair.
-- On a GPU a state is fetched and written behind the steps that follow (behind, advance): they wait for its copy alone.
-- It is written under the name of the folder's claim first: what a copy that has lost the folder was writing never gets its final name.
--   step-00000200.kava   the state after 200 optimizer steps; the newest and `keep` more stay
--   best.kava            the state with the best figure on the held-out rows
local kava = require "kava"

local checkpoints = {}

---@class kava.Checkpoints
local Checkpoints = {}
Checkpoints.__index = Checkpoints

-- Bytes that prepare pins at a call, or a tensor's, if that has more: 83 ms on an H200's host, less than a step of the main job.
local SHARE = 64 << 20

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

local WIDTHS = { f64 = 8, i64 = 8, f32 = 4, i32 = 4, f16 = 2, bf16 = 2, i16 = 2 } -- bytes of a number; of others 1

--- Reserves host memory for a state, a little at a call, between steps: reserved at once, for the first checkpoint, it would keep a GPU
--- idle for seconds (1.3 a GB). state(): the tensors that will be saved, asked for in the first call alone. -> whether all is there
function Checkpoints:prepare(state)
  local room = self.room
  if not room then
    room = { fetched = {}, todo = {}, next = 1 }
    for _, t in pairs(state()) do room.todo[#room.todo + 1] = t end
    self.room = room
  end
  local bytes = 0
  while room.todo[room.next] and bytes < self.share do
    local t = room.todo[room.next]:contiguous()
    local ok, fetch = pcall(kava.fetch, t)
    if not ok then -- no such room: as far as it went
      room.next = #room.todo + 1
      break
    end
    room.fetched[room.next], room.next = fetch, room.next + 1
    bytes = bytes + (WIDTHS[t.dtype] or 1) * t:numel()
  end
  if room.todo[room.next] then return false end
  room.todo = {}
  return true
end

-- What prepare reserved, for what is fetched next.
local function take_room(self)
  for _, fetch in pairs(self.room and self.room.fetched or {}) do fetch:release() end
  if self.room then self.room.fetched, self.room.todo = {}, {} end
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
  take_room(self)
  local fetched = {}
  local all, problem = pcall(function()
    for name, t in pairs(tensors) do fetched[name] = kava.fetch(t:contiguous()) end
  end)
  if not all then -- no such room on the host: as it is, then
    for _, fetch in pairs(fetched) do fetch:release() end
    if not tostring(problem):find("out of memory", 1, true) then error(problem, 0) end
    return self:save(step, tensors, meta, best)
  end
  self.writing = { step = step, fetched = fetched, places = { { path = path, best = best, meta = meta } } }
  return path
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
    local to, ok, message = writing.places[1], true, nil
    if not writing.thread then
      writing.thread, message = kava.checkpoint.save_behind(unnamed(self, to.path), writing.tensors, to.meta)
      ok = writing.thread ~= nil
    end
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

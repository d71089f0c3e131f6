-- kava.checkpoints: which checkpoints a run keeps, and which one it goes on from. How one is written so that no crash can harm it
-- (temporary file, fsync, rename, checksums) is kava.checkpoint's affair.
-- It is written under the name of the folder's claim first: what a copy that has lost the folder was writing never gets its final name.
--   step-00000200.kava   the state after 200 optimizer steps; the newest and `keep` more stay
--   best.kava            the state with the best figure on the held-out rows
local kava = require "kava"

local checkpoints = {}

---@class kava.Checkpoints
local Checkpoints = {}
Checkpoints.__index = Checkpoints

--- options.keep: periodic checkpoints kept beside the last. claim: of the run's folder; what others left unfinished is removed.
--- -> store | nil, message
function checkpoints.open(folder, options)
  local ok, message = kava.fs.mkdir(folder)
  if not ok then return nil, message end
  for _, name in ipairs(kava.fs.list(folder)) do
    if name:find "%.kava%." then os.remove(folder .. "/" .. name) end
  end
  return setmetatable({ folder = folder, keep = options.keep, claim = options.claim }, Checkpoints)
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

-- -> true | nil, message
local function commit(self, path, tensors, meta)
  local unnamed = ("%s.%s"):format(path, self.claim.holder)
  local ok, message = kava.checkpoint.save(unnamed, tensors, meta)
  if not ok then return nil, message end
  ok, message = self.claim:held()
  if ok then ok, message = kava.fs.rename(unnamed, path) end
  if not ok then os.remove(unnamed) end
  return ok, message
end

--- Saves a state: tensors { name = tensor }, meta (numbers, strings, booleans, tables of them). The older ones that need not be kept
--- are removed afterwards, never before. -> path | nil, message
function Checkpoints:save(step, tensors, meta, best)
  local path = best and self.folder .. "/best.kava" or path_of(self, step)
  local ok, message = commit(self, path, tensors, meta)
  if not ok then return nil, message end
  if best then return path end
  for i, old in ipairs(self:steps()) do
    if i > 1 + self.keep then os.remove(path_of(self, old)) end
  end
  return path
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

-- kava.claim: who may write to a run's folder. A scheduler that loses sight of a node starts its job again elsewhere while the first copy
-- keeps running; both would write. The newest owns the folder, and the older notices, stops, and commits nothing more.
--
--   owner   the file that says who: { generation, holder, job, start, host, since }. The last one to replace it (by a rename) owns the
--           folder; `holder` is a random name, so that a copy knows its own. It is read anew before every commit: network file systems
--           promise that an open sees what was there before, and promise less of locks.
--   lock    an flock, where the file system has them: a second start beside a living run is refused. It is refused no longer where the
--           scheduler itself starts the same job again: then the living one is the copy that it gave up.
local kava = require "kava"

local claim = {}

---@class kava.Claim
local Claim = {}
Claim.__index = Claim

local BETWEEN = 1 -- seconds between looks where nothing is about to be committed

local function random_name()
  local file <close> = assert(io.open("/dev/urandom", "rb"))
  return (file:read(8):gsub(".", function(c) return ("%02x"):format(c:byte()) end))
end

-- The owner's file, or {} where there is none or it says nothing.
local function owner(path)
  local file = io.open(path, "rb")
  if not file then return {} end
  local text = file:read "a"
  file:close()
  local there = kava.json.decode(text or "")
  return type(there) == "table" and there or {}
end

local function described(there)
  local job = type(there.job) == "string" and there.job .. " on " or ""
  return ("%s%s, since %s"):format(job, there.host or "an unknown host", there.since or "an unknown time")
end

--- Claims a folder. options.job: the scheduler's name of this job, the same whenever it is started again; nil outside of one. start: what
--- tells one start of the job from another.
--- -> claim | nil, message, code ("busy": a living run has it)
function claim.take(folder, options)
  local self = setmetatable({ folder = folder, path = folder .. "/owner", holder = random_name(), looked = kava.clock() }, Claim)
  local before = owner(self.path)
  local lock, message, code = kava.fs.lock(folder .. "/lock")
  local again = options.job and before.job == options.job and before.start ~= options.start
  if not lock and code == "busy" and not again then return nil, ("%s (%s)"):format(message, described(before)), code end
  self.lock = lock
  self.generation = (math.tointeger(before.generation) or 0) + 1
  local text = kava.json.encode { generation = self.generation, holder = self.holder, job = options.job, start = options.start,
    host = kava.host().name, since = os.date "%Y-%m-%d %H:%M:%S" }
  local ok, problem, kind = kava.fs.write(self.path, text)
  if not ok then return nil, problem, kind end
  ok, problem = self:held()
  if not ok then return nil, problem, "busy" end -- another came in the same moment
  return self
end

--- Whether the folder is still this run's. sparing: looks no more than once a second. -> true | nil, message
function Claim:held(sparing)
  if sparing and kava.clock() < self.looked + BETWEEN then return true end
  self.looked = kava.clock()
  local there = owner(self.path)
  if there.holder and there.holder ~= self.holder then
    return nil, ("%s: taken over by %s: this copy stops and writes nothing more"):format(self.folder, described(there))
  end
  if not self.lock then self.lock = kava.fs.lock(self.folder .. "/lock") end -- the copy before this one may have ended by now
  return true
end

return claim

-- What profile=true does in a run: some of its steps are timed, kernel by kernel, when the first ones have made what is made once
-- (plans of matrix products, the optimizer's state, a recording). What is found goes into the run's folder.
local kava = require "kava"

local SKIPPED, TIMED = 2, 3

---@class kava.ProfiledSteps
local Profiled = {}
Profiled.__index = Profiled

local profiled = {}

--- For a run that begins after step `began` and ends with step `last`; a short one is timed as far as it goes.
function profiled.new(began, last, folder)
  local first = math.min(began + 1 + SKIPPED, last)
  return setmetatable({ first = first, last = math.min(first + TIMED - 1, last), folder = folder }, Profiled)
end

function Profiled:before(step)
  if step == self.first then kava.profile.start() end
end

--- -> what to say of it, once its last step is over.
function Profiled:after(step)
  if step ~= self.last or not kava.profiling() then return nil end
  local report = kava.profile.stop()
  local text = ("steps %d to %d, "):format(self.first, self.last) .. report:text()
  local ok, why = kava.fs.write(self.folder .. "/profile.txt", text)
  if ok then ok, why = report:save(self.folder .. "/profile.json") end
  if not ok then return "warning: the profile cannot be written: " .. why end
  return ("profile: %s\n         all of it: %s/profile.txt; a trace: profile.json beside it"):format(text:match "^[^\n]*", self.folder)
end

return profiled

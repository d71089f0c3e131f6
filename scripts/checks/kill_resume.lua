-- Kills a training run at random moments (SIGKILL) and starts it again each time, until it ends; then compares it with an unbroken run:
-- the student's weights byte for byte, the logged metrics value for value.
--
--   kava scripts/checks/kill_resume.lua [kills=50] [seed=1] [folder=outputs/kill_resume] [key=value … for the training run]
local kava = require "kava"

local kills, seed, folder, keys = 50, 1, "outputs/kill_resume", {}
for _, text in ipairs(arg) do
  local name, value = text:match "^([%w_.]+)=(.*)$"
  if name == "kills" then kills = math.tointeger(tonumber(value))
  elseif name == "seed" then seed = math.tointeger(tonumber(value))
  elseif name == "folder" then folder = value
  else keys[#keys + 1] = ("'%s'"):format(text) end
end
math.randomseed(seed)

local program = assert(kava.fs.realpath "/proc/self/exe")
local function train(name, prefix)
  local command = ("%s %s recipes/train_adaptive.lua %s output=%s/%s >>%s/%s.log 2>&1"):format(prefix or "", program,
    table.concat(keys, " "), folder, name, folder, name)
  local _, how, code = os.execute(command)
  return how == "signal" and 128 + code or code
end

local function read(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read "a"
  file:close()
  return text
end

if kava.fs.exists(folder) then assert(kava.fs.remove_tree(folder)) end
assert(kava.fs.mkdir(folder))
local started = kava.clock()
if train "unbroken" ~= 0 then error(folder .. "/unbroken.log: the unbroken run failed") end
local seconds = kava.clock() - started
print(("unbroken run: %.1f s"):format(seconds))

-- A run of 1/8 of the whole on average goes far enough to pass a checkpoint now and then, and is killed everywhere.
local done, finished = 0, 0
while done < kills do
  local code = train("killed", ("timeout -s KILL %.3f"):format(seconds * (0.02 + 0.25 * math.random())))
  if code == 137 then
    done = done + 1
  elseif code == 0 then -- it reached the end: the comparison is made, and it starts anew for the remaining kills
    finished = finished + 1
    if read(folder .. "/unbroken/student/model.safetensors") ~= read(folder .. "/killed/student/model.safetensors") then
      error "the weights differ from the unbroken run's"
    end
    assert(kava.fs.remove_tree(folder .. "/killed"))
  else
    error(("%s/killed.log: ended with %d"):format(folder, code))
  end
end
if train "killed" ~= 0 then error(folder .. "/killed.log: the last resume failed") end

local function metrics(name)
  return (read(folder .. "/" .. name .. "/metrics.jsonl"):gsub('"tokens_per_s":[%d.e+-]+', ""))
end
assert(read(folder .. "/unbroken/student/model.safetensors") == read(folder .. "/killed/student/model.safetensors"), "the weights differ")
assert(metrics "unbroken" == metrics "killed", "the metrics differ")
print(("%d kills, %d runs to the end: weights and metrics equal the unbroken run's bit by bit"):format(done, finished + 1))

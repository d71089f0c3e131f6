-- The submit scripts between a pretended KAVA and pretended schedulers: what is run, what becomes of its exit codes and of signals.
local helper = require "spec.helper"
local files = require "scripts.checks.files"
local program = require "spec.program"

local NAMES = { "slurm", "pbs", "sge", "lsf", "cobalt", "flux" }

-- What each scheduler sets within a job; SITE is the folder it was submitted from.
local JOB = {
  slurm = "SLURM_JOB_ID=7 SLURM_SUBMIT_DIR='SITE' SLURM_CPUS_ON_NODE=4",
  pbs = "PBS_JOBID=12.srv PBS_O_WORKDIR='SITE'",
  sge = "JOB_ID=31 SGE_TASK_ID=undefined SGE_O_WORKDIR='SITE'",
  lsf = "LSB_JOBID=55 LSB_JOBINDEX=0 LS_SUBCWD='SITE'",
  cobalt = "COBALT_JOBID=400",
  flux = "FLUX_URI=local:///x FLUX_ENCLOSING_ID=f1",
}

-- KAVA: writes down how it was called, then ends with CODE, or waits for a signal and ends with CODE.
local KAVA = [[#!/bin/bash
printf '%s' "kava in $PWD:" >>"$LOG"; printf ' [%s]' "$@" >>"$LOG"; echo >>"$LOG"
if [ -n "$WAITS" ]; then
  trap 'echo "kava got USR1" >>"$LOG"; [ -n "$STAYS" ] || exit $CODE' USR1
  echo ready >>"$LOG"
  for ((i = 0; i < ${STAYS:-100}; i++)); do /bin/sleep 0.1; done
fi
[ -z "$DIES" ] || kill -$DIES $$
exit $CODE
]]

-- Commands: written down, with what they answer.
local COMMANDS = {
  scontrol = [[case $1 in show) echo "JobId=7 JobState=${STATE:-RUNNING} Reason=None" ;; requeue) exit ${REFUSED:-0} ;; esac]],
  srun = [=[while [[ $1 == --* ]]; do shift; done; exec "$@"]=],
  qrerun = [[exit ${QRERUN:-1}]],
  qsub = [[exit ${REFUSED:-0}]],
  flux = [[exit ${REFUSED:-0}]],
  apptainer = [=[while [[ $1 != *.sif ]]; do shift; done; shift; exec "$SITE/build/release/$@"]=],
  sleep = "exit 0",
}

describe("the submit scripts", function()
  local site, log -- KAVA's folder, with a space in its name

  setup(function()
    local dir = helper.tmp()
    site, log = dir .. "/my kava", dir .. "/log"
    os.execute(("mkdir -p '%s/scripts' '%s/build/release' '%s/bin'; cp scripts/*.sh '%s/scripts'"):format(site, site, site, site))
    helper.write(site .. "/build/release/kava", KAVA)
    for name, text in pairs(COMMANDS) do
      helper.write(site .. "/bin/" .. name, ("#!/bin/bash\necho \"%s $*\" >>\"$LOG\"\n%s\n"):format(name, text))
    end
    os.execute(("chmod +x '%s'/bin/* '%s/build/release/kava'"):format(site, site))
  end)

  -- Runs a submit script as a job of `kind`. -> exit code, what was called, the job's output
  local function submit(script, kind, variables, arguments, around)
    os.remove(log)
    local set = ("env -i PATH='%s/bin:/usr/bin:/bin' LOG='%s' SITE='%s' %s %s"):format(site, log, site, JOB[kind]:gsub("SITE", site),
      variables or "")
    local from = kind == "pbs" and "/" or site -- PBS begins in the user's home
    local command = ("%s bash '%s/scripts/submit_%s.sh' %s"):format(set, site, script, arguments or "")
    local code, _, err = program.shell(("cd '%s' && "):format(from) .. (around or "%s"):format(command))
    return code, files.exists(log) and helper.read(log) or "", err
  end

  local function called(text, line)
    return ("\n" .. text):find("\n" .. line .. "\n", 1, true) ~= nil
  end

  for _, name in ipairs(NAMES) do
    it("run KAVA under " .. name .. " with the job's arguments, where the job was submitted", function()
      local code, calls = submit(name, name, "CODE=0 KAVA_ARGS='lr=1e-3 steps=4'", "'name=a b' data.train=x")
      assert.equal(0, code)
      assert.truthy(called(calls, ("kava in %s: [recipes/train_adaptive.lua] [lr=1e-3] [steps=4] [name=a b] [data.train=x]"):format(site)),
        calls)
      assert.equal(name == "slurm", called(calls, ("srun --nodes=1 --ntasks=1 --cpus-per-task=4 %s"):format("./build/release/kava "
        .. "recipes/train_adaptive.lua lr=1e-3 steps=4 name=a b data.train=x")), calls)
    end)
  end

  -- How each is told to start the job again, and the exit code that goes with it.
  local AGAIN = {
    slurm = { "scontrol requeue 7", 85 },
    pbs = { "qsub -v KAVA_CHAIN ./scripts/submit_pbs.sh", 0 },
    sge = { nil, 99 },
    lsf = { nil, 85 },
    cobalt = { "qsub --env KAVA_CHAIN=cobalt-400 ./scripts/submit_cobalt.sh a=1", 0 },
    flux = { "flux --parent batch ./scripts/submit_flux.sh a=1", 0 },
  }

  for _, name in ipairs(NAMES) do
    it("start the job again under " .. name .. " after 85, and end it after 0, 1 and 2", function()
      local line, expected = table.unpack(AGAIN[name], 1, 2)
      local cases = { { 85, expected }, { 0, 0 }, { 1, 1 } }
      if name == "slurm" then table.move({ { 2, 2 }, { 137, 137 } }, 1, 2, 4, cases) end
      for _, case in ipairs(cases) do
        local code, calls = submit(name, name, "CODE=" .. case[1], "a=1")
        assert.equal(case[2], code, calls)
        if line then assert.equal(case[1] == 85, called(calls, line), calls) end
        if case[1] ~= 85 then assert.falsy(calls:find "qsub" or calls:find "requeue" or calls:find "batch", calls) end
      end
    end)

    if name == "slurm" or name == "sge" then it("start it again under " .. name .. " after 75 three times in a row, not four", function()
      local _, expected = table.unpack(AGAIN[name], 1, 2)
      for round = 1, 2 do
        for _ = 1, 3 do
          local code, _, err = submit(name, name, "CODE=75", "a=1")
          assert.equal(name == "slurm" and 75 or expected, code, err)
        end
        if round == 1 then -- what was gained in between counts
          assert.equal(expected, (submit(name, name, "CODE=85", "a=1")))
        else
          local code, calls, err = submit(name, name, "CODE=75", "a=1")
          assert.equal(75, code)
          assert.truthy(err:find("started again three times and nothing gained: this job ends here", 1, true), err)
          assert.falsy(calls:find "qsub" or calls:find "requeue" or calls:find "batch", calls)
        end
      end
      assert.falsy(helper.run(("ls -A '%s'"):format(site)):find("tries", 1, true))
    end) end
  end

  it("go on counting in a job that another submitted", function()
    for i, id in ipairs { "12.srv", "13.srv", "14.srv", "15.srv" } do
      local code, calls = submit("pbs", "pbs", ("CODE=75 PBS_JOBID=%s %s"):format(id, i > 1 and "KAVA_CHAIN=pbs-12.srv" or ""))
      assert.equal(i < 4 and 0 or 75, code)
      assert.equal(i < 4, called(calls, "qsub -v KAVA_CHAIN ./scripts/submit_pbs.sh"), calls)
    end
  end)

  it("run under Slurm as well where they were made for PBS, and in arrays", function()
    local code, pbs = submit("pbs", "slurm", "CODE=85")
    assert.equal(85, code)
    assert.truthy(called(pbs, "scontrol requeue 7"), pbs)
    local _, calls = submit("slurm", "slurm", "CODE=85 SLURM_ARRAY_JOB_ID=5 SLURM_ARRAY_TASK_ID=3")
    assert.truthy(called(calls, "scontrol requeue 5_3"), calls)
  end)

  it("leave a job cancelled that Slurm has ended, and say where it refuses", function()
    local code, calls, err = submit("slurm", "slurm", "CODE=85 STATE=CANCELLED")
    assert.equal(85, code)
    assert.falsy(calls:find("scontrol requeue", 1, true), calls)
    assert.truthy(err:find("Slurm has ended this job itself", 1, true), err)
    for _, name in ipairs { "slurm", "pbs", "cobalt", "flux" } do
      code, _, err = submit(name, name, "CODE=85 REFUSED=1")
      assert.equal(85, code)
      assert.truthy(err:find("does not start itself again; submitted anew, it goes on from there", 1, true), err)
    end
  end)

  it("let PBS requeue where that is allowed", function()
    local _, calls = submit("pbs", "pbs", "CODE=85 QRERUN=0 REFUSED=1")
    assert.truthy(called(calls, "qrerun 12.srv"), calls)
  end)

  it("hand KAVA's variables on to the job that follows", function()
    local _, calls = submit("pbs", "pbs", "CODE=85 KAVA_ARGS='a=1 b=2' KAVA_MODEL_PATH=/m KAVA_API_KEY=k KAVA_TOKEN=t")
    local names = {}
    for name in (calls:match "qsub %-v (%S+)" or ""):gmatch "[^,]+" do names[name] = true end
    assert.same({ KAVA_ARGS = true, KAVA_CHAIN = true, KAVA_MODEL_PATH = true }, names)
  end)

  -- Starts the script in the background, waits until KAVA is ready, sends it signals.
  local function signalled(kind, variables, signals)
    local send = {}
    for i, name in ipairs(signals) do send[i] = ("kill -%s $job; /bin/sleep 0.1;"):format(name) end
    return submit(kind, kind, "WAITS=1 " .. variables, "", ("{ %%s & job=$!; for i in $(seq 100); do grep -q ready '%s' 2>/dev/null && "
      .. "break; sleep 0.05; done; %s wait $job; }"):format(log, table.concat(send, " ")))
  end

  it("pass USR1, USR2 and TERM on as USR1, and wait for KAVA to end", function()
    for _, name in ipairs { "USR1", "USR2", "TERM" } do
      local code, calls, err = signalled("sge", "CODE=85", { name })
      assert.equal(99, code, calls)
      assert.truthy(called(calls, "kava got USR1"), calls)
      assert.truthy(err:find(("job: SIG%s: KAVA saves and leaves"):format(name), 1, true), err)
    end
    -- one that takes its time is waited for through further signals
    local code, calls = signalled("sge", "CODE=75 STAYS=6 DIES=KILL", { "USR1", "USR2", "USR1" })
    local _, times = calls:gsub("kava got USR1", "")
    assert.truthy(times >= 2, calls)
    assert.equal(99, code) -- killed after a signal: nothing is known to be gained, and it is tried again
    os.execute(("rm -f '%s'/.kava-*"):format(site))
  end)

  it("do not submit a job again that was told to end", function()
    for _, name in ipairs { "pbs", "cobalt", "flux" } do
      local code, calls, err = signalled(name, "CODE=85", { "TERM" })
      assert.equal(85, code)
      assert.falsy(calls:find "qsub" or calls:find "batch", calls)
      assert.truthy(err:find("ended this job by SIGTERM: it is not submitted again", 1, true), err)
      code, calls = signalled(name, "CODE=85", { "USR1" })
      assert.equal(0, code)
      assert.truthy(calls:find "qsub" or calls:find "batch", calls)
    end
  end)

  it("say what is missing", function()
    os.rename(site .. "/build/release/kava", site .. "/build/release/hidden")
    local code, _, err = submit("slurm", "slurm", "CODE=0")
    os.rename(site .. "/build/release/hidden", site .. "/build/release/kava")
    assert.equal(2, code)
    assert.truthy(err:find("./build/release/kava is not there: build it (scripts/build), or set KAVA_PROGRAM", 1, true), err)
    code, _, err = program.shell(("cd / && env -i PATH=/usr/bin:/bin bash '%s/scripts/submit_slurm.sh'"):format(site))
    assert.truthy(code ~= 0)
    assert.truthy(err:find("/scripts/job.sh", 1, true), err)
  end)

  it("run KAVA in an image where one is named, and from a folder that is not KAVA's", function()
    local code, calls = submit("slurm", "slurm", ("CODE=0 KAVA_IMAGE='/images/my kava.sif'"))
    assert.equal(0, code)
    assert.truthy(calls:find("apptainer exec /images/my kava.sif kava recipes/train_adaptive.lua", 1, true), calls)
    local other = helper.tmp()
    code, calls = submit("slurm", "slurm", ("CODE=0 KAVA_HOME='%s' SLURM_SUBMIT_DIR='%s'"):format(site, other))
    assert.equal(0, code)
    assert.truthy(called(calls, ("kava in %s: [recipes/train_adaptive.lua]"):format(other)), calls)
    code, calls = submit("cobalt", "cobalt", ("CODE=85 KAVA_HOME='%s'"):format(site))
    assert.equal(0, code)
    assert.truthy(called(calls, ("qsub --env KAVA_CHAIN=cobalt-400 %s/scripts/submit_cobalt.sh"):format(site)), calls)
  end)

  it("are what bash and shellcheck take without a word", function()
    local list = files.list("%.sh$", { "scripts" })
    assert.truthy(#list >= 7)
    for _, path in ipairs(list) do assert.equal("", (helper.run("bash -n " .. path))) end
    if not files.have "shellcheck" then return pending "skipped: shellcheck is not installed" end
    assert.equal("", (helper.run("shellcheck -x " .. table.concat(list, " ") .. " scripts/build scripts/run scripts/test")))
  end)
end)

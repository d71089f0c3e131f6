-- Which scheduler runs this job, and what it says of it. The first that is seen wins; the order and the marks are of those whose
-- environments were measured or documented: SLURM_JOB_ID alone is also set in a shell of salloc on a login node, SGE_TASK_ID is the
-- text "undefined" outside arrays, LSB_JOBINDEX is 0 there, a batch script of Flux has no FLUX_JOB_ID, sbatch obeys #PBS lines and sets
-- no PBS_*, and KUBERNETES_SERVICE_HOST says "in a pod", not "in a job".
--
-- An entry: mark(v) -> why this scheduler is seen, or nil; text, integer: fact = the variables it may be read from, first to last;
-- more(at): what is not as simple. Facts: job, array_job, array_task, nodes, hosts, cpus_on_node, cpus_per_task, job_memory (bytes
-- on this node), limit_s, ends_at (since 1970), scratch, restarts, mode (batch, step, interactive; login: a shell outside the nodes).
local hosts = require "recipes.env.hosts"

-- MiB, each of `times` -> bytes | nil where that is no memory's size
local function bytes(mib, times)
  local n = mib and mib * (times or 1.0) * (1 << 20)
  return n and n > 0 and n < 1 << 60 and math.tointeger(n) or nil
end

local function set(...)
  local names = { ... }
  return function(v)
    for _, name in ipairs(names) do
      if not v:has(name) then return nil end
    end
    return table.concat(names, ", ")
  end
end

-- The hosts of a file a variable names.
local function host_file(at, variable, parse, ...)
  local path = at.v:text(variable)
  if not path then return end
  local text = at.from.read(path)
  local list, slots
  if text then list, slots = parse(text, ...) end
  if not list or #list == 0 then
    at.v:warn("%s names %s, which %s: the job's hosts are unknown", variable, path, text and "is no list of hosts" or "cannot be read")
    return
  end
  at:put("hosts", list, variable)
  at:put("nodes", #list, variable)
  return slots
end

-- The slots that are on this host count as its CPUs.
local function slots_here(at, slots, why)
  local count = slots and hosts.of(slots, at.facts.host)
  if count then at:put("cpus_on_node", count, why .. ", this host's slots") end
end

local function slurm_memory(at)
  local v, facts = at.v, at.facts
  local whole, cpu, gpu = v:integer "SLURM_MEM_PER_NODE", v:integer "SLURM_MEM_PER_CPU", v:integer "SLURM_MEM_PER_GPU"
  local gpus = v:integer("SLURM_GPUS_ON_NODE", 1)
  if whole and whole > 0 then -- 0: all there is
    at:put("job_memory", bytes(whole), "SLURM_MEM_PER_NODE")
  elseif cpu and cpu > 0 and facts.cpus_on_node then
    at:put("job_memory", bytes(cpu, 1.0 * facts.cpus_on_node), "SLURM_MEM_PER_CPU on SLURM_CPUS_ON_NODE")
  elseif gpu and gpu > 0 and gpus then
    at:put("job_memory", bytes(gpu, 1.0 * gpus), "SLURM_MEM_PER_GPU on SLURM_GPUS_ON_NODE")
  end
end

local slurm = {
  name = "slurm",
  mark = set "SLURM_JOB_ID",
  text = { job = { "SLURM_JOB_ID" }, array_job = { "SLURM_ARRAY_JOB_ID" }, scratch = { "SLURM_TMPDIR", "TMPDIR" } },
  integer = { array_task = { "SLURM_ARRAY_TASK_ID" }, nodes = { "SLURM_JOB_NUM_NODES", "SLURM_NNODES" },
    cpus_on_node = { "SLURM_CPUS_ON_NODE" }, restarts = { "SLURM_RESTART_COUNT" }, ends_at = { "SLURM_JOB_END_TIME" } },
  more = function(at)
    local v, facts = at.v, at.facts
    if not v:has "SLURMD_NODENAME" then
      at:put("mode", "login", "SLURM_JOB_ID without SLURMD_NODENAME: an allocation's shell outside its nodes")
      v:warn "this shell holds a Slurm allocation but is not on its nodes: start with `srun kava …`"
    elseif not v:has "SLURM_STEP_ID" then
      at:put("mode", "batch", "SLURMD_NODENAME without SLURM_STEP_ID")
    elseif v:integer "SLURM_STEP_ID" == 4294967290 then
      at:put("mode", "interactive", "SLURM_STEP_ID is the interactive step's")
    else
      at:put("mode", "step", "SLURM_STEP_ID")
      at:put("cpus_per_task", v:integer("SLURM_CPUS_PER_TASK", 1), "SLURM_CPUS_PER_TASK")
    end
    if not facts.restarts then at:put("restarts", 0, "SLURM_RESTART_COUNT is not set: the first run") end
    local list = v:text "SLURM_JOB_NODELIST"
    local names = list and hosts.slurm(list)
    if names then
      at:put("hosts", names, "SLURM_JOB_NODELIST")
      if facts.nodes and facts.nodes ~= #names then
        v:warn("SLURM_JOB_NUM_NODES says %d, SLURM_JOB_NODELIST lists %d hosts: the list counts", facts.nodes, #names)
        at:put("nodes", #names, "SLURM_JOB_NODELIST")
      end
      if not facts.nodes then at:put("nodes", #names, "SLURM_JOB_NODELIST") end
    elseif list then
      v:warn("SLURM_JOB_NODELIST=%s: a list such as n[0-3,7],gpu01 expected; the job's hosts are unknown", list)
    end
    local from, to = v:integer "SLURM_JOB_START_TIME", facts.ends_at
    if from and to and to >= from then at:put("limit_s", to - from, "SLURM_JOB_END_TIME - SLURM_JOB_START_TIME") end
    if from and to and to < from then
      v:warn("SLURM_JOB_END_TIME=%d lies before SLURM_JOB_START_TIME=%d: both are ignored", to, from)
      at:put("ends_at", nil)
    end
    slurm_memory(at)
  end,
}

local flux = {
  name = "flux",
  mark = function(v) return v:has "FLUX_JOB_ID" and "FLUX_JOB_ID" or v:has "FLUX_URI" and "FLUX_URI" or nil end,
  text = { job = { "FLUX_JOB_ID" }, scratch = { "FLUX_JOB_TMPDIR" } },
  integer = { nodes = { "FLUX_JOB_NNODES" }, array_task = { "FLUX_JOB_CC" } },
  more = function(at)
    if at.facts.job then at:put("mode", "step", "FLUX_JOB_ID")
    else at:put("mode", "batch", "FLUX_URI without FLUX_JOB_ID: a batch script or a shell of the instance") end
  end,
}

local function pbs_mode(at)
  local kind = at.v:text "PBS_ENVIRONMENT"
  at:put("mode", kind == "PBS_INTERACTIVE" and "interactive" or "batch", kind and "PBS_ENVIRONMENT" or "PBS_JOBID")
end

local torque = {
  name = "torque",
  mark = function(v)
    if not v:has "PBS_JOBID" then return nil end
    for _, name in ipairs { "PBS_ARRAYID", "PBS_NUM_PPN" } do
      if v:has(name) then return "PBS_JOBID, " .. name end
    end
  end,
  text = { job = { "PBS_JOBID" }, scratch = { "TMPDIR", "PBS_JOBDIR" } },
  integer = { array_task = { "PBS_ARRAYID" }, nodes = { "PBS_NUM_NODES" }, cpus_on_node = { "PBS_NUM_PPN" },
    limit_s = { "PBS_WALLTIME" } },
  more = function(at)
    pbs_mode(at)
    host_file(at, "PBS_NODEFILE", hosts.lines)
  end,
}

local pbs = {
  name = "pbs",
  mark = set "PBS_JOBID",
  text = { job = { "PBS_JOBID" }, array_job = { "PBS_ARRAY_ID" }, scratch = { "TMPDIR", "PBS_JOBDIR" } },
  integer = { array_task = { "PBS_ARRAY_INDEX" }, cpus_on_node = { "NCPUS" } },
  more = function(at)
    pbs_mode(at)
    local index = (at.facts.job or ""):match "%[(%d+)%]"
    if index and not at.facts.array_task then at:put("array_task", math.tointeger(tonumber(index)), "PBS_JOBID's brackets") end
    host_file(at, "PBS_NODEFILE", hosts.lines)
  end,
}

local lsf = {
  name = "lsf",
  mark = set "LSB_JOBID",
  text = { job = { "LSB_JOBID" } },
  integer = {},
  more = function(at)
    local v = at.v
    local index = v:integer "LSB_JOBINDEX"
    if index and index > 0 then at:put("array_task", index, "LSB_JOBINDEX") end -- 0: no array
    at:put("mode", v:has "JSM_NAMESPACE_RANK" and "step" or v:text "LSB_INTERACTIVE" == "Y" and "interactive" or "batch",
      v:has "JSM_NAMESPACE_RANK" and "JSM_NAMESPACE_RANK" or v:has "LSB_INTERACTIVE" and "LSB_INTERACTIVE" or "LSB_JOBID")
    local again = v:text "LSB_RESTART"
    at:put("restarts", again == "Y" and 1 or 0, again and "LSB_RESTART" or "LSB_RESTART is not set: the first run")
    if v:has "JSM_NAMESPACE_RANK" and v:has "LSB_DJOB_RANKFILE" then -- its first line is the launch node, where no rank runs
      host_file(at, "LSB_DJOB_RANKFILE", function(text) return hosts.lines((text:gsub("^[^\n]*\n", "", 1))) end)
    elseif v:has "LSB_MCPU_HOSTS" then
      local text = v:text "LSB_MCPU_HOSTS" or ""
      local list, slots = hosts.pairs(text)
      if list then
        at:put("hosts", list, "LSB_MCPU_HOSTS")
        at:put("nodes", #list, "LSB_MCPU_HOSTS")
        slots_here(at, slots, "LSB_MCPU_HOSTS")
      else
        v:warn("LSB_MCPU_HOSTS=%s: hosts and slots such as h1 4 h2 4 expected; the job's hosts are unknown", text)
      end
    else
      slots_here(at, host_file(at, "LSB_DJOB_HOSTFILE", hosts.lines), "LSB_DJOB_HOSTFILE")
    end
    if at.facts.nodes == 1 and not at.facts.cpus_on_node then
      at:put("cpus_on_node", v:integer("LSB_DJOB_NUMPROC", 1), "LSB_DJOB_NUMPROC on one host")
    end
  end,
}

local sge = {
  name = "sge",
  mark = function(v) -- JOB_ID alone is too common a name
    if not v:has "JOB_ID" then return nil end
    for _, name in ipairs { "SGE_O_WORKDIR", "SGE_CELL" } do
      if v:has(name) then return "JOB_ID, " .. name end
    end
  end,
  text = { job = { "JOB_ID" }, scratch = { "TMPDIR", "TMP" } },
  integer = { nodes = { "NHOSTS" } },
  more = function(at)
    local v = at.v
    local task = v:text "SGE_TASK_ID"
    if task and task ~= "undefined" then
      at:put("array_task", v:integer "SGE_TASK_ID", "SGE_TASK_ID")
      at:put("array_job", at.facts.job, "JOB_ID")
    end
    local script = v:text "JOB_SCRIPT" or "" -- not ENVIRONMENT: batch jobs lack it, qrsh's have it, as BATCH
    local interactive = script:find "^QR?LOGIN$" or script == "QRSH" or script == "INTERACTIVE"
    at:put("mode", interactive and "interactive" or "batch", "JOB_SCRIPT")
    local again = v:integer "RESTARTED"
    at:put("restarts", again and math.min(again, 1) or nil, "RESTARTED")
    slots_here(at, host_file(at, "PE_HOSTFILE", hosts.pairs, true), "PE_HOSTFILE")
    if not at.facts.cpus_on_node and (at.facts.nodes or 1) == 1 then
      at:put("cpus_on_node", v:integer("NSLOTS", 1), "NSLOTS on one host")
    end
  end,
}

local htcondor = {
  name = "htcondor",
  mark = function(v)
    if v:text "BATCH_SYSTEM" == "HTCondor" then return "BATCH_SYSTEM" end
    return v:has "_CONDOR_JOB_AD" and "_CONDOR_JOB_AD" or nil
  end,
  text = { scratch = { "_CONDOR_SCRATCH_DIR" } },
  integer = {},
  more = function(at)
    local function advert(variable)
      local path = at.v:text(variable)
      local text = path and at.from.read(path)
      if path and not text then at.v:warn("%s names %s, which cannot be read: less is known of the job", variable, path) end
      return function(name) -- these names only: a job's advert also holds its environment
        local n = text and ("\n" .. text):match("\n%s*" .. name .. "%s*=%s*(%d+)%s*\n")
        return n and math.tointeger(tonumber(n))
      end
    end
    local job, machine = advert "_CONDOR_JOB_AD", advert "_CONDOR_MACHINE_AD"
    local cluster, proc = job "ClusterId", job "ProcId"
    if cluster then at:put("job", ("%d.%d"):format(cluster, proc or 0), "ClusterId and ProcId in $_CONDOR_JOB_AD") end
    at:put("mode", "batch", "HTCondor's jobs are")
    at:put("nodes", 1, "HTCondor's jobs have one")
    at:put("restarts", job "NumJobStarts", "NumJobStarts in $_CONDOR_JOB_AD")
    at:put("cpus_on_node", machine "Cpus", "Cpus in $_CONDOR_MACHINE_AD")
    at:put("job_memory", bytes(machine "Memory"), "Memory in $_CONDOR_MACHINE_AD")
  end,
}

local cobalt = {
  name = "cobalt",
  mark = set "COBALT_JOBID",
  text = { job = { "COBALT_JOBID" } },
  integer = { nodes = { "COBALT_JOBSIZE" }, ends_at = { "COBALT_ENDTIME" } },
  more = function(at)
    at:put("mode", "batch", "COBALT_JOBID")
    local from = at.v:integer "COBALT_STARTTIME"
    if from and at.facts.ends_at and at.facts.ends_at >= from then
      at:put("limit_s", at.facts.ends_at - from, "COBALT_ENDTIME - COBALT_STARTTIME")
    end
    host_file(at, "COBALT_NODEFILE", hosts.lines)
  end,
}

local oar = {
  name = "oar",
  mark = function(v) return v:has "OAR_JOB_ID" and "OAR_JOB_ID" or v:has "OAR_JOBID" and "OAR_JOBID" or nil end,
  text = { job = { "OAR_JOB_ID", "OAR_JOBID" }, array_job = { "OAR_ARRAY_ID" } },
  integer = { array_task = { "OAR_ARRAY_INDEX" }, limit_s = { "OAR_JOB_WALLTIME_SECONDS" } },
  more = function(at)
    at:put("mode", "batch", "OAR's variables")
    slots_here(at, host_file(at, "OAR_NODEFILE", hosts.lines), "OAR_NODEFILE")
  end,
}

local kubernetes = {
  name = "kubernetes",
  mark = function(v)
    if not v:has "KUBERNETES_SERVICE_HOST" then return nil end
    for _, name in ipairs { "JOB_COMPLETION_INDEX", "PET_NNODES", "PET_NODE_RANK", "RANK" } do
      if v:has(name) then return "KUBERNETES_SERVICE_HOST, " .. name end
    end
  end,
  cloud = true,
  text = {},
  integer = { array_task = { "JOB_COMPLETION_INDEX" }, nodes = { "PET_NNODES" } },
  more = function(at) at:put("mode", "batch", "a job's pod") end,
}

local ORDER = { slurm, flux, torque, pbs, lsf, sge, htcondor, cobalt, oar, kubernetes }

-- A virtual machine's makers, as the firmware names them.
local function cloud(at)
  if at.v:has "KUBERNETES_SERVICE_HOST" then return "KUBERNETES_SERVICE_HOST: in a pod" end
  if at.v:has "SM_TRAINING_ENV" then return "SM_TRAINING_ENV: SageMaker" end
  if at.v:has "AZUREML_EXPERIMENT_ID" then return "AZUREML_EXPERIMENT_ID: Azure ML" end
  local function dmi(name) return at.from.read("/sys/class/dmi/id/" .. name) or "" end
  if dmi("sys_vendor"):find "^Amazon EC2" then return "/sys/class/dmi/id/sys_vendor: Amazon EC2" end
  if dmi("product_name"):find "^Google Compute Engine" then return "/sys/class/dmi/id/product_name: Google Compute Engine" end
  if dmi("chassis_asset_tag"):find "^7783%-7084%-3265%-9085%-8269%-3286%-77" then
    return "/sys/class/dmi/id/chassis_asset_tag: Azure's"
  end
end

local schedulers = {}

--- Puts kind, scheduler and what the scheduler says of the job.
function schedulers.read(at)
  local v, found, nested = at.v, nil, {}
  for _, one in ipairs(ORDER) do
    local why = one.mark(v)
    if why and not found then
      found = one
      at:put("kind", one.cloud and "cloud" or "hpc", why)
      at:put("scheduler", one.name, why)
    elseif why and not (found == torque and one == pbs) then
      nested[#nested + 1] = one.name .. " (" .. why .. ")"
    end
  end
  if not found then
    local why = cloud(at)
    at:put("kind", why and "cloud" or "local", why or "neither a scheduler nor a cloud is seen")
    at:put("scheduler", "none", "no scheduler's variables are set")
  else
    if #nested > 0 then at:put("also", table.concat(nested, ", "), "inside or around " .. found.name .. ", which counts") end
    for kind, list in pairs { text = found.text, integer = found.integer } do
      for name, names in pairs(list) do at:put(name, v:first(kind, names)) end
    end
    found.more(at)
  end
  for name, variable in pairs { job = "KAVA_JOB_ID", cluster = "KAVA_CLUSTER" } do
    if v:has(variable) then at:put(name, v:text(variable), variable) end
  end
  if not at.facts.cluster then
    at:put("cluster", v:first("text", { "SLURM_CLUSTER_NAME", "SGE_CLUSTER_NAME", "LMOD_SYSTEM_NAME" }))
  end
  if v:has "KAVA_RESTARTS" or v:has "TORCHELASTIC_RESTART_COUNT" then
    at:put("restarts", v:first("integer", { "KAVA_RESTARTS", "TORCHELASTIC_RESTART_COUNT" }))
  end
end

return schedulers

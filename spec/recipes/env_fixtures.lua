-- Machines and jobs as tables, for env_spec.lua: { name, set = variables, files =, commands =, cpus =, host =, isa =, gpus = (what the
-- node has), about = (what the driver says of itself), darwin = (a Mac's kernel), backends =, expect = { fact = value } } ("launch.rank"
-- reaches inside; false: not known); warns: a piece of a warning (no warnings otherwise); fails: a piece of the message of an exit with
-- code 2. now is 1000000.
local NONE = false

local function with(base, more)
  local all = {}
  for name, value in pairs(base) do all[name] = value end
  for name, value in pairs(more) do all[name] = value or nil end
  return all
end

-- Two nodes, four tasks of two CPUs each, measured on Slurm 22.05.
local ALLOCATION = { SLURM_JOB_ID = "77", SLURM_JOB_NODELIST = "n[0-1]", SLURM_JOB_NUM_NODES = "2", SLURM_CPUS_ON_NODE = "4",
  SLURM_NTASKS = "4", SLURM_PROCID = false, SLURM_CLUSTER_NAME = "toy", SLURM_MEM_PER_NODE = "2048" }
local BATCH = with(ALLOCATION, { SLURMD_NODENAME = "n0", SLURM_PROCID = "0", SLURM_LOCALID = "0", SLURM_NODEID = "0" })
local STEP = with(BATCH, { SLURM_STEP_ID = "0", SLURM_STEP_NUM_TASKS = "4", SLURM_PROCID = "3", SLURM_LOCALID = "1", SLURM_NODEID = "1",
  SLURM_STEP_TASKS_PER_NODE = "2(x2)", SLURM_CPUS_PER_TASK = "2" })
local ONE = with(BATCH, { SLURM_NTASKS = "1", SLURM_JOB_NODELIST = "n0", SLURM_JOB_NUM_NODES = "1" })
local TORCHRUN = { RANK = "5", WORLD_SIZE = "8", LOCAL_RANK = "1", LOCAL_WORLD_SIZE = "4", TORCHELASTIC_RUN_ID = "x",
  TORCHELASTIC_RESTART_COUNT = "2", MASTER_ADDR = "h", MASTER_PORT = "1" }
local OMPI = { OMPI_COMM_WORLD_RANK = "2", OMPI_COMM_WORLD_SIZE = "4", OMPI_COMM_WORLD_LOCAL_RANK = "0",
  OMPI_COMM_WORLD_LOCAL_SIZE = "2", PMIX_RANK = "2" }
local PBS = { PBS_JOBID = "12.srv", PBS_ENVIRONMENT = "PBS_BATCH", PBS_NODEFILE = "/spool/12", NCPUS = "8", TMPDIR = "/tmp/pbs.12" }
local PBS_FILES = { ["/spool/12"] = "h1\nh1\nh2\nh2\n" }
local TORQUE = { PBS_JOBID = "9.srv", PBS_NUM_NODES = "2", PBS_NUM_PPN = "4", PBS_NP = "8", PBS_NODEFILE = "/spool/12",
  PBS_ENVIRONMENT = "PBS_BATCH", PBS_WALLTIME = "3600" }
local SGE = { JOB_ID = "31", SGE_O_WORKDIR = "/home/ada", SGE_TASK_ID = "undefined", JOB_SCRIPT = "/spool/31", NSLOTS = "4", NHOSTS = "1",
  RESTARTED = "0", TMP = "/tmp/31.1.all.q" }
local function qstat(starts) -- as 8.1.9 writes it
  local list = {}
  for task, start in ipairs(starts) do
    list[task] = ("<ulong_sublist>\n<JAT_status>128</JAT_status>\n<JAT_task_number>%d</JAT_task_number>\n<JAT_start_time>%d"
      .. "</JAT_start_time>\n</ulong_sublist>\n"):format(task, start)
  end
  return "<CE_name>gpu</CE_name>\n<CE_stringval>1</CE_stringval>\n<CE_name>h_rt</CE_name>\n<CE_valtype>3</CE_valtype>\n"
    .. "<CE_stringval>3600</CE_stringval>\n<JB_ja_tasks>\n" .. table.concat(list) .. "</JB_ja_tasks>\n"
end
local LSF = { LSB_JOBID = "55", LSB_JOBINDEX = "0", LSB_MCPU_HOSTS = "h1 4 h2 4", LSB_DJOB_NUMPROC = "8" }
local JSM = with(LSF, { JSM_NAMESPACE_RANK = "6", JSM_NAMESPACE_SIZE = "8", JSM_NAMESPACE_LOCAL_RANK = "2",
  LSB_DJOB_RANKFILE = "/ranks" })
local FLUX = { FLUX_JOB_ID = "ƒ2oLkTLb", FLUX_URI = "local:///x", FLUX_JOB_NNODES = "2", FLUX_TASK_RANK = "3",
  FLUX_TASK_LOCAL_ID = "1", FLUX_JOB_SIZE = "4", FLUX_JOB_TMPDIR = "/tmp/flux" }
local CONDOR = { BATCH_SYSTEM = "HTCondor", _CONDOR_JOB_AD = "/c/.job.ad", _CONDOR_MACHINE_AD = "/c/.machine.ad",
  _CONDOR_SCRATCH_DIR = "/c" }
local CONDOR_FILES = {
  ["/c/.job.ad"] = 'Environment = "HF_TOKEN=canary"\nClusterId = 800\nNumJobStarts = 1\nProcId = 3\n',
  ["/c/.machine.ad"] = "Cpus = 3\nMemory = 1024\nTotalSlotCpus = 64\n" }
local COBALT = { COBALT_JOBID = "400", COBALT_JOBSIZE = "2", COBALT_NODEFILE = "/spool/12", COBALT_STARTTIME = "999000",
  COBALT_ENDTIME = "1003000" }
local OAR = { OAR_JOB_ID = "21", OAR_NODEFILE = "/spool/12", OAR_JOB_WALLTIME_SECONDS = "7200", OAR_ARRAY_ID = "20",
  OAR_ARRAY_INDEX = "2" }
local POD = { KUBERNETES_SERVICE_HOST = "10.0.0.1" }

local V1 = { -- as docker without a cgroup namespace mounts it: the mount begins at the container's group
  ["/proc/self/cgroup"] = "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n",
  ["/proc/self/mountinfo"] = "31 23 0:29 /docker/a /sys/fs/cgroup/cpu ro shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
    .. "32 23 0:30 /docker/a /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n",
  ["/sys/fs/cgroup/cpu/cpu.cfs_quota_us"] = "150000\n", ["/sys/fs/cgroup/cpu/cpu.cfs_period_us"] = "100000\n",
  ["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "1073741824\n" }
local V2 = {
  ["/proc/self/cgroup"] = "0::/slice/job/step\n",
  ["/proc/self/mountinfo"] = "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n",
  ["/sys/fs/cgroup/slice/job/step/cpu.max"] = "max 100000\n", ["/sys/fs/cgroup/slice/job/cpu.max"] = "50000 100000\n",
  ["/sys/fs/cgroup/slice/job/step/memory.max"] = "max\n", ["/sys/fs/cgroup/slice/job/memory.high"] = "2147483648\n",
  ["/sys/fs/cgroup/slice/memory.max"] = "4294967296\n" }

local KFD = "/sys/class/kfd/kfd/topology/nodes/"
local function kfd(nodes)
  local files = {}
  for i, node in ipairs(nodes) do
    local base = ("%s%d/"):format(KFD, i - 1)
    files[base .. "properties"] = ("cpu_cores_count %d\nsimd_count %d\ngfx_target_version %d\nunique_id %d\n"):format(node.simd and 0 or 64,
      node.simd or 0, node.gfx or 0, i)
    files[base .. "mem_banks/0/properties"] = "heap_type 1\nsize_in_bytes 68702699520\n"
  end
  return files
end
local MI250 = kfd { {}, { simd = 440, gfx = 90010 }, { simd = 440, gfx = 90010 } }

local function nvidia(n)
  local list = {}
  for i = 1, n do list[i] = { name = "A" .. i - 1, uuid = ("GPU-%d000-aa"):format(i), major = 8, minor = 0, memory = 1 << 34 } end
  return list
end
local CUDA = { cuda = true }

return {
  -- desks and clouds
  { "a desk", set = {}, expect = { kind = "local", scheduler = "none", job = NONE, time_left_s = NONE, ["launch.rank"] = 0,
    ["launch.world_size"] = 1, cpus = 4, memory = 8192000 * 1024, device = "cpu", precision = "f32", mode = NONE } },
  { "a desk where USER is not set", set = { USER = false }, expect = { user = "daemon" } },
  { "blank variables are unset ones", set = { SLURM_JOB_ID = "", PBS_JOBID = " ", RANK = "", WORLD_SIZE = "" },
    expect = { kind = "local", scheduler = "none", ["launch.world_size"] = 1 } },
  { "JOB_ID alone is no Grid Engine", set = { JOB_ID = "4" }, expect = { kind = "local", scheduler = "none" } },
  { "EC2", files = { ["/sys/class/dmi/id/sys_vendor"] = "Amazon EC2\n" }, expect = { kind = "cloud", scheduler = "none" } },
  { "Compute Engine", files = { ["/sys/class/dmi/id/product_name"] = "Google Compute Engine\n" }, expect = { kind = "cloud" } },
  { "a Chromebook is no cloud", files = { ["/sys/class/dmi/id/sys_vendor"] = "Google\n", ["/sys/class/dmi/id/product_name"] = "Eve\n" },
    expect = { kind = "local" } },
  { "Azure", files = { ["/sys/class/dmi/id/chassis_asset_tag"] = "7783-7084-3265-9085-8269-3286-77\n" }, expect = { kind = "cloud" } },
  { "Hyper-V on a desk", files = { ["/sys/class/dmi/id/sys_vendor"] = "Microsoft Corporation\n" }, expect = { kind = "local" } },
  { "SageMaker", set = { SM_TRAINING_ENV = "{}" }, expect = { kind = "cloud" } },
  { "Azure ML", set = { AZUREML_EXPERIMENT_ID = "e" }, expect = { kind = "cloud" } },
  { "torchrun on a desk", set = { RANK = "1", WORLD_SIZE = "2", LOCAL_RANK = "1", LOCAL_WORLD_SIZE = "2", TORCHELASTIC_RUN_ID = "r" },
    expect = { kind = "local", ["launch.rank"] = 1, ["launch.local_rank"] = 1, cpus = 2, memory = 8192000 * 512 } },
  { "mpirun on a desk", set = OMPI, expect = { ["launch.rank"] = 2, ["launch.world_size"] = 4, ["launch.local_rank"] = 0 } },
  { "mpirun that binds: the affinity is this rank's own", set = OMPI, cpus = 2, files = { ["/sys/devices/system/cpu/online"] = "0-7\n" },
    expect = { cpus = 2 } },

  -- Slurm
  { "Slurm, batch", set = ONE, expect = { kind = "hpc", scheduler = "slurm", job = "77", mode = "batch", nodes = 1, restarts = 0,
    cluster = "toy", job_memory = 2 << 30, memory = 2 << 30, ["launch.world_size"] = 1, cpus = 4 } },
  { "Slurm, a batch script without srun is one process", set = BATCH, warns = "srun",
    expect = { mode = "batch", ["launch.rank"] = 0, ["launch.world_size"] = 1, nodes = 2 } },
  { "Slurm, step", set = STEP, expect = { mode = "step", ["launch.rank"] = 3, ["launch.world_size"] = 4, ["launch.local_rank"] = 1,
    ["launch.local_size"] = 2, cpus = 2, memory = 1 << 30 } },
  { "Slurm, step with unlike nodes", set = with(STEP, { SLURM_STEP_TASKS_PER_NODE = "3,1", SLURM_LOCALID = "0" }),
    expect = { ["launch.local_size"] = 1 } },
  { "Slurm, step under pmi2", set = with(STEP, { PMI_RANK = "3", PMI_SIZE = "4" }),
    expect = { ["launch.rank"] = 3, ["launch.local_rank"] = 1, ["launch.source"] = "SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_LOCALID" } },
  { "Slurm, pmi2's rank against srun's", set = with(STEP, { PMI_RANK = "1", PMI_SIZE = "4" }), fails = "SLURM_PROCID=3, but PMI_RANK=1" },
  { "Slurm, array", set = with(ONE, { SLURM_ARRAY_JOB_ID = "70", SLURM_ARRAY_TASK_ID = "7" }),
    expect = { array_job = "70", array_task = 7, job = "77" } },
  { "Slurm, salloc's shell on the login node", set = ALLOCATION, warns = "srun kava",
    expect = { kind = "hpc", mode = "login", ["launch.world_size"] = 1 } },
  { "Slurm, the interactive step", set = with(ONE, { SLURM_STEP_ID = "4294967290", SLURM_STEP_NUM_TASKS = "1",
    SLURM_STEP_TASKS_PER_NODE = "1" }),
    expect = { mode = "interactive", ["launch.world_size"] = 1 } },
  { "Slurm, mpirun: SLURM_PROCID is the daemon's", set = with(STEP, with(OMPI, { SLURM_PROCID = "1", SLURM_STEP_NUM_TASKS = "2",
    SLURM_LOCALID = "0" })), expect = { ["launch.rank"] = 2, ["launch.world_size"] = 4, ["launch.local_rank"] = 0 } },
  { "Slurm, MPICH's mpiexec", set = with(BATCH, { PMI_RANK = "2", PMI_SIZE = "4", MPI_LOCALRANKID = "0", MPI_LOCALNRANKS = "2" }),
    expect = { mode = "batch", ["launch.rank"] = 2, ["launch.local_rank"] = 0, cpus = 2 } },
  { "Slurm, torchrun in a step", set = with(STEP, with(TORCHRUN, { SLURM_PROCID = "1", SLURM_STEP_NUM_TASKS = "2", SLURM_LOCALID = "0" })),
    expect = { ["launch.rank"] = 5, ["launch.world_size"] = 8, restarts = 2 } },
  { "Slurm, ranks exported by hand that agree", set = with(STEP, { RANK = "3", WORLD_SIZE = "4", LOCAL_RANK = "1" }),
    expect = { ["launch.rank"] = 3 } },
  { "Slurm, ranks exported by hand that do not", set = with(STEP, { RANK = "0", WORLD_SIZE = "4", LOCAL_RANK = "0" }),
    fails = "RANK=0, but SLURM_PROCID=3, both of 4" },
  { "Slurm, requeued, its end known", set = with(ONE, { SLURM_RESTART_COUNT = "2", SLURM_JOB_START_TIME = "999000",
    SLURM_JOB_END_TIME = "1000600" }), expect = { restarts = 2, time_left_s = 600, limit_s = 1600 } },
  { "Slurm, its end asked for", set = ONE, commands = { ["squeue -h -j '77' -o %L"] = "1-02:03:04\n" },
    expect = { time_left_s = 93784 } },
  { "Slurm, no limit", set = ONE, commands = { ["squeue -h -j '77' -o %L"] = "UNLIMITED\n" }, expect = { time_left_s = NONE } },
  { "Slurm, only rank 0 asks", set = STEP, commands = { ["squeue -h -j '77' -o %L"] = "10:00\n" }, expect = { time_left_s = NONE } },
  { "Slurm, limits that contradict", set = with(ONE, { SLURM_JOB_START_TIME = "1000", SLURM_JOB_END_TIME = "900" }),
    warns = "lies before", expect = { ends_at = NONE } },
  { "Slurm, several brackets", set = with(BATCH, { SLURM_NTASKS = "1", SLURM_JOB_NODELIST = "r[1-2]n[08-10,12],gpu",
    SLURM_JOB_NUM_NODES = "9" }),
    expect = { nodes = 9, ["hosts.2"] = "r1n09", ["hosts.5"] = "r2n08", ["hosts.9"] = "gpu" } },
  { "Slurm, a malformed node list", set = with(ONE, { SLURM_JOB_NODELIST = "n[0-" }), warns = "n[0-3,7]",
    expect = { hosts = NONE, nodes = 1 } },
  { "Slurm, a node list backwards", set = with(ONE, { SLURM_JOB_NODELIST = "n[5-2]" }), warns = "SLURM_JOB_NODELIST",
    expect = { hosts = NONE } },
  { "Slurm, memory by CPU", set = with(ONE, { SLURM_MEM_PER_NODE = false, SLURM_MEM_PER_CPU = "100" }), expect = { memory = 400 << 20 } },
  { "Slurm, --mem=0 is all", set = with(ONE, { SLURM_MEM_PER_NODE = "0" }), expect = { memory = 8192000 * 1024, job_memory = NONE } },
  { "Slurm, sbatch of a script with #PBS lines sets no PBS_*", set = ONE, expect = { scheduler = "slurm", also = NONE } },
  { "Slurm in a pod", set = with(ONE, POD), expect = { kind = "hpc", scheduler = "slurm" } },
  { "Flux within Slurm", set = with(ONE, FLUX), expect = { scheduler = "slurm", also = "flux (FLUX_JOB_ID)", ["launch.rank"] = 3 } },

  -- PBS, Torque
  { "PBS, batch", set = PBS, files = PBS_FILES, expect = { kind = "hpc", scheduler = "pbs", job = "12.srv", nodes = 2, mode = "batch",
    cpus = 4, scratch = "/tmp/pbs.12", ["hosts.2"] = "h2" } },
  { "PBS, array", set = with(PBS, { PBS_JOBID = "12[3].srv", PBS_ARRAY_INDEX = "3", PBS_ARRAY_ID = "12[].srv" }), files = PBS_FILES,
    expect = { array_task = 3, array_job = "12[].srv" } },
  { "PBS, array by its id", set = with(PBS, { PBS_JOBID = "12[3].srv" }), files = PBS_FILES, expect = { array_task = 3 } },
  { "PBS, interactive", set = with(PBS, { PBS_ENVIRONMENT = "PBS_INTERACTIVE" }), files = PBS_FILES, expect = { mode = "interactive" } },
  { "PBS, mpiexec of Cray", set = with(PBS, { PMI_RANK = "1", PMI_SIZE = "4", PMI_LOCAL_RANK = "1", PMI_LOCAL_SIZE = "2" }),
    files = PBS_FILES, expect = { ["launch.rank"] = 1, ["launch.local_size"] = 2, cpus = 4 } }, -- 4 of the node's 8
  { "PBS, torchrun", set = with(PBS, TORCHRUN), files = PBS_FILES, expect = { ["launch.rank"] = 5, ["launch.local_rank"] = 1 } },
  { "PBS, asked", set = PBS, files = PBS_FILES,
    commands = { ["qstat -f '12.srv'"] = "    Resource_List.walltime = 24:00:00\n    run_count = 2\n" },
    expect = { limit_s = 86400, restarts = 1, time_left_s = NONE } },
  { "PBS, its node file is gone", set = PBS, warns = "cannot be read", expect = { scheduler = "pbs", hosts = NONE } },
  { "PBS, no GPU asked for: the mask is empty", set = with(PBS, { CUDA_VISIBLE_DEVICES = "" }), files = PBS_FILES, gpus = nvidia(2),
    backends = CUDA, expect = { device = "cpu", visible_devices = {} } },
  { "PBS, GPUs by UUID", set = with(PBS, { CUDA_VISIBLE_DEVICES = "GPU-2000-aa" }), files = PBS_FILES, gpus = nvidia(2), backends = CUDA,
    expect = { device = "cuda", ["gpus.1.name"] = "A1", gpu = 1 } },
  { "Torque, batch", set = TORQUE, files = PBS_FILES, expect = { scheduler = "torque", nodes = 2, cpus_on_node = 4, limit_s = 3600,
    also = NONE, time_left_s = 3600 } }, -- at the most: nobody says when the job began
  { "Torque, asked too late", set = TORQUE, files = PBS_FILES, expect = { time_left_s = 0 }, commands = { ["qstat -f '9.srv'"] =
    "    Resource_List.walltime = 00:00:01\n    start_time = " .. os.date("%a %b %d %H:%M:%S %Y", 999000) .. "\n" } },
  { "Torque, array", set = with(TORQUE, { PBS_ARRAYID = "2" }), files = PBS_FILES, expect = { array_task = 2 } },
  { "Torque, mpirun", set = with(TORQUE, OMPI), files = PBS_FILES, expect = { ["launch.rank"] = 2, cpus = 2 } },
  { "Torque, its GPU file", set = with(TORQUE, { PBS_GPUFILE = "/gpus" }), host = "h2.site.org", gpus = nvidia(2), backends = CUDA,
    files = with(PBS_FILES, { ["/gpus"] = "h1-gpu0\nh2-gpu1\n" }), expect = { visible_devices = { 1 }, ["gpus.1.name"] = "A1" } },

  -- Grid Engine
  { "Grid Engine, batch: its array task is the text undefined", set = SGE, expect = { kind = "hpc", scheduler = "sge", job = "31",
    array_task = NONE, mode = "batch", restarts = 0, cpus = 4, scratch = "/tmp/31.1.all.q" } },
  { "Grid Engine, array", set = with(SGE, { SGE_TASK_ID = "4" }), expect = { array_task = 4, array_job = "31" } },
  { "Grid Engine, restarted from its checkpoint", set = with(SGE, { RESTARTED = "2" }), expect = { restarts = 1 } },
  { "Grid Engine, qrsh", set = with(SGE, { JOB_SCRIPT = "QRSH", ENVIRONMENT = "BATCH" }), expect = { mode = "interactive" } },
  { "Grid Engine, parallel over hosts", set = with(SGE, { NHOSTS = "2", NSLOTS = "5", PE_HOSTFILE = "/pe" }), host = "h2",
    files = { ["/pe"] = "h1.site 3 all.q@h1 UNDEFINED\nh2.site 2 all.q@h2 UNDEFINED\n" }, expect = { nodes = 2, cpus = 2 } },
  { "Grid Engine, mpirun", set = with(SGE, OMPI), expect = { ["launch.rank"] = 2, ["launch.local_size"] = 2 } },
  { "Grid Engine, asked", set = SGE, commands = { ["qstat -xml -j '31'"] = qstat { 999000 } },
    expect = { limit_s = 3600, time_left_s = 2600 } },
  { "Grid Engine, a task of an array, asked", set = with(SGE, { SGE_TASK_ID = "2" }),
    commands = { ["qstat -xml -j '31'"] = qstat { 0, 999500 } }, expect = { array_task = 2, time_left_s = 3100 } },
  { "Grid Engine counts GPUs, and says no more", set = SGE, gpus = nvidia(1), warns = "CUDA_VISIBLE_DEVICES", expect = { device = "cpu" } },
  { "Univa names them", set = with(SGE, { SGE_HGR_gpu = "1 0" }), gpus = nvidia(2), backends = CUDA,
    expect = { visible_devices = { 1, 0 }, ["gpus.1.name"] = "A1" } },

  -- LSF
  { "LSF, batch: index 0 is no array", set = LSF, host = "h2", expect = { kind = "hpc", scheduler = "lsf", job = "55", array_task = NONE,
    nodes = 2, cpus = 4, restarts = 0, mode = "batch" } },
  { "LSF, array", set = with(LSF, { LSB_JOBINDEX = "3" }), expect = { array_task = 3 } },
  { "LSF, interactive and restarted", set = with(LSF, { LSB_INTERACTIVE = "Y", LSB_RESTART = "Y" }),
    expect = { mode = "interactive", restarts = 1 } },
  { "LSF, jsrun: the rank file begins with the launch node", set = JSM, files = { ["/ranks"] = "launch\nh1\nh1\nh2\nh2\n" },
    expect = { mode = "step", ["launch.rank"] = 6, ["launch.local_rank"] = 2, nodes = 2, ["hosts.1"] = "h1" } },
  { "LSF, mpirun", set = with(LSF, OMPI), host = "h1", expect = { ["launch.rank"] = 2, cpus = 2 } },
  { "LSF, asked", set = LSF, commands = { ["bjobs -noheader -o time_left '55'"] = "01:30 L\n" }, expect = { time_left_s = 5400 } },
  { "LSF, malformed hosts", set = with(LSF, { LSB_MCPU_HOSTS = "h1 four" }), warns = "h1 4 h2 4", expect = { hosts = NONE } },

  -- Flux, HTCondor, Cobalt, OAR
  { "Flux, a task", set = FLUX, expect = { scheduler = "flux", job = "ƒ2oLkTLb", ["launch.rank"] = 3, ["launch.local_size"] = 2,
    mode = "step", scratch = "/tmp/flux" } },
  { "Flux, a batch script has no id", set = { FLUX_URI = "local:///x" }, expect = { kind = "hpc", scheduler = "flux", job = NONE,
    mode = "batch", ["launch.world_size"] = 1, time_left_s = NONE } },
  { "Flux, a batch script asked", set = { FLUX_URI = "local:///x" }, commands = { ["flux job timeleft"] = "598\n" },
    expect = { time_left_s = 598 } },
  { "Flux, an array, asked", set = with(FLUX, { FLUX_JOB_CC = "5", FLUX_TASK_RANK = "0", FLUX_TASK_LOCAL_ID = "0" }),
    commands = { ["flux job timeleft 'ƒ2oLkTLb'"] = "1799\n" }, expect = { array_task = 5, time_left_s = 1799 } },
  { "HTCondor", set = CONDOR, files = CONDOR_FILES, expect = { scheduler = "htcondor", job = "800.3", restarts = 1, cpus = 3,
    memory = 1 << 30, scratch = "/c" } },
  { "HTCondor, its advert is gone", set = CONDOR, files = { ["/c/.machine.ad"] = "Cpus = 2\n" }, warns = "_CONDOR_JOB_AD",
    expect = { job = NONE, cpus = 2 } },
  { "Cobalt", set = COBALT, files = PBS_FILES, expect = { scheduler = "cobalt", job = "400", nodes = 2, time_left_s = 3000,
    limit_s = 4000 } },
  { "Cobalt, aprun says a rank and not of how many", set = with(COBALT, { ALPS_APP_PE = "1" }), files = PBS_FILES,
    fails = "ALPS_APP_PE=1" },
  { "OAR", set = OAR, files = PBS_FILES, host = "h1", expect = { scheduler = "oar", job = "21", array_job = "20", array_task = 2,
    nodes = 2, cpus = 2, limit_s = 7200, time_left_s = 7200 } },

  -- Kubernetes
  { "a notebook in a pod is no job", set = POD, expect = { kind = "cloud", scheduler = "none" } },
  { "Kubernetes, an indexed job", set = with(POD, { JOB_COMPLETION_INDEX = "2" }), expect = { kind = "cloud", scheduler = "kubernetes",
    array_task = 2, ["launch.world_size"] = 1 } },
  { "Kubernetes, an indexed job that trains together", set = with(POD, { JOB_COMPLETION_INDEX = "2", WORLD_SIZE = "4", KAVA_JOB_ID = "j",
    KAVA_RESTARTS = "1" }),
    expect = { ["launch.rank"] = 2, ["launch.world_size"] = 4, ["launch.local_rank"] = 0, job = "j", restarts = 1 } },
  { "Kubernetes, PyTorchJob: a rank a pod", set = with(POD, { RANK = "1", WORLD_SIZE = "3", MASTER_ADDR = "m" }),
    expect = { scheduler = "kubernetes", ["launch.rank"] = 1, ["launch.local_rank"] = 0, ["launch.local_size"] = 1, cpus = 4 } },
  { "Kubernetes, Trainer", set = with(POD, { PET_NNODES = "2", PET_NODE_RANK = "1" }), expect = { nodes = 2, ["launch.rank"] = 1,
    ["launch.world_size"] = 2 } },
  { "Kubernetes, Trainer with two a pod", set = with(POD, { PET_NNODES = "2", PET_NODE_RANK = "1", PET_NPROC_PER_NODE = "2",
    LOCAL_RANK = "1" }), expect = { ["launch.rank"] = 3, ["launch.world_size"] = 4, ["launch.local_size"] = 2 } },
  { "Kubernetes, Trainer with two a pod, not started", set = with(POD, { PET_NNODES = "2", PET_NODE_RANK = "1", PET_NPROC_PER_NODE = "2" }),
    fails = "numProcPerNode" },

  -- ranks
  { "KAVA_RANK is before all others", set = with(STEP, { KAVA_RANK = "1", KAVA_WORLD_SIZE = "2", KAVA_LOCAL_RANK = "1" }),
    expect = { ["launch.rank"] = 1, ["launch.world_size"] = 2, ["launch.source"] = "KAVA_RANK, KAVA_WORLD_SIZE, KAVA_LOCAL_RANK" } },
  { "KAVA_RANK alone", set = { KAVA_RANK = "1" }, fails = "KAVA_RANK is set alone" },
  { "a rank that is none", set = with(OMPI, { OMPI_COMM_WORLD_RANK = "two" }), fails = "OMPI_COMM_WORLD_RANK=two: a whole number from 0" },
  { "a rank below nothing", set = { RANK = "-1", WORLD_SIZE = "2", LOCAL_RANK = "0" }, fails = "RANK=-1" },
  { "a rank beyond the world", set = with(TORCHRUN, { RANK = "8" }), fails = "RANK=8 is not below WORLD_SIZE=8" },
  { "a local rank beyond its node", set = with(TORCHRUN, { LOCAL_RANK = "4" }),
    fails = "LOCAL_RANK=4 is not below the 4 ranks of this node" },
  { "Open MPI's rank against PMIx's", set = with(OMPI, { PMIX_RANK = "1" }), fails = "PMIX_RANK=1" },
  { "a rank of no node", set = { RANK = "1", WORLD_SIZE = "2" }, fails = "LOCAL_RANK" },
  { "PMI on one node", set = with(SGE, { PMI_RANK = "1", PMI_SIZE = "2" }), expect = { ["launch.local_rank"] = 1, cpus = 2 } },
  { "MPICH", set = { PMI_RANK = "1", PMI_SIZE = "2", MPI_LOCALRANKID = "1", MPI_LOCALNRANKS = "2" },
    expect = { ["launch.local_rank"] = 1 } },
  { "MVAPICH", set = { MV2_COMM_WORLD_RANK = "1", MV2_COMM_WORLD_SIZE = "2", MV2_COMM_WORLD_LOCAL_RANK = "1" },
    expect = { ["launch.rank"] = 1 } },
  { "RANK alone belongs to somebody else", set = { RANK = "captain" }, expect = { ["launch.world_size"] = 1 } },

  -- limits
  { "a quota of half a CPU two groups up, v2", files = V2, expect = { cpus = 1, memory = 2147483648 } },
  { "v1 in a container, one and a half CPUs", files = V1, expect = { cpus = 2, memory = 1 << 30 } },
  { "both at once", files = with(V1, { ["/proc/self/cgroup"] = V1["/proc/self/cgroup"] .. "0::/\n",
    ["/proc/self/mountinfo"] = V1["/proc/self/mountinfo"] .. "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
    ["/sys/fs/cgroup/unified/cpu.max"] = "100000 100000\n" }), expect = { cpus = 1, memory = 1 << 30 } },
  { "v1 says none as nearly 2^63", files = with(V1, { ["/sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n" }),
    expect = { memory = 8192000 * 1024 } },
  { "a container's CPUs are its ranks' together", set = OMPI, files = with(V2, { ["/sys/fs/cgroup/slice/job/cpu.max"] = "max 100000\n",
    ["/sys/fs/cgroup/slice/job/step/cpuset.cpus.effective"] = "0-1,8-9\n", ["/sys/devices/system/cpu/online"] = "0-63\n" }),
    expect = { cpus = 2 } },
  { "a limit of address space",
    files = { ["/proc/self/limits"] = "Max address space         1000000000           unlimited            bytes\n" },
    expect = { memory = 1000000000 } },
  { "a malformed figure is ignored, and said", set = with(ONE, { SLURM_CPUS_ON_NODE = "many" }), warns = "SLURM_CPUS_ON_NODE=many",
    expect = { cpus = 4 } },
  { "an id that is none", set = with(ONE, { SLURM_JOB_ID = "7; rm -rf /" }), warns = "SLURM_JOB_ID",
    expect = { scheduler = "slurm", job = NONE } },

  -- GPUs
  { "inside Slurm without a GPU: none, whatever the mask", set = with(ONE, { CUDA_VISIBLE_DEVICES = "0" }), gpus = nvidia(4),
    backends = CUDA,
    expect = { device = "cpu", gpus = {}, visible_devices = {} } },
  { "inside Slurm with two GPUs, all tasks seeing both", set = with(STEP, { SLURM_GPUS_ON_NODE = "2", CUDA_VISIBLE_DEVICES = "0,1" }),
    gpus = nvidia(2), backends = CUDA, expect = { device = "cuda", gpu = 2, precision = "bf16" } },
  { "inside Slurm with one GPU a task", set = with(STEP, { SLURM_GPUS_ON_NODE = "1", CUDA_VISIBLE_DEVICES = "0" }),
    gpus = nvidia(1), backends = CUDA, expect = { gpu = 1 } },
  { "the mask ends at its first invalid entry", set = { CUDA_VISIBLE_DEVICES = "0,2,-1,1" }, gpus = nvidia(4), backends = CUDA,
    expect = { visible_devices = { 0, 2 }, ["gpus.2.name"] = "A2" } },
  { "a mask that is malformed", set = { CUDA_VISIBLE_DEVICES = "1,first" }, gpus = nvidia(4), backends = CUDA, warns = "'first'",
    expect = { visible_devices = { 1 } } },
  { "a GPU that will not open", gpus = nvidia(1), backends = { cuda = "device cuda: libcublasLt.so.12: not found" },
    warns = "not used: device cuda: libcublasLt.so.12: not found",
    expect = { device = "cpu", gpu = NONE, ["why.device"] = "device cuda: libcublasLt.so.12: not found" } },
  { "a mask beyond the last GPU", set = { CUDA_VISIBLE_DEVICES = "0,7" }, gpus = nvidia(2), backends = CUDA, warns = "the driver shows 1",
    expect = { ["gpus.1.name"] = "A0", ["gpus.2"] = NONE } },
  { "an old Slurm's word for none", set = { CUDA_VISIBLE_DEVICES = "NoDevFiles" }, gpus = nvidia(2), backends = CUDA,
    expect = { device = "cpu", visible_devices = {} } },
  { "a MIG slice", set = { CUDA_VISIBLE_DEVICES = "MIG-1a2b-3c" },
    gpus = { { name = "slice", uuid = "MIG-1a2b-3c4d", major = 9, minor = 0 } },
    backends = CUDA, expect = { device = "cuda", visible_devices = { "MIG-1a2b-3c" }, ["gpus.1.name"] = "slice" } },
  { "GPUs given that this build cannot use", set = with(STEP, { SLURM_GPUS_ON_NODE = "1", CUDA_VISIBLE_DEVICES = "0" }), gpus = nvidia(1),
    warns = "ask for none", expect = { device = "cpu" } },
  { "a V100 multiplies no bf16", gpus = { { name = "V100", major = 7, minor = 0 } }, backends = CUDA, expect = { precision = "f16" } },
  { "an RTX 3090 does", gpus = { { name = "3090", major = 8, minor = 6 } }, backends = CUDA, expect = { precision = "bf16" } },
  { "a P100 stores f16 only", gpus = { { name = "P100", major = 6, minor = 0 } }, backends = CUDA, expect = { precision = "f32" } },
  { "GPUs this build cannot use", gpus = nvidia(1), isa = "avx512bf16", bf16 = "amx",
    expect = { device = "cpu", precision = "bf16", ["gpus.1.name"] = "A0" } },
  { "MI250", files = MI250, backends = { rocm = true },
    expect = { device = "rocm", ["gpus.1.gfx"] = "gfx90a", ["gpus.2.memory"] = 68702699520,
    precision = "bf16" } },
  { "ROCR's mask, then HIP's on what is left", files = MI250, set = { ROCR_VISIBLE_DEVICES = "1", HIP_VISIBLE_DEVICES = "0" },
    backends = { rocm = true }, expect = { ["gpus.1.uuid"] = "GPU-0000000000000003", ["gpus.2"] = NONE } },
  { "an empty mask of ROCm's", files = MI250, set = { ROCR_VISIBLE_DEVICES = "" }, backends = { rocm = true },
    expect = { device = "cpu" } },
  { "GPUs of AMD's that a cgroup keeps from this job", files = with(MI250, { [KFD .. "1/properties"] = false }), backends = { rocm = true },
    expect = { device = "rocm", ["gpus.1.uuid"] = "GPU-0000000000000003", ["gpus.2"] = NONE } },
  { "an MI250 by its card", files = with(MI250, {
      [KFD .. "1/properties"] = "simd_count 440\ngfx_target_version 90010\nunique_id 2\ndrm_render_minor 128\n",
      [KFD .. "1/mem_banks/1/properties"] = "size_in_bytes 1024\n",
      ["/sys/class/drm/renderD128/device/product_name"] = "AMD Instinct MI250X\n",
      ["/sys/class/drm/renderD128/device/mem_info_vram_used"] = "1048576\n" }), backends = { rocm = true },
    expect = { ["gpus.1.name"] = "AMD Instinct MI250X", ["gpus.1.memory"] = 68702699520 + 1024,
      ["gpus.1.memory_free"] = 68702699520 + 1024 - 1048576, ["gpus.2.name"] = "gfx90a", ["gpus.2.memory_free"] = NONE } },
  { "inside Slurm without a GPU: none of AMD's either", files = MI250, set = ONE, backends = { rocm = true },
    expect = { device = "cpu", gpus = {} } },
  { "a Mac", darwin = "23.4.0", backends = { mps = true }, expect = { device = "mps", ["gpus.1.name"] = "Apple M3", precision = "bf16" } },
  { "a Mac of macOS 13", darwin = "22.6.0", backends = { mps = true }, expect = { device = "mps", precision = "f16" } },
  { "a Mac of macOS 26", darwin = "25.0.0", backends = { mps = true }, expect = { ["gpus.1.macos"] = 26, precision = "bf16" } },
  { "a driver and its version", gpus = nvidia(1), about = { library = true, driver = "550.54", cuda = "12.4", seen = 1 }, backends = CUDA,
    expect = { device = "cuda", driver = "550.54, CUDA 12.4" } },
  { "a driver's library and no GPU, as on a login node", gpus = {}, backends = CUDA,
    about = { library = true, cuda = "12.4", code = 100, problem = "cuInit: error 100, no CUDA-capable device is detected" },
    expect = { device = "cpu", driver = "CUDA 12.4" } },
  { "GPUs that a container may not open", gpus = {}, warns = "NVML counts 2 GPUs", backends = CUDA,
    about = { library = true, seen = 2, code = 100, problem = "cuInit: error 100, none" }, expect = { device = "cpu" } },
  { "a driver and a module of different versions", gpus = {}, warns = "has to be restarted", backends = CUDA,
    about = { library = true, seen = 2, code = 803, problem = "cuInit: error 803, unsupported" }, expect = { device = "cpu" } },
}

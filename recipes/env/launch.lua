-- Which process of how many this is: rank, world size and local rank from one source, the first that is complete. Never a rank from one
-- launcher and a size from another: under mpirun within Slurm, SLURM_PROCID is the rank of the node's daemon, and four ranks read 0 0 1 1.
-- A rank that is wrong makes processes overwrite one another, so what is malformed or contradicts itself ends the program.
local cli = require "kava.cli"
local variables = require "recipes.env.variables"

-- In order. rank and world are needed; local_rank and local_size: the first of these that is set. same: a variable of the same launcher
-- that must say the same rank. when(at) -> whether the source counts at all. own: nobody sets it by accident, so a part alone is an error.
local SOURCES = {
  { name = "KAVA_RANK", own = true, rank = "KAVA_RANK", world = "KAVA_WORLD_SIZE", local_rank = { "KAVA_LOCAL_RANK" },
    local_size = { "KAVA_LOCAL_SIZE" } },
  { name = "RANK", rank = "RANK", world = "WORLD_SIZE", local_rank = { "LOCAL_RANK" }, local_size = { "LOCAL_WORLD_SIZE" } },
  { name = "Open MPI", rank = "OMPI_COMM_WORLD_RANK", world = "OMPI_COMM_WORLD_SIZE", local_rank = { "OMPI_COMM_WORLD_LOCAL_RANK" },
    local_size = { "OMPI_COMM_WORLD_LOCAL_SIZE" }, same = { "PMIX_RANK" } },
  { name = "MVAPICH", rank = "MV2_COMM_WORLD_RANK", world = "MV2_COMM_WORLD_SIZE", local_rank = { "MV2_COMM_WORLD_LOCAL_RANK" },
    local_size = { "MV2_COMM_WORLD_LOCAL_SIZE" } },
  { name = "PMI", rank = "PMI_RANK", world = "PMI_SIZE", local_rank = { "MPI_LOCALRANKID", "PMI_LOCAL_RANK" },
    local_size = { "MPI_LOCALNRANKS", "PMI_LOCAL_SIZE" } },
  { name = "Flux", rank = "FLUX_TASK_RANK", world = "FLUX_JOB_SIZE", local_rank = { "FLUX_TASK_LOCAL_ID" } },
  { name = "jsrun", rank = "JSM_NAMESPACE_RANK", world = "JSM_NAMESPACE_SIZE", local_rank = { "JSM_NAMESPACE_LOCAL_RANK" },
    local_size = { "JSM_NAMESPACE_LOCAL_SIZE" } },
  { name = "srun", rank = "SLURM_PROCID", world = "SLURM_STEP_NUM_TASKS", local_rank = { "SLURM_LOCALID" },
    same = { "PMI_RANK", "PMIX_RANK" }, when = function(at) return at.v:has "SLURM_STEP_ID" end }, -- a batch script has PROCID too
  { name = "Kubernetes", rank = "JOB_COMPLETION_INDEX", world = "WORLD_SIZE" }, -- a pod is a rank
}

local launch = {}

local function fail(text, ...)
  cli.fail(text:format(...), cli.exit.usage)
end

local function number(at, name, least)
  if not name or not at.v:has(name) then return nil end
  local text = at.v:raw(name)
  local n, expected = variables.whole(text, least)
  if not n then
    fail("%s=%s: %s; the launcher sets it: unset it if an older shell left it behind, or give KAVA_RANK, KAVA_WORLD_SIZE and "
      .. "KAVA_LOCAL_RANK", name, variables.shown(text), expected)
  end
  return n
end

local function first_number(at, names, least)
  for _, name in ipairs(names or {}) do
    local n = number(at, name, least)
    if n then return n, name end
  end
end

local function contradiction(source, text, ...)
  fail("%s: %s; start the ranks again, and unset variables that an older shell left behind", source.name, text:format(...))
end

-- What one source says -> { rank, world_size, local_rank, local_size, source } (local_rank nil: incomplete) | nil
local function tuple(at, source)
  local v = at.v
  if source.when and not source.when(at) then return nil end
  if not (v:has(source.rank) and v:has(source.world)) then
    if not source.own then return nil end
    for _, name in ipairs { source.rank, source.world, "KAVA_LOCAL_RANK" } do
      if v:has(name) then fail("%s is set alone: KAVA_RANK, KAVA_WORLD_SIZE and KAVA_LOCAL_RANK belong together; set the others", name) end
    end
    return nil
  end
  local t = { rank = number(at, source.rank), world_size = number(at, source.world, 1) }
  t.source = source.rank .. ", " .. source.world
  local from
  t.local_rank, from = first_number(at, source.local_rank)
  if from then t.source = t.source .. ", " .. from end
  t.local_size = first_number(at, source.local_size, 1)
  if t.rank >= t.world_size then
    contradiction(source, "%s=%d is not below %s=%d", source.rank, t.rank, source.world, t.world_size)
  end
  if t.local_size and t.local_size > t.world_size then
    contradiction(source, "%d ranks on this node of %s=%d in all", t.local_size, source.world, t.world_size)
  end
  if t.local_rank and t.local_rank >= (t.local_size or t.world_size) then
    contradiction(source, "%s=%d is not below the %d ranks%s", from, t.local_rank, t.local_size or t.world_size,
      t.local_size and " of this node" or "")
  end
  for _, name in ipairs(source.same or {}) do
    local other = number(at, name)
    if other and other ~= t.rank then contradiction(source, "%s=%d, but %s=%d", source.rank, t.rank, name, other) end
  end
  if not t.local_rank and (t.world_size == 1 or not source.local_rank) then
    t.local_rank, t.source = 0, t.source .. " (one process a pod or in all: local rank 0)"
  end
  return t
end

-- Kubeflow's trainer: a node is a pod, and the ranks of a pod have to be started in it.
local function trainer(at)
  local v = at.v
  local rank, nodes = number(at, "PET_NODE_RANK"), number(at, "PET_NNODES", 1)
  if not rank or not nodes then return nil end
  local per = 1
  if v:has "PET_NPROC_PER_NODE" then
    per = variables.whole(v:raw "PET_NPROC_PER_NODE", 1)
    if not per then
      fail("PET_NPROC_PER_NODE=%s: a whole number from 1 expected; set numProcPerNode to a number",
        variables.shown(v:raw "PET_NPROC_PER_NODE"))
    end
  end
  local inner = number(at, "LOCAL_RANK") or per == 1 and 0
  if not inner then
    fail("PET_NPROC_PER_NODE=%d, and LOCAL_RANK is not set: start %d processes a pod, each with its LOCAL_RANK, or set numProcPerNode "
      .. "to 1", per, per)
  end
  if rank >= nodes or inner >= per then
    fail("PET_NODE_RANK=%d of PET_NNODES=%d, local rank %d of %d: a rank is not below its number; correct the job's manifest", rank,
      nodes, inner, per)
  end
  return { rank = rank * per + inner, world_size = nodes * per, local_rank = inner, local_size = per,
    source = "PET_NODE_RANK, PET_NNODES" }
end

-- Slurm's "2(x3),1": tasks on each node of the step, this one's being the node_id-th.
local function slurm_local_size(at)
  local text, node = at.v:text "SLURM_STEP_TASKS_PER_NODE", at.v:integer "SLURM_NODEID"
  if not text or not node then return nil end
  local seen = 0
  for count, times in (text .. ","):gmatch "(%d+)(%(?x?%d*%)?)," do
    seen = seen + (math.tointeger(tonumber(times:match "x(%d+)")) or 1)
    if node < seen then return math.tointeger(tonumber(count)) end
  end
end

-- RANK and WORLD_SIZE set by hand, not by torchrun, have to agree with the launcher around them when that has as many ranks.
local function compare(at, chosen, chosen_source)
  if chosen_source.name ~= "RANK" or at.v:has "TORCHELASTIC_RUN_ID" then return end
  for i = 3, #SOURCES do
    local source = SOURCES[i]
    local other = source.local_rank and tuple(at, source)
    if other and other.local_rank and other.world_size == chosen.world_size and other.rank ~= chosen.rank then
      fail("RANK=%d, but %s=%d, both of %d: unset RANK, WORLD_SIZE and LOCAL_RANK, or set KAVA_RANK, KAVA_WORLD_SIZE and "
        .. "KAVA_LOCAL_RANK to what holds", chosen.rank, source.rank, other.rank, other.world_size)
    end
  end
end

-- Nothing is complete: what there is of ranks, if it says that there are several processes, must not be taken for one.
local function incomplete(at, partial)
  local v, facts = at.v, at.facts
  if partial then
    if facts.nodes == 1 then
      partial.local_rank, partial.local_size = partial.rank, partial.world_size
      partial.source = partial.source .. " (one node: local rank = rank)"
      return partial
    elseif facts.scheduler == "kubernetes" then
      partial.local_rank, partial.local_size, partial.source = 0, 1, partial.source .. " (one rank a pod: local rank 0)"
      return partial
    end
    fail("%s say rank %d of %d, but not which rank of its node this is: set LOCAL_RANK, or KAVA_RANK, KAVA_WORLD_SIZE and "
      .. "KAVA_LOCAL_RANK", partial.source, partial.rank, partial.world_size)
  end
  for _, name in ipairs { "ALPS_APP_PE", "PMIX_RANK" } do
    local rank = number(at, name)
    if rank and rank > 0 then
      fail("%s=%d says that there are several processes, but nothing says how many: set KAVA_RANK, KAVA_WORLD_SIZE and KAVA_LOCAL_RANK",
        name, rank)
    end
  end
  local tasks = facts.scheduler == "slurm" and facts.mode == "batch" and v:integer("SLURM_NTASKS", 1)
  if tasks and tasks > 1 then
    v:warn("Slurm gave %d tasks, but the batch script started one process: put `srun` before `kava` to start them all", tasks)
  end
  return { rank = 0, world_size = 1, local_rank = 0, local_size = 1, source = "one process: no launcher's variables are set" }
end

--- Puts launch = { rank, world_size, local_rank, local_size (nil: not known), source }.
function launch.read(at)
  local chosen, partial
  for _, source in ipairs(SOURCES) do
    local t = tuple(at, source)
    if t and t.local_rank then
      chosen = t
      compare(at, t, source)
      if source.name == "srun" then t.local_size = slurm_local_size(at) end
      break
    end
    partial = partial or t
  end
  chosen = chosen or trainer(at) or incomplete(at, partial)
  if chosen.world_size == 1 then chosen.local_size = 1 end
  local nodes = at.facts.nodes
  if not chosen.local_size and nodes then
    chosen.local_size = nodes == 1 and chosen.world_size or chosen.world_size % nodes == 0 and chosen.world_size // nodes or nil
  end
  at:put("launch", chosen, chosen.source)
end

return launch

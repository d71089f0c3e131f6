-- GPUs this rank may use, and the precision each computes in. from.cuda lists what CUDA's driver shows, CUDA_VISIBLE_DEVICES applied,
-- and says of the driver itself what it knows (lua/kava/meta/gpus.lua); from.metal likewise; AMD's are read from the kernel's files.
-- from.backends says what this build computes on. Masks are read whether or not a driver answers: what a job was given is a fact too.
local devices = {}

local variables = require "recipes.env.variables"

--- CUDA's rule: unset is all, empty is none, the list ends at its first invalid entry. count: how many there are, where known.
--- -> nil (all) | list of indexes (integers) and names ("GPU-…", "MIG-…"), the entry that ended it or nil
function devices.mask(text, count)
  if not text then return nil end
  local list, seen = {}, {}
  for entry in (text .. ","):gmatch "%s*([^,]-)%s*," do
    local index = variables.whole(entry)
    local name = entry:match "^GPU%-%x[%x%-]*$" or entry:match "^MIG%-[%w%-/]+$"
    if not index and not name or index and count and index >= count or seen[index or name] then
      if text:find "%S" then return list, entry end
      return list
    end
    seen[index or name] = true
    list[#list + 1] = index or name
  end
  return list
end

--- The GPUs of `all` that a mask leaves, in its order. A name is a whole UUID or the beginning of just one.
function devices.select(all, mask)
  if not mask then return all end
  local chosen = {}
  for _, entry in ipairs(mask) do
    local found = {}
    if math.type(entry) == "integer" then
      found[1] = all[entry + 1]
    else
      for _, gpu in ipairs(all) do
        if (gpu.uuid or ""):sub(1, #entry):lower() == entry:lower() then found[#found + 1] = gpu end
      end
    end
    if #found ~= 1 then break end -- as CUDA does: the list ends here
    chosen[#chosen + 1] = found[1]
  end
  return chosen
end

--- bf16 > f16 > f32 by what the hardware multiplies, not by what runs: emulated bf16 raises no error. A pure function.
--- gpu: { kind = "cuda", major, minor } | { kind = "rocm", gfx } | { kind = "mps", macos } | { kind = "cpu", isa, bf16 } -> precision, why
function devices.precision(gpu)
  if gpu.kind == "cuda" then
    local capability = ("compute capability %d.%d"):format(gpu.major, gpu.minor)
    if gpu.major >= 8 then return "bf16", capability .. " multiplies bf16" end
    if gpu.major >= 7 then return "f16", capability .. " multiplies f16, bf16 only from 8.0" end
    return "f32", capability .. " has no fast f16 products (7.0 has)"
  elseif gpu.kind == "rocm" then
    if gpu.gfx:find "^gfx90a" or gpu.gfx:find "^gfx9[45]" or gpu.gfx:find "^gfx1[12]" then return "bf16", gpu.gfx .. " multiplies bf16" end
    if gpu.gfx:find "^gfx90" or gpu.gfx:find "^gfx10" then return "f16", gpu.gfx .. " multiplies f16, not bf16" end
    return "f32", gpu.gfx .. " has no fast f16 products"
  elseif gpu.kind == "mps" then
    if (gpu.macos or 0) >= 14 then return "bf16", "macOS 14 and later multiply bf16" end
    return "f16", "bf16 comes with macOS 14"
  end
  if gpu.bf16 == "amx" then return "bf16", "AMX multiplies bf16" end
  if gpu.bf16 == "dot" then return "bf16", gpu.isa .. " multiplies bf16" end
  return "f32", gpu.isa .. " has no bf16 products faster than f32's" -- Intel's vdpbf16ps is not (scripts/bench/RESULTS.md)
end

local KFD = "/sys/class/kfd/kfd/topology/nodes/%d/"
local NODES = 64 -- a machine has fewer

--- AMD's GPUs as the kernel lists them: nodes that compute -> list of { kind, name, gfx, memory, memory_free, uuid }. What a cgroup keeps
--- from this process cannot be read, and the numbers go on behind it.
function devices.kfd(read)
  local list = {}
  for node = 0, NODES - 1 do
    local base = KFD:format(node)
    local text = read(base .. "properties") or ""
    local function property(name) return math.tointeger(tonumber(("\n" .. text):match("\n" .. name .. " (%d+)"))) end
    local version = property "gfx_target_version" or 0
    if (property "simd_count" or 0) > 0 and version > 0 then -- a CPU is a node without SIMD units
      local gfx = ("gfx%d%x%x"):format(version // 10000, version // 100 % 100, version % 100)
      local memory, id = 0, property "unique_id"
      for bank = 0, 7 do
        local size = (read(("%smem_banks/%d/properties"):format(base, bank)) or ""):match "size_in_bytes (%d+)"
        memory = memory + (math.tointeger(tonumber(size)) or 0)
      end
      local card = ("/sys/class/drm/renderD%d/device/"):format(property "drm_render_minor" or -1)
      local name = (read(card .. "product_name") or ""):match "^%s*([^\n]-)%s*\n?$"
      local used = math.tointeger(tonumber((read(card .. "mem_info_vram_used") or ""):match "%d+"))
      list[#list + 1] = { kind = "rocm", name = name and name ~= "" and name or gfx, gfx = gfx, memory = memory > 0 and memory or nil,
        memory_free = used and memory > used and memory - used or nil, uuid = id and id > 0 and ("GPU-%016x"):format(id) or nil }
    end
  end
  return list
end

-- CUDA's own words for what keeps a driver from working, as advice.
local ADVICE = {
  [2] = "there is too little memory, or address space (ulimit -v), to start it",
  [34] = "libcuda.so.1 is the toolkit's stub: the driver's own has to come first, as a container's --nv or --gpus sees to",
  [35] = "the driver is older than its library wants: a newer driver is needed",
  [802] = "the GPUs are not ready yet: nvidia-fabricmanager has to run on this node",
  [803] = "the driver's library and its kernel module are of different versions: after an update the node has to be restarted, or a "
    .. "container brings a library that is not the node's",
}
local NO_DEVICE = 100

-- What is wrong with NVIDIA's driver, as a warning.
local function complain(at, about, masked)
  if about.code == NO_DEVICE then
    if about.seen and about.seen > 0 and not masked then
      at.v:warn("NVML counts %d GPUs, of which CUDA shows none: this process may not open them (/dev/nvidia*: a container's or a job's "
        .. "rules)", about.seen)
    end
    return
  end
  at.v:warn("NVIDIA's GPUs are not used: %s%s", variables.shown(about.problem, 160), ADVICE[about.code] and ": " .. ADVICE[about.code]
    or ". nvidia-smi on this node should say the same; ask its administrators")
end

-- Torque's file of lines such as host-gpu0 -> a mask of this host's
local function torque_mask(at, path)
  local text = at.from.read(path)
  if not text then
    at.v:warn("PBS_GPUFILE names %s, which cannot be read: no GPU is used; set CUDA_VISIBLE_DEVICES", path)
    return ""
  end
  local indexes, short = {}, at.facts.host:match "^[^.]+"
  for host, index in text:gmatch "(%S+)%-gpu(%d+)" do
    if host:match "^[^.]+" == short then indexes[#indexes + 1] = index end
  end
  return table.concat(indexes, ",")
end

-- The mask that counts for CUDA, as text -> text | nil (all), why
local function cuda_mask(at)
  local v, facts = at.v, at.facts
  if facts.scheduler == "slurm" and not (v:has "SLURM_GPUS_ON_NODE" or v:has "SLURM_STEP_GPUS" or v:has "SLURM_JOB_GPUS") then
    -- An unconstrained node shows everybody's GPUs, and a mask may have come along from the shell that submitted the job.
    return "", "SLURM_GPUS_ON_NODE is not set: this job was given no GPU"
  end
  local mask = v:raw "CUDA_VISIBLE_DEVICES"
  if mask then return mask, mask:find "%S" and "CUDA_VISIBLE_DEVICES" or "CUDA_VISIBLE_DEVICES is empty: no GPU" end
  if facts.scheduler == "torque" and v:text "PBS_GPUFILE" then return torque_mask(at, v:text "PBS_GPUFILE"), "PBS_GPUFILE" end
  if facts.scheduler == "sge" and v:text "SGE_HGR_gpu" then
    return (v:text("SGE_HGR_gpu"):gsub("%s+", ",")), "SGE_HGR_gpu"
  end
  return nil, "CUDA_VISIBLE_DEVICES is not set: all"
end

local function read_mask(at, name, text, count)
  local list, bad = devices.mask(text, count)
  if bad and bad ~= "-1" and bad ~= "NoDevFiles" then -- these two are how "none" is written
    at.v:warn("%s=%s: the list ends before '%s', as the driver reads it: an index%s, GPU-… or MIG-… expected, each once", name,
      variables.shown(text), variables.shown(bad), count and (" below %d"):format(count) or "")
  end
  return list
end

-- The driver applies its own mask; the others are applied here. Where there is none to use, it is not even opened.
local function cuda(at)
  local text, why = cuda_mask(at)
  local own = why == "CUDA_VISIBLE_DEVICES"
  local mask = read_mask(at, why:match "^[%w_]+", text)
  at:put("visible_devices", mask, why)
  if mask and #mask == 0 then return mask, why end
  local all, about
  if at.from.cuda then all, about = at.from.cuda() end
  all, about = all or {}, about or {}
  local version = about.cuda and ("%sCUDA %s"):format(about.driver and about.driver .. ", " or "", about.cuda)
  at:put("driver", version or about.driver, "NVIDIA's driver")
  if about.problem then complain(at, about, mask) end
  if own and #all > 0 and #all < #mask then
    at.v:warn("CUDA_VISIBLE_DEVICES=%s names %d GPUs, the driver shows %d: the list ends at one that is not there",
      variables.shown(text), #mask, #all)
  elseif not mask and #all > 0 and at.facts.scheduler == "sge" then
    at.v:warn("Grid Engine counts GPUs but does not say which are this job's: set CUDA_VISIBLE_DEVICES in the job")
  end
  local chosen = own and all or devices.select(all, mask)
  for _, gpu in ipairs(chosen) do gpu.kind = "cuda" end
  return chosen, why, about.problem and variables.shown(about.problem, 160)
end

-- ROCR's mask comes first; HIP's, else CUDA's, indexes what is left.
local function rocm(at)
  local v = at.v
  local all = devices.kfd(at.from.read)
  if #all == 0 then return all end
  local text, why = cuda_mask(at)
  if text == "" and why:find "^SLURM" then return {}, why end
  local first = v:raw "ROCR_VISIBLE_DEVICES"
  local left = devices.select(all, read_mask(at, "ROCR_VISIBLE_DEVICES", first, #all))
  local name = v:raw "HIP_VISIBLE_DEVICES" and "HIP_VISIBLE_DEVICES" or "CUDA_VISIBLE_DEVICES"
  local second = v:raw(name)
  return devices.select(left, read_mask(at, name, second, #left)),
    second and name or first and "ROCR_VISIBLE_DEVICES" or "the kernel's list (/sys/class/kfd)"
end

-- Apple's; its version of macOS goes with the kernel's: Darwin 23 is macOS 14.
local function apple(at)
  local host = at.from.host()
  if host.system ~= "Darwin" or not at.from.metal then return {} end
  local list, about = at.from.metal()
  local darwin = tonumber((host.release or ""):match "^%d+")
  for _, gpu in ipairs(list) do
    gpu.kind = "mps"
    gpu.macos = darwin and (darwin >= 25 and darwin + 1 or darwin - 9) -- from 26 on Apple counts by years
  end
  if about and about.problem then at.v:warn("%s", about.problem) end
  return list, "Metal"
end

--- Puts isa, isa_bf16, driver, device ("cuda", "rocm", "mps", "cpu"), gpus (those this job may use), gpu (this rank's, from 1),
--- precision, and visible_devices where a mask says which.
function devices.read(at)
  local from, facts = at.from, at.facts
  local isa, bf16 = from.isa()
  at:put("isa", isa, "the processor's features (KAVA_ISA lowers it)")
  at:put("isa_bf16", bf16, "how the kernels multiply bf16")
  local nvidia, mask, problem = cuda(at)
  local amd, amd_mask = rocm(at)
  local gpus, why = nvidia, mask
  if #gpus == 0 and #amd > 0 then gpus, why = amd, amd_mask end
  if #gpus == 0 then
    local metal, source = apple(at)
    if #metal > 0 then gpus, why = metal, source end
  end
  at:put("gpus", gpus, why)
  local kind = gpus[1] and gpus[1].kind
  local opens = kind and (from.backends or {})[kind]
  if opens == true then
    local rank = facts.launch.local_rank
    at:put("gpu", rank % #gpus + 1, ("local rank %d of %d visible"):format(rank, #gpus))
    at:put("device", kind, why)
    at:put("precision", devices.precision(gpus[facts.gpu]))
  else
    local given = facts.visible_devices
    at:put("device", "cpu", opens or kind and "this build computes on the CPU" or given and #given == 0 and why or problem
      or "no GPU is seen")
    if opens then
      at.v:warn("a GPU is seen (%s) and not used: %s", why, opens)
    elseif given and #given > 0 then
      at.v:warn("this job was given GPUs (%s), which this build does not use: ask for none", facts.why.visible_devices)
    end
    at:put("precision", devices.precision { kind = "cpu", isa = isa, bf16 = bf16 })
  end
end

return devices

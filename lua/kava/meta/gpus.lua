---@meta
-- What src/bind/l_gpus.c registers: the machine's GPUs as their drivers show them. recipes/env/devices.lua makes facts of it.

---@class kava
---@field gpus kava.gpus

---@class kava.gpus
local gpus = {}

---@class kava.Gpu
---@field kind "cuda"|"mps"
---@field name string?
---@field uuid string? "GPU-…" or "MIG-…"
---@field major integer? compute capability
---@field minor integer?
---@field memory integer? bytes
---@field memory_free integer? bytes, now
---@field mig boolean? true: a slice of a GPU

---@class kava.GpuDriver
---@field library boolean whether a driver's library is there
---@field driver string? its version
---@field cuda string? the newest CUDA it runs, "12.4"
---@field seen integer? GPUs there are, masks aside
---@field code integer? CUDA's own status
---@field problem string? why there are none although there is a library

--- NVIDIA's, CUDA_VISIBLE_DEVICES applied, asked in a process of its own, for at most `seconds`.
---@param seconds number? 10
---@return kava.Gpu[]
---@return kava.GpuDriver
function gpus.cuda(seconds) end

--- Apple's, by Metal.
---@return kava.Gpu[]
---@return kava.GpuDriver
function gpus.metal() end

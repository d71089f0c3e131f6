---@meta
-- What src/bind/l_system.c registers: the runtime's own switches.

---@class kava
---@field version string
local kava = {}

--- Every random number from here on (initialisation, dropout, shuffles) is a function of n.
---@param n integer
function kava.seed(n) end

--- The generator's state, which a checkpoint keeps; given both, sets it.
---@param seed integer?
---@param position integer?
---@return integer seed
---@return integer position
function kava.rng_state(seed, position) end

--- Element `index` of a shuffle of 1..count, in constant time and memory (a Feistel network with cycle walking), so that
--- a resumed run continues an epoch anywhere. Raises unless 1 <= index <= count.
---@param seed integer
---@param count integer
---@param index integer
---@return integer
function kava.permute(seed, count, index) end

--- Threads that a parallel region uses, the caller included; given n, sets it (0: the CPUs this process may use).
---@param n integer?
---@return integer
function kava.threads(n) end

--- CPUs in this process's affinity mask; quotas and schedulers may allow fewer (recipes/env).
---@return integer
function kava.cpus() end

---@class kava.Host
---@field name string? as uname has it
---@field system string?
---@field release string?
---@field machine string?

---@return kava.Host
function kava.host() end

--- The effective user as the user database names it, which may be asked over the network; nil: it does not know.
---@return string?
function kava.user() end

--- Versions of the libraries that KAVA is linked with, as they say themselves: lua, pcre2, utf8proc, zlib, zstd.
---@return table<string, string>
function kava.libraries() end

--- Names, never values, of the environment's variables that begin with `prefix`, in no order.
---@param prefix string
---@return string[]
function kava.variables(prefix) end

--- Runs f, which a file of data brought, and ends it where it would not end by itself: instructions of Lua's machine, bytes more than
--- there were, seconds of processor time. -> true, f's results; false, message.
---@param f fun(): ...
---@param limits { instructions: integer?, memory: integer?, seconds: number? }
---@return boolean ok
---@return any ...
function kava.bounded(f, limits) end

---@class kava.MemoryStats
---@field current integer bytes handed out
---@field peak integer bytes, at most since the start or memory_reset_peak
---@field cached integer bytes of free large blocks, kept for the next use
---@field blocks integer live blocks
---@field limit integer what may be handed out together; 0: no limit

---@class kava.DeviceMemoryStats
---@field current integer bytes in tensors
---@field peak integer the same, at most since the start or memory_reset_peak
---@field reserved integer bytes taken from the device, in which tensors lie
---@field free integer bytes, as the device says
---@field total integer
---@field limit integer what tensors may take together; 0: no limit

---@return { cpu: kava.MemoryStats, cuda: kava.DeviceMemoryStats? } cuda: where a GPU is in use
function kava.memory() end

--- Calls f(…): what is made meanwhile on a GPU will stay long, as weights do, and lies apart from what steps take and give back.
---@param f fun(...): ...
---@param ... any
---@return any ... f's results
function kava.lasting(f, ...) end

---@class kava.PeakRow
---@field name string? the kernel that first wrote there; nil: it was there before
---@field bytes integer of one block
---@field count integer

--- Calls f(…) and says what lay in the GPU's memory when most did, what takes most first. What is freed while a step is recorded
--- counts as freed.
---@param f fun(...): ...
---@param ... any
---@return kava.PeakRow[]
---@return any ... f's results
function kava.memory_peak(f, ...) end

---@class kava.DeviceFacts
---@field name string "NVIDIA H100 80GB HBM3"; "emulated"; of the CPU the kernels' instruction set
---@field capability string? "9.0"
---@field driver string? the CUDA version that it is for
---@field runtime string? the CUDA version of this build
---@field memory integer? bytes
---@field processors integer?

--- What computes on a device, which is made ready by this; nil, message, code ("unsupported") where it is not here. The GPU is the
--- first that CUDA_VISIBLE_DEVICES shows. KAVA_CUDA in the environment: "off": none; "emulated": acted by the CPU, for tests.
---@param name "cpu"|"cuda"
---@return kava.DeviceFacts|nil
---@return string? message
---@return string? code
function kava.device(name) end

---@class kava.Replay
local Replay = {}
--- The recorded step once more, with what its tensors hold now: enqueued, not waited for. Random numbers go on as they would if f
--- were called; rates are those that the optimizers have now. Work that is done aside is waited for before it, and cannot run one.
function Replay:run() end
--- Its memory goes back to the device, once nothing lives in it any more.
function Replay:release() end

--- Calls f(…) and keeps what it gives the GPU to do, as one CUDA graph; nothing is done yet, so the tensors that f returns hold
--- nothing before the first run. f's inputs are tensors on the GPU, whose contents change between runs (copy_); what it takes from
--- the CPU is part of the recording. A value read meanwhile raises, as kava.rand and kava.randn do. Optimizers have made a step before.
---@param f fun(...): ...
---@param ... any
---@return kava.Replay
---@return any ... f's results
function kava.record(f, ...) end

--- Calls f(…), and what it gives the GPU to do is done beside what follows, on a second stream: a teacher's pass beside the student's.
--- The function that comes back gives f's results, and from its call on they may be used: what follows waits for them on the GPU. A
--- second aside waits for the first. Works within kava.record. On the CPU f is just called.
---@param f fun(...): ...
---@param ... any
---@return fun(): ... results
function kava.aside(f, ...) end

---@class kava.Range
local Range = {}
--- Ends it, and what was begun in it; so does the end of a `<close>` variable.
function Range:release() end

--- What runs until its end belongs to `name`, in profiles (kava.profile) and in those of NVIDIA's tools (NVTX). nil where nobody looks.
--- Losses name "teacher", "student" and "loss", models their layers, the tape "backward", optimizers "optimizer".
---@param name string
---@return kava.Range|nil
function kava.range(name) end

---@class kava.Span
---@field name string
---@field start number microseconds since the profile began
---@field length number microseconds

--- For lua/kava/profile.lua, which begins a profile and makes a report of it. Raises where one is being taken.
function kava.profile_begin() end

--- Ends it, waiting for the GPU. source: who timed the kernels, "CUPTI" or "events"; nil: no GPU is in it, and ops are all there is.
---@return { ops: kava.Span[], ranges: kava.Span[], kernels: kava.Span[]?, source: string?, length: number }
function kava.profile_end() end

--- Whether one is being taken.
---@return boolean
function kava.profiling() end

--- Recordings that share their memory: what one of them gives is good until another one runs.
---@return kava.Recorder
function kava.recorder() end

---@class kava.Recorder
local Recorder = {}
--- As kava.record.
---@param f fun(...): ...
---@param ... any
---@return kava.Replay
---@return any ... f's results
function Recorder:record(f, ...) end
--- Its memory goes back to the device once its recordings are released.
function Recorder:release() end

--- The values of a contiguous tensor, copied to the host behind all that the device has been given so far. Nobody waits.
---@param t kava.Tensor
---@return kava.Fetch
function kava.fetch(t) end

--- Copies of contiguous tensors on the GPU as they are behind all that it has been given so far, all in one piece of its memory: what
--- comes next may change the tensors. room: what an earlier call gave, of whose copies none is needed any more; it is used up. Raises
--- where there is no memory.
---@param tensors table<string, kava.Tensor>
---@param room kava.Tensor?
---@return table<string, kava.Tensor> copies
---@return kava.Tensor room
function kava.snapshot(tensors, room) end

---@class kava.Fetch
local Fetch = {}
--- Whether read() would not wait.
---@return boolean
function Fetch:ready() end
--- The values, on the CPU; waits until they are there.
---@return kava.Tensor
function Fetch:read() end
--- Lets them go.
function Fetch:release() end

--- Which of the library's kernels was found fastest for which matrix product: read from a file (one that is not there, or is another
--- GPU's or library's, is passed over), or with save = true put there where there is something new. nil, message, code on failure.
---@param device "cpu"|"cuda"
---@param path string
---@param save? boolean
---@return true|nil
---@return string? message
---@return string? code
function kava.plans(device, path, save) end

--- Until the device has done all that it was given. Reading a value waits by itself.
---@param name "cpu"|"cuda"
function kava.wait(name) end

function kava.memory_reset_peak() end

--- From now on what would take `current` above so many bytes fails with "out of memory", as where there is no more; 0: no limit. What
--- is already handed out stays.
---@param bytes integer
---@param device "cpu"|"cuda"|nil "cpu"
function kava.memory_limit(bytes, device) end

--- For tests: n allocations pass, the next one fails, once; negative: off.
---@param n integer
function kava.memory_fail_after(n) end

--- Live native objects (tensors, models, tokenizers, ...) of the whole program.
---@return integer
function kava.live() end

--- The instruction set that the CPU kernels use: "avx512bf16", "avx512", "avx2", "neon" or "reference".
--- And how they multiply bf16: "amx", "dot" (AVX512-BF16), or "f32": rounded, and no faster than f32.
---@return string
---@return "amx"|"dot"|"f32"
function kava.isa() end

--- Calls f(...) with nothing recorded for a backward pass; returns its results, passes its errors on.
---@generic T
---@param f fun(...): T
---@return T ...
function kava.no_grad(f, ...) end

--- Whether training mode is on (dropout is active only then); given a mode, sets it.
---@param mode boolean?
---@return boolean
function kava.train(mode) end

--- Held in a `<close>` variable, its end frees every gradient record made since, results still held included.
---@return kava.Scope
function kava.scope() end

---@class kava.Scope
local Scope = {}

--- Closes the scope now; a second call does nothing.
function Scope:release() end



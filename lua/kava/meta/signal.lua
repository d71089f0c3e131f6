---@meta
-- What src/bind/l_signal.c registers.

---@class kava.signals
local signals = {}

--- Watches these signals ("INT", "TERM", "USR1", "USR2", "HUP") and no others from now on, and forgets what came before.
--- A watched signal only sets a flag; a second SIGINT ends the program at once. Raises on an unknown name.
---@param names string[]
function signals.watch(names) end

--- The name of the watched signal that came first, or nil.
---@return string?
function signals.pending() end

--- As xpcall(f, handler); a SIGINT meanwhile raises an error that ends in "interrupted" in what f runs, once a native operation under
--- way has ended. A coroutine notices when it yields or ends.
---@param f fun(): any ...
---@param handler fun(err: any): any
---@return boolean
---@return any ...
function signals.interruptible(f, handler) end

---@class kava
local kava = { signals = signals }

--- Whether a file descriptor (0 input, 1 output, 2 errors) is a terminal.
---@param fd integer
---@return boolean
function kava.isatty(fd) end

--- Seconds since an arbitrary moment, monotonic.
---@return number
function kava.clock() end

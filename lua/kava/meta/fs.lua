---@meta
-- What src/bind/l_fs.c registers in kava.fs. Failures of the world return nil, message, "io"; the message names the path.

---@class kava.fs
local fs = {}

---@param path string
---@return boolean
function fs.exists(path) end

---@param path string
---@return boolean
function fs.isdir(path) end

--- The names in a folder, sorted, without "." and "..".
---@param path string
---@return string[]?
---@return string? message
---@return string? code
function fs.list(path) end

--- Makes a folder and those above it; one that is there is fine.
---@param path string
---@return true?
---@return string? message
---@return string? code
function fs.mkdir(path) end

--- Removes a file or an empty folder.
---@param path string
---@return true?
---@return string? message
---@return string? code
function fs.remove(path) end

--- Writes a file that is whole, or as it was before: a temporary file beside it, fsync, rename, fsync of the folder.
---@param path string
---@param text string
---@return true?
---@return string? message
---@return string? code
function fs.write(path, text) end

--- A file's size in bytes.
---@param path string
---@return integer?
---@return string? message
---@return string? code
function fs.size(path) end

--- Bytes that may still be written where `path` is.
---@param path string
---@return integer?
---@return string? message
---@return string? code
function fs.free(path) end

--- Removes a file, or a folder with all that is in it; links are removed, not followed.
---@param path string
---@return true?
---@return string? message
---@return string? code
function fs.remove_tree(path) end

--- Renames; a file that is at `to` is replaced at once. The folder is synced: the new name outlives a loss of power.
---@param from string
---@param to string
---@return true?
---@return string? message
---@return string? code
function fs.rename(from, to) end

--- The absolute path, links resolved.
---@param path string
---@return string?
---@return string? message
---@return string? code
function fs.realpath(path) end

--- Whether this process may write to the file or folder; why not, where it may not.
---@param path string
---@return true?
---@return string? message
---@return string? code
function fs.writable(path) end

--- When the contents changed last, in seconds since 1970, with a fraction.
---@param path string
---@return number?
---@return string? message
---@return string? code
function fs.mtime(path) end

--- Takes the lock that is the file `path` (made where it is not there) without waiting. It is held until it is released, and
--- no longer than this process lives, however that ends. Where another process holds it: nil, message, "busy".
---@param path string
---@return kava.Lock?
---@return string? message
---@return string? code
function fs.lock(path) end

---@class kava.Lock
local Lock = {}

--- Lets go of it; also done by <close> and the garbage collector.
function Lock:release() end

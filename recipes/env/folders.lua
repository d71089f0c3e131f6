-- A look at a folder, for paths.lua, which is pure: what stands there, and whether it can be written to. Nothing is made.
local folders = {}

--- fs: kava.fs. -> look(path) -> { at = the folder itself, or the nearest above it that is there and in which it would be made;
--- exists, writable, free_bytes, problem = why nothing can be written there }
function folders.look(fs)
  return function(path)
    local at = path
    while not fs.exists(at) do
      local up = at:match "^(.+)/[^/]+/*$" or at:sub(1, 1) == "/" and "/" or "."
      if up == at then break end
      at = up
    end
    local writable, problem = fs.writable(at)
    if writable and not fs.isdir(at) then writable, problem = nil, at .. ": a file is in the way" end
    return { at = at, exists = at == path, writable = writable or false, free_bytes = (fs.free(at)), problem = problem }
  end
end

return folders

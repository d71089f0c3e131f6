-- Includes point down: a file includes only its own layer and those below it; only src/bind includes Lua's headers.
local files = require "scripts.checks.files"

-- What each layer may include, beside itself and kava.h. `kernels` is the table kernels/kernels.h that others call.
local below = {
  base = {},
  kernels = { "base" }, -- raw pointers and sizes, never tensors
  tensor = { "base", "kernels" },
  tape = { "base", "kernels", "tensor" },
  ops = { "base", "kernels", "tensor", "tape" },
  optim = { "base", "kernels", "tensor" },
  formats = { "base", "kernels", "tensor" },
  text = { "base", "tensor", "formats" }, -- a GGUF file carries its tokenizer
  nn = { "base", "kernels", "tensor", "tape", "ops" },
}

-- The one record that a tensor owns and the tape fills: it knows nothing of the tape.
local placed = { ["src/tape/node.h"] = "tensor" }

local function layer_of(path) return placed[path] or path:match "^src/(%w+)/" or path:match "^(kernels)/" end

-- Where an #include "name" of `path` points: beside the file, below src/, or below the root.
local function resolve(path, name)
  local tries = { path:gsub("[^/]*$", "") .. name, "src/" .. name, name }
  for _, try in ipairs(tries) do
    local plain, again = try, 1
    while again > 0 do plain, again = plain:gsub("[^/]+/%.%./", "", 1) end
    if files.exists(plain) then return plain end
  end
end

return function()
  local complaints = {}
  for _, path in ipairs(files.list("%.[ch][up]?[ph]?$", { "src", "kernels" })) do -- .c .h .cu .cuh .cpp
    local layer = layer_of(path)
    local allowed = { [layer or ""] = true }
    for _, name in ipairs(below[layer] or {}) do allowed[name] = true end
    for number, line in files.lines(files.read(path)) do
      local function complain(what) complaints[#complaints + 1] = ("%s:%d: %s"):format(path, number, what) end
      local name = line:match '^%s*#%s*include%s*"([^"]+)"'
      if name and layer ~= "bind" then
        local target = resolve(path, name)
        if not target then
          complain(name .. " is not a file of ours: use <> or a path from src/ or the root")
        elseif not layer then
          complain "kava.h includes nothing of ours"
        elseif not below[layer] then
          complain(("layer %s has no place in scripts/checks/includes.lua"):format(layer))
        elseif target ~= "src/kava.h" and not allowed[layer_of(target)] then
          complain(("%s includes upwards: %s"):format(layer, target))
        end
      end
      local system = line:match "^%s*#%s*include%s*<([^>]+)>"
      if system and layer ~= "bind" and (system:match "^lua" or system:match "^lauxlib") then
        complain(("only src/bind includes <%s>"):format(system))
      end
    end
  end
  return complaints
end

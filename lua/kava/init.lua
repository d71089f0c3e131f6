-- kava: the library. kava.core (C) gives tensors, tokenizers and decoders; the Lua parts below add models, KV aggregation,
-- losses and optimizers on top. Parts are loaded when they are first named, so that `require "kava"` costs little.
local core = require "kava.core"
local parts = { model = "kava.model", kv = "kava.kv", loss = "kava.loss", optim = "kava.optim", projector = "kava.projector" }
return setmetatable(core, {
  __index = function(kava, name)
    local module = parts[name]
    if not module then return nil end
    local part = require(module)
    rawset(kava, name, part)
    return part
  end,
})

-- kava: the library. kava.core (C) gives tensors, tokenizers and decoders; the Lua parts below add models, KV aggregation,
-- losses and optimizers on top. Parts are loaded when they are first named, so that `require "kava"` costs little.
local core = require "kava.core"
local parts = { model = "kava.model", kv = "kava.kv", loss = "kava.loss", projector = "kava.projector", evaluate = "kava.evaluate",
  generate = "kava.generate", chat = "kava.chat", tokenizer = "kava.tokenizer",
  align = "kava.align", profile = "kava.profile", teacher_cache = "kava.teacher_cache" }
-- A part that has a C half (kava.loss) is completed by its Lua half when a name is first missed in it.
for name, module in pairs(parts) do
  local native = rawget(core, name)
  if native then
    setmetatable(native, {
      __index = function(part, key)
        setmetatable(part, nil)
        require(module)
        return part[key]
      end,
    })
  end
end
return setmetatable(core, {
  __index = function(kava, name)
    local module = parts[name]
    if not module then return nil end
    local part = require(module)
    rawset(kava, name, part)
    return part
  end,
})

-- kava.kv: a forward pass's keys and values, and their aggregation across layers.
local kava = require "kava"
local find = require "kava.find"

---@class kava.KV
local KV = {}
KV.__index = KV
KV.__name = "kava.KV"

local kv = { class = KV }

-- raw: what decoder:forward returned: lists of [B,T,Hkv,D]
function kv.wrap(raw) return setmetatable({ raw = raw }, KV) end

function KV:layers() return self.raw.layers end

local function layer_of(self, list, what, i)
  local t = list[i]
  if t then return t end
  if math.type(i) ~= "integer" or i < 1 or i > self.raw.layers then
    error(("%s: a layer from 1 to %d expected, got %s"):format(what, self.raw.layers, tostring(i)), 3)
  end
  error(("%s: layer %d's were not computed; ask forward for %s = true"):format(what, i, what), 3)
end

-- [B,Hkv,T,D]; opts.rope = "pre": keys before rotation
function KV:keys(i, opts)
  local before = opts and opts.rope == "pre"
  if opts and opts.rope and not before and opts.rope ~= "post" then
    error(('keys: rope = "pre" or "post" expected, got %s'):format(tostring(opts.rope)), 2)
  end
  return layer_of(self, before and self.raw.keys_before or self.raw.keys, "keys", i):permute(1, 3, 2, 4)
end

function KV:values(i) return layer_of(self, self.raw.values, "values", i):permute(1, 3, 2, 4) end
function KV:queries(i) return layer_of(self, self.raw.queries, "queries", i):permute(1, 3, 2, 4) end

-- The list that an aggregation receives: {[B,Hkv,T,D], …} of the chosen part and layers.
function KV:list(opts)
  opts = opts or {}
  local part, out = opts.part or "keys", {}
  if part ~= "keys" and part ~= "values" then
    error(('part: "keys" or "values" expected, got %s'):format(tostring(part)), 2)
  end
  local wanted = opts.layers
  if wanted == "last" then
    wanted = { self.raw.layers }
  elseif not wanted or wanted == "all" then
    wanted = {}
    for i = 1, self.raw.layers do wanted[i] = i end
  end
  for n, i in ipairs(wanted) do
    out[n] = part == "keys" and self:keys(i, { rope = opts.rope }) or self:values(i)
  end
  if #out == 0 then error("aggregate: no layers chosen", 2) end
  return out
end

-- Where a function was written, for messages about it.
local function origin(f)
  local info = debug.getinfo(f, "S")
  return ("%s:%d"):format(info.short_src, info.linedefined)
end

-- An aggregation: a name (recipes/aggregate/<name>.lua) or a function(layers, opts) -> [B,T,D].
function kv.aggregation(how)
  if type(how) == "function" then return how, origin(how) end
  local found, path = find.recipe("aggregate", how)
  local f = type(found) == "table" and found.aggregate or found
  if type(f) ~= "function" then error(("%s: an aggregation file returns a function, got %s"):format(path, type(f)), 0) end
  return f, path
end

function kv.aggregate(cache, how, opts)
  opts = opts or {}
  if getmetatable(cache) ~= KV then error(("aggregate: the kv of a forward pass expected, got %s"):format(type(cache)), 2) end
  local f, where = kv.aggregation(how)
  local layers = cache:list(opts)
  local ok, out = xpcall(f, function(message)
    return tostring(message):find(":%d+:") and message or ("%s: %s"):format(where, tostring(message))
  end, layers, opts)
  if not ok then error(("aggregation %s failed: %s"):format(where, tostring(out)), 2) end
  local shape, first = type(out) == "userdata" and out.shape or nil, layers[1].shape
  if not shape or #shape ~= 3 or shape[1] ~= first[1] or shape[2] ~= first[3] then
    error(("aggregation %s returned %s, expected a tensor [%d, %d, D]"):format(
      where, shape and "[" .. table.concat(shape, ", ") .. "]" or type(out), first[1], first[3]), 2)
  end
  return out
end

kava.kv = kv
return kv

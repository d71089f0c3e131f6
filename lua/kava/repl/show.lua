-- kava.repl.show: a value as the prompt shows it. Tensors with shape, type, device, a summary and their first values; models and
-- keys and values with their layout; tables so far as they fit.
local kava = require "kava"
local show = {}

local DEPTH, ITEMS, WIDTH = 3, 40, 100 -- how much of a table is shown, and how long its one line may be
local ROWS, COLUMNS = 4, 6 -- how much of a tensor
local SUMMARISED = 1 << 24 -- elements that a summary looks at, at most: it takes a moment, and memory for a copy
local floats = { f64 = true, f32 = true, f16 = true, bf16 = true }

local function sizes(shape) return "[" .. table.concat(shape, ", ") .. "]" end

local function number(x)
  if math.type(x) == "integer" then return tostring(x) end
  return x ~= x and "nan" or ("%.4g"):format(x)
end

-- Whether its elements are numbers to calculate with, not a quantised type's codes.
local function is_plain(t) return floats[t.dtype] or t.dtype:match "^[iu]%d+$" or t.dtype == "bool" end

-- "min -1.2  max 3  mean 0.1"; where there are NaNs, how many
local function summary(t)
  local count = t:numel()
  if count == 0 then return "no elements" end
  if not is_plain(t) then return ('quantised; :to{dtype="f32"} widens it') end
  if count > SUMMARISED then return ("%d elements; no summary of so many"):format(count) end
  return kava.no_grad(function()
    local wide <close> = t:to { dtype = t.dtype == "f64" and "f64" or "f32" }
    local odd <close> = wide:ne(wide):sum()
    if odd:item() > 0 then return ("NaN: %d of %d"):format(odd:item(), count) end
    local low, high, mean = wide:min():item(), wide:max():item(), wide:mean():item()
    if not floats[t.dtype] then low, high = math.tointeger(low) or low, math.tointeger(high) or high end
    return ("min %s  max %s  mean %s"):format(number(low), number(high), number(mean))
  end)
end

-- The corner of the first matrix, in columns.
local function corner(t)
  local view, place = t:detach(), {}
  while #view.shape > 2 do
    view = view:select(1, 1)
    place[#place + 1] = "1"
  end
  if #view.shape == 1 then view = view:reshape(1, view.shape[1]) end
  local rows, columns = view.shape[1], view.shape[2]
  local m, n = math.min(rows, ROWS), math.min(columns, COLUMNS)
  local values = view:narrow(1, 1, m):narrow(2, 1, n):totable()
  local lines, width = {}, 0
  for i = 1, m do
    for j = 1, n do
      values[i][j] = type(values[i][j]) == "number" and number(values[i][j]) or tostring(values[i][j])
      width = math.max(width, #values[i][j])
    end
  end
  for i = 1, m do
    for j = 1, n do values[i][j] = (" "):rep(width - #values[i][j]) .. values[i][j] end
    lines[i] = "  " .. table.concat(values[i], "  ") .. (n < columns and "  …" or "")
  end
  if m < rows then lines[#lines + 1] = "  …" end
  if #place > 0 then
    table.insert(lines, 1, ("  at [%s, …]:"):format(table.concat(place, ", ")))
  end
  return table.concat(lines, "\n")
end

local function header(t) return ("tensor %s %s %s"):format(t.dtype, sizes(t.shape), t.device) end

local function tensor(t, depth)
  if depth > 0 then return header(t) end
  local flags = t:requires_grad() and "  requires grad" or ""
  local text = ("%s  %s%s"):format(header(t), summary(t), flags)
  if t:numel() == 0 or not is_plain(t) then return text end
  if #t.shape == 0 then return ("%s  %s%s"):format(header(t), number(t:item()), flags) end
  return text .. "\n" .. corner(t)
end

local function bytes(n)
  for _, unit in ipairs { "B", "KiB", "MiB" } do
    if n < 1024 then return ("%.4g %s"):format(n, unit) end
    n = n / 1024
  end
  return ("%.4g GiB"):format(n)
end

-- "6 layers of 2 heads x 32"; a model of unlike layers lists them
local function layout(layers)
  local parts, total = {}, 0
  local run
  for _, layer in ipairs(layers) do
    local text = ("%d heads x %d"):format(layer.kv_heads, layer.head_dim)
    total = total + layer.kv_heads * layer.head_dim
    if run and run.text == text then run.count = run.count + 1
    else
      run = { text = text, count = 1 }
      parts[#parts + 1] = run
    end
  end
  for i, part in ipairs(parts) do parts[i] = ("%d layers of %s"):format(part.count, part.text) end
  return table.concat(parts, ", ") .. (" = %d"):format(total)
end

local function model(m, depth)
  if depth > 0 then return tostring(m) end
  local count, kinds = 0, {}
  for _, t in pairs(m:parameters()) do
    count = count + t:numel()
    kinds[t.dtype] = (kinds[t.dtype] or 0) + t:numel()
  end
  local names = {}
  for name in pairs(kinds) do names[#names + 1] = name end
  table.sort(names, function(a, b) return kinds[a] > kinds[b] or kinds[a] == kinds[b] and a < b end)
  return ("%s\n  %d parameters: %s\n  keys, by its configuration: %s (:probe() measures)"):format(
    tostring(m), count, table.concat(names, ", "), layout(m.spec.layer))
end

local function kv(cache, depth)
  local list, layers = {}, {}
  for _, part in ipairs { "keys", "values", "queries" } do
    local raw = cache.raw[part]
    if raw and raw[1] then list[#list + 1] = part end
  end
  local first
  for i = 1, cache:layers() do -- stored as [B, T, Hkv, D]
    local t = (cache.raw.keys or {})[i] or (cache.raw.values or {})[i]
    if t then
      first = first or t
      layers[#layers + 1] = { kv_heads = t.shape[3], head_dim = t.shape[4] }
    end
  end
  if not first then return "kava.KV: nothing was computed" end
  local text = ("kava.KV: %s of %s"):format(table.concat(list, ", "), layout(layers))
  if depth > 0 then return text end
  return ("%s\n  :keys(layer) and :values(layer) are %s [%d, heads, %d, dim]"):format(text, first.dtype, first.shape[1], first.shape[2])
end

local function projector(p, depth)
  if depth > 0 then return tostring(p) end
  local count = 0
  for _, t in pairs(p:parameters()) do count = count + t:numel() end
  return ("%s\n  LayerNorm, Linear, %s, Dropout(%g), Linear: %d parameters, %s in f32"):format(
    tostring(p), p.activation, p.dropout, count, bytes(4 * count))
end

local by_name = { ["kava.Tensor"] = tensor, ["kava.Model"] = model, ["kava.KV"] = kv, ["kava.Projector"] = projector }

local function one_or_many_lines(parts)
  if #parts == 0 then return "{}" end
  local line = "{ " .. table.concat(parts, ", ") .. " }"
  if #line <= WIDTH and not line:find "\n" then return line end
  return "{\n  " .. table.concat(parts, ",\n"):gsub("\n", "\n  ") .. "\n}"
end

local function table_of(value, depth, seen)
  if seen[value] or depth >= DEPTH then return "{…}" end
  seen[value] = true
  local parts, names, count = {}, {}, #value
  for i = 1, math.min(count, ITEMS) do parts[i] = show.value(rawget(value, i), depth + 1, seen) end
  for key in next, value do
    if math.type(key) ~= "integer" or key < 1 or key > count then names[#names + 1] = key end
  end
  table.sort(names, function(a, b) return tostring(a) < tostring(b) end)
  for _, key in ipairs(names) do
    if #parts >= ITEMS then break end
    local name = type(key) == "string" and (key:match "^[%a_][%w_]*$" or ("[%q]"):format(key)) or "[" .. tostring(key) .. "]"
    parts[#parts + 1] = name .. " = " .. show.value(rawget(value, key), depth + 1, seen)
  end
  if #names + count > ITEMS then parts[#parts + 1] = ("… %d in all"):format(#names + count) end
  seen[value] = nil
  return one_or_many_lines(parts)
end

--- A value as text; depth > 0: inside of another, on one line.
function show.value(value, depth, seen)
  depth, seen = depth or 0, seen or {}
  if type(value) == "string" then return depth == 0 and value or ("%q"):format(value) end
  local meta = type(value) == "table" and getmetatable(value) or type(value) == "userdata" and debug.getmetatable(value)
  local known = type(meta) == "table" and by_name[rawget(meta, "__name")]
  if known then
    local ok, text = pcall(known, value, depth)
    return ok and text or tostring(value) -- a released one, for instance
  end
  if type(value) ~= "table" or (type(meta) == "table" and meta.__tostring) then return tostring(value) end
  return table_of(value, depth, seen)
end

return show

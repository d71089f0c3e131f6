-- kava.teacher_cache: what a teacher gave for a piece of text, kept: from the second epoch on a step costs the student alone.
--
-- A piece (a batch's `pieces`: some tokens of a dataset row) attends to itself alone and its positions begin at 0, so what the teacher
-- makes of it does not depend on the batch it lies in. Kept is what the loss reads, no more: keys and values of the layers it names,
-- the last hidden states where it compares logits. In memory, or in a folder as safetensors files, each a few dozen pieces; those that
-- are there when the folder is opened are used, whichever run made them.
-- Kernels on the CPU give a row of a product the same bits whatever rows lie beside it, so a run with a cache is bit for bit the run
-- without one (spec/recipes/teacher_cache_spec.lua), unless dtype = "bf16" rounds what is kept.
local config = require "kava.config"
local kava = require "kava"

local teacher_cache = {}

local FILE_BYTES = 64 << 20 -- collected before they are written

---@class kava.TeacherCache
local Cache = {}
Cache.__index = Cache
Cache.__name = "kava.TeacherCache"

-- What of a teacher's output is kept: {part =, layer =, heads =, dim =, width =}, … in a fixed order.
local function fields_of(out, needs, rope)
  local fields = {}
  local raw = out.kv.raw
  for _, part in ipairs { rope == "pre" and "keys_before" or "keys", "values", "queries" } do
    for i = 1, raw.layers do
      local t = raw[part] and raw[part][i]
      local wanted = (part ~= "values" or needs.values) and (part ~= "queries" or needs.queries)
      if t and wanted and (not needs.layers or needs.layers[i]) then
        local shape = t.shape
        fields[#fields + 1] = { part = part, layer = i, heads = shape[3], dim = shape[4], width = shape[3] * shape[4] }
      end
    end
  end
  if out.hidden then fields[#fields + 1] = { part = "hidden", width = out.hidden.shape[3] } end
  return fields
end

local function field_of(out, field)
  if field.part == "hidden" then return out.hidden end
  return out.kv.raw[field.part][field.layer]
end

local function key_of(piece) return ("%d.%d.%d"):format(piece.row, piece.first, piece.length) end

--- loss: from kava.loss.build, with a teacher. options: folder (nil: memory); identity: a text that names the teacher, the data and
--- whatever else the bits depend on; dtype: "f32" or "bf16", of what is kept; warn: function(message), told once if writing fails.
--- Raises where the loss needs no teacher. -> cache | nil, message, code
function teacher_cache.open(loss, options)
  local needs = loss:needs().teacher
  if not needs then error("teacher_cache: this loss needs no teacher", 2) end
  local device = loss.teacher:device()
  if device ~= "cpu" then -- where a row's bits may depend on the rows beside it, and what is kept would have to travel
    return nil, ("teacher.cache: not on device %s yet; teacher.cache=none, or device=cpu"):format(device), "unsupported"
  end
  local self = setmetatable({ loss = loss, needs = needs, dtype = options.dtype or "f32", kept = {}, count = 0, bytes = 0, fresh = {},
    fresh_bytes = 0, warn = options.warn or print }, Cache)
  local out = kava.no_grad(function()
    return loss:teach({ input_ids = kava.zeros({ 1, 2 }, { dtype = "i64" }) }, needs)
  end)
  self.fields, self.width = fields_of(out, needs, loss.kv.rope), 0
  local names = { options.identity or "", self.dtype }
  for i, field in ipairs(self.fields) do
    field.at, self.width = self.width + 1, self.width + field.width
    names[i + 2] = ("%s %s %d"):format(field.part, field.layer or "", field.width)
  end
  if not options.folder then return self end
  self.identity = table.concat(names, "\n")
  self.folder = ("%s/teacher-%s"):format(options.folder, config.hash(self.identity))
  local made, message, code = kava.fs.mkdir(self.folder)
  if not made then return nil, message, code end
  local files
  files, message, code = kava.fs.list(self.folder)
  if not files then return nil, message, code end
  for _, name in ipairs(files) do
    if name:find "%.safetensors$" then self:read(self.folder .. "/" .. name) end
  end
  return self
end

--- Bytes a token takes.
function Cache:token_bytes() return self.width * (self.dtype == "bf16" and 2 or 4) end

function Cache:add(key, t)
  if self.kept[key] then return end
  self.kept[key], self.count = t, self.count + 1
  self.bytes = self.bytes + t.shape[1] * self:token_bytes()
end

-- A file's pieces, mapped. One that is damaged, or not ours, is passed over: its pieces are made again.
function Cache:read(path)
  local tensors, metadata = kava.safetensors.load(path)
  if not tensors or metadata.identity ~= self.identity then return false end
  for key, t in pairs(tensors) do
    local shape = t.shape
    local length = tonumber(key:match "^%d+%.%d+%.(%d+)$")
    if #shape == 2 and shape[1] == length and shape[2] == self.width and t.dtype == self.dtype then self:add(key, t) end
  end
  return true
end

-- The output for a batch all of whose pieces are kept; nil where one is not.
function Cache:recall(batch)
  local kept = {}
  for i, piece in ipairs(batch.pieces) do
    kept[i] = self.kept[key_of(piece)]
    if not kept[i] then return nil end
  end
  local rows, length = batch.input_ids.shape[1], batch.input_ids.shape[2]
  local raw = { layers = self.loss.teacher.spec and #self.loss.teacher.spec.layer, keys = {}, keys_before = {}, values = {}, queries = {} }
  local out = { start = batch.start }
  for _, field in ipairs(self.fields) do
    local whole = kava.zeros { rows, length, field.width }
    for i, piece in ipairs(batch.pieces) do
      whole:narrow(1, piece.at, 1):narrow(2, piece.column, piece.length):copy_(
        kept[i]:narrow(2, field.at, field.width):reshape(1, piece.length, field.width))
    end
    if field.part == "hidden" then
      out.hidden = whole
    else
      raw[field.part][field.layer] = whole:reshape(rows, length, field.heads, field.dim)
    end
  end
  out.kv = kava.kv.wrap(raw)
  if self.loss.align then self.loss.align:mark(batch) end
  return out
end

function Cache:keep(batch, out)
  for _, piece in ipairs(batch.pieces) do
    local key = key_of(piece)
    if not self.kept[key] then
      local parts = {}
      for i, field in ipairs(self.fields) do
        parts[i] = field_of(out, field):narrow(1, piece.at, 1):narrow(2, piece.column, piece.length):reshape(piece.length, field.width)
      end
      local t = kava.cat(parts, 2):to { dtype = self.dtype }
      self:add(key, t)
      if self.folder then
        self.fresh[key], self.fresh_bytes = t, self.fresh_bytes + piece.length * self:token_bytes()
      end
    end
  end
  if self.fresh_bytes >= FILE_BYTES then self:flush() end
end

--- Writes what was collected; what is written is held by its file from then on, not by memory.
function Cache:flush()
  local keys = {}
  for key in pairs(self.fresh) do keys[#keys + 1] = key end
  if #keys == 0 then return end
  table.sort(keys)
  -- two runs may share a folder: one name, one content
  local path = ("%s/%s.safetensors"):format(self.folder, config.hash(table.concat(keys, " ")))
  local fresh = self.fresh
  self.fresh, self.fresh_bytes = {}, 0
  local written, message = kava.safetensors.save(path, fresh, { identity = self.identity })
  if not written then
    self.folder = nil
    self.warn(("teacher.cache: %s; what is not written is kept in memory"):format(message))
    return
  end
  local tensors = kava.safetensors.load(path)
  for key, t in pairs(tensors or {}) do
    if fresh[key] then self.kept[key] = t end
  end
end

--- The teacher's output for a batch: kept, or made and kept. A batch without `pieces` is not kept.
function Cache:teach(batch)
  if not batch.pieces then return self.loss:teach(batch, self.needs) end
  local out = self:recall(batch)
  if out then return out end
  out = self.loss:teach(batch, self.needs)
  self:keep(batch, out)
  return self.dtype == "f32" and out or self:recall(batch) -- rounded from the first epoch on: a run resumed sees the same targets
end

teacher_cache.class = Cache
kava.teacher_cache = teacher_cache
return teacher_cache

-- kava.teacher_cache: what a teacher gave for a piece of text, kept: from the second epoch on a step costs the student alone.
--
-- A piece (a batch's `pieces`: some tokens of a dataset row) attends to itself alone and its positions begin at 0, so what the teacher
-- makes of it does not depend on the batch it lies in. Kept is what the loss reads, no more: keys and values of the layers it names,
-- the last hidden states where it compares logits. On a GPU (recipes/device_step.lua) it is fetched to the host behind the step that made
-- it, and comes back as one tensor for a batch, copied while the step before computes; there a row's bits may depend on the rows beside
-- it (cuBLASLt chooses by shape), so that learning is the same to the activations' rounding, and to the bit where shapes are the same.
-- In memory, or in a folder as safetensors files, each a few dozen pieces; those that
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
  if device ~= "cpu" and loss.align then
    return nil, ("teacher.cache: not for unlike tokenizers on device %s; teacher.cache=none, or device=cpu"):format(device), "unsupported"
  end
  local self = setmetatable({ loss = loss, needs = needs, dtype = options.dtype or "f32", kept = {}, count = 0, bytes = 0, fresh = {},
    fresh_bytes = 0, coming = {}, warn = options.warn or print }, Cache)
  local out = kava.no_grad(function()
    return loss:teach({ input_ids = kava.zeros({ 1, 2 }, { dtype = "i64" }) }, needs)
  end)
  self.fields, self.width = fields_of(out, needs, loss.kv.rope), 0
  self.computed = field_of(out, self.fields[1]).dtype
  local names = { options.identity or "", self.dtype }
  if device ~= "cpu" then names[1] = names[1] .. "\n" .. device end -- whose bits are others
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

-- What is kept of a batch's pieces; nil where one is not.
local function kept_of(self, batch)
  local kept = {}
  for i, piece in ipairs(batch.pieces) do
    kept[i] = self.kept[key_of(piece)]
    if not kept[i] then return nil end
  end
  return kept
end

-- The output for a batch all of whose pieces are kept; nil where one is not.
function Cache:recall(batch)
  local kept = kept_of(self, batch)
  if not kept then return nil end
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

local function keep_piece(self, key, t)
  self:add(key, t)
  if self.folder then self.fresh[key], self.fresh_bytes = t, self.fresh_bytes + t.shape[1] * self:token_bytes() end
end

function Cache:keep(batch, out)
  for _, piece in ipairs(batch.pieces) do
    local key = key_of(piece)
    if not self.kept[key] then
      local parts = {}
      for i, field in ipairs(self.fields) do
        parts[i] = field_of(out, field):narrow(1, piece.at, 1):narrow(2, piece.column, piece.length):reshape(piece.length, field.width)
      end
      keep_piece(self, key, kava.cat(parts, 2):to { dtype = self.dtype })
    end
  end
  if self.fresh_bytes >= FILE_BYTES then self:flush() end
end

-- ------------------------------------------------------------------------------------------------------- batches on a GPU

--- Whether all of a batch's pieces are kept. What is still on its way from the GPU is waited for where it is among them.
function Cache:knows(batch)
  local kept = kept_of(self, batch)
  if not kept and #self.coming > 0 then
    self:settle(true)
    kept = kept_of(self, batch)
  end
  return kept ~= nil
end

--- Puts a batch's pieces into `host`, [rows, length, width] of the cache's dtype on the CPU; the rest of it stays as it is.
function Cache:fill(batch, host)
  for i, t in ipairs(kept_of(self, batch)) do
    local piece = batch.pieces[i]
    host:narrow(1, piece.at, 1):narrow(2, piece.column, piece.length):copy_(t:reshape(1, piece.length, self.width))
  end
end

-- A teacher's output as one tensor [rows, length, width] of the cache's dtype.
local function joined(self, out)
  local parts = {}
  for i, field in ipairs(self.fields) do
    local t = field_of(out, field)
    parts[i] = t:reshape(t.shape[1], t.shape[2], field.width)
  end
  return kava.cat(parts, 3):to { dtype = self.dtype }
end

-- The output that joined() was made of.
local function parted(self, batch, whole)
  local rows, length = whole.shape[1], whole.shape[2]
  local raw = { layers = #self.loss.teacher.spec.layer, keys = {}, keys_before = {}, values = {}, queries = {} }
  local out = { start = batch.start }
  for _, field in ipairs(self.fields) do
    local t = whole:narrow(3, field.at, field.width):to { dtype = self.computed }
    if field.part == "hidden" then
      out.hidden = t:contiguous()
    else
      raw[field.part][field.layer] = t:reshape(rows, length, field.heads, field.dim)
    end
  end
  out.kv = kava.kv.wrap(raw)
  return out
end

--- What the teacher gave for a batch, as it comes from the GPU (fetch: of `batch.gave`): kept once it is here.
function Cache:expect(batch, fetch) self.coming[#self.coming + 1] = { batch = batch, fetch = fetch } end

--- Keeps what has come from the GPU; wait: all that is to come.
function Cache:settle(wait)
  while self.coming[1] and (wait or self.coming[1].fetch:ready()) do
    local one = table.remove(self.coming, 1)
    local host = one.fetch:read()
    for _, piece in ipairs(one.batch.pieces) do
      local key = key_of(piece)
      if not self.kept[key] then
        keep_piece(self, key, host:narrow(1, piece.at, 1):narrow(2, piece.column, piece.length):clone():reshape(piece.length, self.width))
      end
    end
    one.fetch:release()
  end
  if self.fresh_bytes >= FILE_BYTES then self:flush() end
end

--- Writes what was collected; what is written is held by its file from then on, not by memory.
function Cache:flush()
  if #self.coming > 0 then self:settle(true) end
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

--- The teacher's output for a batch: kept, or made and kept. A batch without `pieces` is not kept. On a GPU batch.taught holds what is
--- kept, or else batch.gave afterwards what was made.
function Cache:teach(batch)
  if batch.taught then return parted(self, batch, batch.taught) end
  if batch.keeps then
    batch.gave = joined(self, self.loss:teach(batch, self.needs))
    return parted(self, batch, batch.gave)
  end
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

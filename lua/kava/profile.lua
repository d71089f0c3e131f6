-- kava.profile: what took how long. On a GPU its own records of kernels and copies (CUPTI's, else events around each launch), on the
-- CPU the ops' kernels by the host's clock; the time in which none ran, by what stood before and behind it; and named parts of the work
-- (kava.range) by the host's clock, which on a GPU is the time it took to enqueue them.
--
--     local report, loss = kava.profile.run(step)
--     print(report:text())
--     assert(report:save "trace.json") -- for chrome://tracing and ui.perfetto.dev
local kava = require "kava.core"

local profile = {}

---@class kava.Profile
local Profile = {}
Profile.__index = Profile

-- Spans by name -> list of { name, calls, total, mean, share }, the longest first; microseconds, shares of `whole`.
local function by_name(spans, whole)
  local list = {}
  for _, span in ipairs(spans) do
    local entry = list[span.name]
    if not entry then
      entry = { name = span.name, calls = 0, total = 0 }
      list[span.name], list[#list + 1] = entry, entry
    end
    entry.calls, entry.total = entry.calls + 1, entry.total + span.length
  end
  local out = table.move(list, 1, #list, 1, {})
  for _, entry in ipairs(out) do
    entry.mean, entry.share = entry.total / entry.calls, whole > 0 and entry.total / whole or 0
  end
  table.sort(out, function(a, b) return a.total > b.total or (a.total == b.total and a.name < b.name) end)
  return out
end

-- Times in which nothing ran, each under the names of what ended last before it and what came behind it.
local function gaps_of(spans)
  local gaps, last, busy_until = {}, nil, nil
  for _, span in ipairs(spans) do
    if last and span.start > busy_until then
      gaps[#gaps + 1] = { name = last.name .. " -> " .. span.name, start = busy_until, length = span.start - busy_until }
    end
    local stop = span.start + span.length
    if not last or stop >= busy_until then last, busy_until = span, stop end
  end
  return gaps, busy_until
end

-- What the runtime has kept, as a report.
local function report(raw)
  local gpu = raw.source ~= nil and #raw.kernels > 0 -- else it is there, and was not used
  local spans = gpu and raw.kernels or raw.ops
  local gaps, stop = gaps_of(spans)
  local self = { length = raw.length, source = gpu and raw.source or "host", spans = spans, ranges = raw.ranges }
  self.ops = gpu and raw.ops or nil
  self.device = gpu and kava.device("cuda").name or "cpu"
  self.window = stop and stop - spans[1].start or 0
  self.kernels = by_name(spans, self.window)
  self.gaps = by_name(gaps, self.window)
  self.idle = 0
  for _, gap in ipairs(gaps) do self.idle = self.idle + gap.length end
  self.parts = by_name(raw.ranges, self.length)
  return setmetatable(self, Profile)
end

--- Begins one; the GPU is in it where it is in use by then. Raises where one is being taken.
function profile.start() kava.profile_begin() end

--- Ends it, waiting for the GPU -> what it found.
function profile.stop() return report(kava.profile_end()) end

--- f(…) under a profile -> the report, f's results. Errors pass, and end it.
function profile.run(f, ...)
  profile.start()
  local results = table.pack(pcall(f, ...))
  if not results[1] then
    kava.profile_end()
    error(results[2], 0)
  end
  return profile.stop(), table.unpack(results, 2, results.n)
end

local function cut(name, width) return #name <= width and name or name:sub(1, width - 3) .. "..." end

local function add_table(lines, title, entries, most, width)
  lines[#lines + 1] = ("%-" .. width .. "s %8s %12s %12s %7s"):format(title, "calls", "total ms", "mean us", "share")
  for i, entry in ipairs(entries) do
    if i > most then
      local calls, total, share = 0, 0, 0
      for j = i, #entries do
        calls, total, share = calls + entries[j].calls, total + entries[j].total, share + entries[j].share
      end
      lines[#lines + 1] = ("%-" .. width .. "s %8d %12.3f %12.1f %6.1f%%"):format(("%d others"):format(#entries - most), calls,
        total / 1000, total / calls, 100 * share)
      break
    end
    lines[#lines + 1] = ("%-" .. width .. "s %8d %12.3f %12.1f %6.1f%%"):format(cut(entry.name, width), entry.calls, entry.total / 1000,
      entry.mean, 100 * entry.share)
  end
end

--- Tables for people. Shares are of the time from the first kernel's start to the last one's end; of the parts, of the whole profile.
---@param options? { kernels: integer?, gaps: integer? } how many lines there may be: 40, 12
function Profile:text(options)
  local most, lines = options or {}, {}
  local what = self.source == "host" and "ops" or "kernels"
  local busy = self.window - self.idle
  lines[1] = ("%s, timed by %s: %.3f ms, in which %s ran for %.3f ms (%.1f%%) and nothing for %.3f ms"):format(self.device, self.source,
    self.window / 1000, what, busy / 1000, self.window > 0 and 100 * busy / self.window or 0, self.idle / 1000)
  lines[2] = ""
  add_table(lines, what, self.kernels, most.kernels or 40, 64)
  if #self.gaps > 0 then
    lines[#lines + 1] = ""
    add_table(lines, "gaps, between", self.gaps, most.gaps or 12, 64)
  end
  if #self.parts > 0 then
    lines[#lines + 1] = ""
    add_table(lines, self.source == "host" and "parts" or "parts, as the host enqueued them", self.parts, most.kernels or 40, 64)
  end
  return table.concat(lines, "\n") .. "\n"
end

--- The trace as text, in Chrome's format: a row for the device, one for the ops, one for the parts.
function Profile:trace()
  local lines = { '{"displayTimeUnit":"ms","traceEvents":[' }
  local function row(number, name)
    lines[#lines + 1] = ('{"ph":"M","pid":1,"tid":%d,"name":"thread_name","args":{"name":%s}},'):format(number, kava.json.encode(name))
    lines[#lines + 1] = ('{"ph":"M","pid":1,"tid":%d,"name":"thread_sort_index","args":{"sort_index":%d}},'):format(number, number)
  end
  local function add(number, category, spans)
    for _, span in ipairs(spans) do
      lines[#lines + 1] = ('{"ph":"X","pid":1,"tid":%d,"cat":"%s","name":%s,"ts":%.3f,"dur":%.3f},'):format(number, category,
        kava.json.encode(span.name), span.start, span.length)
    end
  end
  row(1, "parts (host)")
  add(1, "part", self.ranges)
  if self.ops then
    row(2, "ops (host)")
    add(2, "op", self.ops)
  end
  row(3, self.source == "host" and "ops" or self.device)
  add(3, "kernel", self.spans)
  lines[#lines + 1] = '{"ph":"M","pid":1,"name":"process_name","args":{"name":"kava"}}]}\n'
  return table.concat(lines, "\n")
end

--- Writes the trace -> true | nil, message, code.
function Profile:save(path) return kava.fs.write(path, self:trace()) end

return profile

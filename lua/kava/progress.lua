-- kava.progress: what a run shows while it goes. On a terminal a bar that redraws itself; elsewhere a plain line now and then, so that a
-- log file stays readable.
local progress = {}

local REDRAW = 0.1 -- seconds between redraws of the bar
local PLAIN = 10 --   seconds between plain lines

---@class kava.Progress
local Progress = {}
Progress.__index = Progress

local function duration(seconds)
  seconds = math.floor(seconds + 0.5)
  if seconds >= 3600 then return ("%d:%02d:%02d"):format(seconds // 3600, seconds // 60 % 60, seconds % 60) end
  return ("%d:%02d"):format(seconds // 60, seconds % 60)
end
progress.duration = duration

--- options: total (steps), from (the step already done), out (a stream), terminal, clock (seconds), width: a spec passes its own.
function progress.new(options)
  local kava = not (options.clock and options.terminal ~= nil) and require "kava" or nil
  local self = setmetatable({ total = options.total, from = options.from or 0, out = options.out or io.stdout }, Progress)
  self.clock = options.clock or kava.clock
  self.terminal = options.terminal
  if self.terminal == nil then self.terminal = kava.isatty(1) end
  self.width = options.width or tonumber(os.getenv "COLUMNS") or 100
  self.started, self.shown, self.tokens = self.clock(), -math.huge, 0
  return self
end

local function figures(metrics)
  local parts = {}
  local function add(format, value)
    if value then parts[#parts + 1] = format:format(value) end
  end
  add("loss %.4f", metrics.loss)
  add("ce %.3f", metrics.ce)
  add("cos %.4f", metrics.cos_sim)
  return table.concat(parts, "  ")
end

--- A step is done. metrics: loss, ce, cos_sim, tokens (of this step).
function Progress:step(step, metrics)
  self.tokens = self.tokens + (metrics.tokens or 0)
  local now = self.clock()
  if step < self.total and now - self.shown < (self.terminal and REDRAW or PLAIN) then return end
  self.shown = now
  local elapsed = math.max(now - self.started, 1e-9)
  local left = elapsed / math.max(1, step - self.from) * (self.total - step)
  local rate = self.tokens / elapsed
  local text = ("%d/%d  %s  %.0f tokens/s  %s left"):format(step, self.total, figures(metrics), rate, duration(left))
  if not self.terminal then
    self.out:write(("step %s\n"):format(text))
  else
    local room = math.max(8, math.min(30, self.width - #text - 4))
    local filled = self.total > 0 and room * step // self.total or room
    local bar = ("#"):rep(filled) .. ("."):rep(room - filled)
    self.out:write("\r[", bar, "] ", text, "\27[K")
    self.drawn = true
  end
  self.out:flush()
  return rate
end

--- Tokens a second since the start.
function Progress:rate() return self.tokens / math.max(self.clock() - self.started, 1e-9) end

--- A line of its own: the bar, if there is one, goes on below it.
function Progress:line(text)
  if self.drawn then self.out:write "\r\27[K" end
  self.drawn = false
  self.out:write(text, "\n")
  self.out:flush()
end

--- The bar's last state stays, what follows begins a new line.
function Progress:done()
  if self.drawn then self.out:write "\n" end
  self.drawn = false
  self.out:flush()
end

--- The status block's line of a stage: name, what was found or decided, why.
function progress.stage(name, text, why)
  print(("%-10s %s%s"):format(name, text, why and "  (" .. why .. ")" or ""))
  io.stdout:flush()
end

--- A table for the console: a heading row, then rows of the same length. Numbers are right-aligned.
function progress.table(rows)
  local widths = {}
  for _, row in ipairs(rows) do
    for i, cell in ipairs(row) do widths[i] = math.max(widths[i] or 0, utf8.len(cell) or #cell) end
  end
  for _, row in ipairs(rows) do
    local cells = {}
    for i, cell in ipairs(row) do
      local pad = (" "):rep(widths[i] - (utf8.len(cell) or #cell))
      cells[i] = i == 1 and cell .. pad or pad .. cell
    end
    print((table.concat(cells, "   "):gsub("%s+$", "")))
  end
end

return progress

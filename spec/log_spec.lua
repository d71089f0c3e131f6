local helper = require "spec.helper"
local log = require "kava.log"
local progress = require "kava.progress"

describe("log", function()
  local function lines(path)
    local list = {}
    for line in io.lines(path) do list[#list + 1] = line end
    return list
  end

  it("appends records to JSON lines and CSV at once", function()
    local dir = helper.tmp()
    local l = assert(log.open(dir))
    l:record { step = 1, kind = "train", loss = 0.5, kv = 0 / 0, tokens = 12 }
    l:record { step = 2, kind = "eval", ce = 2.25, cosine_by_layer = { 0.5, false }, note = 'a "b"\n' }
    local json = lines(dir .. "/metrics.jsonl") -- not closed yet: each record is flushed
    local record = require("cjson").decode(json[1])
    assert.equal(0.5, record.loss)
    assert.equal(require("cjson").null, record.kv)
    assert.equal('a "b"\n', require("cjson").decode(json[2]).note)
    local csv = lines(dir .. "/metrics.csv")
    assert.equal(3, #csv)
    assert.equal("step,kind,loss,kv,ce,", csv[1]:sub(1, 21))
    assert.equal("1,train,0.5,,,", csv[2]:sub(1, 14))
    l:close()
  end)

  it("drops what came after the checkpoint, and a torn last line", function()
    local dir = helper.tmp()
    local l = assert(log.open(dir))
    for step = 1, 5 do l:record { step = step, kind = "train", loss = step } end
    l:close()
    helper.write(dir .. "/metrics.jsonl", helper.read(dir .. "/metrics.jsonl") .. '{"step":3,"los')
    l = assert(log.open(dir, 3))
    l:record { step = 4, kind = "train", loss = 40 }
    l:close()
    local json, csv = lines(dir .. "/metrics.jsonl"), lines(dir .. "/metrics.csv")
    assert.equal(4, #json)
    assert.truthy(json[4]:find('"loss":40', 1, true))
    assert.equal(5, #csv)
    l = assert(log.open(dir))
    assert.equal(0, #lines(dir .. "/metrics.jsonl"))
    l:record { step = 0, kind = "eval", loss = 3 }
    l:record { step = 1, kind = "train", loss = 2 }
    l:close()
    assert(log.open(dir, 0)):close() -- stopped before the first step: what was known before it stays
    assert.equal(1, #lines(dir .. "/metrics.jsonl"))
  end)

  it("says when it cannot be written", function()
    local l, message = log.open "/nonexistent/folder"
    assert.is_nil(l)
    assert.truthy(message:find("/nonexistent/folder", 1, true))
  end)
end)

describe("progress", function()
  local function stream()
    return { text = "", write = function(self, ...) self.text = self.text .. table.concat { ... } return self end, flush = function() end }
  end

  it("writes a plain line now and then, and the last", function()
    local out, now = stream(), 0
    local p = progress.new { total = 100, out = out, terminal = false, clock = function() return now end }
    for step = 1, 100 do
      now = now + 0.5
      p:step(step, { loss = 2 / step, cos_sim = 0.5, tokens = 10 })
    end
    local count = select(2, out.text:gsub("\n", ""))
    assert.equal(6, count) -- at 0.5 s, every 10 s after, and the last
    assert.truthy(out.text:find("step 100/100  loss 0.0200  cos 0.5000  20 tokens/s  0:00 left\n", 1, true), out.text)
    assert.falsy(out.text:find("\r", 1, true))
  end)

  it("redraws a bar on a terminal and keeps other lines whole", function()
    local out, now = stream(), 0
    local p = progress.new { total = 4, from = 2, out = out, terminal = true, width = 80, clock = function() return now end }
    now = 1
    p:step(3, { loss = 1, tokens = 5 })
    p:line "evaluated"
    now = 2
    p:step(4, { loss = 1, tokens = 5 })
    p:done()
    assert.truthy(out.text:find("3/4  loss 1.0000  5 tokens/s  0:01 left", 1, true), out.text)
    assert.truthy(out.text:find("\r\27[Kevaluated\n", 1, true))
    assert.truthy(out.text:find("[##############################] 4/4", 1, true), out.text)
    assert.equal("\n", out.text:sub(-1))
  end)

  it("formats durations", function()
    assert.equal("0:05", progress.duration(5.2))
    assert.equal("1:01:01", progress.duration(3661))
  end)
end)

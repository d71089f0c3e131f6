-- Profiles on the CPU: what is counted is what was called; tables and trace say it; off, nothing is kept.
local kava = require "kava"

local function named(list, name)
  for _, entry in ipairs(list) do
    if entry.name == name then return entry end
  end
end

describe("a profile", function()
  local x = kava.ones { 8, 8 }

  it("counts the ops' kernels and the parts of the work, and passes results on", function()
    local report, y, z = kava.profile.run(function()
      local range <close> = kava.range "mine" -- luacheck: ignore 211
      for _ = 1, 3 do x:exp() end
      return x:softmax(2), nil
    end)
    assert.equal("cpu", report.device)
    assert.equal("host", report.source)
    assert.same({ 8, 8 }, y.shape)
    assert.is_nil(z)
    assert.equal(3, named(report.kernels, "unary").calls)
    assert.equal(1, named(report.kernels, "softmax").calls)
    assert.equal(1, named(report.parts, "mine").calls)
    local total = report.idle
    for _, entry in ipairs(report.kernels) do
      assert.near(entry.total, entry.mean * entry.calls, 1e-6)
      total = total + entry.total
    end
    assert.near(report.window, total, 1e-3)
    assert.is_true(report.window <= report.length)
    assert.is_nil(named(report.kernels, "exp"))
  end)

  it("knows a training step's parts by their names", function()
    local config = { model_type = "llama", vocab_size = 20, hidden_size = 16, intermediate_size = 24, num_hidden_layers = 2,
      num_attention_heads = 2, num_key_value_heads = 1, rms_norm_eps = 1e-6, rope_theta = 1e4 }
    local teacher, student = kava.model.create(config), kava.model.create(config):requires_grad(true)
    local ids = kava.tensor({ { 1, 2, 3, 4 } }, { dtype = "i64" })
    local objective = kava.loss.build("mercator", { teacher = teacher, student = student, loss = { ce = 1, kl = 0 },
      kv = { method = "concat", project = "student" } })
    local optimizer = kava.optim.adamw { { params = student:parameters(), lr = 1e-3 } }
    local report = kava.profile.run(function()
      local loss = objective:step({ input_ids = ids, mask = kava.ones({ 1, 4 }, { dtype = "bool" }), tokens = 4 }, 1)
      loss:backward()
      assert(optimizer:step())
    end)
    for name, calls in pairs { teacher = 1, student = 1, loss = 1, backward = 1, optimizer = 1, ["layer 1"] = 2, ["layer 2"] = 2 } do
      assert.equal(calls, (named(report.parts, name) or {}).calls, name)
    end
    assert.truthy(named(report.kernels, "adamw"))
  end)

  it("is a table that is read, and a trace that Chrome and Perfetto read", function()
    local report = kava.profile.run(function()
      local range <close> = kava.range 'a "part"' -- luacheck: ignore 211
      x:exp()
      x:exp()
    end)
    local text = report:text()
    assert.truthy(text:find "^cpu, timed by host: %d+%.%d+ ms, in which ops ran for", text)
    assert.truthy(text:find "\nunary +2 +%d+%.%d+ +%d+%.%d+ +%d+%.%d%%\n", text)
    assert.truthy(text:find "\nunary %-> unary +1 ", text)
    local path = require("spec.helper").tmp() .. "/trace.json"
    assert.is_true(report:save(path))
    local ops, parts, rows = {}, {}, {}
    for _, event in ipairs(kava.json.load(path).traceEvents) do
      if event.cat == "kernel" then ops[#ops + 1] = event end
      if event.cat == "part" then parts[#parts + 1] = event end
      if event.name == "thread_name" then rows[event.tid] = event.args.name end
    end
    assert.equal(2, #ops)
    assert.equal("unary", ops[1].name)
    assert.equal("X", ops[1].ph)
    assert.equal("ops", rows[ops[1].tid])
    assert.is_true(ops[2].ts >= ops[1].ts + ops[1].dur - 1e-3 and ops[1].dur > 0)
    assert.equal('a "part"', parts[1].name)
    assert.is_true(parts[1].ts <= ops[1].ts and parts[1].ts + parts[1].dur >= ops[2].ts)
    local short = report:text { kernels = 0 }
    assert.truthy(short:find "\n1 others +2 ", short)
  end)

  it("of nothing says so", function()
    local report = kava.profile.run(function() end)
    assert.same({}, report.kernels)
    assert.truthy(report:text():find "0.000 ms", 1, true)
    local events = kava.json.decode(report:trace()).traceEvents
    assert.equal("process_name", events[#events].name)
  end)

  it("is one at a time; an error in it ends it and passes; ranges outlive it harmlessly", function()
    kava.profile.start()
    assert.error_matches(kava.profile.start, "profile: one is being taken already")
    local range = kava.range "open"
    assert.equal("open", kava.profile.stop().parts[1].name)
    range:release()
    assert.error_matches(kava.profile.stop, "profile: none is being taken")
    assert.has_error(function() kava.profile.run(error, "mine") end, "mine")
    assert.is_false(kava.profiling())
  end)

  it("keeps nothing when it is off", function()
    assert.is_nil(kava.range "nobody looks")
    x:exp()
    assert.equal(1, #kava.profile.run(function() x:exp() end).spans)
  end)
end)

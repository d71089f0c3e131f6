local kava = require "kava"
local program = require "spec.program"

describe("signals", function()
  after_each(function() kava.signals.watch {} end)

  -- A signal may reach another thread, and its handler run a moment later.
  local function waited(name)
    local started = kava.clock()
    while kava.signals.pending() ~= name and kava.clock() < started + 5 do kava.fs.exists "." end
    return kava.signals.pending()
  end

  it("only set a flag", function()
    kava.signals.watch { "USR1", "TERM" }
    assert.is_nil(kava.signals.pending())
    os.execute "kill -USR1 $PPID"
    assert.equal("USR1", waited "USR1")
    os.execute "kill -TERM $PPID; sleep 0.05"
    assert.equal("USR1", kava.signals.pending())
    kava.signals.watch { "TERM" }
    assert.is_nil(kava.signals.pending())
  end)

  it("refuse unknown names", function()
    assert.has_error(function() kava.signals.watch { "KILL" } end, "signals.watch: unknown signal 'KILL' (known: INT TERM USR1 USR2 HUP)")
    assert.has_error(function() kava.signals.watch { 15 } end)
    assert.has_error(function() kava.signals.watch "TERM" end)
  end)

  it("end the program at the second SIGINT", function()
    local code, out = program.run([[-e '
      kava = require "kava"
      kava.signals.watch { "INT" }
      os.execute "(sleep 0.05; kill -INT $PPID; sleep 0.1; kill -INT $PPID) &"
      while not kava.signals.pending() do kava.clock() end
      print(kava.signals.pending())
      io.stdout:flush()
      local started = kava.clock()
      while kava.clock() < started + 5 do end
      print "still here"']])
    assert.equal(130, code)
    assert.equal("INT\n", out)
  end)
end)

it("the clock does not go back", function()
  local a = kava.clock()
  assert.truthy(kava.clock() >= a)
end)

it("a file is no terminal", function()
  local _, out = program.run "-e 'print(require(\"kava\").isatty(1))'"
  assert.equal("false\n", out)
end)

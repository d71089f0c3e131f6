-- The prompt: what it prints through a pipe, what its parts say, and how it behaves on a terminal (script(1) makes one).
local helper = require "spec.helper"
local program = require "spec.program"
local kava = require "kava"
local complete = require "kava.repl.complete"
local doc = require "kava.repl.doc"
local show = require "kava.repl.show"

local function session(input, ...)
  local code, out, err = program.run("-i", { input = input, ... })
  assert.equal(0, code, err)
  return out, err
end

local function contains(text, ...)
  for _, part in ipairs { ... } do assert(text:find(part, 1, true), ("%q is not in:\n%s"):format(part, text)) end
end

describe("what the prompt shows", function()
  it("is a tensor's shape, type, device, summary and values", function()
    assert.equal("tensor f32 [2, 2] cpu  min 1  max 5  mean 2.75\n  1  2\n  3  5", show.value(kava.tensor { { 1, 2 }, { 3, 5 } }))
    assert.equal("tensor i64 [3] cpu  min -7  max 9  mean 1\n  -7   1   9", show.value(kava.tensor({ -7, 1, 9 }, { dtype = "i64" })))
    assert.equal("tensor f64 [] cpu  0.25", show.value(kava.tensor(0.25, { dtype = "f64" })))
    assert.equal("tensor f32 [0, 3] cpu  no elements", show.value(kava.zeros(0, 3)))
    assert.equal("tensor bf16 [1] cpu  min 1.5  max 1.5  mean 1.5\n  1.5", show.value(kava.tensor({ 1.5 }, { dtype = "bf16" })))
    contains(show.value(kava.tensor({ 1, 0 }, { dtype = "bool" })), "tensor bool [2] cpu  min 0  max 1  mean 0.5")
    contains(show.value(kava.zeros(2):requires_grad(true)), "requires grad")
  end)

  it("is the corner of a large one, and how many values are no numbers", function()
    local text = show.value(kava.arange(0, 2 * 5 * 7):reshape(2, 5, 7))
    assert.equal("tensor i64 [2, 5, 7] cpu  min 0  max 69  mean 34.5\n  at [1, …]:\n   0   1   2   3   4   5  …\n" ..
      "   7   8   9  10  11  12  …\n  14  15  16  17  18  19  …\n  21  22  23  24  25  26  …\n  …", text)
    assert.equal("tensor f32 [3] cpu  NaN: 1 of 3\n    1  nan    2", show.value(kava.tensor { 1, 0 / 0, 2 }))
    local coded = kava.gguf.quantize(kava.randn(2, 32), "q8_0")
    assert.equal('tensor q8_0 [2, 32] cpu  quantised; :to{dtype="f32"} widens it', show.value(coded))
    local gone = kava.zeros(2)
    gone:release()
    contains(show.value(gone), "released")
  end)

  it("is a model's, a cache's and a projector's layout", function()
    local m = assert(kava.model.load "assets/demo/teacher.gguf")
    contains(show.value(m), "llama, 6 layers", "944768 parameters: q4_1, q8_0, f32", "6 layers of 2 heads x 32 = 384")
    local out = m:forward { input_ids = kava.zeros({ 2, 5 }, { dtype = "i64" }), logits = false }
    contains(show.value(out.kv), "kava.KV: keys, values of 6 layers of 2 heads x 32 = 384", "f32 [2, heads, 5, dim]")
    assert.equal("{ kv = kava.KV: keys, values of 6 layers of 2 heads x 32 = 384 }", show.value(out))
    contains(show.value(kava.projector { in_dim = 8, out_dim = 4 }), "8 -> 8 -> 4", "124 parameters")
  end)

  it("is tables with their names, nested and long ones in lines, cyclic ones cut", function()
    assert.equal('{ 1, tensor f32 [2] cpu, a = "x", ["b c"] = 2 }', show.value { 1, kava.zeros(2), a = "x", ["b c"] = 2 })
    local cyclic = {}
    cyclic.self = cyclic
    assert.equal("{ self = {…} }", show.value(cyclic))
    local long = {}
    for i = 1, 100 do long[i] = i end
    contains(show.value(long), "{\n  1,\n", "… 100 in all")
    assert.equal("a\nb", show.value "a\nb")
  end)
end)

describe("commands", function()
  it(":help, :time and misspelt ones", function()
    local out, err = session ":help\n:tme 1\n:time 6 * 7\n:time error 'boo'\n:doc\n1\n"
    contains(out, ":doc NAME", ":time CODE", "42\n")
    assert.truthy(out:match "42\n[%d.]+ %l+, at most [%d.]+ MiB more\n1\n$")
    contains(err, ":tme: no such command; did you mean :time?", "boo", ":doc: a name is missing")
  end)

  it(":doc shows annotations, by full name, its end, or a variable", function()
    local text = assert(doc.find "Tensor:narrow")
    contains(text, "kava.Tensor:narrow(dim, start, length)", "start: integer from 1", "-> kava.Tensor")
    assert.equal(text, doc.find "kava.Tensor.narrow")
    assert.equal(text, doc.find "narrow")
    contains(assert(doc.find "load"), "load is several:", "kava.model.load", "kava.gguf.load")
    contains(assert(doc.find "kava.Model"), ":probe", ":forward", ".config")
    local found, message = doc.find "kava.model.laod"
    assert.is_nil(found)
    contains(message, "nothing is documented as kava.model.laod; did you mean load?")
    contains((session "t = kava.zeros(2)\n:doc t:narrow\n"), "kava.Tensor:narrow(dim, start, length)")
  end)

  it("finds the annotation of every native function", function()
    local missing = {}
    for _, class in ipairs { "kava", "kava.fs", "kava.json", "kava.gguf", "kava.quant", "kava.line", "kava.signals" } do
      for name, value in pairs(class == "kava" and kava or kava[class:sub(6)]) do
        local full = class .. "." .. name
        if type(value) == "function" and not doc.find(full) then missing[#missing + 1] = full end
      end
    end
    assert.same({}, missing)
  end)
end)

describe("input", function()
  it("goes on while it is unfinished", function()
    local out, err = session "1 +\n\n2\nx = [[a\nb]]\nx\n= 3\nfoo bar\nif true then\n"
    assert.equal("3\na\nb\n3\n", out)
    contains(err, "near 'bar'", "prompt:1: 'end' expected near <eof>")
  end)

  it("leaves the session as it is after an error, and names the place", function()
    local out, err = session "x = 1\nerror { a = 1 }\nnil + 1\nkava.kv.aggregate(1)\nkava.zeros(2):narow(1)\nx\n"
    assert.equal("1\n", out)
    contains(err, "{ a = 1 }", "prompt:1: attempt to perform arithmetic on a nil value", "prompt:1: aggregate: the kv of a forward pass")
    assert.falsy(err:find("repl.lua", 1, true), err)
  end)
end)

describe("completion", function()
  local globals
  local function candidates(text) return (complete.candidates(text, globals, { help = true, doc = true, time = true })) end
  local function offers(text, ...)
    local list = {}
    for _, name in ipairs(candidates(text)) do list[name] = true end
    for _, name in ipairs { ... } do assert(list[name], ("%s: %s is not offered"):format(text, name)) end
    return list
  end

  setup(function()
    local m = assert(kava.model.load "assets/demo/teacher.gguf")
    globals = { kava = kava, t = kava.zeros(2), m = m, string = string, list = { { inner = 1 } }, s = "text",
      out = m:forward { input_ids = kava.zeros({ 1, 2 }, { dtype = "i64" }), logits = false } }
  end)
  teardown(function() globals = nil end)

  it("offers names, keywords, fields and methods", function()
    assert.same({ "string" }, candidates "x = str")
    offers("", "kava", "while", "m")
    offers("kava.", "model", "tensor", "kv", "projector")
    assert.same({ "load" }, candidates "kava.model.lo")
    offers("t.", "shape", "dtype", "grad", "narrow")
    assert.same({ "narrow" }, candidates "print(t:narr")
    assert.is_nil(offers("t:", "narrow", "sum").shape)
    assert.same({ "probe" }, candidates "m:pr")
    assert.same({ "num_attention_heads", "num_hidden_layers", "num_key_value_heads" }, candidates "m.config.num_")
    assert.same({ "values" }, candidates "out.kv:v")
    assert.same({ "inner" }, candidates "list[1].i")
    assert.same({ "upper" }, candidates "s:up")
  end)

  it("knows what documented functions return, without calling them", function()
    assert.same({ "permute" }, candidates "out.kv:keys(1):perm")
    assert.same({ "probe" }, candidates 'kava.model.load("nowhere"):pr')
    assert.same({ "narrow" }, candidates "kava.zeros(2, 2):sum(1):narr")
  end)

  it("offers commands, what they name, and files in strings", function()
    assert.same({ "doc" }, candidates ":d")
    assert.same({ "load" }, candidates ":doc kava.model.l")
    assert.same({ "teacher.gguf" }, candidates 'kava.model.load "assets/demo/t')
    assert.same({ "assets/" }, candidates "x = 'asse")
  end)

  it("bears what makes no sense", function()
    for _, text in ipairs {
      "nothing.at.all", "t.none.more", "(", "]]", "a..", "..", ":", "::", "f(", "1.", "m:probe().", "'a\\'", "x.y:z.",
    } do
      assert.equal("table", type(candidates(text)), text)
    end
    assert.same({}, candidates "nothing.at.all")
    assert.same({}, candidates "t:probe().")
  end)

  it("inserts what is common and lists the rest", function()
    assert.equal("ensor", (complete.tab("kava.t", { kava = { tensor = 1 } }, {})))
    local more, shown = complete.tab("a.", { a = { one = 1, two = 2 } }, {})
    assert.is_nil(more)
    assert.equal("one  two", shown)
    assert.equal("  ", (complete.tab("", {}, {})))
  end)
end)

-- ------------------------------------------------------------------------------------------------------------- terminals

local have_script = os.execute "command -v script >/dev/null 2>&1 && script -qfec true /dev/null </dev/null >/dev/null 2>&1"
local have_edit = package.loadlib("libedit.so.2", "*") ~= nil

-- A session on a terminal: send(text), expect(text), which waits for it, and close(), which leaves it with Ctrl-D. A time limit
-- ends what hangs. `after`: shell commands that follow on the same terminal. The trap: dash would die of the Ctrl-C that KAVA
-- answered.
local function terminal(environment, after)
  local log = os.tmpname()
  local command = ("trap : INT; env %s %s -i; %s echo left: $?"):format(environment, program.path, after or "")
  local pipe = assert(io.popen(("timeout -k 1 %d script -qfec '%s' %s >/dev/null 2>&1"):format(
    helper.sanitized and 120 or 30, command, log), "w"))
  pipe:setvbuf "no"
  local self, seen = {}, 1
  function self.log() return helper.read(log) end
  function self.send(text) pipe:write(text) end
  function self.expect(text, seconds)
    local deadline = kava.clock() + (seconds or helper.sanitized and 60 or 10)
    repeat
      local _, last = self.log():find(text, seen, true)
      if last then
        seen = last + 1
        return
      end
      os.execute "sleep 0.02"
    until kava.clock() > deadline
    error(("%q did not come; what came:\n%s"):format(text, self.log()), 2)
  end
  -- Ctrl-D, until it is heard: one that comes between two prompts is no key but the terminal's own end of input, which the
  -- next prompt reads as a NUL.
  function self.close()
    local heard
    local tries = 0
    repeat
      self.send "\4"
      tries = tries + 1
      heard = pcall(self.expect, "left: 0", 1)
    until heard or tries == (helper.sanitized and 60 or 10)
    if not heard then self.expect("left: 0", 0) end
    pipe:close()
    os.remove(log)
  end
  return self
end

local function on_terminal(name, body)
  it(name, function()
    if not have_script then return pending "skipped: script(1) cannot make a terminal here" end
    if not have_edit then return pending "skipped: libedit is not installed" end
    local home = helper.tmp()
    body(home, ("HOME=%s XDG_STATE_HOME= TERM=xterm"):format(home))
  end)
end

describe("on a terminal", function()
  on_terminal("it edits, completes and goes on over lines", function(_, environment)
    local t = terminal(environment)
    t.expect "Ctrl-D leaves"
    t.expect "> "
    t.send "kava.tens\t({1,2}).sha\t\n"
    t.expect "{ 2 }"
    t.send "'b'\1'\195\164' .. \5 .. '!'\n" -- Ctrl-A, a character of two bytes, Ctrl-E
    t.expect "\195\164b!"
    t.send "for i = 1, 2 do\n"
    t.expect ">> "
    t.send "print('line', i)\nend\n"
    t.expect "line\t2"
    t.send "\tx = 1\n"
    t.close()
  end)

  on_terminal("Ctrl-C stops what runs, drops lines, and keeps the session", function(_, environment)
    local t = terminal(environment)
    t.expect "> "
    t.send "x = 41\nprint 'on' while true do end\n"
    t.expect "\non\r"
    t.send "\3"
    t.expect "interrupted"
    t.send "x = 'dropped"
    t.expect "dropped"
    t.send "\3"
    t.expect "> "
    t.send "if true then\n"
    t.expect ">> "
    t.send "\3"
    t.expect "> "
    t.send "print 'in' while true do local y = kava.randn(64, 64):matmul(kava.randn(64, 64)) end\n"
    t.expect "\nin\r"
    t.send "\3"
    t.expect "interrupted"
    t.send "print 'co' coroutine.wrap(function() while true do end end)()\n"
    t.expect "\nco\r"
    t.send "\3"
    t.expect "interrupted"
    t.send "print 're' print(coroutine.resume(coroutine.create(function() while true do end end)))\n"
    t.expect "\nre\r"
    t.send "\3"
    t.expect "false\t"
    t.expect "interrupted"
    t.send "x + 1\n"
    t.expect "42"
    t.close()
  end)

  on_terminal("it remembers lines, in a file for its owner alone", function(home, environment)
    local t = terminal(environment)
    t.expect "> "
    t.send "first = 11\nfirst\n"
    t.expect "11"
    t.close()
    local path = home .. "/.local/state/kava/history"
    assert.equal("first = 11\nfirst\n", helper.read(path))
    assert.equal("600\n", helper.run("stat -c %a " .. path))
    t = terminal(environment)
    t.expect "> "
    t.send "\27[A\27[A\27[D\0052\n" -- up, up, left, to the end, 2
    t.expect "\n> "
    t.send "first\n"
    t.expect "\n112\r"
    t.close()
  end)

  on_terminal("it keeps an old history short", function(home, environment)
    local folder = home .. "/.local/state/kava"
    assert(kava.fs.mkdir(folder))
    local lines = {}
    for i = 1, 5000 do lines[i] = "x = " .. i end
    helper.write(folder .. "/history", table.concat(lines, "\n") .. "\n")
    local t = terminal(environment)
    t.expect "> "
    t.close()
    local text = helper.read(folder .. "/history")
    assert.equal("x = 3001\n", text:match "^[^\n]*\n")
    assert.equal("x = 5000\n", text:match "[^\n]*\n$")
    assert.equal("600\n", helper.run("stat -c %a " .. folder .. "/history"))
  end)

  on_terminal("it bears a home that cannot be written", function()
    local t = terminal "HOME=/proc/none XDG_STATE_HOME= TERM=xterm"
    t.expect "> "
    t.send "20 + 1\n"
    t.expect "21"
    t.send "\27[A0\n"
    t.expect "30"
    t.close()
  end)

  on_terminal("a signal that ends it leaves the terminal as it was", function(_, environment)
    local t = terminal(environment, "stty -a;")
    t.expect "> "
    t.send "os.execute '(sleep 0.3; kill -TERM $PPID) &'\n"
    t.expect "speed"
    t.expect " icanon"
    t.expect " echo "
    t.expect "left:"
  end)

  on_terminal("plain lines do where the terminal cannot be drawn on", function(home)
    local t = terminal(("HOME=%s TERM=dumb"):format(home))
    t.expect "> "
    t.send "x = 41\nprint 'on' while true do end\n"
    t.expect "on\r"
    t.send "\3"
    t.expect "interrupted"
    t.send "if true then\n"
    t.expect ">> "
    t.send "\3"
    t.expect "> "
    t.send "x + 1\n"
    t.expect "42"
    t.close()
  end)
end)

describe("interruptible", function()
  it("leaves coroutines what they are", function()
    local function handler(err) return err end
    kava.signals.interruptible(function() end, handler)
    local gen = coroutine.wrap(function(a)
      local b, c = coroutine.yield(a + 1)
      coroutine.yield(b + c)
      error({ "own" }, 0)
    end)
    assert.equal(2, gen(1))
    assert.equal(5, gen(2, 3))
    local ok, err = pcall(gen)
    assert.is_false(ok)
    assert.same({ "own" }, err)
    ok, err = pcall(gen)
    assert.is_false(ok)
    assert.truthy(tostring(err):find("dead coroutine", 1, true))
    local co = coroutine.create(function(...) return select("#", ...), coroutine.isyieldable() end)
    assert.same({ true, 3, true, n = 3 }, table.pack(coroutine.resume(co, nil, nil, nil)))
    assert.same({ false, "cannot resume dead coroutine" }, { coroutine.resume(co) })
    assert.has_error(function() coroutine.resume(1) end)
    assert.has_error(function() coroutine.wrap(1) end)
  end)

  it("is xpcall when nothing interrupts", function()
    local function handler(err) return "handled " .. err end
    assert.same({ true, 1, nil, 3, n = 4 }, table.pack(kava.signals.interruptible(function() return 1, nil, 3 end, handler)))
    assert.same({ false, "handled x" }, { kava.signals.interruptible(function() error("x", 0) end, handler) })
    assert.has_error(function() kava.signals.interruptible(1, handler) end)
    assert.has_error(function() kava.signals.interruptible(handler) end)
  end)

  it("stops Lua code at SIGINT, naming its place, and then no more", function()
    local code, out = program.run([[-e '
      kava = require "kava"
      os.execute "(sleep 0.1; kill -INT $PPID) &"
      print(kava.signals.interruptible(function() while true do end end, tostring))
      print(kava.signals.interruptible(function() for i = 1, 1e6 do end return "again" end, tostring))']])
    assert.equal(0, code)
    assert.equal("false\t-e:4: interrupted\ntrue\tagain\n", out)
  end)
end)

describe("line.append", function()
  it("says what went wrong", function()
    local ok, message, code = kava.line.append("/proc/none/x", "text")
    assert.is_nil(ok)
    assert.equal("/proc/none/x: No such file or directory", message)
    assert.equal("io", code)
  end)

  it("opens no editor where there is no terminal", function()
    local _, out = program.run [[-e 'print(require("kava").line.open())']]
    assert.equal("nil\tline editing: input and output are no terminal\tunsupported\n", out)
  end)
end)

describe("the README", function()
  it("shows a session as it is", function()
    local input, expected = {}, {}
    local block = helper.read("README.md"):match "\n## At the prompt\n(.-)\n## "
    for line in block:gmatch "[^\n]+" do
      local text = line:match "^    (.*)$"
      local typed = text and (text:match "^> (.*)$" or text:match "^>> (.*)$")
      if typed then input[#input + 1] = typed
      elseif text then expected[#expected + 1] = text end
    end
    assert.truthy(#input > 10)
    local out = session(table.concat(input, "\n") .. "\n")
    -- numbers to the digits that instruction sets agree on
    local function words(text)
      local list = {}
      for word in text:gmatch "%S+" do list[#list + 1] = word end
      return list
    end
    local is, should = words(out), words(table.concat(expected, "\n"))
    assert.equal(#should, #is, out)
    for i = 1, #should do
      local a, b = tonumber(is[i]), tonumber(should[i])
      local near = a and b and math.abs(a - b) <= 1e-3 + 1e-2 * math.abs(b)
      assert(near or is[i] == should[i], ("%s printed, %s in README.md, in:\n%s"):format(is[i], should[i], out))
    end
  end)
end)

describe("the prompt", function()
  it("is there within 50 ms", function()
    if helper.sanitized then return pending "skipped: a sanitizer's build is slow" end
    local best = math.huge
    for _ = 1, 10 do
      local before = kava.clock()
      assert.truthy(os.execute(program.path .. " -i </dev/null >/dev/null"))
      best = math.min(best, kava.clock() - before)
    end
    assert(best <= 0.050, ("%.1f ms"):format(best * 1e3))
  end)
end)

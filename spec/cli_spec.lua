local helper = require "spec.helper"
local program = require "spec.program"
local run = program.run

describe("the front door", function()
  local dir
  setup(function() dir = helper.tmp() end)

  it("shows its help and version", function()
    local code, out = run "--help"
    assert.equal(0, code)
    assert.truthy(out:find("key=value", 1, true))
    code, out = run "--version"
    assert.equal(0, code)
    assert.truthy(out:match "^kava %d+%.%d+%.%d+\n$")
  end)

  it("starts every recipe", function()
    local count = 0
    for _, name in ipairs(require("kava").fs.list "recipes") do
      if name:find "%.lua$" and helper.read("recipes/" .. name):find ".recipe[({]" then
        local code, out, err = run(("recipes/%s --help"):format(name))
        assert.equal(0, code, name .. ": " .. err)
        assert.truthy(out:find(name:gsub("%.lua$", ""), 1, true), out)
        count = count + 1
      end
    end
    assert.truthy(count >= 6, count)
  end)

  it("answers --help within 20 ms", function()
    local kava = require "kava"
    local best = math.huge
    for _ = 1, 10 do
      local started = kava.clock()
      os.execute(program.path .. " --help >/dev/null")
      best = math.min(best, kava.clock() - started)
    end
    if program.path:find("asan", 1, true) or program.path:find("tsan", 1, true) then return end
    assert.truthy(best <= 0.020, ("best of ten: %.1f ms"):format(best * 1e3))
  end)

  it("refuses what it does not know with exit 2", function()
    local code, _, err = run ""
    assert.equal(2, code)
    assert.truthy(err:find("kava FILE.lua", 1, true))
    code, _, err = run "nowhere/script.lua"
    assert.equal(2, code)
    assert.truthy(err:find("nowhere/script.lua: no such script", 1, true))
    code, _, err = run "--hepl"
    assert.equal(2, code)
    assert.truthy(err:find("unknown option --hepl", 1, true))
    assert.equal(2, (run "-e"))
    local out
    code, out, err = program.shell(("cd / && %s recipes/check_environment.lua --help"):format(require("kava").fs.realpath(program.path)))
    assert.equal(0, code, err) -- KAVA's own recipes, from any folder
    assert.truthy(out:find("check_environment", 1, true))
    code, _, err = program.shell("KAVA_HOME=/nowhere " .. program.path .. " --version")
    assert.equal(1, code)
    assert.equal("kava: KAVA_HOME=/nowhere: lua/kava/init.lua is not there\n", err)
  end)

  it("knows the variables that its own scripts set", function()
    local schema = require("kava.config").schema(require "recipes.keys")
    local known = require("kava.cli").variables
    local used = "grep -hoE '\\bKAVA_[A-Z0-9_]*[A-Z0-9]\\b' scripts/*.sh scripts/test scripts/run; "
      .. "grep -rhoE 'getenv\\(\"KAVA_[A-Z0-9_]+' src | cut -d'\"' -f2"
    for name in io.popen(used):read("a"):gmatch "%S+" do
      local folder = name:match "^KAVA_%a+_PATH$" or name == "KAVA_PROJECT_ROOT"
      assert.truthy(known[name] or schema.variables[name] or folder, name)
    end
    for name in pairs(known) do assert.is_nil(schema.variables[name], name) end
  end)

  it("gives a script its arguments and takes its exit code", function()
    local path = helper.write(dir .. "/args.lua", "print(arg[0], #arg, (...), (select(2, ...)), select('#', ...)) return 7")
    local code, out = run(path .. " a=1 'b c' --flag")
    assert.equal(7, code)
    assert.equal(path .. "\t3\ta=1\tb c\t3\n", out)
    assert.equal(1, (run(helper.write(dir .. "/false.lua", "return false"))))
    assert.equal(0, (run(helper.write(dir .. "/nothing.lua", "return"))))
    assert.equal(9, (run(helper.write(dir .. "/exit.lua", "os.exit(9)"))))
  end)

  it("shows errors with their place and ends with 1", function()
    local code, _, err = run(helper.write(dir .. "/bad.lua", "local x\nx.y = 1"))
    assert.equal(1, code)
    assert.truthy(err:find("bad.lua:2:", 1, true))
    assert.falsy(err:find("cli.lua", 1, true))
    code, _, err = run(helper.write(dir .. "/syntax.lua", "x = = 1"))
    assert.equal(1, code)
    assert.truthy(err:find("syntax.lua:1:", 1, true))
    code, _, err = run(helper.write(dir .. "/fail.lua", "require('kava.cli').try(io.open('/nonexistent/x'))"))
    assert.equal(1, code)
    assert.equal("kava: /nonexistent/x: No such file or directory\n", err)
  end)

  it("runs -e, then -i", function()
    local code, out = run("-e 'y = 41' -i", { input = "y + 1\n" })
    assert.equal(0, code)
    assert.equal("42\n", out)
    assert.equal(3, (run "-e 'return 3'"))
  end)

  describe("the prompt", function()
    it("prints expressions, keeps globals, goes on after errors and over lines", function()
      local input = "x = 5\nx * 2, 'a'\nerror('boo')\nx\nfor i = 1, 2 do\nprint(i)\nend\n{ 1, 2, a = { b = 3 } }\n)\n'end'\n"
      local code, out, err = run("-i", { input = input })
      assert.equal(0, code)
      assert.equal("10\ta\n5\n1\n2\n{ 1, 2, a = { b = 3 } }\nend\n", out)
      assert.truthy(err:find("boo", 1, true))
      assert.truthy(err:find("near ')'", 1, true))
    end)
  end)

  describe("a recipe", function()
    local recipe
    setup(function()
      recipe = helper.write(dir .. "/recipe.lua", [[
        local cli = require "kava.cli"
        return cli.recipe({
          name = "toy", about = "A toy.", defaults = { a = { b = 1 }, word = "x" },
          keys = { { heading = "Things" }, { "a.b", "integer", "the b of a", min = 0, alias = "b" }, { "word", "string", "a word" },
            { "list", "integer|list", "a list" }, { "mode", "string", "a mode", choices = { "fast", "slow" } },
            { "preset", "string", "values to start from", choices = { "none", "original" } } },
          run = function(c, options, resolved)
            print(c.a.b, c.word, type(c.list) == "table" and table.concat(c.list, "+") or c.list, resolved.from["a.b"])
            if c.word == "fail" then cli.fail("as asked", cli.exit.again) end
          end,
        }, ...)]])
    end)

    it("reads key=value, aliases, lists", function()
      local code, out = run(recipe .. " a.b=3 list=1,2,3")
      assert.equal(0, code)
      assert.equal("3\tx\t1+2+3\tcommand line\n", out)
      code, out = run(recipe .. " b=4 'word=a=b'")
      assert.equal(0, code)
      assert.equal("4\ta=b\tnil\tcommand line\n", out)
      code, out = run(recipe .. " 'list={2,4}'")
      assert.equal(0, code)
      assert.equal("1\tx\t2+4\tdefault\n", out)
    end)

    it("lists its keys", function()
      local code, out = run(recipe .. " --help")
      assert.equal(0, code)
      for _, part in ipairs { "A toy.", "Things", "a.b=1", "the b of a", "integer, at least 0; also b", '"fast" or "slow"' } do
        assert.truthy(out:find(part, 1, true), part)
      end
    end)

    local function refused(arguments, ...)
      local code, out, err = run(recipe .. " " .. arguments)
      assert.equal(2, code)
      assert.equal("", out)
      assert.falsy(err:find("traceback", 1, true))
      for _, part in ipairs { ... } do assert.truthy(err:find(part, 1, true), part .. " in: " .. err) end
    end

    it("refuses bad usage, naming key, value, expectation and source", function()
      refused("wrod=1", "unknown key 'wrod' (command line)", "did you mean 'word'?")
      refused("a.c=1", "unknown key 'a.c'", "did you mean 'a.b'?")
      refused("a.b=1.5", "a.b = 1.5 (command line)", "integer, at least 0 expected")
      refused("a.b=-1", "a.b = -1", "at least 0")
      refused("a.b=many", 'a.b = "many"', "integer")
      refused("mode=fsat", 'mode = "fsat"', "did you mean 'fast'?")
      refused("word", "'word' (command line): key=value expected")
      refused("--config=" .. dir .. "/none.lua", "none.lua: no such file")
      refused("--config", "--config: a file is missing")
      refused("--cluster=nowhere", "configs/clusters/nowhere.lua is not there")
      refused("--confg=x", "did you mean --config?")
      refused("--word=x", "keys are written without dashes")
      refused("list=1 list=2", "list (command line): given more than once", "list=2,4,6")
      refused("--json", "does not report in JSON")
      refused("-x", "unknown option -x")
    end)

    it("passes on the exit code of an expected failure", function()
      local code, _, err = run(recipe .. " word=fail")
      assert.equal(75, code)
      assert.equal("kava: as asked\n", err)
    end)

    it("runs under a stock lua5.4 as well", function()
      local code, out = program.shell(("LUA_PATH='lua/?.lua;lua/?/init.lua;;' lua5.4 %s word=fail"):format(recipe))
      assert.equal(75, code)
      assert.equal("1\tfail\tnil\tdefault\n", out)
      if helper.sanitized then return end -- such a module needs its own program
      local root = io.popen("pwd"):read "l" -- and finds its defaults beside the library, wherever it is started
      helper.write(dir .. "/stock.lua", [[return require("kava.cli").recipe { name = "stock", keys = require "recipes.keys",
        defaults = "configs/environment.lua", run = function(c) print(c.target_batch) end }]])
      local command = "cd %s && LUA_PATH='%s/lua/?.lua;%s/?.lua;;' LUA_CPATH='%s/%s/kava_c/?.so;;' lua5.4 stock.lua target_batch=7"
      code, out = program.shell(command:format(dir, root, root, root, helper.build))
      assert.equal(0, code)
      assert.equal("7\n", out)
    end)
  end)
end)

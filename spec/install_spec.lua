-- cmake --install: the program, the module for a stock lua5.4, and libkava, each used from where it was put. The C
-- program scripts/examples/embed.c is built against the installed header and library, and run.
local helper = require "spec.helper"

local function succeed(command)
  local text, code = helper.run(command)
  assert.equal(0, code, command .. "\n" .. text)
  return text
end

describe("an installed KAVA", function()
  local prefix, library

  setup(function()
    prefix = helper.tmp()
    local log = succeed(("cmake --install %s --prefix %s"):format(helper.build, prefix))
    library = assert(log:match "(%S+)/libkava%.so\n", log)
  end)

  it("has a program that finds its Lua side", function()
    assert.equal("0.1.0\n", succeed("cd / && " .. prefix .. [[/bin/kava -e 'print(require("kava").version)']]))
  end)

  it("has a module for a stock lua5.4", function()
    if helper.sanitized then return pending "skipped: a sanitizer's module needs its own program" end
    local code = ([[package.path = "%s/share/lua/5.4/?.lua;%s/share/lua/5.4/?/init.lua"
      package.cpath = "%s/lua/5.4/?.so" print(require("kava").version)]]):format(prefix, prefix, library)
    assert.equal("0.1.0\n", succeed("cd / && lua5.4 -e '" .. code .. "'"))
  end)

  it("has a library for C programs: scripts/examples/embed.c", function()
    local sanitizer = helper.build:match "asan$" and "-fsanitize=address,undefined"
      or helper.build:match "tsan$" and "-fsanitize=thread" or ""
    succeed(("cc -std=c11 -Wall -Wextra -Werror %s -I%s/include -o %s/embed scripts/examples/embed.c -L%s -lkava -lm -Wl,-rpath,%s")
      :format(sanitizer, prefix, prefix, library, library))
    local text = succeed(prefix .. "/embed")
    assert.truthy(text:find("layer 3: weight down is missing", 1, true), text)
    assert.truthy(text:find("layer 2: 2 kv heads x 16, rms of K 0.", 1, true), text)
    assert.truthy(text:find("a token's keys: 96 numbers; logits [1, 32, 100]", 1, true), text)
  end)
end)

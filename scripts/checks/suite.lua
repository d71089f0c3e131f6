-- Runs busted inside the interpreter that runs this file: a stock lua5.4 (the release build) or the kava program (a
-- sanitizer's build), with the build folder that KAVA_BUILD names. Arguments as busted has them. scripts/test calls it.
local build = os.getenv "KAVA_BUILD" or "build/release"
package.path = "./?.lua;./lua/?.lua;./lua/?/init.lua;" .. package.path
package.cpath = build .. "/kava_c/?.so;" .. package.cpath

-- Harsh: a collection cycle starts as soon as the last has ended, and does so much work for every KiB allocated that a
-- cycle is over after some 25 KiB: an object which native code forgot to anchor does not live long.
if os.getenv "KAVA_TEST_GC" == "harsh" then collectgarbage("incremental", 100, 200, 10) end

local argument = { [0] = "scripts/test", "--ignore-lua", "--output=scripts/checks/report.lua" }
for _, word in ipairs(arg) do argument[#argument + 1] = word end
_G.arg = argument
require "busted.runner"({ standalone = false })
error "no test was run" -- report.lua ends the program

-- busted's output for scripts/test: a line per spec file, failures as they come, and at the end one line
-- "N passed, N failed[, N skipped]"; then ends the program, status 0 only when nothing failed.
return function()
  local busted = require "busted"
  local handler = require "busted.outputHandlers.base"()
  local slow_seconds = 10
  local file = { passed = 0, skipped = 0, failed = 0 }

  local function describe(problem)
    local message = problem.message
    if type(message) ~= "string" then message = require("pl.pretty").write(message) end
    local trace = problem.trace or {}
    local place = trace.short_src and (" (%s:%s)"):format(trace.short_src, trace.currentline or "?") or ""
    local text = ("FAILED %s%s\n    %s\n"):format(problem.name or "?", place, (message:gsub("\n", "\n    ")))
    if problem.isError and trace.traceback then text = text .. "    " .. trace.traceback:gsub("\n", "\n    ") .. "\n" end
    return text
  end

  local function problem(element, parent, message, debug)
    io.write(describe(handler.format(element, parent, message, debug, true)))
    io.flush()
    file.failed = file.failed + 1
    return nil, true
  end

  busted.subscribe({ "file", "start" }, function(element)
    file = { passed = 0, skipped = 0, failed = 0, started = busted.gettime(), name = element.name }
    return nil, true
  end)
  busted.subscribe({ "test", "start" }, function(element)
    element.started = busted.gettime()
    return nil, true
  end)
  busted.subscribe({ "test", "end" }, function(element, _, status)
    if status == "success" then file.passed = file.passed + 1 end
    if status == "pending" then
      file.skipped = file.skipped + 1
      local seen = handler.pendings[#handler.pendings]
      local reason = seen and type(seen.message) == "string" and seen.message or "pending"
      io.write(("skipped: %s: %s\n"):format(handler.getFullName(element), (reason:gsub("^.-skipped: ", ""))))
    end
    local seconds = busted.gettime() - element.started
    if seconds > slow_seconds then io.write(("slow: %s: %.0f s\n"):format(handler.getFullName(element), seconds)) end
    io.flush()
    return nil, true
  end)
  busted.subscribe({ "failure" }, problem)
  busted.subscribe({ "error" }, problem)
  busted.subscribe({ "file", "end" }, function(element)
    local words = { ("%d passed"):format(file.passed) }
    if file.failed > 0 then words[#words + 1] = ("%d FAILED"):format(file.failed) end
    if file.skipped > 0 then words[#words + 1] = ("%d skipped"):format(file.skipped) end
    local seconds = busted.gettime() - (file.started or busted.gettime())
    io.write(("%-44s %6.1f s  %s\n"):format(element.name, seconds, table.concat(words, ", ")))
    io.flush()
    return nil, true
  end)
  busted.subscribe({ "exit" }, function()
    local failed = handler.failuresCount + handler.errorsCount
    local passed, skipped = handler.successesCount, handler.pendingsCount
    if passed + failed + skipped == 0 then
      io.write "no test was found\n"
      failed = 1
    end
    io.write(("%d passed, %d failed%s\n"):format(passed, failed, skipped > 0 and (", %d skipped"):format(skipped) or ""))
    io.flush()
    os.exit(failed == 0 and 0 or 1, true)
  end)

  return handler
end

-- What this machine is, and what KAVA will do on it: `kava recipes/check_environment.lua [--json]`.
local cli = require "kava.cli"

local function report(config, options, resolved)
  local facts = require("recipes.env").facts()
  local places = require("recipes.paths").resolve(facts, config, resolved.from)
  if options.json then
    print(require("cjson").encode { version = require("kava").version, facts = facts, paths = places })
    return
  end
  local function line(name, value, why)
    print(("%-18s %-28s %s"):format(name, value == nil and "unknown" or tostring(value), why or ""))
  end
  local function bytes(n) return n and ("%.2f GiB"):format(n / (1 << 30)) end
  print(("KAVA %s"):format(require("kava").version))
  for _, name in ipairs { "place", "scheduler", "job", "cpus", "device", "isa", "precision" } do
    if facts[name] then line(name, facts[name], facts.why[name]) end
  end
  line("memory", bytes(facts.memory), facts.why.memory)
  line("memory available", bytes(facts.memory_available), facts.why.memory_available)
  for _, kind in ipairs { "models", "data", "output", "cache" } do line(kind, places[kind], places.why[kind]) end
end

return cli.recipe({
  name = "check_environment",
  about = "Shows what this machine is, where each fact was read, and what KAVA will do on it.",
  keys = require "recipes.keys",
  defaults = "configs/environment.lua",
  json = true,
  run = report,
}, ...)

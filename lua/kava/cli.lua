-- kava.cli: the front door.
--   cli.main runs the program: kava FILE.lua [key=value …] [--flag …], -e CODE, -i, --help, --version.
--   cli.recipe is how a recipe becomes a command: it reads key=value, --config, --cluster, --help, --print-config and --json, resolves
--   the config with the provenance of every value, and turns errors into exit codes.
-- Nothing native is loaded before it is needed: --help costs a few milliseconds.
local cli = {}

--- 0 done, 1 failed, 2 bad usage or config, 75 try again, 85 checkpointed and wants a requeue.
cli.exit = { done = 0, failed = 1, usage = 2, again = 75, checkpointed = 85 }

local HELP = [[
kava: distils a teacher language model into a smaller student by matching their KV caches.

  kava FILE.lua [key=value …] [--flag …]   run a recipe or any Lua file; `kava FILE.lua --help` lists a recipe's keys
  kava -e CODE                             run a piece of Lua
  kava -i                                  a prompt; after FILE or -e: run them first
  kava --help | --version

  kava recipes/train_adaptive.lua                                   distil; without a config, the demo that is shipped
  kava recipes/train_adaptive.lua kv.method=mean batch_size=4       overrides, no file edited
  kava recipes/train_adaptive.lua --config configs/experiments/smollm2_gsm8k.lua
  kava recipes/check_environment.lua                                what this machine is, and what KAVA will do on it

Exit codes: 0 done, 1 failed, 2 bad usage or config, 75 try again, 85 checkpointed and wants a requeue.
]]

-- ---------------------------------------------------------------------------------------------------------------- errors

local Ending = { __name = "kava.Ending", __tostring = function(ending) return ending.message end }

--- Ends the program with a message and an exit code (1 when none is given): an expected failure, shown without a traceback.
function cli.fail(message, code)
  error(setmetatable({ message = tostring(message), code = code or cli.exit.failed }, Ending), 0)
end

--- As assert, for calls that return nil, message on a failure of the world: ends the program with the message.
function cli.try(value, message, ...)
  if value == nil or value == false then cli.fail(message or "failed") end
  return value, message, ...
end

local function on_error(err)
  if getmetatable(err) == Ending then return err end
  return (debug.traceback(tostring(err), 2):gsub("\n[^\n]*lua/kava/cli%.lua:%d+: in.*", "")) -- what called the chunk is ours
end

-- Runs f(…); -> its results' exit code. An integer is the code, false is a failure, anything else is success.
local function guarded(f, ...)
  local ok, result = xpcall(f, on_error, ...)
  if ok then
    if math.type(result) == "integer" then return result end
    return result == false and cli.exit.failed or cli.exit.done
  end
  io.stdout:flush()
  io.stderr:write("kava: ", tostring(result), "\n")
  return getmetatable(result) == Ending and result.code or cli.exit.failed
end

-- ---------------------------------------------------------------------------------------------------------------- recipe

--- The folder of the program; for a stock lua5.4 the one this library lies in.
function cli.root() return cli.home or require("kava.find").home() end

--- A file below the current folder, else below the folder of the program. -> path | nil
function cli.find(path)
  for _, candidate in ipairs { path, path:sub(1, 1) ~= "/" and cli.root() .. "/" .. path or nil } do
    local file = io.open(candidate, "rb")
    if file then
      file:close()
      return candidate
    end
  end
end

local function usage(message)
  cli.fail(message, cli.exit.usage)
end

-- usage errors for what returns nil, message
local function need(value, message)
  if value == nil then usage(message) end
  return value
end

local function parse(recipe, args)
  local options = { configs = {}, assignments = {} }
  local i, placed = 1, 0
  while i <= #args do
    local text = args[i]
    local flag, value = text:match("^%-%-([^=]+)=?(.*)$")
    if not flag then
      if text:sub(1, 1) == "-" then usage(("unknown option %s; %s --help lists the keys"):format(text, recipe.name)) end
      local place = recipe.positional and recipe.positional[placed + 1]
      if place and not text:find "^[%w_.]+=" then
        placed, text = placed + 1, place .. "=" .. text
      end
      options.assignments[#options.assignments + 1] = text
    elseif flag == "help" or flag == "json" or flag == "print-config" then
      if text:find("=", 1, true) then usage(("--%s takes no value"):format(flag)) end
      options[flag] = true
    elseif flag == "config" or flag == "cluster" then
      if not text:find("=", 1, true) then
        i = i + 1
        value = args[i] or ""
      end
      if value == "" then usage(("--%s: a %s is missing"):format(flag, flag == "config" and "file" or "name")) end
      if flag == "config" then options.configs[#options.configs + 1] = value else options.cluster = value end
    else
      local near = recipe.schema.by[flag] and "; keys are written without dashes: " .. flag .. "=…" or ""
      if near == "" then
        local guess = require("kava.config").nearest(flag,
          { help = true, json = true, config = true, cluster = true, ["print-config"] = true })
        near = guess and ("; did you mean --%s?"):format(guess) or ("; %s --help lists the known ones"):format(recipe.name)
      end
      usage(("unknown option --%s%s"):format(flag, near))
    end
    i = i + 1
  end
  return options
end

local function read_layer(schema, path)
  local config = require "kava.config"
  return need(config.layer(schema, need(config.read(path)), path))
end

-- A layer that names a preset stands on the preset's values: they lie just below it.
local function add(layers, schema, layer)
  local preset = layer.values.preset
  if preset and preset ~= "none" then
    local name = "configs/presets/" .. preset .. ".lua"
    local path = need(cli.find(name), ("preset=%s (%s): %s is not there"):format(preset, layer.from, name))
    layers[#layers + 1] = read_layer(schema, path)
  end
  layers[#layers + 1] = layer
end

--- Variables that begin with KAVA_ and are no keys: the program's, those of ranks and jobs, of the scripts that submit, of the suite.
cli.variables = {}
for name in ([[KAVA_HOME KAVA_CLUSTER KAVA_ISA KAVA_BF16 KAVA_BLAS_CORE KAVA_CUDA KAVA_CUDA_ORDER KAVA_CUDA_PROFILE KAVA_CUDA_TROUBLE
  KAVA_RANK KAVA_WORLD_SIZE KAVA_LOCAL_RANK KAVA_LOCAL_SIZE KAVA_JOB_ID KAVA_RESTARTS KAVA_PROGRAM KAVA_RECIPE KAVA_ARGS
  KAVA_IMAGE KAVA_CHAIN KAVA_BUILD KAVA_TEST_GC]]):gmatch "%S+" do
  cli.variables[name] = true
end

--- Resolves a recipe's config from its arguments: defaults, cluster, config files, variables, command line. -> resolved, options
function cli.resolve(recipe, args)
  local config = require "kava.config"
  local schema = recipe.schema
  local options = parse(recipe, args)
  local layers = {}
  local defaults = type(recipe.defaults) == "string" and need(cli.find(recipe.defaults), recipe.defaults .. ": not there") or nil
  add(layers, schema, defaults and read_layer(schema, defaults) or need(config.layer(schema, recipe.defaults or {}, "default")))
  if options.help then return config.resolve(schema, layers), options end
  local cluster
  if recipe.environment or options.cluster then
    local problem
    cluster, problem = require("kava.cluster").choose(options.cluster, { host = require("kava.core").host().name, getenv = os.getenv },
      { ".", cli.root() })
    if problem then usage(problem) end
    if cluster then add(layers, schema, need(config.layer(schema, cluster.values, cluster.path))) end
  end
  if #options.configs == 0 and recipe.default_config then options.configs[1] = recipe.default_config end
  for _, name in ipairs(options.configs) do
    add(layers, schema, read_layer(schema, need(cli.find(name), ("--config=%s: no such file"):format(name))))
  end
  if recipe.environment then
    local names = require("kava.core").variables "KAVA_"
    local layer, strange = config.environment(schema, config.resolve(schema, layers), os.getenv, names, cli.variables)
    add(layers, schema, need(layer, strange))
    for _, name in ipairs(strange) do io.stderr:write(("kava: %s is no variable of KAVA's: it changes nothing\n"):format(name)) end
  end
  add(layers, schema, need(config.assignments(schema, options.assignments)))
  local resolved = config.resolve(schema, layers)
  resolved.cluster = cluster
  return resolved, options
end

-- --print-config: each value with its source, as a config file; with --json as { key = { value =, source = } }.
local function print_config(resolved, json)
  if not json then return print((resolved:text():gsub("\n$", ""))) end
  local values = {}
  for name, value, from in resolved:each() do
    values[name] = { value = type(value) == "function" and require("kava.config").literal(value) or value, source = from }
  end
  print(assert(require("kava.core").json.encode(values, { indent = 2 })))
end

--- Makes a command of a recipe. At the end of a recipe's file: `return cli.recipe({ … }, ...)`.
--- name, about; keys: a list for kava.config.schema; defaults: a table, or the path of a config file; default_config: the
--- config file used when none is named; environment: whether a cluster's file and variables such as KAVA_BATCH_SIZE hold without being
--- asked for; json: whether --json is understood; positional: the keys of arguments that name none, in
--- their order; run(values, options, resolved) -> exit code.
--- As a script the recipe runs and gives its exit code; loaded by require it is returned, so that others may build on it.
function cli.recipe(recipe, ...)
  local config = require "kava.config"
  recipe.schema = config.schema(recipe.keys or {})
  if type((...)) == "string" and package.loaded[(...)] == nil and (...):match("^recipes%.") then return recipe end
  local code = guarded(function()
    local resolved, options = cli.resolve(recipe, arg)
    if options.help then
      local flags = recipe.json and " [--json]" or ""
      print(("kava %s [key=value …] [--config FILE] [--cluster=NAME] [--print-config]%s\n\n%s"):format(arg[0], flags, recipe.about))
      print(config.help(recipe.schema, resolved))
      return cli.exit.done
    end
    if options["print-config"] then return print_config(resolved, options.json) end
    if options.json and not recipe.json then usage(("--json: %s does not report in JSON"):format(recipe.name)) end
    return recipe.run(resolved.values, options, resolved)
  end)
  if not cli.home then os.exit(code, true) end -- a stock lua5.4 makes nothing of a chunk's result
  return code
end

-- ------------------------------------------------------------------------------------------------------------------ main

-- A recipe of KAVA's own is found from any folder: recipes/train_adaptive.lua lies beside the program, where not here.
local function run_file(path, args)
  local file, message = io.open(path, "rb")
  if not file and path:sub(1, 1) ~= "/" then
    local own = cli.root() .. "/" .. path
    file = io.open(own, "rb")
    if file then path = own end
  end
  if not file then usage(("%s: no such script (%s)"):format(path, message)) end
  file:close()
  local chunk, problem = loadfile(path)
  if not chunk then cli.fail(problem) end
  args[0] = path
  _G.arg = args
  return chunk(table.unpack(args))
end

-- What the command line asks for: a list of steps, each { kind, value }, and the script's own arguments.
local function steps_of(args)
  local steps, i = {}, 1
  while args[i] do
    local text = args[i]
    if text == "--help" or text == "-h" then return { { "help" } } end
    if text == "--version" or text == "-v" then return { { "version" } } end
    if text == "-i" then
      steps.prompt = true
    elseif text == "-e" then
      i = i + 1
      if not args[i] then usage "-e: a piece of Lua is missing" end
      steps[#steps + 1] = { "code", args[i] }
    elseif text:sub(1, 1) == "-" then
      usage(("unknown option %s; kava --help lists the known ones"):format(text))
    else
      steps[#steps + 1] = { "file", text, table.move(args, i + 1, #args, 1, {}) }
      break
    end
    i = i + 1
  end
  return steps
end

local function main(args)
  local steps = steps_of(args)
  if #steps == 0 and not steps.prompt then
    io.stderr:write(HELP)
    return cli.exit.usage
  end
  local result
  for _, step in ipairs(steps) do
    local kind, value = step[1], step[2]
    if kind == "help" then
      io.write(HELP)
    elseif kind == "version" then
      print("kava " .. require("kava.core").version)
    elseif kind == "code" then
      local chunk, problem = load(value, "=-e", "t")
      if not chunk then cli.fail(problem) end
      _G.arg = { [0] = "-e" }
      result = chunk()
    else
      result = run_file(value, step[3])
    end
  end
  if steps.prompt then return require("kava.repl").run() end
  return result
end

--- The program: `home` is the folder that holds lua/, recipes/ and configs/. -> exit code
function cli.main(home)
  cli.home = home
  package.path = package.path .. ";" .. home .. "/?.lua" -- recipes are found here after the current folder
  local args = table.move(arg, 1, #arg, 1, {})
  return guarded(main, args)
end

return cli

-- Which device computes and how its products are rounded: pure functions from facts (env.lua) and config to decisions, each with its
-- reason. What was asked for and is not there is refused, or replaced with a warning, as hardware.gpu_detection.fallback_to_cpu says.
local hardware = {}

local devices = require "recipes.env.devices"

-- What each kind of device computes in, on this build; nothing said: everything.
local COMPUTES = { cpu = { f32 = true, bf16 = true } }

-- The GPU that was asked for, in words, or nil: by device=, or by a scheduler that gave this job some.
local function asked(facts, config)
  if config.device ~= "auto" then return "device=" .. config.device end
  local given = facts.visible_devices
  return given and #given > 0 and ("%s gives this job %d GPU%s"):format(facts.why.visible_devices, #given, #given == 1 and "" or "s") or nil
end

--- Whether GPUs are looked for at all: asking a driver takes its time, and wakes devices that others may use.
function hardware.looks(config)
  if config.device == "auto" then return config.hardware.gpu_detection.auto_detect end
  return config.device ~= "cpu"
end

--- facts, config -> device, why, warning or nil | nil, what is wrong and what to do
function hardware.device(facts, config)
  local detection = config.hardware.gpu_detection
  local wanted = config.device
  if wanted == "cpu" then return "cpu", "device=cpu as given" end
  if wanted == "auto" and not detection.auto_detect then return "cpu", "hardware.gpu_detection.auto_detect=false: no GPU is looked for" end
  local here, why = facts.device, facts.why.device
  if here ~= "cpu" and (wanted == "auto" or wanted == "gpu" or wanted == here) then return here, why end
  local request = asked(facts, config)
  if not request then return "cpu", why end
  local found = here == "cpu" and why or ("here is %s (%s)"):format(here, why)
  if detection.fallback_to_cpu then
    local said = ("%s, but %s"):format(request, found)
    if wanted == "auto" then return "cpu", said end -- env/devices.lua has warned of GPUs that go unused
    return "cpu", said, said .. ": computing on the CPU; hardware.gpu_detection.fallback_to_cpu=false makes this an error"
  end
  return nil, ("%s, but %s: ask the scheduler for a GPU, or give device=cpu (hardware.gpu_detection.fallback_to_cpu=false)"):format(
    request, found)
end

--- facts, config, device -> precision, why
function hardware.precision(facts, config, device)
  local rule = config.hardware.precision
  if config.precision ~= "auto" then return config.precision, "precision as given" end
  if not rule.auto_detect then return rule.fallback, "hardware.precision.auto_detect=false: hardware.precision.fallback" end
  local best, why = facts.precision, facts.why.precision
  if device ~= facts.device then best, why = devices.precision { kind = "cpu", isa = facts.isa, bf16 = facts.isa_bf16 } end
  local computes = COMPUTES[device]
  if computes and not computes[best] then
    return rule.fallback, ("%s would be best (%s), which is not computed on the %s: hardware.precision.fallback"):format(best, why, device)
  end
  return best, why
end

return hardware

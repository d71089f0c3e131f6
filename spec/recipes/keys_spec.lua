local cluster = require "kava.cluster"
local config = require "kava.config"
local schema = config.schema(require "recipes.keys")

local OPTIONAL = { "teacher.path", "student.path", "student.layers", "data.train", "data.eval", "kv.weights",
  "checkpoint.dir" }

it("every key has a default or is known to have none", function()
  local defaults = assert(config.layer(schema, assert(config.read "configs/environment.lua"), "configs/environment.lua"))
  for _, name in ipairs(OPTIONAL) do
    assert.truthy(schema.by[name], name)
    assert.is_nil(defaults.values[name], name)
    defaults.values[name] = true
  end
  for name in pairs(schema.by) do assert.truthy(defaults.values[name] ~= nil, name .. " has no default") end
end)

it("every config file that is shipped holds known keys and right values", function()
  local count = 0
  for path in io.popen("find configs -name '*.lua'"):lines() do
    local values = assert(path:find "^configs/clusters/" and assert(cluster.read(path)).values or config.read(path))
    local layer, message = config.layer(schema, values, path)
    assert.truthy(layer, message)
    count = count + 1
  end
  assert.truthy(count >= 3)
end)

it("every key says what it means", function()
  for name, spec in pairs(schema.by) do assert.truthy(spec.about and #spec.about > 5, name) end
end)

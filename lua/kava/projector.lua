-- kava.projector: LayerNorm -> Linear -> SiLU -> Dropout -> Linear, from one KV width to another (the original's adapter).
-- Its parameters are named as torch's nn.Sequential names them ("0.weight" … "4.bias"), so that its checkpoints load.
local kava = require "kava"

---@class kava.Projector
local Projector = {}
Projector.__index = Projector
Projector.__name = "kava.Projector"

local activations = { silu = "silu", gelu = "gelu" }
local known = { in_dim = true, out_dim = true, hidden_ratio = true, dropout = true, activation = true, initialization = true, dtype = true,
  device = true }

local function dimension(opts, key)
  local value = math.tointeger(opts[key])
  if not value or value < 1 then
    error(("projector: %s: a positive integer expected, got %s"):format(key, tostring(opts[key])), 3)
  end
  return value
end

local function uniform(rows, columns, dtype, bound) return (kava.rand({ rows, columns }, { dtype = dtype }) - 0.5) * (2 * bound) end

local initializations = {
  -- Glorot and Bengio 2010: uniform in ±sqrt(6 / (fan_in + fan_out)), or normal with the same variance.
  xavier_uniform = function(rows, columns, dtype) return uniform(rows, columns, dtype, math.sqrt(6 / (rows + columns))) end,
  xavier_normal = function(rows, columns, dtype)
    return kava.randn({ rows, columns }, { dtype = dtype }) * math.sqrt(2 / (rows + columns))
  end,
  -- He et al. 2015 as torch's nn.Linear has it (a = sqrt(5)): uniform in ±1 / sqrt(fan_in).
  kaiming_uniform = function(rows, columns, dtype) return uniform(rows, columns, dtype, 1 / math.sqrt(columns)) end,
}

local function new(_, opts)
  if type(opts) ~= "table" then error("projector: a table {in_dim =, out_dim =} expected", 2) end
  for key in pairs(opts) do
    if not known[key] then error(("projector: unknown option '%s'"):format(tostring(key)), 2) end
  end
  local in_dim, out_dim = dimension(opts, "in_dim"), dimension(opts, "out_dim")
  local ratio, dropout, dtype = opts.hidden_ratio or 1.0, opts.dropout or 0.1, opts.dtype or "f32"
  local activation = opts.activation or "silu"
  if not activations[activation] then error(("projector: activation: silu or gelu expected, got '%s'"):format(tostring(activation)), 2) end
  local init = initializations[opts.initialization or "xavier_uniform"]
  if not init then
    error(("projector: initialization: xavier_uniform, xavier_normal or kaiming_uniform expected, got '%s'"):format(
      tostring(opts.initialization)), 2)
  end
  if type(dropout) ~= "number" or dropout < 0 or dropout >= 1 then
    error(("projector: dropout: a number from 0 to below 1 expected, got %s"):format(tostring(dropout)), 2)
  end
  local hidden = math.max(1, math.floor(in_dim * ratio))
  -- Drawn on the CPU and no narrower than f32: the same numbers for every device, rounded where that is asked for.
  local drawn = (dtype == "bf16" or dtype == "f16") and "f32" or dtype
  local function leaf(t) return kava.lasting(t.to, t, { device = opts.device or "cpu", dtype = dtype }):requires_grad(true) end
  local zeros = function(n) return leaf(kava.zeros({ n }, { dtype = drawn })) end
  local dims = { input = in_dim, hidden = hidden, output = out_dim }
  local self = setmetatable({ dims = dims, dropout = dropout, activation = activation }, Projector)
  self.weights = {
    ["0.weight"] = leaf(kava.ones({ in_dim }, { dtype = drawn })),
    ["0.bias"] = zeros(in_dim),
    ["1.weight"] = leaf(init(hidden, in_dim, drawn)),
    ["1.bias"] = zeros(hidden),
    ["4.weight"] = leaf(init(out_dim, hidden, drawn)),
    ["4.bias"] = zeros(out_dim),
  }
  return self
end

function Projector:parameters()
  local out = {}
  for name, t in pairs(self.weights) do out[name] = t end
  return out
end

-- x [..., in_dim] -> [..., out_dim]
function Projector:__call(x)
  if type(x) ~= "userdata" then error(("projector: a tensor expected, got %s"):format(type(x)), 2) end
  local shape = x.shape
  if shape[#shape] ~= self.dims.input then
    error(("projector: input [..., %d] expected, got [%s]"):format(self.dims.input, table.concat(shape, ", ")), 2)
  end
  local w = self.weights
  -- closed at once: what the backward pass needs, the tape holds or makes again
  local z <close> = kava.norm_linear(x, w["0.weight"], w["0.bias"], w["1.weight"], w["1.bias"], 1e-5)
  local h <close> = kava[activations[self.activation]](z, { dropout = self.dropout })
  return kava.linear(h, w["4.weight"], w["4.bias"])
end

function Projector:__tostring()
  return ("kava.Projector: %d -> %d -> %d"):format(self.dims.input, self.dims.hidden, self.dims.output)
end

local projector = setmetatable({ class = Projector }, { __call = new })
kava.projector = projector
return projector

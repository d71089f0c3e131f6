-- agree(fn, inputs, tolerance): fn in f32, by the SIMD kernels, against fn in f64, by the plain loops: the output and every
-- gradient differ by at most tolerance times the largest element; and the f32 results are the same bits for 1 and 3 threads.
-- inputs: f64 tensors, which fn gets in either type; everything else is passed on as it is.
local kava = require "kava"

local function is_f64(x) return type(x) == "userdata" and x.dtype == "f64" end

local function run(fn, inputs, dtype, weight)
  local list, results = {}, {}
  for i, x in ipairs(inputs) do list[i] = is_f64(x) and x:detach():to({ dtype = dtype }):clone():requires_grad(true) or x end
  local y = fn(table.unpack(list, 1, #inputs))
  results[1] = y:detach()
  ;(y * weight:to { dtype = dtype }):sum():backward()
  for i, x in ipairs(list) do
    if is_f64(inputs[i]) then results[#results + 1] = assert(x.grad, "input " .. i .. " has no gradient") end
  end
  return results
end

local function agree(fn, inputs, tolerance)
  tolerance = tolerance or 2e-6
  local shape = kava.no_grad(function() return fn(table.unpack(inputs)) end).shape
  local weight = kava.randn(shape, { dtype = "f64" })
  local exact = run(fn, inputs, "f64", weight)
  local before = kava.threads()
  local many = kava.threads(3) and run(fn, inputs, "f32", weight)
  local one = kava.threads(1) and run(fn, inputs, "f32", weight)
  kava.threads(before)
  for i, expected in ipairs(exact) do
    local what = i == 1 and "the output" or "gradient " .. i - 1
    local _, off = kava.allclose(many[i]:to { dtype = "f64" }, expected, { rtol = 0, atol = 0 })
    local limit = tolerance * math.max(1e-3, expected:abs():max():item())
    if not (off <= limit) then error(("%s in f32 is off by %g, more than %g"):format(what, off, limit), 2) end
    if not kava.allclose(many[i], one[i], { rtol = 0, atol = 0 }) then error(what .. " depends on the number of threads", 2) end
  end
end

return agree

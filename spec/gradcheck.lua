-- gradcheck(fn, inputs, {eps=1e-3, tol=1e-7}): compares the gradients of fn(table.unpack(inputs)), a tensor, with finite
-- differences in f64, element by element, for a random projection of the output. Raises at the first element that is off;
-- returns the worst error seen.
--
-- inputs: tensors; those of f64 are differentiated (made leaves that require gradients), everything else is passed on.
-- fn is called often and must be a pure function. Strided operands: let fn make the view.
-- eps: the step of the five-point stencil, whose error is O(eps^4): at 1e-3 truncation and rounding both stay near 1e-11
-- for functions of order one. tol: relative to the largest derivative of that input, or to 1 where all are smaller.
--
-- The gradients are taken twice: on the leaves alone, and then through intermediate results that are used twice, on top of
-- what the leaves have already: three times the derivative in all, when every "add to what is there" is right.
local kava = require "kava"

local function differentiable(x) return type(x) == "userdata" and x.dtype == "f64" end

local function gradcheck(fn, inputs, options)
  options = options or {}
  local eps, tol = options.eps or 1e-3, options.tol or 1e-7
  local count = #inputs
  local projection
  local function loss(list)
    local y = fn(table.unpack(list, 1, count))
    projection = projection or kava.randn(y.shape, { dtype = "f64" })
    return (y * projection):sum()
  end

  for _, x in ipairs(inputs) do
    if differentiable(x) then
      x:requires_grad(true)
      x.grad = nil
    end
  end
  loss(inputs):backward()
  local once, thrice = {}, {}
  for i, x in ipairs(inputs) do
    if differentiable(x) then
      if not x.grad then error(("input %d has no gradient"):format(i), 2) end
      once[i] = x.grad:reshape(-1):totable()
    end
  end
  local through = {}
  for i, x in ipairs(inputs) do through[i] = differentiable(x) and x * 1 or x end
  local total = loss(through) + loss(through)
  total:backward()
  for i, x in ipairs(inputs) do
    if differentiable(x) then thrice[i] = x.grad:reshape(-1):totable() end
  end

  local worst = 0
  for i, x in ipairs(inputs) do
    if differentiable(x) then
      local numeric, largest = {}, 1
      local function at(element, original, offset)
        element:fill_(original + offset)
        return kava.no_grad(function() return loss(inputs):item() end)
      end
      local flat = x:detach():reshape(-1)
      for j = 1, flat:numel() do
        local element = flat:narrow(1, j, 1)
        local original = element:item()
        local near = at(element, original, eps) - at(element, original, -eps)
        local far = at(element, original, 2 * eps) - at(element, original, -2 * eps)
        element:fill_(original)
        numeric[j] = (8 * near - far) / (12 * eps)
        largest = math.max(largest, math.abs(numeric[j]))
      end
      for j, expected in ipairs(numeric) do
        local off = math.max(math.abs(once[i][j] - expected), math.abs(thrice[i][j] - 3 * expected) / 3) / largest
        if off > tol or off ~= off then
          error(("input %d, element %d: gradient %.12g, accumulated three times %.12g; finite differences say %.12g"):format(
            i, j, once[i][j], thrice[i][j], expected), 2)
        end
        worst = math.max(worst, off)
      end
    end
  end
  return worst
end

return gradcheck

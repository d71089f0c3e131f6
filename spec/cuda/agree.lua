-- spec/cuda/agree(expected, got): tables of tensors by name, the CPU's and a GPU's (losses, gradients): the same names, and each within
-- 1e-4 of its largest element, which sums in another order stay far below.
local kava = require "kava"

return function(expected, got)
  for name, g in pairs(expected) do
    assert(got[name], name .. ": the CPU alone has it")
    local size = g:abs():max():item()
    local close, most = kava.allclose(got[name]:to { device = "cpu" }, g, { rtol = 0, atol = 1e-4 * size + 1e-7 })
    assert(close, ("%s: %s apart, of %s"):format(name, most, size))
  end
  for name in pairs(got) do assert(expected[name], name .. ": the GPU alone has it") end
end

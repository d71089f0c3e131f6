-- concat: every layer's heads side by side, first layer first. Layers may differ in width: D is the sum of their widths.
-- layers: list of [B, Hkv, T, D]  ->  [B, T, sum of Hkv * D]
local kava = require "kava"

return function(layers)
  local rows = {}
  for i, layer in ipairs(layers) do
    local batch, heads, length, dim = table.unpack(layer.shape)
    rows[i] = layer:permute(1, 3, 2, 4):reshape(batch, length, heads * dim)
  end
  return kava.cat(rows, 3)
end

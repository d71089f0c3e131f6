-- mean: the layers' average; they must be alike in heads and head dimension.
-- layers: list of [B, Hkv, T, D]  ->  [B, T, Hkv * D]
return function(layers)
  local batch, heads, length, dim = table.unpack(layers[1].shape)
  local sum = layers[1]
  for i = 2, #layers do
    local shape = layers[i].shape
    if shape[2] ~= heads or shape[4] ~= dim then
      error(("mean: layer %d has %d heads of %d, layer 1 has %d of %d; use concat, or choose layers alike with kv.layers"):format(
        i, shape[2], shape[4], heads, dim))
    end
    sum = sum + layers[i]
  end
  return (sum / #layers):permute(1, 3, 2, 4):reshape(batch, length, heads * dim)
end

-- last: the last layer alone.
-- layers: list of [B, Hkv, T, D]  ->  [B, T, Hkv * D]
return function(layers)
  local last = layers[#layers]
  local batch, heads, length, dim = table.unpack(last.shape)
  return last:permute(1, 3, 2, 4):reshape(batch, length, heads * dim)
end

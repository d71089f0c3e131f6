-- weighted: a weighted mean of layers alike in heads and head dimension. Weights: opts.weights, one a layer, or 0.5 to 1.0 in equal
-- steps, so that later layers count more; either way they are divided by their sum.
-- layers: list of [B, Hkv, T, D]  ->  [B, T, Hkv * D]
local function weights_for(count, given)
  local weights, sum = {}, 0
  if given and #given ~= count then error(("weighted: %d weights given for %d layers"):format(#given, count)) end
  for i = 1, count do
    weights[i] = given and given[i] or count == 1 and 1 or 0.5 + 0.5 * (i - 1) / (count - 1)
    if type(weights[i]) ~= "number" then error(("weighted: weight %d is %s, a number expected"):format(i, type(weights[i]))) end
    sum = sum + weights[i]
  end
  if sum == 0 then error("weighted: the weights sum to 0") end
  for i = 1, count do weights[i] = weights[i] / sum end
  return weights
end

return function(layers, opts)
  local batch, heads, length, dim = table.unpack(layers[1].shape)
  local weights = weights_for(#layers, opts and opts.weights)
  local sum = layers[1] * weights[1]
  for i = 2, #layers do
    local shape = layers[i].shape
    if shape[2] ~= heads or shape[4] ~= dim then
      error(("weighted: layer %d has %d heads of %d, layer 1 has %d of %d; use concat, or choose layers alike with kv.layers"):format(
        i, shape[2], shape[4], heads, dim))
    end
    sum = sum + layers[i] * weights[i]
  end
  return sum:permute(1, 3, 2, 4):reshape(batch, length, heads * dim)
end

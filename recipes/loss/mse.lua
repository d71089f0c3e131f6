-- mse: mean squared difference of aggregated keys and values (kv.part), one side through a projector. loss.relative divides by the
-- target's own square, so that layers and models of any scale weigh alike.
local kava = require "kava"

return function(context)
  local parts = context.kv.part == "both" and { "keys", "values" } or { context.kv.part }
  local pieces = {}
  for i, part in ipairs(parts) do pieces[i] = kava.loss.aggregated(context, part) end
  return kava.loss.term(pieces, function(pairs_list, mask)
    return kava.loss.mean_over(pairs_list, mask, function(student, target)
      return kava.loss.mse(student, target, { mask = mask, relative = context.loss.relative })
    end)
  end)
end

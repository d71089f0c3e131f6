-- smooth_l1: Huber's loss of aggregated keys and values (kv.part), one side through a projector: a parabola within loss.delta, a
-- straight line beyond, so that a few large differences do not rule.
local kava = require "kava"

return function(context)
  local parts = context.kv.part == "both" and { "keys", "values" } or { context.kv.part }
  local pieces = {}
  for i, part in ipairs(parts) do pieces[i] = kava.loss.aggregated(context, part) end
  return kava.loss.term(pieces, function(pairs_list, mask)
    return kava.loss.mean_over(pairs_list, mask, function(student, target)
      return kava.loss.smooth_l1(student, target, { mask = mask, beta = context.loss.delta })
    end)
  end)
end

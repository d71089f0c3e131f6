-- smooth_l1: Huber's loss of aggregated keys and values (kv.part), one side through a projector: a parabola within loss.delta, a
-- straight line beyond, so that a few large differences do not rule.
local kava = require "kava"

return function(context)
  local delta = context.loss.delta
  return kava.loss.mean_term(kava.loss.parts(context, kava.loss.aggregated), function(student, target, mask)
    return kava.loss.smooth_l1(student, target, { mask = mask, beta = delta })
  end)
end

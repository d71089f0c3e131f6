-- mse: mean squared difference of aggregated keys and values (kv.part), one side through a projector. loss.relative divides by the
-- target's own square, so that layers and models of any scale weigh alike.
local kava = require "kava"

return function(context)
  local relative = context.loss.relative
  return kava.loss.mean_term(kava.loss.parts(context, kava.loss.aggregated), function(student, target, mask)
    return kava.loss.mse(student, target, { mask = mask, relative = relative })
  end)
end

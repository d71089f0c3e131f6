-- mercator: the original's loss. Keys aggregated over layers (kv.method), one side through a projector (kv.project), both put on the
-- unit sphere:  alpha (1 - mean cos) + beta mean (log|s| - log|t|)^2.
-- With kv.project = "teacher" (the original's side) and no anchor it collapses on real models: the projector may move the target.
local kava = require "kava"

return function(context)
  local settings = context.loss
  return kava.loss.term({ kava.loss.aggregated(context, "keys") }, function(pairs_list, mask)
    return kava.loss.mercator(pairs_list[1].student, pairs_list[1].target,
      { mask = mask, alpha = settings.alpha, beta = settings.beta, eps = settings.eps })
  end)
end

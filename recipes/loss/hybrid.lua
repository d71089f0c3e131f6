-- hybrid: Mercator on keys and on values, each aggregated and through a projector of its own; the mean of the two.
local kava = require "kava"

return function(context)
  local settings = context.loss
  local pieces = { kava.loss.aggregated(context, "keys"), kava.loss.aggregated(context, "values") }
  return kava.loss.mean_term(pieces, function(student, target, mask)
    return kava.loss.mercator(student, target, { mask = mask, alpha = settings.alpha, beta = settings.beta, eps = settings.eps })
  end)
end

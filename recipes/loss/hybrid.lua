-- hybrid: Mercator on keys and on values, each aggregated and through a projector of its own; the mean of the two.
local kava = require "kava"

return function(context)
  local opts = { alpha = context.loss.alpha, beta = context.loss.beta, eps = context.loss.eps }
  local pieces = { kava.loss.aggregated(context, "keys"), kava.loss.aggregated(context, "values") }
  return kava.loss.term(pieces, function(pairs_list, mask)
    return kava.loss.mean_over(pairs_list, mask, function(student, target)
      return kava.loss.mercator(student, target, { mask = mask, alpha = opts.alpha, beta = opts.beta, eps = opts.eps })
    end)
  end)
end

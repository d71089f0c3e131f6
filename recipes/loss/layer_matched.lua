-- layer_matched: each student layer's keys and values (kv.part) towards those of its teacher layer, by cosine, mean over layers.
-- The default, because it is what was measured to teach: every time, alone or beside cross-entropy and logit KL. loss.layer_map says
-- which layer belongs to which; where widths differ a small linear map on the student's side joins them (see kava.loss.matched).
local kava = require "kava"

return function(context)
  return kava.loss.term(kava.loss.parts(context, kava.loss.matched), function(pairs_list, mask)
    local students, targets = {}, {}
    for i, pair in ipairs(pairs_list) do students[i], targets[i] = pair.student, pair.target end
    local value = kava.loss.cosine(students, targets, { mask = mask })
    return value, { cos_sim = 1 - value:detach() }
  end)
end

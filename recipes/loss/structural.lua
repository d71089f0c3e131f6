-- structural: where keys and values point, and whom each token attends to.
--   mean over parts of (1 - cos)  +  loss.attention * KL(teacher's attention || student's)
-- Keys and values are aggregated and projected as in hybrid. The attention maps are made by teacher and student from their own queries
-- and keys, matched layer by layer (loss.layer_map), averaged over heads; so head counts and widths may differ, and nothing is projected.
local kava = require "kava"

return function(context)
  local map = kava.loss.layer_map(context.loss.layer_map, context.student, context.teacher)
  local pieces = { kava.loss.aggregated(context, "keys"), kava.loss.aggregated(context, "values") }
  local term = kava.loss.term(pieces, nil)
  for _, needs in pairs(term.needs) do needs.queries = true end

  -- KL of two distributions over keys, [B,T,T], mean over real queries. Keys that may not be seen are 0 in both: the floor keeps
  -- their logarithms finite, and 0 * anything is 0.
  local function divergence(teacher, student, mask)
    local floor = 1e-9
    local rows = (teacher * ((teacher + floor):log() - (student + floor):log())):sum(3)
    if not mask then return rows:mean() end
    local real = mask:to { dtype = "f32", device = rows.device }
    return (rows * real):sum() / real:sum()
  end

  function term.loss(pairs_list, mask, teacher_out, student_out)
    local value = kava.loss.mean_over(pairs_list, mask, function(student, target)
      return kava.loss.cosine(student, target, { mask = mask })
    end)
    local sum
    for i, from in ipairs(map) do
      local target = kava.no_grad(context.teacher.attention_map, context.teacher, teacher_out, from)
      local kl = divergence(target, context.student:attention_map(student_out, i), mask)
      sum = sum and sum + kl or kl
    end
    local maps = sum / #map
    return value + maps * context.loss.attention, { cos_sim = 1 - value:detach(), attention = maps:detach() }
  end
  return term
end

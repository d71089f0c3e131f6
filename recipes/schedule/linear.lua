-- linear: warm-up in equal steps, then down in a straight line that reaches 0 one step after the last.
-- step counts from 1: the optimizer step about to be taken; opts.steps: how many there are.
return function(step, opts)
  local steps, warmup = opts.steps, opts.warmup or 0
  if step <= warmup then return step / warmup end
  return math.max(0.0, 1 - (step - 1 - warmup) / math.max(1, steps - warmup))
end

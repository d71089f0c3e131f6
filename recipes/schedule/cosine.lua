-- cosine: warm-up in equal steps, then half a cosine that reaches 0 one step after the last (Loshchilov and Hutter 2017, one cycle).
-- step counts from 1: the optimizer step about to be taken; opts.steps: how many there are.
return function(step, opts)
  local steps, warmup = opts.steps, opts.warmup or 0
  if step <= warmup then return step / warmup end
  local progress = math.min(1, (step - 1 - warmup) / math.max(1, steps - warmup))
  return 0.5 * (1 + math.cos(math.pi * progress))
end

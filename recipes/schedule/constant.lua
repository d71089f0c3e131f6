-- constant: warm-up in equal steps, then 1. step counts from 1: the optimizer step about to be taken.
return function(step, opts)
  local warmup = opts and opts.warmup or 0
  return step < warmup and step / warmup or 1.0
end

-- spec/cuda/gpu: why there is no GPU to run on; nil: there is one. scripts/test lets one be emulated (KAVA_CUDA=emulated), and
-- scripts/test --cuda takes the one that is there.
local kava = require "kava"

return function()
  local facts, why = kava.device "cuda"
  return not facts and "skipped: " .. why or nil
end

---@meta
-- What src/bind/l_optim.c registers in kava.optim.

---@class kava.optim
local optim = {}

---@alias kava.Params kava.Tensor[] | table<string, kava.Tensor>

--- AdamW with decoupled decay (Loshchilov & Hutter 2019), in the order of torch.optim.AdamW:
--- p -= lr wd p;  m += (1-b1)(g-m);  v = b2 v + (1-b2) g^2;  p -= lr m/(1-b1^t) / (sqrt(v/(1-b2^t)) + eps).
--- A parameter without gradient is left alone: no decay, no step counted. bf16 parameters keep the 16 bits beside them that make
--- an f32 of them (they are its rounding to nearest, ties away from 0), f16 ones a master copy in f32.
--- state_dtype "bf16" halves the moments' memory: m is rounded to nearest, v stochastically (v is right on average, and off
--- by up to 2^-8 of itself at each step). "8bit" makes it a quarter: codes with 3 bits after the point, scaled by the most of each
--- block of 256 and rounded stochastically; parameters of fewer than 4096 elements keep theirs in f32.
--- Groups: lr and weight_decay default to the options'. Raises for a tensor given twice, views, and non-leaves.
---@param groups { params: kava.Params, lr: number?, weight_decay: number? }[]
---@param options { lr: number?, betas: number[]?, eps: number?, weight_decay: number?, state_dtype: "f32"|"bf16"|"8bit"|nil }? {0.9, 0.999}, 1e-8, 0.01, "f32"
---@return kava.AdamW
function optim.adamw(groups, options) end

--- Scales all gradients by max_norm / (norm + 1e-6) when their global norm is more than max_norm, as torch's
--- clip_grad_norm_ does. Returns the norm before; when that is inf or nan nothing is scaled: skip the step.
---@param params kava.Params | kava.Params[]
---@param max_norm number > 0; math.huge only measures
---@return number norm
function optim.clip_grad_norm(params, max_norm) end

--- The same, but nobody waits for a GPU: the norm stays where the gradients are. With a scale the gradients, which are so many times too
--- large, are brought back in the same pass, and the norm is that of what they are then.
---@param params kava.Params | kava.Params[]
---@param max_norm number > 0; math.huge only measures
---@param scale? kava.Tensor f32, one element
---@return kava.Tensor norm f64 [2]: the norm, and what the gradients were multiplied by
function optim.clip_gradients(params, max_norm, scale) end

---@class kava.AdamW
local AdamW = {}

--- One step of every parameter that has a gradient. When memory runs out: nil, message, code, and nothing has changed.
---@param gate? kava.Tensor f64: where its first element is not finite nothing is changed and no step is counted
---@return true?
---@return string? message
---@return string? code
function AdamW:step(gate) end

--- Makes the state that step() would make now, of every parameter that has a gradient: what a step needs is in memory then, and
--- nothing is computed. When memory runs out: nil, message, code.
---@return true?
---@return string? message
---@return string? code
function AdamW:reserve() end

--- Drops the gradients: p.grad is nil until the next backward().
function AdamW:zero_grad() end

---@param group integer from 1
---@return number
function AdamW:lr(group) end

---@param group integer from 1
---@param lr number
function AdamW:set_lr(group, lr) end

--- The live state, not a copy: "<group>.<name>.m", ".v", ".step" (i64 [1]), ".master" of f16 parameters, ".low" of bf16
--- ones, ".most" beside 8-bit moments; the names of a list are its indices. Parameters that never stepped have none.
---@return table<string, kava.Tensor>
function AdamW:state() end

--- Takes copies of what state() gave: the optimizer goes on bit by bit, beside the parameters that were saved with it. Raises
--- for unknown, missing or ill-shaped pieces; on failure nothing has changed.
---@param state table<string, kava.Tensor>
---@return true?
---@return string? message
---@return string? code
function AdamW:load_state(state) end

--- Frees the state; also done by <close> and the garbage collector.
function AdamW:release() end

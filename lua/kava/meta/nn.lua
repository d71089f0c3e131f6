---@meta
-- What src/bind/l_nn.c registers: the ops of neural networks, as functions. Inputs may be f32, f16 or bf16 (results are f32),
-- or f64 throughout; gradients flow to every float input. Wrong shapes and types raise, naming the argument.

---@class kava
local kava = {}

--- x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang & Sennrich 2019).
---@param x kava.Tensor [.., D]
---@param weight kava.Tensor? [D]
---@param eps number? 1e-6
---@return kava.Tensor [.., D]
function kava.rms_norm(x, weight, eps) end

--- (x - mean) / sqrt(var + eps) * weight + bias over the last dimension, var with the divisor D (Ba et al. 2016).
---@param x kava.Tensor [.., D]
---@param weight kava.Tensor? [D]
---@param bias kava.Tensor? [D]
---@param eps number? 1e-5
---@return kava.Tensor [.., D]
function kava.layer_norm(x, weight, bias, eps) end

--- Rotary position embedding, half-split layout (Su et al. 2021): elements j and j + R/2 of each head are rotated by
--- position * inv_freq[j]; elements from R = 2 * #inv_freq on are kept. Angles are computed in double.
---@param x kava.Tensor [B, T, H, D]
---@param inv_freq kava.Tensor [R/2], radians a position
---@param positions kava.Tensor? integers [B, T]; nil: 0 .. T-1
---@param scale number? factor on cosine and sine, 1 unless the model's rope scaling asks for one
---@return kava.Tensor [B, T, H, D]
function kava.rope(x, inv_freq, positions, scale) end

--- x * sigmoid(x). With {dropout = p} what kava.dropout makes of that, bit for bit and with the same draw, in one pass over
--- memory forward and, where a product follows, one back.
---@param x kava.Tensor
---@param options {dropout?: number}? 0 <= dropout < 1
---@return kava.Tensor
function kava.silu(x, options) end

--- x * Phi(x), Phi the normal distribution function, exact (Hendrycks & Gimpel 2016).
---@param x kava.Tensor
---@param options {dropout?: number}? as silu's
---@return kava.Tensor
function kava.gelu(x, options) end

--- 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
---@param x kava.Tensor
---@param options {dropout?: number}? as silu's
---@return kava.Tensor
function kava.gelu_tanh(x, options) end

--- max(x, 0).
---@param x kava.Tensor
---@param options {dropout?: number}? as silu's
---@return kava.Tensor
function kava.relu(x, options) end

--- c * tanh(x / c): x where it is small, never beyond c (Gemma 2's logits).
---@param x kava.Tensor
---@param c number > 0
---@return kava.Tensor
function kava.softcap(x, c) end

--- silu(gate) * up (Shazeer 2020).
---@param gate kava.Tensor
---@param up kava.Tensor of gate's shape
---@return kava.Tensor
function kava.swiglu(gate, up) end

--- gelu(gate) * up.
---@param gate kava.Tensor
---@param up kava.Tensor of gate's shape
---@return kava.Tensor
function kava.geglu(gate, up) end

--- gelu_tanh(gate) * up.
---@param gate kava.Tensor
---@param up kava.Tensor of gate's shape
---@return kava.Tensor
function kava.geglu_tanh(gate, up) end

--- Rows of a table. An id outside 0 .. V-1 raises, naming it, its position and V.
---@param ids kava.Tensor integers [..]
---@param w kava.Tensor [V, D], any float or quantised dtype
---@param pad integer? an id whose row gets no gradient from here, as torch's padding_idx has it
---@return kava.Tensor [.., D]
function kava.embedding(ids, w, pad) end

--- In training mode (kava.train) zeroes each element with probability p and divides the others by 1-p; else x itself.
--- Which elements is a function of kava.seed and of how many random draws came before.
---@param x kava.Tensor
---@param p number 0 <= p < 1
---@param in_place boolean? the result takes x's place: for an x that nobody reads any more
---@return kava.Tensor
function kava.dropout(x, p, in_place) end

--- exp of the entropy of the normalised singular values of the matrix of rows (Roy & Vetterli 2007): 1 when all rows lie
--- on one line, at most min(N, D). Not centred: a cosine loss sees the mean too. Of more than 256 rows, 256 at equal distances.
---@param x kava.Tensor [.., D]
---@param mask kava.Tensor? one element a row, 0 = leave out
---@return number
function kava.effective_rank(x, mask) end

--- The norm of the mean of the rows scaled to length 1: near 0 where directions spread, 1 where all are one.
---@param x kava.Tensor [.., D]
---@param mask kava.Tensor? one element a row, 0 = leave out
---@return number
function kava.mean_direction_norm(x, mask) end

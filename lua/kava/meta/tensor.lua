---@meta
-- What src/bind/l_tensor.c and l_tensor_ops.c register: tensors and arithmetic on them.
--
-- Dimensions and positions count from 1; negative dimensions from the end. Misuse raises, naming the operation, what came
-- and what was expected. Unless said otherwise a function returns a new tensor and records what the backward pass needs
-- when one of its inputs requires a gradient.

---@alias kava.Dtype "f64"|"f32"|"f16"|"bf16"|"i64"|"i32"|"i16"|"i8"|"u8"|"bool"
--- Types of weights that can be multiplied with and widened (to{dtype = "f32"}), and nothing else: GGUF's blocks, and codes with scales
--- beside them (kava.quant).
---@alias kava.QuantisedDtype "q4_0"|"q4_1"|"q5_0"|"q5_1"|"q8_0"|"q2_k"|"q3_k"|"q4_k"|"q5_k"|"q6_k"|"iq4_nl"|"iq4_xs"|"nf4"|"fp4"|"int2"|"int3"|"int4"|"uint8"|"int8"|"fp8"
---@alias kava.Nested number|boolean|kava.Nested[]

---@class kava.TensorOptions
---@field dtype kava.Dtype? default "f32"
---@field device "cpu"|"cuda"|nil default "cpu"; kava.device says whether there is a GPU
---@field requires_grad boolean? float types only
---@field shape integer[]? kava.tensor: the shape of a flat list of values

---@class kava
local kava = {}

--- A tensor of the values: a number, tables nested to any depth, or a flat table with options.shape. Raises for ragged
--- tables, fractions in an integer type and integers that the type cannot hold.
---@param values kava.Nested
---@param options kava.TensorOptions?
---@return kava.Tensor
function kava.tensor(values, options) end

--- Zeros; sizes as a table or as integers: zeros(2, 3), zeros({2, 3}, {dtype = "f64"}).
---@param ... integer|integer[]|kava.TensorOptions
---@return kava.Tensor
function kava.zeros(...) end

---@param ... integer|integer[]|kava.TensorOptions
---@return kava.Tensor
function kava.ones(...) end

---@param sizes integer[]
---@param value number
---@param options kava.TensorOptions?
---@return kava.Tensor
function kava.full(sizes, value, options) end

--- Normal numbers, mean 0, variance 1 (Box-Muller over Philox 4x32-10); a function of kava.seed and of the draws before.
---@param ... integer|integer[]|kava.TensorOptions
---@return kava.Tensor
function kava.randn(...) end

--- Uniform numbers in [0, 1), multiples of 2^-24.
---@param ... integer|integer[]|kava.TensorOptions
---@return kava.Tensor
function kava.rand(...) end

--- start, start + step, … before stop: arange(stop), arange(start, stop), arange(start, stop, step), options last. From 0
--- where only stop is given. i64 when all numbers are integers, else f32.
---@param ... number|kava.TensorOptions
---@return kava.Tensor
function kava.arange(...) end

--- Joins tensors of one type along dim (default 1); their other sizes are equal.
---@param tensors kava.Tensor[]
---@param dim integer?
---@return kava.Tensor
function kava.cat(tensors, dim) end

--- Joins tensors of one type and shape along a new dimension (default the first).
---@param tensors kava.Tensor[]
---@param dim integer?
---@return kava.Tensor
function kava.stack(tensors, dim) end

--- condition ? a : b, element by element, all three broadcast. One of a and b may be a number.
---@param condition kava.Tensor bool
---@param a kava.Tensor|number
---@param b kava.Tensor|number
---@return kava.Tensor
function kava.where(condition, a, b) end

--- Whether every |a - b| <= atol + rtol |b|, compared in double; the largest |a - b|; and where it is. A NaN equals nothing
--- (the difference is then infinite). The shapes must be equal.
---@param a kava.Tensor any plain type
---@param b kava.Tensor any plain type
---@param options { rtol: number?, atol: number? }? default 1e-5, 1e-8
---@return boolean close
---@return number most
---@return integer[] index of the first worst element; empty for a scalar or no elements
function kava.allclose(a, b, options) end

--- A view (shape, strides, offset) on storage that views share.
---@class kava.Tensor
---@field shape integer[] a fresh table
---@field dtype kava.Dtype|kava.QuantisedDtype
---@field device string
---@field grad kava.Tensor? d(loss)/d(this), summed over backward passes; f64 for f64, else f32. Settable, also to nil
---@operator add(kava.Tensor|number): kava.Tensor
---@operator sub(kava.Tensor|number): kava.Tensor
---@operator mul(kava.Tensor|number): kava.Tensor
---@operator div(kava.Tensor|number): kava.Tensor
---@operator pow(kava.Tensor|number): kava.Tensor
---@operator unm: kava.Tensor
---@operator len: integer
local Tensor = {}

---@return integer
function Tensor:numel() end

---@return boolean
function Tensor:is_contiguous() end

--- The only element: a number, or a boolean for bool. Raises when there is another number of elements.
---@return number|boolean
function Tensor:item() end

--- Nested tables: integers stay Lua integers, bool gives booleans. A scalar gives its value.
---@return kava.Nested
function Tensor:totable() end

--- The tensor in another type (or itself, when it is that already). Floats to integers truncate and saturate, NaN gives 0.
--- Quantised types are dequantised. The gradient passes between float types.
---@param options { dtype: kava.Dtype?, device: "cpu"|"cuda"|nil } on another device: a copy; the gradient goes back
---@return kava.Tensor
function Tensor:to(options) end

--- Itself when its elements lie in order, else a copy of which that is true.
---@return kava.Tensor
function Tensor:contiguous() end

---@return kava.Tensor # a contiguous copy in storage of its own
function Tensor:clone() end

--- Overwrites the elements with source's, converted and broadcast. Never recorded; a leaf may require gradients, a recorded
--- result may not be written to.
---@param source kava.Tensor
---@return kava.Tensor self
function Tensor:copy_(source) end

---@param value number
---@return kava.Tensor self
function Tensor:fill_(value) end

---@return kava.Tensor self
function Tensor:zero_() end

--- Without an argument: whether gradients flow to it. With one: sets it, for a leaf of a float type, and returns the tensor.
---@param wanted boolean?
---@return boolean|kava.Tensor
function Tensor:requires_grad(wanted) end

--- Adds d(this)/d(leaf), times seed, to the grad of every leaf it was computed from. One element only; the records are used
--- up.
---@param seed number? default 1
function Tensor:backward(seed) end

---@return kava.Tensor # the same storage, no record
function Tensor:detach() end

--- Gives the pages of a tensor that is mapped from a file, and was not written to, back to the system until they are touched again.
function Tensor:forget() end

--- A copy in pinned host memory that counts as lying on the GPU: what is computed with it is computed there, through the bus, so it is
--- for what is read in small part (a table of which rows are looked up) or seldom. A matrix product reads a copy in the GPU's own memory,
--- made for that product.
---@return kava.Tensor
function Tensor:offload() end

---@return boolean # whether it is such a copy
function Tensor:offloaded() end

--- Lets go of the storage now (also __close and __gc); idempotent. Views of it live on.
function Tensor:release() end

---@return kava.Tensor
function Tensor:abs() end
---@return kava.Tensor
function Tensor:exp() end
---@return kava.Tensor
function Tensor:log() end
---@return kava.Tensor
function Tensor:sqrt() end
---@return kava.Tensor
function Tensor:tanh() end
---@return kava.Tensor # 1 / (1 + exp(-x))
function Tensor:sigmoid() end
---@return kava.Tensor # x sigmoid(x)
function Tensor:silu() end
---@return kava.Tensor # max(x, 0)
function Tensor:relu() end
--- x Phi(x), or with "tanh" 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) (Hendrycks & Gimpel 2016).
---@param kind ("exact"|"tanh")?
---@return kava.Tensor
function Tensor:gelu(kind) end
--- The `^` operator: element by element, broadcast.
---@param exponent kava.Tensor|number
---@return kava.Tensor
function Tensor:pow(exponent) end
--- No gradient passes where an element is outside.
---@param low number? none when nil
---@param high number? none when nil
---@return kava.Tensor
function Tensor:clamp(low, high) end

--- Comparisons: bool, broadcast, never recorded.
---@param other kava.Tensor|number
---@return kava.Tensor
function Tensor:eq(other) end
---@param other kava.Tensor|number
---@return kava.Tensor
function Tensor:ne(other) end
---@param other kava.Tensor|number
---@return kava.Tensor
function Tensor:lt(other) end
---@param other kava.Tensor|number
---@return kava.Tensor
function Tensor:le(other) end
---@param other kava.Tensor|number
---@return kava.Tensor
function Tensor:gt(other) end
---@param other kava.Tensor|number
---@return kava.Tensor
function Tensor:ge(other) end

--- Reductions: over all dimensions to a scalar, or over one or several. Sums of integers and bools are i64, their maxima
--- and minima of their own type; mean and norm want floats.
---@param dims (integer|integer[])? all when nil
---@param keepdim (boolean|{ keepdim: boolean? })? leaves the reduced dimensions with size 1
---@return kava.Tensor
function Tensor:sum(dims, keepdim) end
---@param dims (integer|integer[])?
---@param keepdim (boolean|{ keepdim: boolean? })?
---@return kava.Tensor
function Tensor:mean(dims, keepdim) end
--- The gradient goes to the first largest element. A NaN is handed on.
---@param dims (integer|integer[])?
---@param keepdim (boolean|{ keepdim: boolean? })?
---@return kava.Tensor
function Tensor:max(dims, keepdim) end
---@param dims (integer|integer[])?
---@param keepdim (boolean|{ keepdim: boolean? })?
---@return kava.Tensor
function Tensor:min(dims, keepdim) end
--- sqrt(sum x^2); its gradient at 0 is 0.
---@param dims (integer|integer[])?
---@param keepdim (boolean|{ keepdim: boolean? })?
---@return kava.Tensor
function Tensor:norm(dims, keepdim) end
--- The position, from 1, of the first largest element along dim; a NaN counts as the largest. i64.
---@param dim integer
---@param keepdim (boolean|{ keepdim: boolean? })?
---@return kava.Tensor
function Tensor:argmax(dim, keepdim) end

---@param dim integer? default -1
---@return kava.Tensor # exp(x) / sum exp(x); an element of -inf weighs exactly 0
function Tensor:softmax(dim) end
---@param dim integer? default -1
---@return kava.Tensor # x - log sum exp(x)
function Tensor:log_softmax(dim) end

--- (x - mean) / sqrt(var + eps) * weight + bias over the last dimension D, var with the divisor D (Ba et al. 2016).
---@param weight kava.Tensor? [D]
---@param bias kava.Tensor? [D]
---@param eps number? default 1e-5
---@return kava.Tensor
function Tensor:layer_norm(weight, bias, eps) end
--- x / sqrt(mean(x^2) + eps) * weight over the last dimension D (Zhang & Sennrich 2019).
---@param weight kava.Tensor? [D]
---@param eps number? default 1e-6
---@return kava.Tensor
function Tensor:rms_norm(weight, eps) end

--- [..., M, K] times [..., K, N] -> [..., M, N], leading dimensions broadcast. A vector is a row on the left, a column on
--- the right, and its dimension goes.
---@param other kava.Tensor
---@return kava.Tensor
function Tensor:matmul(other) end

--- One size may be -1. A view where strides allow it, else a copy.
---@param ... integer|integer[]
---@return kava.Tensor
function Tensor:reshape(...) end
--- A view whose i-th dimension is this tensor's dims[i]-th.
---@param ... integer|integer[]
---@return kava.Tensor
function Tensor:permute(...) end
---@param dim integer
---@param other integer
---@return kava.Tensor # a view with the two dimensions exchanged
function Tensor:transpose(dim, other) end
---@param dim integer
---@param start integer from 1
---@param length integer
---@return kava.Tensor # a view of positions start … start + length - 1
function Tensor:narrow(dim, start, length) end
---@param dim integer
---@param index integer from 1, or from the end with negative numbers
---@return kava.Tensor # a view without that dimension
function Tensor:select(dim, index) end
--- A view in which dimensions of size 1 are repeated; new ones come first, -1 keeps a size.
---@param ... integer|integer[]
---@return kava.Tensor
function Tensor:expand(...) end
--- The named positions along dim, in their order; repeated ones collect their gradients.
---@param dim integer
---@param positions integer[]|kava.Tensor from 1; i64 or i32, one dimension
---@return kava.Tensor
function Tensor:index_select(dim, positions) end

---@meta
-- What src/bind/l_linear.c registers: linear layers, attention, and what their products run on.

---@class kava
local kava = {}

--- x w^T + bias + residual. w may be quantised or of a narrower type than x: it is widened a few rows at a time. A quantised w gets no
--- gradient. x, w and bias are all f64 (the result is f64), or none is (f32). Shapes that do not fit raise. On a GPU a residual of
--- the result's type is added before the sum is rounded; elsewhere it is what `residual + linear(x, w, bias)` is.
---@param x kava.Tensor [.., in]
---@param w kava.Tensor [out, in]
---@param bias kava.Tensor? [out]
---@param residual kava.Tensor? [.., out]
---@return kava.Tensor [.., out]
function kava.linear(x, w, bias, residual) end

--- Several linear layers of one x as one product. The weights lie behind one another in one storage, as rows of a matrix that
--- `narrow` shows do, and so do the biases; raises where they do not.
---@param x kava.Tensor [.., in]
---@param weights kava.Tensor[] 1 to 4 of [out, in]
---@param biases kava.Tensor[]? of [out]
---@return kava.Tensor ... [.., out] of each, columns of one buffer
function kava.linear_joined(x, weights, biases) end

--- linear(xs[i], ws[i]) of each i. On a GPU, where all are alike in shape and type, as one product forward and two backward.
---@param xs kava.Tensor[] [.., in]
---@param ws kava.Tensor[] [out, in], as many
---@return kava.Tensor[] [.., out] of each
function kava.linear_each(xs, ws) end

---@class kava.AttentionArguments
---@field q kava.Tensor [B, T, H, D]
---@field k kava.Tensor [B, T, Hkv, D], H a multiple of Hkv: head h reads key head h // (H / Hkv)
---@field v kava.Tensor? [B, T, Hkv, D]; attention only, and needed there
---@field start kava.Tensor? integers [B, T]: the first position (from 0) that each query sees; nil: 0. Beyond the query: it sees nothing, and yields 0
---@field window integer? a query sees the last so many keys at most, itself included; 0: all
---@field scale number? of the scores, 1/sqrt(D)
---@field softcap number? c: a scaled score s becomes c * tanh(s / c) (Gemma 2); 0: it does not

--- Causal grouped-query attention: softmax over the keys start[b,t] .. t of scale * q.k, times v (Vaswani et al. 2017; computed
--- in tiles as Dao 2023, without T x T memory, forward and backward). An unknown key or a shape that does not fit raises.
---@param arguments kava.AttentionArguments
---@return kava.Tensor [B, T, H, D]
function kava.attention(arguments) end

--- The softmax of the same attention, averaged over the heads; 0 for keys a query does not see.
---@param arguments kava.AttentionArguments without v
---@return kava.Tensor [B, T, T]
function kava.attention_map(arguments) end

--- How linear layers multiply from now on; given no name, only says how. "bf16" rounds the operands of every product to bf16 and sums
--- in f32. A backward pass does as its forward pass did. f64 is not touched, and neither is attention. On a GPU it is the type of the
--- activations, and may be "f16" as well; the CPU then computes in f32.
---@param name? "f32"|"bf16"|"f16"
---@return "f32"|"bf16"|"f16"
function kava.matmul_precision(name) end

--- What the gradients of a GPU's parameters are kept in from now on, those of matrices: "f32", or "bf16" for half the room, where each
--- backward pass rounds what it has added up; a parameter that has a gradient keeps that one's type. Vectors' stay f32, as all do on
--- the CPU. Given no name, only says which.
---@param name? "f32"|"bf16"
---@return "f32"|"bf16"
function kava.gradient_dtype(name) end

--- What matrix products run on: the BLAS library found (nil: none, KAVA's own loops), the kernels it chose, its configuration;
--- and the operands of bf16 products: "amx", "dot" (AVX512-BF16), or "f32" (rounded f32). Opens the library.
---@return { library?: string, core?: string, config?: string, bf16: string }
function kava.blas() end

---@meta

---What a model's forward pass kept of keys and values; views, no copies. Layers count from 1.
---@class kava.KV
local KV = {}

---@return integer
function KV:layers() end

---Keys of layer i as the cache holds them (after rotation), or before rotation.
---@param i integer
---@param opts? {rope?: "post"|"pre"}
---@return kava.Tensor [B, Hkv, T, D]
function KV:keys(i, opts) end

---@param i integer
---@return kava.Tensor [B, Hkv, T, D]
function KV:values(i) end

---Queries after rotation; forward must have been asked for them (queries = true).
---@param i integer
---@return kava.Tensor [B, H, T, D]
function KV:queries(i) end

---The list an aggregation receives.
---@param opts? {part?: "keys"|"values", layers?: integer[], rope?: "post"|"pre"}
---@return kava.Tensor[]
function KV:list(opts) end

---@class kava.kv
local kv = {}

---Aggregates one part of a cache over layers. `how`: a file's name under recipes/aggregate, or a function.
---@param cache kava.KV
---@param how string|fun(layers: kava.Tensor[], opts: table): kava.Tensor
---@param opts? {part?: "keys"|"values", layers?: integer[], weights?: number[], rope?: "post"|"pre"}
---@return kava.Tensor [B, T, D]
function kv.aggregate(cache, how, opts) end

---A decoder model. Fields: config (as config.json has it), spec, layer_map (student layer -> teacher layer, when derived).
---@class kava.Model
---@field config table
---@field spec table
---@field layer_map? integer[]
local Model = {}

---@class kava.ForwardOptions
---@field input_ids kava.Tensor|integer[][] [B, T] ids of the model's own vocabulary
---@field attention_mask? kava.Tensor [B, T] 1 = token, 0 = padding at either end of a row
---@field start? kava.Tensor i32 [B, T]: the first key each query may see (packed documents); instead of attention_mask
---@field positions? kava.Tensor i32 [B, T]; default 0, 1, 2, …
---@field longest? integer the last of the positions + 1, which a rotation may depend on; default: they are looked at
---@field logits? boolean default true
---@field hidden? boolean hidden states after the final norm
---@field values? boolean default true; false: the last layer's V is not computed where nothing else needs it
---@field queries? boolean
---@field up_to? integer only layers 1..up_to are wanted

---@class kava.ForwardResult
---@field logits? kava.Tensor [B, T, vocabulary]
---@field hidden? kava.Tensor [B, T, hidden]
---@field start? kava.Tensor [B, T] the first key each query saw, from start or attention_mask; nil: the first of all
---@field kv kava.KV

---Computes only what is asked for. Raises on ids out of range and on shapes that do not fit.
---@param opts kava.ForwardOptions
---@return kava.ForwardResult
function Model:forward(opts) end

---The attention of layer i of a forward pass that kept queries, averaged over heads; 0 for keys that a query does not see.
---@param out kava.ForwardResult
---@param i integer
---@return kava.Tensor [B, T, T]
function Model:attention_map(out, i) end

---Where its weights are and it computes. What forward is given may lie anywhere, keys and logits come out there.
---@return "cpu"|"cuda"
function Model:device() end

---The KV layout that a forward pass really gives, beside config_dim, the hidden size that config.json claims. measure = false: no pass is
---run, the layout is what the configuration says (without a dtype).
---@param opts? {batch?: integer, length?: integer, measure?: boolean}
---@return {layers: integer, kv_heads: integer, head_dim: integer, layer_dim: integer, total_dim: integer, per_layer: table[], config_dim: integer, dtype: string?, device: string}
function Model:probe(opts) end

---@class kava.Fidelity
---@field rms number the difference's root mean square over the reference's
---@field cosine number the mean over each token's vector in each head

---How far this model's keys and values are from those of `reference` (a model or its path): what quantising a teacher does to what it
---teaches. On input_ids (with attention_mask), or on a text or a list of them, cut at `length` tokens each.
---@param opts {reference: kava.Model|string, input_ids?: kava.Tensor|integer[][], attention_mask?: kava.Tensor, text?: string|string[], tokenizer?: kava.Tokenizer, length?: integer} length 512; tokenizer: the reference's own
---@return {layers: {keys: kava.Fidelity, values: kava.Fidelity}[], keys: kava.Fidelity, values: kava.Fidelity, tokens: integer}
function Model:quantisation_error(opts) end

---{Hugging Face name = tensor}; a tied head is the embedding and does not appear again.
---@return table<string, kava.Tensor>
function Model:parameters() end

---One parameter as f32, dequantised.
---@param name string
---@return kava.Tensor
function Model:weight(name) end

---The matrix that turns hidden states into logits: [vocabulary, hidden].
---@return kava.Tensor
function Model:head() end

---Of a frozen model on a GPU, what forward(request) reads little of or nothing moves to host memory, which the GPU reads through the
---bus: the embedding, of which rows are looked up (unless the request's head is tied to it), and where neither logits nor hidden states
---are asked for, the matrices after the last keys. What does read them fetches them each time: logits, generation.
---@param request kava.ForwardOptions input_ids are not looked at
---@param least number? only where the embedding is this part of the GPU's memory
---@return integer bytes of the GPU's memory that are free again; 0 on the CPU
function Model:offload(request, least) end

---@param on boolean
---@return kava.Model
function Model:requires_grad(on) end

---Less memory for more time: what backward passes compute once more instead of keeping it. "mlp": the MLP and its norm (the same bits);
---"layer": queries and attention as well; "mlp:N", "layer:N": of the first N layers. Keys and values are always kept.
---@param how "none"|"mlp"|"layer"|string
---@return kava.Model
function Model:recompute(how) end

---Writes a Hugging Face directory, its tokenizer's files byte for byte as they were; or, where the path ends in .gguf, one GGUF file with
---the tokenizer in it. dtype: how to hold matrices; nil: as they are, quantised ones as f32 (in GGUF its own types stay). q8_0, q4_0
---and q4_1 are for GGUF: the embedding and the head are then q8_0. shard_size: bytes of a safetensors file, at most (5e9). lossy: leave out
---what GGUF cannot be told of the model (a window of Mistral), which is else an error.
---@param path string
---@param opts? {dtype?: "f32"|"f16"|"bf16"|"f64"|"q8_0"|"q4_0"|"q4_1", tokenizer?: boolean, shard_size?: integer, lossy?: boolean}
---@return true|nil, string?, string?
function Model:save(path, opts) end

---@class kava.model
local model = {}

---path: a Hugging Face directory or a GGUF file. device: where its weights lie and it computes. nil, message, code when it cannot be read.
---@param path string
---dtype: what to hold floats in (nil: as stored; quantised weights are then dequantised). quantize: the layers' matrices of a float
---model in codes, made one by one: the memory it takes is that of the codes and one weight (kava.quant.encode says how they round).
---quantize_parts: "all" of a layer's matrices or its "mlp"; nil: all, but with fp8 on a GPU, and with fp8-rows, the MLP.
---fp8 on a GPU is fp8-rows: such weights are multiplied as codes, activations in bf16 or f16 being quantised a row at a time.
---@param opts? {device?: "cpu"|"cuda", dtype?: "f32"|"f16"|"bf16"|"f64", quantize?: "nf4"|"nf4-dq"|"int8"|"fp8"|"fp8-rows", quantize_parts?: "all"|"mlp"}
---@return kava.Model|nil, string?, string?
function model.load(path, opts) end

---A student from chosen layers of a teacher. layers: a number (evenly spread; keep = "last" keeps the last one, "ends" the
---first and the last), a list, or a function(total) -> list.
---@param teacher kava.Model
---@param opts? {layers?: integer|integer[]|fun(total: integer): integer[], keep?: "last"|"ends", dtype?: string}
---@return kava.Model
function model.derive(teacher, opts) end

---A fresh model: matrices N(0, std), norms 1, biases 0.
---@param config table as config.json has it; model_type chooses the family
---@param opts? {device?: "cpu"|"cuda", dtype?: string, std?: number} the same numbers on every device
---@return kava.Model
function model.create(config, opts) end

---The native decoder under a model; see lua/kava/model.lua.
---@class kava.Decoder
local Decoder = {}
---@param opts kava.ForwardOptions
---@return table
function Decoder:forward(opts) end
function Decoder:release() end
---What the records of the first `count` layers (nothing given: of all) leave out and the backward pass computes again; of the others:
---nothing. "mlp": the MLP with its norm; "layer": queries and attention as well. Keys and values are always kept.
---@param what "none"|"mlp"|"layer"
---@param count? integer
function Decoder:recompute(what, count) end

---@class kava
local kava = {}
---@param spec table
---@param weights table
---@return kava.Decoder
function kava.decoder(spec, weights) end

---Q or K rows in GGUF's interleaved order -> half-split order (inverse = true: back).
---@param w kava.Tensor
---@param heads integer
---@param inverse? boolean
---@return kava.Tensor
function kava.rope_rows(w, heads, inverse) end

---linear(layer_norm(x)); when x needs no gradient its backward pass spares the product dz W (formulas: src/ops/norm_linear.h).
---@param x kava.Tensor [..., in]
---@param gamma kava.Tensor [in]
---@param beta kava.Tensor [in]
---@param w kava.Tensor [out, in]
---@param b kava.Tensor [out]
---@param eps? number default 1e-5
---@return kava.Tensor [..., out]
function kava.norm_linear(x, gamma, beta, w, b, eps) end

---LayerNorm -> Linear -> SiLU -> Dropout -> Linear. Callable: x [..., in_dim] -> [..., out_dim].
---@class kava.Projector
---@field dims {input: integer, hidden: integer, output: integer}
---@param opts {in_dim: integer, out_dim: integer, device?: "cpu"|"cuda", hidden_ratio?: number, dropout?: number, activation?: "silu"|"gelu", initialization?: "xavier_uniform"|"xavier_normal"|"kaiming_uniform", dtype?: "f32"|"bf16"|"f16"|"f64"}
---@return kava.Projector
function kava.projector(opts) end

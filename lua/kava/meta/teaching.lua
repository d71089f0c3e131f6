---@meta
-- What is taught and how it is judged: the Lua half of kava.loss (lua/kava/loss.lua), kava.evaluate and kava.generate.

--- Settings of a loss; what is absent is taken from kava.loss.defaults. A weight is a number, or {from, to, schedule, steps}.
---@class kava.LossSettings
---@field name string? a file under recipes/loss; "layer_matched"; "none": no KV term
---@field weight (number|table)? of the KV term, 1
---@field ce (number|table)? of the cross-entropy with the text, 1
---@field kl (number|table)? of KL(teacher || student) over the vocabulary, 0
---@field temperature number? of that KL, 1
---@field alpha number? mercator: weight of the direction, 1
---@field beta number? mercator: weight of the magnitude, 0.01
---@field eps number? mercator: 1e-8
---@field delta number? smooth_l1: where the parabola ends, 1
---@field relative boolean? mse: divided by the target's own square, false
---@field attention number? structural: weight of the attention maps, 1
---@field layer_map (string|integer[]|fun(i: integer, students: integer, teachers: integer): integer)? "recorded"

--- How keys and values are made into rows; what is absent is taken from kava.loss.kv_defaults.
---@class kava.KvSettings
---@field method (string|function)? an aggregation: a file under recipes/aggregate, or a function; "concat"
---@field part string? "keys", "values" or "both"; "both"
---@field rope string? keys after ("post") or before ("pre") rotation; "post"
---@field project string? whose aggregate goes through the projector: "teacher", "student" or "none"; "teacher"
---@field hidden_ratio number? of the projector; 1.0 below 30 billion teacher weights, else 2.0
---@field dropout number? of the projector, 0.1
---@field initialization "xavier_uniform"|"xavier_normal"|"kaiming_uniform"|nil of the projector's matrices
---@field validate_shapes boolean? whether building tries the loss on a test batch; true
---@field layers (integer[]|table)? layers to aggregate or match, or {teacher, student}; all
---@field weights (number[]|table)? for the aggregation "weighted", or {teacher, student}

---@class kava.LossContext
---@field student kava.Model
---@field teacher kava.Model? needed for the KV term and for KL
---@field loss kava.LossSettings?
---@field kv kava.KvSettings?
---@field teacher_probe table? as Model:probe gives it
---@field student_probe table?
---@field seed integer? what projectors and maps are drawn from; the global generator stays where it was

--- A KV term, as a file under recipes/loss returns it from its function(context).
---@class kava.LossTerm
---@field parameters table<string, kava.Tensor>? trained beside the student
---@field needs { teacher: table, student: table }? what a forward pass must give besides keys; teacher.layers: a set, whose are read
---@field pairs fun(teacher_out: table, student_out: table): table[] {name, student = [B,T,D], target = [B,T,D]} each
---@field loss fun(pairs: table[], mask: kava.Tensor?, teacher_out: table, student_out: table, batch: table): kava.Tensor, table?

---@class kava.loss
local loss = {}

--- A training loss: weight * KV term + ce * CE + kl * KL. Raises, naming what does not fit, after a test forward pass.
---@param name (string|fun(context: table): kava.LossTerm)? context.loss.name where nil
---@param context kava.LossContext
---@return kava.Loss
function loss.build(name, context) end

--- recipes/schedule/<how>.lua; a function is itself.
---@param how string|function
---@return fun(step: integer, opts: { steps: integer, warmup: integer? }): number factor, of the step about to be taken, from 1
function loss.schedule(how) end

--- One part aggregated over layers on both sides, one side through a projector: for recipes/loss.
---@param context table as a loss file's function gets it
---@param part "keys"|"values"
---@return table piece for kava.loss.term
function loss.aggregated(context, part) end

--- One part layer by layer, with a linear map on the student's side where widths differ: for recipes/loss.
---@param context table
---@param part "keys"|"values"
---@return table piece for kava.loss.term
function loss.matched(context, part) end

--- Joins pieces into a term.
---@param pieces table[]
---@param compare function? the term's loss
---@return kava.LossTerm
function loss.term(pieces, compare) end

--- The mean over pairs of compare(student, target, mask) -> loss, metrics, and of each metric.
---@param pairs table[]
---@param mask kava.Tensor?
---@param compare function
---@return kava.Tensor loss
---@return table<string, number> metrics
function loss.mean_over(pairs, mask, compare) end

--- Pieces of the parts that kv.part names.
---@param context table
---@param make fun(context: table, part: "keys"|"values"): table loss.aggregated or loss.matched
---@return table[] pieces
function loss.parts(context, make) end

--- Joins pieces into a term that is the mean over pairs of compare(student, target, mask) -> loss, metrics.
---@param pieces table[]
---@param compare function
---@return kava.LossTerm
function loss.mean_term(pieces, compare) end

--- Which teacher layer each student layer is matched to.
---@param how string|integer[]|function "recorded", "depth", a list, or function(i, students, teachers)
---@param student kava.Model
---@param teacher kava.Model
---@return integer[]
function loss.layer_map(how, student, teacher) end

--- A batch's inputs and what is wanted of the pass, as one argument for Model:forward.
---@param batch table input_ids, attention_mask or start, positions
---@param needs table
---@return table
function loss.request(batch, needs) end

--- batch.targets, or the next token within the mask.
---@param batch table
---@return kava.Tensor i64 [B, T]
function loss.batch_targets(batch) end

--- Whether a batch has a token to predict.
---@param batch table
---@return boolean
function loss.predicts(batch) end

--- The mask of real tokens: batch.mask or batch.attention_mask; nil: all are real.
---@param batch table
---@return kava.Tensor? [B, T]
function loss.mask(batch) end

--- What two askers of one forward pass need together, in `into`.
---@param into table
---@param needs table
---@return table into
function loss.join_needs(into, needs) end

--- Reads what metrics hold.
---@param metrics table<string, number|kava.Tensor>
---@return table<string, number>
function loss.numbers(metrics) end

--- From kava.loss.build.
---@class kava.Loss
---@field name string
---@field term kava.LossTerm? nil where the KV term's weight is 0
---@field teacher kava.Model?
---@field student kava.Model
local Loss = {}

--- What is trained beside the student, at the projector's learning rate; may be empty.
---@return table<string, kava.Tensor>
function Loss:parameters() end

--- Options of the forward passes; teacher is nil where none is needed.
---@return { teacher: table?, student: table }
function Loss:needs() end

--- The total and its parts, from passes that were run as needs() says.
---@param batch table
---@param teacher_out table?
---@param student_out table
---@param step integer? of weights that change, from 1; 1
---@param share { kv: number, text: number }? what the batch is of a larger one (kava.loss.shares): its part of the whole total; all.
--- Or f32 tensors of no dimensions, which a recording reads at every run; then weight, ce and kl beside them hold Loss:factors
---@return kava.Tensor total
---@return table<string, number|kava.Tensor> metrics loss, kv, ce, kl, agreement, cos_sim … as far as computed; see kava.loss.numbers
function Loss:compute(batch, teacher_out, student_out, step, share) end

--- What each term is multiplied by at a step: its weight times the batch's share. Terms that are not above 0 are not computed.
---@param step integer? 1
---@param share { kv: number, text: number }? all
---@return { weight: number, ce: number, kl: number }
function Loss:factors(step, share) end

--- Whether a term that there is at a step reads what the teacher gives.
---@param step integer? 1
---@return boolean
function Loss:asks(step) end

--- The teacher's pass over a batch, through its kava.Aligner where it has one: kv then has a row for each of the batch's tokens, and
--- batch.kv_mask says which of them are targets.
---@param batch table
---@param needs table
---@return table
function Loss:teach(batch, needs) end

--- Runs the teacher (nothing recorded; where a term asks for it at this step) and the student, and computes the total.
---@param batch table
---@param step integer? 1
---@param share { kv: number, text: number }? see compute
---@return kava.Tensor total
---@return table<string, number|kava.Tensor> metrics
function Loss:step(batch, step, share) end

--- A test run over a few tokens; raises naming what does not fit.
---@return kava.Loss
function Loss:check() end

--- One line for a status block.
---@return string
function Loss:describe() end

--- What a teacher gave for pieces of text, kept for later epochs: kava.Loss:step asks it where it is the loss's `cache`.
---@class kava.TeacherCache
---@field count integer pieces kept
---@field bytes integer they take
---@field folder string? where they are written
local TeacherCache = {}

--- The teacher's output for a batch of kava.Sampler: kept, or made and kept.
---@param batch table
---@return table output as kava.Model:forward's: kv (of the parts and layers that the loss reads), hidden
function TeacherCache:teach(batch) end

--- Writes what was collected since the last file.
function TeacherCache:flush() end

--- Bytes a token takes.
---@return integer
function TeacherCache:token_bytes() end

---@class kava.teacher_cache
local teacher_cache = {}

--- For a loss with a teacher. folder: kept there as safetensors files, and found again by whoever gives the same identity, a text that
--- names the teacher, the data and whatever else the bits depend on; nil: in memory. dtype: "f32" (the teacher's bits) or "bf16" (half
--- the room, rounded). warn is told when the folder cannot be written; then memory is used.
---@param objective kava.Loss
---@param options { folder: string?, identity: string?, dtype: string?, warn: fun(message: string)? }
---@return kava.TeacherCache?
---@return string? message
---@return string? code
function teacher_cache.open(objective, options) end

--- kava.align.new{teacher =, student =}: tokenizers. A teacher for batches in another model's tokens: see lua/kava/align.lua.
---@class kava.Aligner
local Aligner = {}

--- The teacher's ids for a row of the student's, and for each of its positions the teacher's (0: none ends there).
---@param ids integer[]
---@return integer[]
---@return integer[]
function Aligner:row(ids) end

--- The batch in the teacher's tokens, the positions to gather (of its rows end to end, from 1), the mask [B,T] of those that are
--- targets, and how many they are.
---@param batch table
---@return { input_ids: kava.Tensor }
---@return kava.Tensor
---@return kava.Tensor
---@return integer
function Aligner:batch(batch) end

--- Sets batch.kv_mask and batch.kv_count: which of its positions are targets.
---@param batch table
function Aligner:mark(batch) end

--- The teacher's pass: out.kv has a row for each of the batch's tokens; sets batch.kv_mask and batch.kv_count.
---@param model kava.Model
---@param batch table
---@param needs table
---@return { kv: kava.KV }
function Aligner:forward(model, batch, needs) end

--- Figures on held-out batches. ce, kl, teacher_ce: nats a token; agreement: share of tokens with the same top-1 as the teacher;
--- cosine: of matched layers' keys (false where widths differ); collapse: see kava.evaluate.verdict.
---@class kava.Figures
---@field tokens integer
---@field batches integer
---@field loss number
---@field kv number?
---@field ce number
---@field kl number?
---@field agreement number?
---@field teacher_ce number?
---@field cosine number?
---@field cosine_by_layer (number|false)[]?
---@field collapse table? agreement, shuffled_agreement, shuffled, effective_rank, mean_direction, dim, most, collapsed, verdict

--- Callable: kava.evaluate(loss, batches, opts) is kava.evaluate.run.
---@class kava.evaluate
local evaluate = {}

--- Nothing is recorded, dropout is off. Raises where there are no batches.
---@param objective kava.Loss
---@param batches table[]|fun(): table?
---@param opts { rows: integer?, step: integer?, collapse: boolean?, collapse_batches: integer?, after_batch: function? }?
---@return kava.Figures
function evaluate.run(objective, batches, opts) end

--- Whether figures show a collapse, by kava.evaluate.thresholds, and a sentence that says why.
---@param collapse table
---@return boolean collapsed
---@return string words
function evaluate.verdict(collapse) end

---@class kava.generate
local generate = {}

--- Greedy completions, the prompts not repeated. stop: Lua patterns that end a text (an answer "#### N" and one character more).
---@param model kava.Model
---@param tokenizer kava.Tokenizer
---@param prompts string[]
---@param opts { max_tokens: integer?, stop: string[]?, batch: integer?, each: fun()? }? 64, …, 32; each: called before every token
---@return string[]
function generate.complete(model, tokenizer, prompts, opts) end

--- The number after the last "####", without signs of thousands; nil: none.
---@param text string
---@return string?
function generate.final(text) end

--- The share of rows whose generated final answer is the row's own; the prompt is the question and a line's end.
---@param model kava.Model
---@param tokenizer kava.Tokenizer
---@param rows { question: string, answer: string }[]
---@param opts table? as for complete
---@return number share
---@return { question: string, expected: string, got: string?, text: string, right: boolean }[]
function generate.exact_match(model, tokenizer, rows, opts) end

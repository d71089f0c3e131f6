---@meta
-- What src/bind/l_loss.c registers in kava.loss. Losses are means over real tokens, tensors without dimensions; gradients
-- flow to both sides. mask: one element a token, any plain dtype, 0 = not data. A mask that leaves nothing raises.

---@class kava.loss
local loss = {}

--- alpha (1 - mean cos) + beta mean (log(|s| + eps) - log(|t| + eps))^2, cos of rows scaled to x / max(|x|, 1e-12): the
--- loss of the original trainer.
---@param student kava.Tensor [.., D]
---@param teacher kava.Tensor [.., D]
---@param options { mask: kava.Tensor?, alpha: number?, beta: number?, eps: number? }? alpha 1, beta 0.01, eps 1e-8
---@return kava.Tensor loss
---@return { cos_sim: number, mag_loss: number } metrics
function loss.mercator(student, teacher, options) end

--- 1 - mean cos. Of two lists: the mean over their pairs, all by one mask; on a GPU in one pass where they are alike.
---@param student kava.Tensor|kava.Tensor[] [.., D]
---@param teacher kava.Tensor|kava.Tensor[] [.., D]
---@param options { mask: kava.Tensor? }?
---@return kava.Tensor
function loss.cosine(student, teacher, options) end

--- Mean over tokens of mean_D (s-t)^2; relative: of |s-t|^2 / (|t|^2 + 1e-12).
---@param student kava.Tensor [.., D]
---@param teacher kava.Tensor [.., D]
---@param options { mask: kava.Tensor?, relative: boolean? }?
---@return kava.Tensor
function loss.mse(student, teacher, options) end

--- Mean over tokens of mean_D h(s-t): h(d) = d^2/(2 beta) where |d| < beta, else |d| - beta/2; beta 0 is the L1 loss.
---@param student kava.Tensor [.., D]
---@param teacher kava.Tensor [.., D]
---@param options { mask: kava.Tensor?, beta: number? }? beta 1
---@return kava.Tensor
function loss.smooth_l1(student, teacher, options) end

--- What each position is to predict: ids one to the left; -1 (not counted) at the last position and where the mask of the
--- predicted token is 0.
---@param ids kava.Tensor integers [B, T]
---@param mask kava.Tensor? [B, T]
---@return kava.Tensor i64 [B, T]
function loss.targets(ids, mask) end

--- Next-token cross entropy in nats: position t predicts ids[t+1]; a target counts when its own mask is nonzero.
---@param logits kava.Tensor [B, T, V]
---@param ids kava.Tensor integers [B, T]
---@param mask kava.Tensor? [B, T]
---@return kava.Tensor
function loss.cross_entropy(logits, ids, mask) end

--- Mean over tokens of T^2 KL(softmax(teacher/T) || softmax(student/T)), T the temperature (Hinton et al. 2015), in nats.
---@param student_logits kava.Tensor [.., V]
---@param teacher_logits kava.Tensor [.., V]
---@param options { mask: kava.Tensor?, temperature: number? }? temperature 1, softcaps 0: none
---@return kava.Tensor
function loss.kl(student_logits, teacher_logits, options) end

--- The head and its losses in one, in pieces of rows, so that logits never exist as a whole: ce_weight * CE + kl_weight * KL,
--- means over the rows whose target is not negative (kava.loss.targets). Gradients go to hidden and weight; the teacher's
--- side is constant. A weight may be a tensor of one element, f32 (beside f64: f64) on hidden's device, which gets no gradient:
--- it is read when the losses are computed, so that a recording runs with what it holds then. Under kava.no_grad it costs the
--- forward products only. metrics: ce and kl in nats a token, agreement = share of rows with the same top-1 token, count = rows;
--- kl and agreement are nil without a teacher.
---@param options { hidden: kava.Tensor, weight: kava.Tensor, targets: kava.Tensor, teacher_hidden: kava.Tensor?, teacher_weight: kava.Tensor?, ce_weight: number|kava.Tensor?, kl_weight: number|kava.Tensor?, temperature: number?, softcap: number?, teacher_softcap: number? } hidden [.., D], weight [V, D] of any float or quantised dtype, targets integers [..]; ce_weight 1, kl_weight 1 with a teacher, temperature 1
---@return kava.Tensor loss
---@return { ce: number, kl: number?, agreement: number?, count: integer } metrics
function loss.head(options) end

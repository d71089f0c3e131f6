/* ops/head: the language-model head and its losses in one op, in pieces of rows, so that logits never exist as a whole.
 */
#ifndef KAVA_OPS_HEAD_H
#define KAVA_OPS_HEAD_H
#include "tensor/tensor.h"

/* Student hidden states hs [.., D] and head ws [V,D]; a teacher's ht [.., Dt] and wt [V,Dt], both or neither; targets:
 * integers of hs's leading shape, < 0 = the row is not looked at, for either loss. Weights of any float or quantised
 * type. softcap (of either side, 0: none): logits l become c tanh(l/c). loss = ce_weight * CE + kl_weight * KL,   means
 * over the counted rows CE = -log softmax(s)[target],   KL = T^2 KL(softmax(t/T) || softmax(s/T)) Gradients go to hs
 * and ws; the teacher's side is taken as constant. They are computed in the same pass as the loss (the logits of a
 * piece are there only then) and kept, [.., D] and [V,D], until backward() scales and hands them on. *metrics (may be
 * NULL): detached f64 [4]: ce, kl, top-1 agreement with the teacher, counted rows; kl and agreement are 0 without a
 * teacher. Metrics alone (nothing recorded) cost the forward products only. ce_by, kl_by: NULL, or one element (f32, of
 * f64 f64) on the same device that multiplies the weight, so that a recording can run with other weights. */
typedef struct kava_head_options {
  double ce_weight, kl_weight, temperature;
  double softcap, teacher_softcap;
  kava_tensor *ce_by, *kl_by;
} kava_head_options;
kava_status kava_op_head_loss(kava_tensor *hs, kava_tensor *ws, kava_tensor *ht, kava_tensor *wt, kava_tensor *targets,
                              const kava_head_options *options, kava_tensor **loss, kava_tensor **metrics);
#endif

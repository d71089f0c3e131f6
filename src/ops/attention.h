/* ops/attention: causal grouped-query attention. */
#ifndef KAVA_OPS_ATTENTION_H
#define KAVA_OPS_ATTENTION_H
#include "tensor/tensor.h"

/* o[B,T,H,D] of q [B,T,H,D], k and v [B,T,Hkv,D] (H a multiple of Hkv), scores multiplied by `scale`,
 * and with softcap c > 0 bent to c tanh(score / c). Query t of row b
 * sees keys start[b,t] .. t, the last `window` of them (0: all); start: integers [B,T], NULL: all 0. A query whose
 * start lies beyond it yields 0. All f64 or none: the result is f64 or f32. Needs no T x T memory, forward or backward.
 * KAVA_MISUSE names shapes and types. */
kava_status kava_op_attention(kava_tensor *q, kava_tensor *k, kava_tensor *v, kava_tensor *start, int64_t window,
                              double scale, double softcap, kava_tensor **out);
/* p[B,T,T]: the same attention's softmax averaged over the heads; p[b,t,j] is 0 for keys that t does not see. */
kava_status kava_op_attention_map(kava_tensor *q, kava_tensor *k, kava_tensor *start, int64_t window, double scale,
                                  double softcap, kava_tensor **out);
/* 1/sqrt(D), the usual scale; 1 when q is not 4-dimensional (the ops then say so). */
double kava_attention_scale(const kava_tensor *q);
#endif

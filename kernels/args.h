/* kernels/args.h: structs for kernels with too many arguments for a readable call. */
#ifndef KAVA_KERNELS_ARGS_H
#define KAVA_KERNELS_ARGS_H
#include "kava.h"

/* A linear layer's products, for `rows` rows of activations. W is [out, in] row-major in `wtype` (any float dtype but f64,
 * or a quantised one); x, y and gradients are f32, contiguous.
 * precision: KAVA_F32, or KAVA_BF16 = both operands rounded to bf16, products summed in f32. */
typedef struct kava_linear_args {
  int64_t rows, in, out;
  const void *w;
  kava_dtype wtype;
  kava_dtype precision;
  const void *packed; /* what linear_pack made of w for this product and precision, or NULL */
} kava_linear_args;

/* Causal grouped-query attention. q, o: [B,T,H,D]; k, v: [B,T,Hkv,D], f32 contiguous; scale multiplies q.k.
 * Query t of row b sees keys j with start[b*T+t] <= j <= t (documents packed in a row, left padding, sliding window);
 * start NULL: from 0. A query that sees no key (start > t) yields o = 0.
 * lse [B,H,T]: log of the softmax's denominator (the scaled maximum included), -inf for such queries. */
typedef struct kava_attention_args {
  int64_t batch, length, heads, kv_heads, head_dim;
  float scale;
  const float *q, *k, *v;
  const int32_t *start;
  float *o, *lse;
  /* backward only: gradients; any of dq, dk, dv may be NULL; add_*: add instead of overwrite */
  const float *grad_o;
  float *dq, *dk, *dv;
  bool add_q, add_k, add_v;
} kava_attention_args;
#endif

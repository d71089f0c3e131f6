/* nn/decoder: one causal decoder, driven by a spec that a family's Lua file makes from a model's configuration.
 * It computes only what is asked for: keys alone need no head, no logits and nothing after the last layer's K, and what
 * is not computed gets no gradient. */
#ifndef KAVA_NN_DECODER_H
#define KAVA_NN_DECODER_H
#include "kernels/args.h"
#include "tensor/tensor.h"

/* A layer's weights: X(name). Matrices are [out, in]. Biases, q_norm/k_norm (per head, [head_dim]), gate (absent in an
 * ungated MLP) and norm biases may be NULL. */
/* clang-format off */
#define KAVA_LAYER_WEIGHTS(X)                                                                                          \
  X(attn_norm) X(attn_norm_bias) X(q) X(q_bias) X(k) X(k_bias) X(v) X(v_bias) X(o) X(o_bias) X(q_norm) X(k_norm)       \
  X(mlp_norm) X(mlp_norm_bias) X(gate) X(gate_bias) X(up) X(up_bias) X(down) X(down_bias)
/* clang-format on */
/* The model's own: embed [vocab, hidden], positions [length, hidden] (learned) or NULL, norm, head (NULL: tied to
 * embed). */
#define KAVA_MODEL_WEIGHTS(X) X(embed) X(positions) X(norm) X(norm_bias) X(head)

typedef struct kava_layer {
  int heads, kv_heads, head_dim;
  int window; /* a query sees at most this many keys, itself included; 0: all */
  double attention_scale;
#define X(name) kava_tensor *name;
  KAVA_LAYER_WEIGHTS(X)
#undef X
} kava_layer;

typedef struct kava_decoder {
  int refs;
  int layers, hidden, vocab;
  bool layer_norm; /* else RMSNorm */
  kava_activation activation;
  double norm_eps;
  double embed_scale;    /* 1, or Gemma's sqrt(hidden) */
  kava_tensor *inv_freq; /* f32 [rotated dims / 2]; NULL: no rotation */
  double rope_scale;     /* multiplies cos and sin (yarn); 1 otherwise */
#define X(name) kava_tensor *name;
  KAVA_MODEL_WEIGHTS(X)
#undef X
  kava_layer *layer;
} kava_decoder;

/* An empty decoder of `layers` layers; the caller fills fields and weights (which it retains) and calls _check. */
kava_status kava_decoder_new(int layers, kava_decoder **out);
/* KAVA_MISUSE naming the layer, the weight, its shape and the one expected. */
kava_status kava_decoder_check(const kava_decoder *decoder);
void kava_decoder_release(kava_decoder **decoder);

typedef struct kava_forward {
  /* in; borrowed */
  kava_tensor *input_ids; /* i64 or i32 [B,T] */
  kava_tensor *start;     /* i32 [B,T]: the first key each query may see (packing, left padding); NULL: 0 */
  kava_tensor *positions; /* i32 [B,T]; NULL: 0, 1, 2, … */
  int up_to;              /* keys and values of layers 1..up_to are wanted; 0: of all */
  bool logits, hidden;    /* hidden: after the final norm, what the head reads */
  bool values, queries;   /* keys are always kept; `values`: also the last wanted layer's V */
  /* out; owned by the caller once kava_decoder_forward succeeds: kava_forward_release */
  kava_tensor *out_logits;       /* [B,T,vocab] */
  kava_tensor *out_hidden;       /* [B,T,hidden] */
  int layers;                    /* entries below */
  kava_tensor **out_keys;        /* [B,T,Hkv,D] after rotation */
  kava_tensor **out_keys_before; /* before rotation */
  kava_tensor **out_values;      /* NULL entries where not computed */
  kava_tensor **out_queries;     /* after rotation; NULL entries unless asked for */
} kava_forward;

kava_status kava_decoder_forward(kava_decoder *decoder, kava_forward *forward);
void kava_forward_release(kava_forward *forward);
#endif

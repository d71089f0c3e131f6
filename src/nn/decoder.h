/* nn/decoder: one causal decoder, driven by a spec that a family's Lua file makes from a model's configuration.
 * It computes only what is asked for: keys alone need no head, no logits and nothing after the last layer's K, and what
 * is not computed gets no gradient. */
#ifndef KAVA_NN_DECODER_H
#define KAVA_NN_DECODER_H
#include "kernels/args.h"
#include "ops/rope.h"
#include "tensor/tensor.h"

/* A weight: a tensor, or some of its rows where several matrices are stored as one (phi3's qkv). Matrices are [out,
 * in]; `transposed`: stored as [in, out] (GPT-2), so that its columns are the rows. Biases are cut like their matrices.
 */
typedef struct kava_weight {
  kava_tensor *tensor; /* NULL: absent */
  int64_t first, rows; /* rows 0: all of it; else rows first .. first+rows-1 */
  bool transposed;
} kava_weight;

/* A layer's weights: X(name). Biases, gate (absent in an ungated MLP) and norm biases may be absent. q_norm and k_norm
 * may be absent, [head_dim] (each head by itself) or [heads * head_dim] (all heads at once). A post norm normalises
 * what attention or MLP adds to the stream; where there is one, the norm before may be absent. */
/* clang-format off */
#define KAVA_LAYER_WEIGHTS(X)                                                                                          \
  X(attn_norm) X(attn_norm_bias) X(q) X(q_bias) X(k) X(k_bias) X(v) X(v_bias) X(o) X(o_bias) X(q_norm) X(k_norm)       \
  X(post_attn_norm) X(mlp_norm) X(mlp_norm_bias) X(gate) X(gate_bias) X(up) X(up_bias) X(down) X(down_bias)            \
  X(post_mlp_norm)
/* clang-format on */
/* The model's own: embed [vocab, hidden], positions [length, hidden] (learned) or NULL, norm, head (NULL: tied to
 * embed). */
#define KAVA_MODEL_WEIGHTS(X) X(embed) X(positions) X(norm) X(norm_bias) X(head)

/* One way of rotating: f32 inverse frequencies [rotated dims / 2], and the factor on cos and sin (yarn). */
typedef struct kava_rope {
  kava_tensor *inv_freq;
  double scale;
} kava_rope;
#define KAVA_ROPES 4 /* that one model may have; layers choose among them */

/* What a layer's records leave out, to be computed once more in the backward pass. Keys and values are always kept. */
typedef enum kava_recompute {
  KAVA_KEEP,
  KAVA_RECOMPUTE_MLP,  /* all between what goes into the MLP's norm and what comes out of the layer: a third more of its
                          products; gradients are the same bits */
  KAVA_RECOMPUTE_LAYER /* queries and attention as well */
} kava_recompute;

typedef struct kava_layer {
  kava_recompute recompute;
  int heads, kv_heads, head_dim;
  int window; /* a query sees at most this many keys, itself included; 0: all */
  int rope;   /* 1 .. the decoder's ropes; 0: keys and queries are not rotated */
  double attention_scale;
  double softcap; /* scores become softcap * tanh(score / softcap); 0: they do not */
#define X(name) kava_weight name;
  KAVA_LAYER_WEIGHTS(X)
#undef X
} kava_layer;

typedef struct kava_decoder {
  int refs;
  int layers, hidden, vocab, ropes;
  int64_t pad_id;  /* looking this id up gives its embedding no gradient; -1: none is such */
  bool layer_norm; /* else RMSNorm */
  kava_activation activation;
  double norm_eps;
  double norm_shift;     /* added to the norms' weights: 0, or Gemma's 1 */
  double embed_scale;    /* 1, or Gemma's sqrt(hidden) */
  double residual_scale; /* of what attention and MLP add to the stream; 1 */
  double head_scale;     /* of the hidden states that the head reads, so of the logits; 1 */
  double logit_softcap;  /* 0: none */
  kava_rope rope[KAVA_ROPES];
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
  kava_tensor *input_ids; /* i64 or i32 [B,T]; this, start and positions may lie on any device */
  kava_tensor *start;     /* i32 [B,T]: the first key each query may see (packing, left padding); NULL: 0 */
  kava_tensor *positions; /* i32 [B,T]; NULL: 0, 1, 2, … */
  const kava_rope *rope;  /* instead of the decoder's, as many: rotations that depend on the length; NULL: its own */
  int up_to;              /* keys and values of layers 1..up_to are wanted; 0: of all */
  bool logits, hidden;    /* hidden: after the final norm and head_scale, what the head reads */
  bool values, queries;   /* keys are always kept; `values`: also the last wanted layer's V */
  /* out; owned by the caller once kava_decoder_forward succeeds: kava_forward_release */
  kava_tensor *out_logits;       /* [B,T,vocab] */
  kava_tensor *out_hidden;       /* [B,T,hidden] */
  int layers;                    /* entries below */
  kava_tensor **out_keys;        /* [B,T,Hkv,D] after rotation; on a GPU columns of one storage: together a view */
  kava_tensor **out_keys_before; /* before rotation */
  kava_tensor **out_values;      /* NULL entries where not computed */
  kava_tensor **out_queries;     /* after rotation; NULL entries unless asked for */
  /* while it runs */
  kava_tensor *first_keys; /* start, on the decoder's device */
  kava_tensor *all_keys;   /* [B,T,of all layers]: where rotated keys go, side by side; NULL: each by itself */
  int64_t next_keys;       /* the next layer's first column of it */
  kava_angles angles[KAVA_ROPES];
} kava_forward;

kava_status kava_decoder_forward(kava_decoder *decoder, kava_forward *forward);
void kava_forward_release(kava_forward *forward);
#endif

#include "nn/decoder.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/norm_linear.h"
#include "ops/rope.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include "tensor/profile.h"
#include <stdio.h>

kava_status kava_decoder_new(int layers, kava_decoder **out) {
  if (layers < 1 || layers > 100000) return kava_fail(KAVA_MISUSE, "layers: at least 1 expected, got %d", layers);
  kava_decoder *d = kava_calloc(1, sizeof *d);
  if (!d) return KAVA_MEMORY;
  d->layer = kava_calloc((size_t)layers, sizeof *d->layer);
  if (!d->layer) {
    kava_free(d);
    return KAVA_MEMORY;
  }
  d->refs = 1;
  d->layers = layers;
  d->pad_id = -1;
  d->embed_scale = d->residual_scale = d->head_scale = 1;
  kava_live_add(1);
  *out = d;
  return KAVA_OK;
}

void kava_decoder_release(kava_decoder **at) {
  kava_decoder *d = *at;
  *at = NULL;
  if (!d || --d->refs > 0) return;
#define X(name) kava_tensor_release(&d->name);
  KAVA_MODEL_WEIGHTS(X)
#undef X
  for (int i = 0; i < KAVA_ROPES; i++) kava_tensor_release(&d->rope[i].inv_freq);
  for (int i = 0; i < d->layers; i++) {
#define X(name) kava_tensor_release(&d->layer[i].name.tensor);
    KAVA_LAYER_WEIGHTS(X)
#undef X
  }
  kava_free(d->layer);
  kava_free(d);
  kava_live_add(-1);
}

/* The shape that w has as a part: its rows, and the columns of a matrix (0: a vector). False: it has no such rows. */
static bool part_shape(const kava_weight *w, int64_t shape[2]) {
  const kava_tensor *t = w->tensor;
  if (t->dims < 1 || t->dims > 2) return false;
  bool turned = w->transposed && t->dims == 2;
  shape[0] = t->shape[turned];
  shape[1] = t->dims == 2 ? t->shape[!turned] : 0;
  if (!w->rows) return true;
  if (w->first < 0 || w->rows < 0 || w->first > shape[0] || w->rows > shape[0] - w->first) return false;
  shape[0] = w->rows;
  return true;
}

/* layer 0: the model's own weights. cols 0: a vector. */
static kava_status check_weight(const kava_weight *w, int layer, const char *name, bool required, int64_t rows,
                                int64_t cols) {
  char where[32] = "", came[96], expected[96], part[96] = "";
  if (layer) snprintf(where, sizeof where, "layer %d: ", layer);
  if (!w->tensor) return required ? kava_fail(KAVA_MISUSE, "%sweight %s is missing", where, name) : KAVA_OK;
  int64_t want[2] = {rows, cols}, shape[2];
  if (part_shape(w, shape) && shape[0] == rows && shape[1] == cols) return KAVA_OK;
  kava_shape_format(w->tensor->dims, w->tensor->shape, came, sizeof came);
  kava_shape_format(cols ? 2 : 1, want, expected, sizeof expected);
  if (w->rows)
    snprintf(part, sizeof part, "%s %lld to %lld of ", w->transposed ? "columns" : "rows", (long long)w->first + 1,
             (long long)(w->first + w->rows));
  return kava_fail(KAVA_MISUSE, "%sweight %s is %s%s%s, expected %s", where, name, part, came,
                   w->transposed && !w->rows && cols ? " (turned)" : "", expected);
}

/* A norm of queries or keys: of each head, or of all heads at once. */
static bool norms_all(const kava_weight *w, int heads, int head_dim) {
  return w->tensor && w->tensor->dims == 1 && heads > 1 && w->tensor->shape[0] == (int64_t)heads * head_dim;
}

static kava_status check_layer(const kava_decoder *d, int number, const kava_layer *l) {
  kava_status st = KAVA_OK;
  int64_t h = d->hidden, up[2];
  if (l->heads < 1 || l->kv_heads < 1 || l->head_dim < 1 || l->heads % l->kv_heads != 0)
    return kava_fail(KAVA_MISUSE, "layer %d: heads %d, kv_heads %d, head_dim %d do not fit each other", number,
                     l->heads, l->kv_heads, l->head_dim);
  if (l->rope < 0 || l->rope > d->ropes)
    return kava_fail(KAVA_MISUSE, "layer %d: rope %d of %d", number, l->rope, d->ropes);
  if (l->rope && d->rope[l->rope - 1].inv_freq->shape[0] * 2 > l->head_dim)
    return kava_fail(KAVA_MISUSE, "layer %d: %lld rotated dimensions exceed head_dim %d", number,
                     (long long)d->rope[l->rope - 1].inv_freq->shape[0] * 2, l->head_dim);
  if (!l->up.tensor || !part_shape(&l->up, up))
    return kava_fail(KAVA_MISUSE, "layer %d: weight up is missing or has not the rows wanted", number);
  int64_t dim = l->head_dim, q = l->heads * dim, kv = l->kv_heads * dim, ffn = up[0];
  const struct {
    const kava_weight *w;
    const char *name;
    bool required;
    int64_t rows, cols;
  } want[] = {
      {&l->attn_norm, "attn_norm", !l->post_attn_norm.tensor, h, 0},
      {&l->attn_norm_bias, "attn_norm_bias", false, h, 0},
      {&l->q, "q", true, q, h},
      {&l->q_bias, "q_bias", false, q, 0},
      {&l->k, "k", true, kv, h},
      {&l->k_bias, "k_bias", false, kv, 0},
      {&l->v, "v", true, kv, h},
      {&l->v_bias, "v_bias", false, kv, 0},
      {&l->o, "o", true, h, q},
      {&l->o_bias, "o_bias", false, h, 0},
      {&l->q_norm, "q_norm", false, norms_all(&l->q_norm, l->heads, l->head_dim) ? q : dim, 0},
      {&l->k_norm, "k_norm", false, norms_all(&l->k_norm, l->kv_heads, l->head_dim) ? kv : dim, 0},
      {&l->post_attn_norm, "post_attn_norm", false, h, 0},
      {&l->mlp_norm, "mlp_norm", !l->post_mlp_norm.tensor, h, 0},
      {&l->mlp_norm_bias, "mlp_norm_bias", false, h, 0},
      {&l->gate, "gate", false, ffn, h},
      {&l->gate_bias, "gate_bias", false, ffn, 0},
      {&l->up, "up", true, ffn, h},
      {&l->up_bias, "up_bias", false, ffn, 0},
      {&l->down, "down", true, h, ffn},
      {&l->down_bias, "down_bias", false, h, 0},
      {&l->post_mlp_norm, "post_mlp_norm", false, h, 0},
  };
  for (size_t j = 0; j < sizeof want / sizeof *want; j++)
    KAVA_TRY(check_weight(want[j].w, number, want[j].name, want[j].required, want[j].rows, want[j].cols));
out:
  return st;
}

static kava_status check_own(kava_tensor *t, const char *name, bool required, int64_t rows, int64_t cols) {
  return check_weight(&(kava_weight){.tensor = t}, 0, name, required, rows, cols);
}

kava_status kava_decoder_check(const kava_decoder *d) {
  kava_status st = KAVA_OK;
  int64_t h = d->hidden;
  KAVA_TRY(check_own(d->embed, "embed", true, d->vocab, h));
  KAVA_TRY(check_own(d->norm, "norm", true, h, 0));
  KAVA_TRY(check_own(d->norm_bias, "norm_bias", false, h, 0));
  KAVA_TRY(check_own(d->head, "head", false, d->vocab, h));
  if (d->positions && (d->positions->dims != 2 || d->positions->shape[1] != h))
    KAVA_FAIL(KAVA_MISUSE, "weight positions must be [length, %lld]", (long long)h);
  for (int i = 0; i < d->layers; i++) KAVA_TRY(check_layer(d, i + 1, &d->layer[i]));
out:
  return st;
}

/* *x becomes y: the old reference is dropped; the record keeps what the backward pass needs. */
static void replace(kava_tensor **x, kava_tensor *y) {
  kava_tensor_release(x);
  *x = y;
}

/* A weight as the ops want it: all of its tensor, or a view of the part. */
static kava_status part(const kava_weight *w, kava_tensor **out) {
  if (w->tensor && w->rows)
    return kava_op_narrow(w->tensor, w->transposed && w->tensor->dims == 2, w->first, w->rows, out);
  *out = w->tensor ? kava_tensor_retain(w->tensor) : NULL;
  return KAVA_OK;
}

/* x W^T + bias + residual; residual NULL: none */
static kava_status affine(kava_tensor *x, const kava_weight *weight, const kava_weight *bias, kava_tensor *residual,
                          kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *w = NULL, *b = NULL, *y = NULL, *next;
  KAVA_TRY(part(weight, &w));
  KAVA_TRY(part(bias, &b));
  if (!weight->transposed) {
    KAVA_TRY(residual ? kava_op_linear_added(x, w, b, residual, out) : kava_op_linear(x, w, b, out));
    goto out;
  }
  if (kava_tensor_offloaded(w)) {
    KAVA_TRY(kava_tensor_near(w, &next));
    replace(&w, next);
  }
  KAVA_TRY(kava_op_matmul(x, w, &y));
  if (b) {
    KAVA_TRY(kava_op_add(y, b, &next));
    replace(&y, next);
  }
  if (residual) {
    KAVA_TRY(kava_op_add(residual, y, &next));
    replace(&y, next);
  }
  *out = kava_tensor_retain(y);
out:
  kava_tensor_release(&w);
  kava_tensor_release(&b);
  kava_tensor_release(&y);
  return st;
}

#define JOINED_MOST 3
/* x times several of a layer's matrices as one product, where they lie behind one another or are the rows of one
 * tensor: outs[i] [.., heads_i, ..] or, with heads 0, [.., rows_i]; *done says whether. Only on a GPU: there a few
 * large products are faster than more small ones. gate, of two: *act may be f(outs[0]) outs[1] then, and outs NULL
 * where nothing is recorded. */
static kava_status together(kava_tensor *x, int count, const kava_weight *const *w, const kava_weight *const *b,
                            const int *heads, kava_tensor **const *outs, const kava_activation *gate, kava_tensor **act,
                            bool *done) {
  kava_tensor *ws[JOINED_MOST], *bs[JOINED_MOST], *made[JOINED_MOST] = {NULL};
  kava_part part[JOINED_MOST];
  int64_t next = 0, next_bias = 0, shape[2];
  bool rows = true, biased = b[0]->tensor != NULL;
  *done = false;
  if (x->device == KAVA_CPU) return KAVA_OK;
  for (int i = 0; i < count; i++) {
    if (!w[i]->tensor || w[i]->transposed || (b[i]->tensor != NULL) != biased || !part_shape(w[i], shape))
      return KAVA_OK;
    ws[i] = w[i]->tensor;
    bs[i] = b[i]->tensor;
    part[i] = (kava_part){shape[0], heads[i]};
    rows = rows && w[i]->rows && ws[i] == ws[0] && w[i]->first == next;
    rows = rows && (!biased || (b[i]->rows && bs[i] == bs[0] && b[i]->first == next_bias));
    if (!rows && (w[i]->rows || b[i]->rows)) return KAVA_OK;
    next += w[i]->rows;
    next_bias += b[i]->rows;
  }
  rows = rows && ws[0]->shape[0] == next;
  int tensors = rows ? 1 : count;
  if (!kava_linear_joins(tensors, ws, biased ? bs : NULL)) return KAVA_OK;
  kava_tensor **biases = biased ? bs : NULL;
  kava_status st = gate ? kava_op_linear_gate_up(*gate, x, tensors, ws, biases, part, made, act)
                        : kava_op_linear_joined(x, tensors, ws, biases, count, part, made);
  for (int i = 0; i < count && st == KAVA_OK; i++) *outs[i] = made[i];
  *done = st == KAVA_OK;
  return st;
}

/* A norm's weight as the ops want it. */
static kava_status shifted(const kava_decoder *d, kava_tensor *w, kava_tensor **out) {
  if (w && d->norm_shift != 0) return kava_op_affine(w, 1, d->norm_shift, out);
  *out = kava_tensor_retain(w);
  return KAVA_OK;
}

/* Without a weight: x itself. */
static kava_status norm(const kava_decoder *d, kava_tensor *x, kava_tensor *w, kava_tensor *b, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *own = NULL;
  KAVA_TRY(shifted(d, w, &own));
  if (!own)
    *out = kava_tensor_retain(x);
  else
    st = d->layer_norm ? kava_op_layer_norm(x, own, b, d->norm_eps, out) : kava_op_rms_norm(x, own, d->norm_eps, out);
out:
  kava_tensor_release(&own);
  return st;
}

/* [B,T,hidden] -> [B,T,heads,head_dim], normalised where the family does: all heads at once, or each by itself */
static kava_status project(const kava_decoder *d, kava_tensor *x, const kava_weight *w, const kava_weight *bias,
                           const kava_weight *head_norm, int heads, int head_dim, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL, *next = NULL;
  bool at_once = head_norm && norms_all(head_norm, heads, head_dim);
  KAVA_TRY(affine(x, w, bias, NULL, &y));
  if (at_once) {
    KAVA_TRY(norm(d, y, head_norm->tensor, NULL, &next));
    replace(&y, next);
  }
  KAVA_TRY(kava_op_reshape(y, 4, (int64_t[]){x->shape[0], x->shape[1], heads, head_dim}, &next));
  replace(&y, next);
  if (head_norm && !at_once) {
    KAVA_TRY(norm(d, y, head_norm->tensor, NULL, &next));
    replace(&y, next);
  }
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&y);
  return st;
}

/* Where all layers' keys are rotated, on a GPU, they go side by side into one storage: concatenated, they are a view.
 */
static kava_status keys_side_by_side(const kava_decoder *d, kava_forward *f, const kava_tensor *first) {
  int64_t width = 0, shape[3] = {first->shape[0], first->shape[1]};
  bool fits = first->device != KAVA_CPU;
  for (int i = 0; i < f->layers && fits; i++) {
    int64_t keys = (int64_t)d->layer[i].kv_heads * d->layer[i].head_dim;
    fits =
        d->layer[i].rope && keys * kava_dtype_block_bytes(first->dtype) % 16 == 0; /* as kernels want rows to begin */
    width += keys;
  }
  if (!fits) return KAVA_OK;
  shape[2] = width;
  kava_status st = kava_tensor_new_on(first->device, first->dtype, 3, shape, &f->all_keys);
  if (st == KAVA_OK) f->all_keys->storage->joins = true;
  return st;
}

/* The layer's keys become out_keys (index -1: not wanted), and q, unless NULL, which nobody else knows, *out_q. The
 * angles are made for the first layer that asks for them. */
static kava_status rotate(const kava_decoder *d, const kava_layer *l, kava_forward *f, int index, kava_tensor *q,
                          kava_tensor **out_q) {
  kava_status st = KAVA_OK;
  kava_tensor *k = index < 0 ? NULL : f->out_keys_before[index], **out_k = index < 0 ? NULL : &f->out_keys[index];
  kava_tensor *x = k ? k : q, *into = NULL;
  if (!l->rope) {
    if (k) *out_k = kava_tensor_retain(k);
    if (q) *out_q = kava_tensor_retain(q);
    return KAVA_OK;
  }
  const kava_rope *rope = (f->rope ? f->rope : d->rope) + l->rope - 1;
  kava_angles *angles = &f->angles[l->rope - 1];
  if (!angles->cosine)
    KAVA_TRY(
        kava_rope_angles("rope", f->positions, x->shape[1], rope->inv_freq, rope->scale, x->dtype, x->device, angles));
  if (index == 0) KAVA_TRY(keys_side_by_side(d, f, k));
  if (k && f->all_keys) {
    const int64_t *stride = f->all_keys->stride;
    KAVA_TRY(kava_tensor_view(f->all_keys, 4, k->shape, (int64_t[]){stride[0], stride[1], l->head_dim, 1}, f->next_keys,
                              &into));
    f->next_keys += (int64_t)l->kv_heads * l->head_dim;
  }
  if (k && q)
    st = kava_rotate_both(k, q, angles, into, out_k, out_q);
  else if (k)
    st = into ? kava_rotate_into(k, angles, into, out_k) : kava_op_rotate(k, angles, out_k);
  else
    st = kava_rotate_in_place(q, angles, out_q);
out:
  kava_tensor_release(&into);
  return st;
}

/* A layer's queries, keys and values of one product, where nothing but the rotation comes between it and the attention.
 * Queries stay in its result, whose keys and values are asked for anyway; without a record they would outlive their use
 * so, and have a product of their own. q NULL: not wanted. What is not done here is left NULL. */
static kava_status project_together(const kava_layer *l, kava_forward *f, int index, kava_tensor *h, kava_tensor **q) {
  const kava_weight *w[] = {&l->q, &l->k, &l->v}, *b[] = {&l->q_bias, &l->k_bias, &l->v_bias};
  kava_tensor **outs[] = {q, &f->out_keys_before[index], &f->out_values[index]};
  int heads[] = {l->heads, l->kv_heads, l->kv_heads};
  bool done = false;
  if (l->q_norm.tensor || l->k_norm.tensor) return KAVA_OK;
  bool recorded = q && kava_tape_wanted((kava_tensor *[]){h, l->q.tensor, l->k.tensor, l->v.tensor}, 4);
  kava_status st = recorded ? together(h, 3, w, b, heads, outs, NULL, NULL, &done) : KAVA_OK;
  return done || st != KAVA_OK ? st : together(h, 2, w + 1, b + 1, heads + 1, outs + 1, NULL, NULL, &done);
}

static kava_status activate(kava_activation kind, kava_tensor *x, kava_tensor **out) {
  switch (kind) {
  case KAVA_GELU: return kava_op_gelu(x, out);
  case KAVA_GELU_TANH: return kava_op_gelu_tanh(x, out);
  case KAVA_RELU: return kava_op_relu(x, out);
  default: return kava_op_silu(x, out);
  }
}

/* The MLP from gate and up on, where the device does it in one; else *out stays NULL. */
static kava_status gated_down(const kava_decoder *d, const kava_layer *l, kava_tensor *gate, kava_tensor *up,
                              kava_tensor *residual, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *w = NULL, *b = NULL;
  *out = NULL;
  if (gate->device == KAVA_CPU || l->down.transposed || d->activation == KAVA_RELU) return KAVA_OK;
  KAVA_TRY(part(&l->down, &w));
  KAVA_TRY(part(&l->down_bias, &b));
  KAVA_TRY(kava_linear_gated(d->activation, gate, up, w, b, residual, out));
out:
  kava_tensor_release(&w);
  kava_tensor_release(&b);
  return st;
}

/* MLP(norm(x)) + residual, or its gate and up, where the device has that in one; what it has not stays NULL. */
static kava_status normed_mlp(const kava_decoder *d, const kava_layer *l, kava_tensor *x, kava_tensor *residual,
                              kava_tensor **gate, kava_tensor **up, kava_tensor **out) {
  kava_status st = KAVA_OK;
  const kava_weight *parts[] = {&l->gate, &l->up, &l->down, &l->gate_bias, &l->up_bias, &l->down_bias};
  kava_tensor *own = NULL, *w[6] = {NULL}, *shift = l->mlp_norm_bias.tensor, *made[2] = {NULL};
  *out = NULL;
  if (x->device == KAVA_CPU || !l->mlp_norm.tensor || !l->gate.tensor || l->gate.tensor->dtype != KAVA_FP8 ||
      l->gate.transposed || l->up.transposed || l->down.transposed)
    return KAVA_OK;
  KAVA_TRY(shifted(d, l->mlp_norm.tensor, &own));
  for (int i = 0; i < 6; i++) KAVA_TRY(part(parts[i], &w[i]));
  if (!w[3] && !w[4])
    KAVA_TRY(kava_gated_mlp(d->layer_norm, x, own, shift, d->norm_eps, d->activation, w, w[5], residual, out));
  if (*out) goto out;
  KAVA_TRY(kava_linear_normed(d->layer_norm, x, own, shift, d->norm_eps, 2, w, w + 3, made));
  *gate = made[0];
  *up = made[1];
out:
  kava_tensor_release(&own);
  for (int i = 0; i < 6; i++) kava_tensor_release(&w[i]);
  return st;
}

/* MLP(norm(x)) + residual */
static kava_status mlp(const kava_decoder *d, const kava_layer *l, kava_tensor *x, kava_tensor *residual,
                       kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *h = NULL, *gate = NULL, *up = NULL, *act = NULL;
  KAVA_TRY(normed_mlp(d, l, x, residual, &gate, &up, out));
  if (*out) goto out;
  bool both = gate != NULL;
  if (!both) {
    KAVA_TRY(norm(d, x, l->mlp_norm.tensor, l->mlp_norm_bias.tensor, &h));
    KAVA_TRY(together(h, 2, (const kava_weight *[]){&l->gate, &l->up},
                      (const kava_weight *[]){&l->gate_bias, &l->up_bias}, (int[]){0, 0},
                      (kava_tensor * *[]){&gate, &up}, l->gate.tensor ? &d->activation : NULL, &act, &both));
  }
  if (!both) KAVA_TRY(affine(h, &l->up, &l->up_bias, NULL, &up));
  if (l->gate.tensor) {
    if (!both) KAVA_TRY(affine(h, &l->gate, &l->gate_bias, NULL, &gate));
    if (act) goto down; /* made with the two */
    KAVA_TRY(gated_down(d, l, gate, up, residual, out));
    if (*out) goto out;
    if (d->activation == KAVA_SILU)
      KAVA_TRY(kava_op_swiglu(gate, up, &act));
    else if (d->activation == KAVA_GELU)
      KAVA_TRY(kava_op_geglu(gate, up, &act));
    else if (d->activation == KAVA_GELU_TANH)
      KAVA_TRY(kava_op_geglu_tanh(gate, up, &act));
    else
      KAVA_FAIL(KAVA_UNSUPPORTED, "decoder: a gated MLP with relu");
  } else
    KAVA_TRY(activate(d->activation, up, &act));
down:
  kava_tensor_release(&gate);
  kava_tensor_release(&up);
  KAVA_TRY(affine(act, &l->down, &l->down_bias, residual, out));
out:
  kava_tensor_release(&h);
  kava_tensor_release(&gate);
  kava_tensor_release(&up);
  kava_tensor_release(&act);
  return st;
}

static kava_status attend(const kava_layer *l, kava_tensor *first_keys, kava_tensor *q, kava_tensor *k, kava_tensor *v,
                          kava_tensor *residual, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *o = NULL, *flat = NULL;
  int64_t batch = q->shape[0], length = q->shape[1], window = length > l->window ? l->window : 0;
  KAVA_TRY(kava_op_attention(q, k, v, first_keys, window, l->attention_scale, l->softcap, &o));
  KAVA_TRY(kava_op_reshape(o, 3, (int64_t[]){batch, length, (int64_t)l->heads * l->head_dim}, &flat));
  kava_tensor_release(&o);
  KAVA_TRY(affine(flat, &l->o, &l->o_bias, residual, out));
out:
  kava_tensor_release(&o);
  kava_tensor_release(&flat);
  return st;
}

/* What the last product of attention or MLP adds: the stream x, where nothing comes between the two. Else NULL. */
static kava_tensor *residual_of(const kava_decoder *d, const kava_weight *post_norm, kava_tensor *x) {
  return post_norm->tensor || d->residual_scale != 1 ? NULL : x;
}

/* *x += what attention or MLP gives, *y, which is used up: normalised where the family does, and scaled. It holds the
 * sum already where there is a residual_of. */
static kava_status add_to_stream(const kava_decoder *d, const kava_weight *post_norm, kava_tensor **x,
                                 kava_tensor **y) {
  kava_status st = KAVA_OK;
  kava_tensor *next = NULL;
  if (residual_of(d, post_norm, *x)) {
    replace(x, *y);
    *y = NULL;
    goto out;
  }
  if (post_norm->tensor) {
    KAVA_TRY(norm(d, *y, post_norm->tensor, NULL, &next));
    replace(y, next);
  }
  if (d->residual_scale != 1) {
    KAVA_TRY(kava_op_scale(*y, d->residual_scale, &next));
    replace(y, next);
  }
  KAVA_TRY(kava_op_add(*x, *y, &next));
  replace(x, next);
out:
  kava_tensor_release(y);
  return st;
}

/* *x += MLP(norm(*x)) */
static kava_status add_mlp(const kava_decoder *d, const kava_layer *l, kava_tensor **x) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  KAVA_TRY(mlp(d, l, *x, residual_of(d, &l->post_mlp_norm, *x), &y));
  KAVA_TRY(add_to_stream(d, &l->post_mlp_norm, x, &y));
out:
  kava_tensor_release(&y);
  return st;
}

/* ---- parts of a layer that are computed again in the backward pass ---- */

typedef struct again {
  kava_decoder *d;
  const kava_layer *l;
  kava_angles angles;
  kava_tensor *first_keys;
  kava_dtype precision;
  bool layer;       /* else the MLP alone */
  uint64_t written; /* to the layer's weights, when it first ran */
} again;

static void again_forget(void *context) {
  again *a = context;
  kava_tensor_release(&a->first_keys);
  kava_angles_release(&a->angles);
  kava_decoder_release(&a->d);
  kava_free(a);
}

static uint64_t writes(const kava_layer *l) {
  uint64_t sum = 0;
#define X(name) sum += l->name.tensor ? l->name.tensor->storage->version : 0;
  KAVA_LAYER_WEIGHTS(X)
#undef X
  return sum;
}

/* inputs: x; of a whole layer k and v as well */
static kava_status again_run(void *context, kava_tensor *const *inputs, kava_tensor **out) {
  again *a = context;
  const kava_decoder *d = a->d;
  const kava_layer *l = a->l;
  kava_status st = KAVA_OK;
  kava_forward f = {0};
  kava_tensor *x = kava_tensor_retain(inputs[0]), *h = NULL, *q = NULL, *y = NULL;
  kava_dtype precision = kava_matmul_precision();
  KAVA_TRY(kava_set_matmul_precision(a->precision));
  if (writes(l) != a->written)
    KAVA_FAIL(KAVA_MISUSE, "backward(): a weight of layer %d was written to after the forward pass",
              (int)(l - d->layer) + 1);
  if (a->layer) {
    if (l->rope) f.angles[l->rope - 1] = a->angles; /* borrowed */
    KAVA_TRY(norm(d, x, l->attn_norm.tensor, l->attn_norm_bias.tensor, &h));
    KAVA_TRY(project(d, h, &l->q, &l->q_bias, &l->q_norm, l->heads, l->head_dim, &y));
    KAVA_TRY(rotate(d, l, &f, -1, y, &q));
    kava_tensor_release(&h);
    kava_tensor_release(&y);
    KAVA_TRY(attend(l, a->first_keys, q, inputs[1], inputs[2], residual_of(d, &l->post_attn_norm, x), &y));
    kava_tensor_release(&q);
    KAVA_TRY(add_to_stream(d, &l->post_attn_norm, &x, &y));
  }
  KAVA_TRY(add_mlp(d, l, &x));
  *out = kava_tensor_retain(x);
out:
  kava_set_matmul_precision(precision);
  kava_tensor_release(&x);
  kava_tensor_release(&h);
  kava_tensor_release(&q);
  kava_tensor_release(&y);
  return st;
}

/* What again_run does, in one record. k and v NULL: the MLP alone. */
static kava_status add_again(kava_decoder *d, const kava_layer *l, const kava_forward *f, kava_tensor *k,
                             kava_tensor *v, kava_tensor **x) {
  kava_tensor *inputs[3] = {*x, k, v}, *y = NULL;
  again *a = kava_calloc(1, sizeof *a);
  if (!a) return KAVA_MEMORY;
  d->refs++;
  *a = (again){.d = d,
               .layer = k != NULL,
               .l = l,
               .precision = kava_matmul_precision(),
               .first_keys = kava_tensor_retain(f->first_keys),
               .written = writes(l)};
  if (l->rope) {
    const kava_angles *angles = &f->angles[l->rope - 1];
    a->angles = (kava_angles){kava_tensor_retain(angles->cosine), kava_tensor_retain(angles->sine)};
  }
  kava_status st = kava_tape_rerun(k ? "layer" : "mlp", again_run, again_forget, a, k ? 3 : 1, inputs, &y);
  if (st == KAVA_OK) replace(x, y);
  return st;
}

/* Whether anything of the layer or before it is trained: else nothing is recorded that could be left out. */
static bool trains(const kava_layer *l, const kava_tensor *x) {
  bool any = kava_needs_grad(x);
#define X(name) any = any || kava_needs_grad(l->name.tensor);
  KAVA_LAYER_WEIGHTS(X)
#undef X
  return any && kava_recording();
}

/* One layer. *x becomes the layer's output unless `keys_only`: then it stops after K (and V, Q where asked for). */
static kava_status run_layer(kava_decoder *d, const kava_layer *l, kava_forward *f, int index, bool keys_only,
                             kava_tensor **x) {
  kava_status st = KAVA_OK;
  kava_tensor *h = NULL, *q = NULL, *y = NULL;
  bool less = l->recompute != KAVA_KEEP && !keys_only && trains(l, *x);
  bool layer = less && l->recompute == KAVA_RECOMPUTE_LAYER && !f->queries;
  KAVA_TRY(norm(d, *x, l->attn_norm.tensor, l->attn_norm_bias.tensor, &h));
  if (!keys_only || f->values) KAVA_TRY(project_together(l, f, index, h, layer || keys_only ? NULL : &y));
  if (!f->out_keys_before[index])
    KAVA_TRY(project(d, h, &l->k, &l->k_bias, &l->k_norm, l->kv_heads, l->head_dim, &f->out_keys_before[index]));
  if (!f->out_values[index] && (!keys_only || f->values))
    KAVA_TRY(project(d, h, &l->v, &l->v_bias, NULL, l->kv_heads, l->head_dim, &f->out_values[index]));
  bool queries = !layer && (!keys_only || f->queries);
  if (queries && !y) KAVA_TRY(project(d, h, &l->q, &l->q_bias, &l->q_norm, l->heads, l->head_dim, &y));
  KAVA_TRY(rotate(d, l, f, index, queries ? y : NULL, &q));
  kava_tensor_release(&y);
  if (f->queries) f->out_queries[index] = kava_tensor_retain(q);
  if (layer) {
    kava_tensor_release(&h);
    KAVA_TRY(add_again(d, l, f, f->out_keys[index], f->out_values[index], x));
    goto out;
  }
  if (keys_only) goto out;
  kava_tensor_release(&h);
  KAVA_TRY(attend(l, f->first_keys, q, f->out_keys[index], f->out_values[index], residual_of(d, &l->post_attn_norm, *x),
                  &y));
  kava_tensor_release(&q);
  KAVA_TRY(add_to_stream(d, &l->post_attn_norm, x, &y));
  KAVA_TRY(less ? add_again(d, l, f, NULL, NULL, x) : add_mlp(d, l, x));
out:
  kava_tensor_release(&h);
  kava_tensor_release(&q);
  kava_tensor_release(&y);
  return st;
}

#define LARGE_TABLE ((size_t)64 << 20)
/* A row that is looked up in a mapped file brings its neighbours along, a system with large pages 2 MiB of them: after
 * some hundred rows a vocabulary that is hardly used would all be resident. */
static void forget_rows(const kava_tensor *table) {
  if (!table->requires_grad && table->storage->bytes >= LARGE_TABLE) kava_tensor_forget(table);
}

static kava_status embed(const kava_decoder *d, const kava_forward *f, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *where = NULL, *p = NULL, *y = NULL;
  KAVA_TRY(kava_op_embedding(f->input_ids, d->embed, d->pad_id, &x));
  forget_rows(d->embed);
  if (d->embed_scale != 1) {
    KAVA_TRY(kava_op_scale(x, d->embed_scale, &y));
    replace(&x, y);
  }
  if (d->positions) {
    int64_t batch = x->shape[0], length = x->shape[1];
    if (f->positions)
      where = kava_tensor_retain(f->positions);
    else {
      KAVA_TRY(kava_tensor_new(KAVA_I32, 2, (int64_t[]){batch, length}, &where));
      for (int64_t i = 0; i < batch * length; i++) kava_i32(where)[i] = (int32_t)(i % length);
    }
    for (int64_t i = 0; i < batch * length && where->device == KAVA_CPU; i++)
      if (kava_i32(where)[i] < 0 || kava_i32(where)[i] >= d->positions->shape[0])
        KAVA_FAIL(KAVA_MISUSE, "position %d (row %lld, token %lld): the model has learnt positions 0 to %lld",
                  kava_i32(where)[i], (long long)(i / length + 1), (long long)(i % length + 1),
                  (long long)d->positions->shape[0] - 1);
    KAVA_TRY(kava_op_embedding(where, d->positions, -1, &p));
    KAVA_TRY(kava_op_add(x, p, &y));
    replace(&x, y);
  }
  *out = kava_tensor_retain(x);
out:
  kava_tensor_release(&x);
  kava_tensor_release(&where);
  kava_tensor_release(&p);
  return st;
}

static kava_status logits(const kava_decoder *d, kava_tensor *hidden, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *y = NULL;
  KAVA_TRY(kava_op_linear(hidden, d->head ? d->head : d->embed, NULL, &y));
  if (d->logit_softcap > 0) {
    KAVA_TRY(kava_op_softcap(y, d->logit_softcap, out));
  } else
    *out = kava_tensor_retain(y);
out:
  kava_tensor_release(&y);
  return st;
}

static kava_status check_plane(const kava_tensor *t, const kava_tensor *ids, const char *name) {
  if (!t) return KAVA_OK;
  if (t->dtype != KAVA_I32) return kava_fail(KAVA_MISUSE, "%s: i32 expected, got %s", name, kava_dtype_name(t->dtype));
  if (kava_same_shape(t, ids) && kava_tensor_is_contiguous(t)) return KAVA_OK;
  char came[96], expected[96];
  kava_shape_format(t->dims, t->shape, came, sizeof came);
  kava_shape_format(ids->dims, ids->shape, expected, sizeof expected);
  return kava_fail(KAVA_MISUSE, "%s: contiguous %s expected, as input_ids has it, got %s", name, expected, came);
}

kava_status kava_decoder_forward(kava_decoder *d, kava_forward *f) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *y = NULL, *next = NULL, *ids = f->input_ids;
  if (!ids || ids->dims != 2 || (ids->dtype != KAVA_I64 && ids->dtype != KAVA_I32))
    return kava_fail(KAVA_MISUSE, "input_ids: an i64 or i32 tensor [batch, length] expected, got %s with %d dimensions",
                     ids ? kava_dtype_name(ids->dtype) : "nothing", ids ? ids->dims : 0);
  if (kava_tensor_numel(ids) == 0) return kava_fail(KAVA_MISUSE, "input_ids: it is empty");
  if ((st = check_plane(f->start, ids, "start")) != KAVA_OK) return st;
  if ((st = check_plane(f->positions, ids, "positions")) != KAVA_OK) return st;
  if (f->up_to < 0 || f->up_to > d->layers)
    return kava_fail(KAVA_MISUSE, "up_to: a layer from 1 to %d expected, got %d", d->layers, f->up_to);
  bool whole = f->logits || f->hidden;
  f->layers = whole || f->up_to == 0 ? d->layers : f->up_to;
  f->out_logits = f->out_hidden = f->first_keys = f->all_keys = NULL;
  f->next_keys = 0;
  for (int i = 0; i < KAVA_ROPES; i++) f->angles[i] = (kava_angles){0};
  f->out_keys = kava_calloc((size_t)f->layers * 4, sizeof *f->out_keys); /* one block for the four lists */
  if (!f->out_keys) return KAVA_MEMORY;
  f->out_keys_before = f->out_keys + f->layers;
  f->out_values = f->out_keys + 2 * f->layers;
  f->out_queries = f->out_keys + 3 * f->layers;
  if (f->start) KAVA_TRY(kava_tensor_on(f->start, d->embed->device, &f->first_keys));
  KAVA_TRY(embed(d, f, &x));
  for (int i = 0; i < f->layers; i++) {
    char name[24] = "";
    if (kava_traced) snprintf(name, sizeof name, "layer %d", i + 1);
    int range = kava_range_begin(name);
    st = run_layer(d, &d->layer[i], f, i, !whole && i == f->layers - 1, &x);
    kava_range_end(range);
    KAVA_TRY(st);
  }
  if (whole) {
    KAVA_TRY(norm(d, x, d->norm, d->norm_bias, &y));
    if (d->head_scale != 1) {
      KAVA_TRY(kava_op_scale(y, d->head_scale, &next));
      replace(&y, next);
    }
    if (f->logits) KAVA_TRY(logits(d, y, &f->out_logits));
    if (f->hidden) f->out_hidden = kava_tensor_retain(y);
  }
out:
  kava_tensor_release(&x);
  kava_tensor_release(&y);
  kava_tensor_release(&f->first_keys);
  kava_tensor_release(&f->all_keys);
  for (int i = 0; i < KAVA_ROPES; i++) kava_angles_release(&f->angles[i]);
  if (st != KAVA_OK) kava_forward_release(f);
  return st;
}

void kava_forward_release(kava_forward *f) {
  kava_tensor_release(&f->out_logits);
  kava_tensor_release(&f->out_hidden);
  for (int i = 0; f->out_keys && i < f->layers * 4; i++) kava_tensor_release(&f->out_keys[i]);
  kava_free(f->out_keys);
  f->out_keys = f->out_keys_before = f->out_values = f->out_queries = NULL;
  f->layers = 0;
}

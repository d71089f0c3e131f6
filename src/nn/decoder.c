#include "nn/decoder.h"
#include "ops/activation.h"
#include "ops/attention.h"
#include "ops/elementwise.h"
#include "ops/embedding.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "ops/rope.h"
#include "ops/shape.h"
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
  d->embed_scale = d->rope_scale = 1;
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
  kava_tensor_release(&d->inv_freq);
  for (int i = 0; i < d->layers; i++) {
#define X(name) kava_tensor_release(&d->layer[i].name);
    KAVA_LAYER_WEIGHTS(X)
#undef X
  }
  kava_free(d->layer);
  kava_free(d);
  kava_live_add(-1);
}

/* layer 0: the model's own weights. cols 0: a vector. */
static kava_status check_weight(const kava_tensor *w, int layer, const char *name, bool required, int64_t rows,
                                int64_t cols) {
  char where[32] = "";
  if (layer) snprintf(where, sizeof where, "layer %d: ", layer);
  if (!w) return required ? kava_fail(KAVA_MISUSE, "%sweight %s is missing", where, name) : KAVA_OK;
  int dims = cols ? 2 : 1;
  int64_t want[2] = {rows, cols};
  if (w->dims == dims && w->shape[0] == rows && (!cols || w->shape[1] == cols)) return KAVA_OK;
  char came[96], expected[96];
  kava_shape_format(w->dims, w->shape, came, sizeof came);
  kava_shape_format(dims, want, expected, sizeof expected);
  return kava_fail(KAVA_MISUSE, "%sweight %s is %s, expected %s", where, name, came, expected);
}

static kava_status check_layer(const kava_decoder *d, int number, const kava_layer *l) {
  kava_status st = KAVA_OK;
  int64_t h = d->hidden;
  if (l->heads < 1 || l->kv_heads < 1 || l->head_dim < 1 || l->heads % l->kv_heads != 0)
    return kava_fail(KAVA_MISUSE, "layer %d: heads %d, kv_heads %d, head_dim %d do not fit each other", number,
                     l->heads, l->kv_heads, l->head_dim);
  if (d->inv_freq && d->inv_freq->shape[0] * 2 > l->head_dim)
    return kava_fail(KAVA_MISUSE, "layer %d: %lld rotated dimensions exceed head_dim %d", number,
                     (long long)d->inv_freq->shape[0] * 2, l->head_dim);
  if (!l->up || l->up->dims != 2) return kava_fail(KAVA_MISUSE, "layer %d: weight up is missing", number);
  int64_t q = (int64_t)l->heads * l->head_dim, kv = (int64_t)l->kv_heads * l->head_dim, ffn = l->up->shape[0];
  const struct {
    const kava_tensor *w;
    const char *name;
    bool required;
    int64_t rows, cols;
  } want[] = {
      {l->attn_norm, "attn_norm", true, h, 0},
      {l->attn_norm_bias, "attn_norm_bias", false, h, 0},
      {l->q, "q", true, q, h},
      {l->q_bias, "q_bias", false, q, 0},
      {l->k, "k", true, kv, h},
      {l->k_bias, "k_bias", false, kv, 0},
      {l->v, "v", true, kv, h},
      {l->v_bias, "v_bias", false, kv, 0},
      {l->o, "o", true, h, q},
      {l->o_bias, "o_bias", false, h, 0},
      {l->q_norm, "q_norm", false, l->head_dim, 0},
      {l->k_norm, "k_norm", false, l->head_dim, 0},
      {l->mlp_norm, "mlp_norm", true, h, 0},
      {l->mlp_norm_bias, "mlp_norm_bias", false, h, 0},
      {l->gate, "gate", false, ffn, h},
      {l->gate_bias, "gate_bias", false, ffn, 0},
      {l->up, "up", true, ffn, h},
      {l->up_bias, "up_bias", false, ffn, 0},
      {l->down, "down", true, h, ffn},
      {l->down_bias, "down_bias", false, h, 0},
  };
  for (size_t j = 0; j < sizeof want / sizeof *want; j++)
    KAVA_TRY(check_weight(want[j].w, number, want[j].name, want[j].required, want[j].rows, want[j].cols));
out:
  return st;
}

kava_status kava_decoder_check(const kava_decoder *d) {
  kava_status st = KAVA_OK;
  int64_t h = d->hidden;
  KAVA_TRY(check_weight(d->embed, 0, "embed", true, d->vocab, h));
  KAVA_TRY(check_weight(d->norm, 0, "norm", true, h, 0));
  KAVA_TRY(check_weight(d->norm_bias, 0, "norm_bias", false, h, 0));
  KAVA_TRY(check_weight(d->head, 0, "head", false, d->vocab, h));
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

static kava_status norm(const kava_decoder *d, kava_tensor *x, kava_tensor *w, kava_tensor *b, kava_tensor **out) {
  return d->layer_norm ? kava_op_layer_norm(x, w, b, d->norm_eps, out) : kava_op_rms_norm(x, w, d->norm_eps, out);
}

/* [B,T,hidden] -> [B,T,heads,head_dim], with the per-head norm where the family has one */
static kava_status project(const kava_decoder *d, kava_tensor *x, kava_tensor *w, kava_tensor *bias,
                           kava_tensor *head_norm, int heads, int head_dim, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *flat = NULL, *y = NULL;
  KAVA_TRY(kava_op_linear(x, w, bias, &flat));
  KAVA_TRY(kava_op_reshape(flat, 4, (int64_t[]){x->shape[0], x->shape[1], heads, head_dim}, &y));
  if (head_norm) {
    kava_tensor *normed = NULL;
    KAVA_TRY(kava_op_rms_norm(y, head_norm, d->norm_eps, &normed));
    replace(&y, normed);
  }
  *out = kava_tensor_retain(y);
out:
  kava_tensor_release(&flat);
  kava_tensor_release(&y);
  return st;
}

static kava_status rotate(const kava_decoder *d, const kava_forward *f, kava_tensor *x, kava_tensor **out) {
  if (d->inv_freq) return kava_op_rope(x, f->positions, d->inv_freq, d->rope_scale, out);
  *out = kava_tensor_retain(x);
  return KAVA_OK;
}

static kava_status activate(kava_activation kind, kava_tensor *x, kava_tensor **out) {
  switch (kind) {
  case KAVA_GELU: return kava_op_gelu(x, out);
  case KAVA_GELU_TANH: return kava_op_gelu_tanh(x, out);
  case KAVA_RELU: return kava_op_relu(x, out);
  default: return kava_op_silu(x, out);
  }
}

static kava_status mlp(const kava_decoder *d, const kava_layer *l, kava_tensor *x, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *gate = NULL, *up = NULL, *act = NULL;
  KAVA_TRY(kava_op_linear(x, l->up, l->up_bias, &up));
  if (l->gate) {
    KAVA_TRY(kava_op_linear(x, l->gate, l->gate_bias, &gate));
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
  kava_tensor_release(&gate);
  kava_tensor_release(&up);
  KAVA_TRY(kava_op_linear(act, l->down, l->down_bias, out));
out:
  kava_tensor_release(&gate);
  kava_tensor_release(&up);
  kava_tensor_release(&act);
  return st;
}

/* start for a sliding window: query t sees at most `window` keys */
static kava_status windowed(const kava_forward *f, int window, int64_t batch, int64_t length, kava_tensor **out) {
  kava_status st = kava_tensor_new(KAVA_I32, 2, (int64_t[]){batch, length}, out);
  if (st != KAVA_OK) return st;
  for (int64_t i = 0; i < batch * length; i++) {
    int32_t first = f->start ? kava_i32(f->start)[i] : 0, edge = (int32_t)(i % length - window + 1);
    kava_i32(*out)[i] = first > edge ? first : edge;
  }
  return KAVA_OK;
}

static kava_status attend(const kava_layer *l, const kava_forward *f, int index, kava_tensor *q, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *start = NULL, *o = NULL, *flat = NULL;
  int64_t batch = q->shape[0], length = q->shape[1];
  if (l->window > 0 && length > l->window) KAVA_TRY(windowed(f, l->window, batch, length, &start));
  KAVA_TRY(kava_op_attention(q, f->out_keys[index], f->out_values[index], start ? start : f->start,
                             (float)l->attention_scale, &o));
  KAVA_TRY(kava_op_reshape(o, 3, (int64_t[]){batch, length, (int64_t)l->heads * l->head_dim}, &flat));
  kava_tensor_release(&o);
  KAVA_TRY(kava_op_linear(flat, l->o, l->o_bias, out));
out:
  kava_tensor_release(&start);
  kava_tensor_release(&o);
  kava_tensor_release(&flat);
  return st;
}

/* One layer. *x becomes the layer's output unless `keys_only`: then it stops after K (and V, Q where asked for). */
static kava_status run_layer(const kava_decoder *d, const kava_layer *l, kava_forward *f, int index, bool keys_only,
                             kava_tensor **x) {
  kava_status st = KAVA_OK;
  kava_tensor *h = NULL, *q = NULL, *y = NULL, *sum = NULL;
  KAVA_TRY(norm(d, *x, l->attn_norm, l->attn_norm_bias, &h));
  KAVA_TRY(project(d, h, l->k, l->k_bias, l->k_norm, l->kv_heads, l->head_dim, &f->out_keys_before[index]));
  KAVA_TRY(rotate(d, f, f->out_keys_before[index], &f->out_keys[index]));
  if (!keys_only || f->values)
    KAVA_TRY(project(d, h, l->v, l->v_bias, NULL, l->kv_heads, l->head_dim, &f->out_values[index]));
  if (!keys_only || f->queries) {
    KAVA_TRY(project(d, h, l->q, l->q_bias, l->q_norm, l->heads, l->head_dim, &y));
    KAVA_TRY(rotate(d, f, y, &q));
    kava_tensor_release(&y);
    if (f->queries) f->out_queries[index] = kava_tensor_retain(q);
  }
  if (keys_only) goto out;
  kava_tensor_release(&h);
  KAVA_TRY(attend(l, f, index, q, &y));
  kava_tensor_release(&q);
  KAVA_TRY(kava_op_add(*x, y, &sum));
  replace(x, sum);
  kava_tensor_release(&y);
  KAVA_TRY(norm(d, *x, l->mlp_norm, l->mlp_norm_bias, &h));
  KAVA_TRY(mlp(d, l, h, &y));
  KAVA_TRY(kava_op_add(*x, y, &sum));
  replace(x, sum);
out:
  kava_tensor_release(&h);
  kava_tensor_release(&q);
  kava_tensor_release(&y);
  return st;
}

static kava_status embed(const kava_decoder *d, const kava_forward *f, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *x = NULL, *where = NULL, *p = NULL, *y = NULL;
  KAVA_TRY(kava_op_embedding(f->input_ids, d->embed, &x));
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
    KAVA_TRY(kava_op_embedding(where, d->positions, &p));
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
  kava_tensor *x = NULL, *y = NULL, *ids = f->input_ids;
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
  f->out_logits = f->out_hidden = NULL;
  f->out_keys = kava_calloc((size_t)f->layers * 4, sizeof *f->out_keys); /* one block for the four lists */
  if (!f->out_keys) return KAVA_MEMORY;
  f->out_keys_before = f->out_keys + f->layers;
  f->out_values = f->out_keys + 2 * f->layers;
  f->out_queries = f->out_keys + 3 * f->layers;
  KAVA_TRY(embed(d, f, &x));
  for (int i = 0; i < f->layers; i++) KAVA_TRY(run_layer(d, &d->layer[i], f, i, !whole && i == f->layers - 1, &x));
  if (whole) {
    KAVA_TRY(norm(d, x, d->norm, d->norm_bias, &y));
    if (f->logits) KAVA_TRY(kava_op_linear(y, d->head ? d->head : d->embed, NULL, &f->out_logits));
    if (f->hidden) f->out_hidden = kava_tensor_retain(y);
  }
out:
  kava_tensor_release(&x);
  kava_tensor_release(&y);
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

/* nn/embed: decoders for C programs: the part of kava.h that stands on nn/decoder. */
#include "nn/decoder.h"
#include "tape/tape.h"
#include <math.h>
#include <string.h>

kava_status kava_decoder_build(const kava_decoder_spec *spec, kava_decoder **out) {
  kava_status st = KAVA_OK;
  kava_decoder *d = NULL;
  if (spec->hidden < 1 || spec->vocab < 1 || spec->heads < 1 || spec->kv_heads < 1 || spec->head_dim < 2 ||
      spec->head_dim % 2 != 0 || spec->heads % spec->kv_heads != 0)
    return kava_fail(KAVA_MISUSE, "spec: hidden %d, vocab %d, heads %d, kv_heads %d, head_dim %d do not make a decoder",
                     spec->hidden, spec->vocab, spec->heads, spec->kv_heads, spec->head_dim);
  if (!(spec->norm_eps > 0) || !(spec->rope_theta > 0))
    return kava_fail(KAVA_MISUSE, "spec: norm_eps and rope_theta must be positive, got %g and %g", spec->norm_eps,
                     spec->rope_theta);
  KAVA_TRY(kava_decoder_new(spec->layers, &d));
  d->hidden = spec->hidden;
  d->vocab = spec->vocab;
  d->norm_eps = spec->norm_eps;
  d->activation = KAVA_SILU;
  int half = spec->head_dim / 2;
  KAVA_TRY(kava_tensor_new(KAVA_F32, 1, (int64_t[]){half}, &d->rope[0].inv_freq));
  d->rope[0].scale = 1;
  d->ropes = 1;
  for (int i = 0; i < half; i++)
    kava_f32(d->rope[0].inv_freq)[i] = (float)pow(spec->rope_theta, -2.0 * i / spec->head_dim);
  for (int i = 0; i < d->layers; i++) {
    d->layer[i].heads = spec->heads;
    d->layer[i].kv_heads = spec->kv_heads;
    d->layer[i].head_dim = spec->head_dim;
    d->layer[i].rope = 1;
    d->layer[i].attention_scale = 1 / sqrt(spec->head_dim);
  }
  *out = d;
  d = NULL;
out:
  kava_decoder_release(&d);
  return st;
}

kava_status kava_decoder_set(kava_decoder *d, int layer, const char *name, kava_tensor *weight) {
  if (layer < -1 || layer >= d->layers)
    return kava_fail(KAVA_MISUSE, "layer: -1 (the model's own) to %d expected, got %d", d->layers - 1, layer);
  kava_tensor **slot = NULL;
#define X(field)                                                                                                       \
  if (strcmp(name, #field) == 0) slot = &d->layer[layer].field.tensor;
  if (layer >= 0) { KAVA_LAYER_WEIGHTS(X) }
#undef X
#define X(field)                                                                                                       \
  if (strcmp(name, #field) == 0) slot = &d->field;
  if (layer < 0) { KAVA_MODEL_WEIGHTS(X) }
#undef X
  if (!slot) return kava_fail(KAVA_MISUSE, "%s is no weight of %s", name, layer < 0 ? "the model" : "a layer");
  kava_tensor *old = *slot;
  *slot = kava_tensor_retain(weight);
  kava_tensor_release(&old);
  return KAVA_OK;
}

kava_status kava_decoder_run(kava_decoder *d, kava_tensor *ids, kava_tensor **keys, kava_tensor **values,
                             kava_tensor **logits) {
  kava_status st = KAVA_OK;
  kava_forward f = {.input_ids = ids, .logits = logits != NULL, .values = values != NULL};
  KAVA_TRY(kava_decoder_check(d));
  kava_no_grad(+1);
  st = kava_decoder_forward(d, &f);
  kava_no_grad(-1);
  if (st != KAVA_OK) return st;
  for (int i = 0; i < f.layers; i++) {
    if (keys) keys[i] = kava_tensor_retain(f.out_keys[i]);
    if (values) values[i] = kava_tensor_retain(f.out_values[i]);
  }
  if (logits) *logits = kava_tensor_retain(f.out_logits);
  kava_forward_release(&f);
out:
  return st;
}

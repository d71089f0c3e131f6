/* spec/fuzz/quantised: parts of a weight as some file might give them, of any sizes: what kava_coded_new takes can be
 * widened, whole, in part, and as a linear layer's weight. Input: sizes and types in a few bytes, then the parts' own.
 */
#include "formats/quantised.h"
#include "ops/cast.h"
#include "ops/linear.h"
#include "ops/shape.h"
#include "tensor/coded.h"
#include <stdlib.h>
#include <string.h>

typedef struct source {
  const uint8_t *data;
  size_t size;
} source;

static int take(source *s) { return s->size ? (s->size--, *s->data++) : 0; }

/* A tensor of up to 300 elements, or NULL; its bytes are the input's, then zeros. */
static kava_tensor *part(source *s, kava_dtype dtype, bool may_lack) {
  int kind = take(s);
  if (may_lack && kind % 3 == 0) return NULL;
  int64_t shape[2] = {take(s) % 20, take(s) % 16};
  kava_tensor *t = NULL;
  if (kava_tensor_zeros(dtype, kind % 2 + 1, shape, &t) != KAVA_OK) return NULL;
  size_t n = t->storage->bytes < s->size ? t->storage->bytes : s->size;
  if (n) memcpy(t->storage->data, s->data, n);
  s->data += n;
  s->size -= n;
  return t;
}

static void use(kava_tensor *w) {
  kava_tensor *wide = NULL, *cut = NULL, *x = NULL, *y = NULL;
  if (kava_contiguous_as(w, KAVA_F32, &wide) != KAVA_OK) abort();
  if (w->shape[0] > 1 && kava_op_narrow(w, 0, 1, w->shape[0] - 1, &cut) != KAVA_OK) abort();
  if (kava_tensor_zeros(KAVA_F32, 2, (int64_t[]){w->shape[1] % 2 ? 1 : 9, w->shape[1]}, &x) != KAVA_OK) abort();
  if (kava_op_linear(x, cut ? cut : w, NULL, &y) != KAVA_OK) abort();
  kava_tensor_release(&wide);
  kava_tensor_release(&cut);
  kava_tensor_release(&x);
  kava_tensor_release(&y);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static const kava_dtype scale_types[] = {KAVA_F32, KAVA_F16, KAVA_BF16, KAVA_U8, KAVA_I32};
  source s = {data, size};
  kava_tensor *w = NULL, *codes = NULL;
  kava_coded p = {.dtype = (kava_dtype)(KAVA_NF4 + take(&s) % 9),
                  .rows = take(&s) % 12 - 1,
                  .columns = take(&s) % 80,
                  .group = take(&s) % 40 - 1,
                  .group_rows = take(&s) % 5,
                  .flat = take(&s) % 2,
                  .outer_group = take(&s) % 6,
                  .offset = take(&s),
                  .round = scale_types[take(&s) % 5]};
  int types = take(&s);
  kava_tensor *parts[] = {part(&s, scale_types[types % 5], false), part(&s, types & 8 ? KAVA_U8 : KAVA_I8, true),
                          part(&s, KAVA_I32, true), part(&s, KAVA_F32, true), part(&s, KAVA_F32, true)};
  p.scales = parts[0];
  p.zeros = parts[1];
  p.group_of = parts[2];
  p.map = parts[3];
  p.outer = parts[4];
  if (types & 16) { /* as many bytes of codes as there should be: the way to the kernels */
    int64_t bytes = p.rows > 0 && p.dtype < KAVA_DTYPES
                        ? p.rows * p.columns / kava_dtype_block(p.dtype) * kava_dtype_block_bytes(p.dtype)
                        : 0;
    if (kava_tensor_zeros(KAVA_U8, 1, &bytes, &codes) != KAVA_OK) abort();
  } else
    codes = part(&s, KAVA_U8, false);
  p.codes = codes;
  if (codes && kava_coded_new(&p, &w) == KAVA_OK) use(w);
  kava_tensor_release(&w);
  kava_tensor_release(&codes);
  for (int i = 0; i < 5; i++) kava_tensor_release(&parts[i]);

  kava_tensor *words = part(&s, KAVA_I32, false), *out = NULL;
  if (words && kava_unpack_words(words, take(&s) % 10, take(&s) - 2, take(&s), take(&s) % 2, &out) == KAVA_OK)
    kava_tensor_release(&out);
  if (words && kava_awq_rows(words, &out) == KAVA_OK) kava_tensor_release(&out);
  kava_tensor_release(&words);
  if (kava_live() != 0) abort();
  return 0;
}

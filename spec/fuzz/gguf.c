/* spec/fuzz/gguf: every value can be read through every accessor, every tensor that is handed out can be widened. */
#include "formats/gguf.h"
#include "kernels/kernels.h"
#include "spec/fuzz/file.h"

static volatile char sink; /* what is read is not optimised away */

static void read_value(const kava_gguf_value *v) {
  const char *text;
  size_t length, at = 0;
  int64_t integer;
  double number;
  char sum = 0;
  while (kava_gguf_next_string(v, &at, &text, &length))
    for (size_t k = 0; k < length; k++) sum ^= text[k];
  for (uint64_t i = 0; i <= v->count; i++) {
    kava_gguf_integer(v, i, &integer);
    kava_gguf_number(v, i, &number);
  }
  sink = sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *path = fuzz_file(data, size);
  kava_gguf *g = NULL;
  if (kava_gguf_open(path, &g) == KAVA_OK) {
    for (int64_t i = 0; i < g->value_count; i++) {
      if (kava_gguf_find(g, g->values[i].key) != &g->values[i]) abort();
      read_value(&g->values[i]);
    }
    for (int64_t i = 0; i < g->tensor_count; i++) {
      kava_tensor *t = NULL, *wide = NULL;
      if (kava_gguf_find_tensor(g, g->tensors[i].name) != &g->tensors[i]) abort();
      if (kava_gguf_tensor_load(g, &g->tensors[i], &t) != KAVA_OK) continue;
      if (kava_dtype_is_float(t->dtype) || kava_dtype_is_quantised(t->dtype)) {
        if (kava_tensor_empty_like(t, KAVA_F32, &wide) != KAVA_OK) abort();
        kava_kernels_cpu()->widen(t->dtype, kava_tensor_data(t), kava_f32(wide), kava_tensor_numel(t));
      }
      kava_tensor_release(&wide);
      kava_tensor_release(&t);
    }
    kava_gguf_release(&g);
  }
  return 0;
}

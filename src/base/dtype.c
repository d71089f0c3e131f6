/* base/dtype: what is known of each element type (kava.h). Pure functions: a device's module has them, too. */
#include "kava.h"
#include <string.h>

static const struct {
  const char *name;
  int block, bytes;
} types[KAVA_DTYPES] = {
    [KAVA_F64] = {"f64", 1, 8},           [KAVA_F32] = {"f32", 1, 4},       [KAVA_F16] = {"f16", 1, 2},
    [KAVA_BF16] = {"bf16", 1, 2},         [KAVA_I64] = {"i64", 1, 8},       [KAVA_I32] = {"i32", 1, 4},
    [KAVA_I16] = {"i16", 1, 2},           [KAVA_I8] = {"i8", 1, 1},         [KAVA_U8] = {"u8", 1, 1},
    [KAVA_BOOL] = {"bool", 1, 1},         [KAVA_Q4_0] = {"q4_0", 32, 18},   [KAVA_Q4_1] = {"q4_1", 32, 20},
    [KAVA_Q5_0] = {"q5_0", 32, 22},       [KAVA_Q5_1] = {"q5_1", 32, 24},   [KAVA_Q8_0] = {"q8_0", 32, 34},
    [KAVA_Q2_K] = {"q2_k", 256, 84},      [KAVA_Q3_K] = {"q3_k", 256, 110}, [KAVA_Q4_K] = {"q4_k", 256, 144},
    [KAVA_Q5_K] = {"q5_k", 256, 176},     [KAVA_Q6_K] = {"q6_k", 256, 210}, [KAVA_IQ4_NL] = {"iq4_nl", 32, 18},
    [KAVA_IQ4_XS] = {"iq4_xs", 256, 136}, [KAVA_NF4] = {"nf4", 2, 1},       [KAVA_FP4] = {"fp4", 2, 1},
    [KAVA_INT2] = {"int2", 4, 1},         [KAVA_INT3] = {"int3", 8, 3},     [KAVA_INT4] = {"int4", 2, 1},
    [KAVA_UINT8] = {"uint8", 1, 1},       [KAVA_INT8] = {"int8", 1, 1},     [KAVA_FP8] = {"fp8", 1, 1},
};

const char *kava_dtype_name(kava_dtype dtype) { return (unsigned)dtype < KAVA_DTYPES ? types[dtype].name : "?"; }
bool kava_dtype_parse(const char *name, kava_dtype *out) {
  for (int i = 0; i < KAVA_DTYPES; i++) {
    if (strcmp(types[i].name, name) == 0) {
      *out = (kava_dtype)i;
      return true;
    }
  }
  return false;
}
bool kava_dtype_is_float(kava_dtype dtype) { return dtype <= KAVA_BF16; }
bool kava_dtype_is_quantised(kava_dtype dtype) { return dtype >= KAVA_Q4_0; }
int kava_dtype_block(kava_dtype dtype) { return types[dtype].block; }
int kava_dtype_block_bytes(kava_dtype dtype) { return types[dtype].bytes; }

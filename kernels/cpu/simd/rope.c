/* kernels/cpu/simd/rope.c: rotary position embedding. Mathematics: kernels/args.h. */
#include "kernels/cpu/simd/vec.h"
#include "base/threads.h"
#include "kernels/cpu/reference.h"

static void rope_tokens(void *ctx, int64_t begin, int64_t end) {
  const kava_rope_args *a = ctx;
  int64_t half = a->rotated / 2;
  float sign = a->inverse ? -1.0f : 1.0f;
  vf signs = vf_set(sign);
  int64_t heads = a->heads, table = 0;
  for (int64_t row = begin * heads; row < end * heads; row++) {
    if (row % heads == 0) table = row / heads % a->period * half;
    int64_t i = 0;
    const float *c = (const float *)a->cosine + table, *s = (const float *)a->sine + table;
    const float *x = (const float *)a->x + row * a->dim, *z = x + half;
    float *y = (float *)a->y + row * a->dim, *u = y + half;
    for (; i + VF_LANES <= half; i += VF_LANES) {
      vf cosine = vf_load(c + i), sine = vf_mul(signs, vf_load(s + i)), first = vf_load(x + i), second = vf_load(z + i);
      vf p = vf_sub(vf_mul(first, cosine), vf_mul(second, sine)), q = vf_fma(first, sine, vf_mul(second, cosine));
      vf_store(y + i, a->add ? vf_add(vf_load(y + i), p) : p);
      vf_store(u + i, a->add ? vf_add(vf_load(u + i), q) : q);
    }
    for (; i < half; i++) {
      float p = x[i] * c[i] - z[i] * sign * s[i], q = z[i] * c[i] + x[i] * sign * s[i];
      y[i] = a->add ? y[i] + p : p;
      u[i] = a->add ? u[i] + q : q;
    }
    for (i = 2 * half; i < a->dim; i++) y[i] = a->add ? y[i] + x[i] : x[i];
  }
}

static void rope(const kava_rope_args *a) {
  if (a->dtype == KAVA_F64)
    kava_ref_rope(a);
  else
    kava_parallel(a->tokens, 8192 / (a->heads * a->dim) + 1, rope_tokens, (void *)a);
}

void KAVA_SIMD(rope)(kava_kernels *table);
void KAVA_SIMD(rope)(kava_kernels *table) { table->rope = rope; }

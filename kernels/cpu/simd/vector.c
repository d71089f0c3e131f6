/* kernels/cpu/simd/vector.c: y = a*x (+ y). */
#include "kernels/cpu/simd/vec.h"
#include "base/threads.h"
#include "kernels/cpu/reference.h"

typedef struct axpy_job {
  float a;
  const float *x;
  float *y;
  bool add;
} axpy_job;

static void axpy_range(void *ctx, int64_t begin, int64_t end) {
  const axpy_job *job = ctx;
  vf a = vf_set(job->a);
  int64_t i = begin;
  for (; i + VF_LANES <= end; i += VF_LANES) {
    vf x = vf_load(job->x + i);
    vf_store(job->y + i, job->add ? vf_fma(a, x, vf_load(job->y + i)) : vf_mul(a, x));
  }
  if (i < end) {
    vf x = vf_load_n(job->x + i, end - i);
    vf_store_n(job->y + i, job->add ? vf_fma(a, x, vf_load_n(job->y + i, end - i)) : vf_mul(a, x), end - i);
  }
}

static void axpy(float a, const float *x, float *y, int64_t count, bool add) {
  axpy_job job = {a, x, y, add};
  kava_parallel(count, 1 << 15, axpy_range, &job);
}

static void accumulate(kava_dtype dtype, const void *x, void *y, int64_t count) {
  if (dtype == KAVA_F64)
    kava_ref_accumulate(dtype, x, y, count);
  else
    axpy(1, x, y, count, true);
}

void KAVA_SIMD(vector)(kava_kernels *table);
void KAVA_SIMD(vector)(kava_kernels *table) {
  table->axpy = axpy;
  table->accumulate = accumulate;
}

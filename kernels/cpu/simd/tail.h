/* kernels/cpu/simd/tail.h: whole vectors by the plain instructions, the last partial one by its first n lanes. */
#ifndef KAVA_SIMD_TAIL_H
#define KAVA_SIMD_TAIL_H
#include "kernels/cpu/simd/vec.h"

static inline vf vf_load_to(const float *p, int64_t n) { return n >= VF_LANES ? vf_load(p) : vf_load_n(p, n); }
static inline void vf_store_to(float *p, vf v, int64_t n) {
  if (n >= VF_LANES)
    vf_store(p, v);
  else
    vf_store_n(p, v, n);
}
#endif

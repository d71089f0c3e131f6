/* kernels/cpu/element.h: how the plain references read and write buffers that may be f32 or f64: in double, one at a
 * time. */
#ifndef KAVA_CPU_ELEMENT_H
#define KAVA_CPU_ELEMENT_H
#include "kernels/args.h"

static inline double element_get(kava_dtype dtype, const void *data, int64_t i) {
  return dtype == KAVA_F64 ? ((const double *)data)[i] : (double)((const float *)data)[i];
}
static inline void element_put(kava_dtype dtype, void *data, int64_t i, double value, bool add) {
  if (dtype == KAVA_F64) {
    double *at = (double *)data + i;
    *at = add ? *at + value : value;
  } else {
    float *at = (float *)data + i;
    *at = add ? *at + (float)value : (float)value;
  }
}
/* The args with what multiplies their scales in them. */
static inline kava_logits_args logits_scaled(const kava_logits_args *a) {
  kava_logits_args b = *a;
  double counted = a->counted ? *a->counted : 1;
  b.ce_scale = a->ce_scale * (a->ce_by ? element_get(a->dtype, a->ce_by, 0) : 1) / counted;
  b.kl_scale = a->kl_scale * (a->kl_by ? element_get(a->dtype, a->kl_by, 0) : 1) / counted;
  b.ce_by = b.kl_by = NULL;
  b.counted = NULL;
  return b;
}
#endif

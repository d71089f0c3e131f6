/* kernels/cpu/vector.c: the plain reference of the vector family. */
#include "kernels/cpu/reference.h"

void kava_ref_axpy(float a, const float *x, float *y, int64_t count, bool add) {
  for (int64_t i = 0; i < count; i++) y[i] = add ? y[i] + a * x[i] : a * x[i];
}

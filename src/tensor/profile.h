/* tensor/profile: what ran when. Between _begin and _end are kept: the ops' kernels by the host's clock (KAVA_RUN), the
 * ranges that somebody named (a layer, "backward"), and what a GPU did by its own (kernels/device.h). On the CPU a
 * kernel has run when its call returns; on a GPU it has been enqueued. One thread, the one that began; off, all of it
 * costs a test of a flag. */
#ifndef KAVA_TENSOR_PROFILE_H
#define KAVA_TENSOR_PROFILE_H
#include "tensor/device.h"

/* KAVA_MISUSE: one is being taken. The GPU is in it where it has been opened by then. */
kava_status kava_profile_begin(void);
bool kava_profiling(void);

typedef struct kava_profile {
  const kava_timespan *ops, *ranges, *kernels; /* by their starts; a range holds those that begin before it ends */
  size_t op_count, range_count, kernel_count;
  const char *source; /* who timed the kernels; NULL: there is no GPU in it, and ops are all there is */
  double length;      /* microseconds from begin to end */
} kava_profile;
/* Waits for the GPU. *out is good until the next begin. */
kava_status kava_profile_end(kava_profile *out);

/* A named part of the work, for the profile and for NVTX, in which profilers see every op as well. The name is copied.
 * Returns what _end wants, 0 where nobody looks. Ranges nest: an end ends those begun since, too; after the profile's
 * end it does nothing. */
int kava_range_begin(const char *name);
static inline void kava_range_end(int range) { kava_span_end(range); }
#endif

/* tensor/snapshot: a state on a GPU as it is now, copied on the GPU itself, so that what comes next may change it: some
 * milliseconds for gigabytes, where the way to the host takes 30 times as long (scripts/bench/RESULTS.md). */
#ifndef KAVA_TENSOR_SNAPSHOT_H
#define KAVA_TENSOR_SNAPSHOT_H
#include "tensor/tensor.h"

/* Copies of tensors on a GPU, contiguous and not of codes, in the memory of *room (bytes there; NULL, or too small: it
 * is made anew, to last), which nobody reads any more. Each copy holds the room; on failure there is none. What lies
 * side by side is copied at once: an optimizer's state is thousands of tensors in some tens of chunks. */
kava_status kava_snapshot(int64_t count, kava_tensor *const *tensors, kava_tensor **room, kava_tensor **copies);
#endif

/* kernels/cuda/emulated/emulated.h: what threads.cpp (the device's side) and runtime.cpp (the host's) share. */
#ifndef KAVA_EMULATED_H
#define KAVA_EMULATED_H
#include <cuda_runtime.h>

namespace kava_emulated {
cudaError_t check_grid(const char *name, dim3 grid, dim3 block, size_t shared);
/* most: bytes of shared memory a block may have, static ones among them */
void run_grid(const char *name, dim3 grid, dim3 block, size_t shared, size_t most, const std::function<void()> &body);

/* Opens device memory for the time of `work`, which is what a stream's next entry does, or records it where the stream
 * is being captured. Returns its error (recorded: success). */
cudaError_t on_stream(cudaStream_t stream, std::function<cudaError_t()> work);
/* Does the work, and keeps a record of it where somebody watches (activity.cuh). */
cudaError_t watched(const char *name, const std::function<cudaError_t()> &work);
/* Whether [p, p + bytes) is device memory; it dies where only a part of it is. */
bool on_device(const void *p, size_t bytes);
} // namespace kava_emulated
#endif

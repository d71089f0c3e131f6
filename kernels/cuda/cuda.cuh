/* kernels/cuda/cuda.cuh: the contract between the kernels (kernels/cuda/<family>.cu) and what runs them.
 *
 * A kernel of kernels.def is `extern "C" kava_cuda_<name>`, with the same arguments as everywhere; buffers are device
 * pointers, structs and arrays of descriptors lie on the host. It enqueues on kava_cuda_stream() and returns: it never
 * waits, never reads a device value, never allocates but through kava_cuda_scratch, so that a step can be captured as a
 * graph. What it cannot do (a type that it has no code for) it reports by kava_cuda_unsupported. A launch that fails is
 * kept by kava_cuda_failed and comes to light at the next synchronisation, with the kernel's name.
 *
 * The same sources are compiled twice: by nvcc with native/ on the include path, and by a C++ compiler with emulated/.
 * Nothing in a family asks which. */
#ifndef KAVA_CUDA_CUH
#define KAVA_CUDA_CUH
#include <cuda_runtime.h>
#include <machine.cuh>
extern "C" {
#include "kernels/kernels.h"
}

/* The stream that work goes to now, made when first asked for. There are two lanes: all goes to the first, but what is
 * done aside (module.cu). */
#define KAVA_CUDA_LANES 2
cudaStream_t kava_cuda_stream(void);
cudaStream_t kava_cuda_stream_of(int lane);
int kava_cuda_lane(void);
void kava_cuda_set_lane(int lane);
/* Keeps a launch's name: the last ones are told where a kernel fails, which a GPU says only later. */
void kava_cuda_launching(const char *name);
/* Keeps the first failure. */
void kava_cuda_failed(const char *name, cudaError_t error);
/* The first failure's kernel and error, which are forgotten by it; NULL: there is none. */
const char *kava_cuda_failure(cudaError_t *error);
/* The names of the last launches, the latest first, each once, with commas. */
void kava_cuda_launched(char *names, size_t size);
/* What the table's caller gets to see as KAVA_UNSUPPORTED: "<kernel>: no code for <dtype>". Returns that. */
kava_status kava_cuda_unsupported(const char *kernel, kava_dtype dtype);

/* Device memory for the launches of one call, a lane's own: the next call's may overwrite it, in the stream's order. It
 * grows by doubling, and what was outgrown stays, since a captured graph may hold it. NULL: out of memory (kept as a
 * failure).
 */
void *kava_cuda_scratch(size_t bytes);

typedef struct kava_cuda_facts {
  int multiprocessors, major, minor;
  size_t shared_most; /* bytes of shared memory a block may have */
} kava_cuda_facts;
const kava_cuda_facts *kava_cuda_device(void);

/* `count` elements of a quantised (or float) matrix as `to` (f32, bf16 or f16), dst at a multiple of 16 bytes. src
 * holds whole blocks; with a scaling they begin at (row, column) of its matrix, whose rows have `columns` elements, and
 * go on over the ends of rows: a layer's weight in one launch. */
kava_status kava_cuda_widen_matrix(kava_dtype type, const void *src, const kava_scaling *scaling, int64_t row,
                                   int64_t column, int64_t columns, int64_t count, kava_dtype to, void *dst);

/* NULL entries: kernels that are not there. */
extern "C" const kava_kernels *kava_cuda_kernels(void);

/* Blocks for `count` items of which one takes `each`: enough to fill the chip a few times over, no more. For kernels
 * whose threads go on by the grid's size. */
static inline unsigned kava_cuda_blocks(int64_t count, int64_t each) {
  int64_t blocks = (count + each - 1) / each, most = (int64_t)kava_cuda_device()->multiprocessors * 16;
  return (unsigned)(blocks < most ? blocks > 0 ? blocks : 1 : most);
}
#endif

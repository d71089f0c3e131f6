/* kernels/cuda/parts.cuh: sums of columns that blocks made of their own rows, added up in a fixed order. */
#ifndef KAVA_CUDA_PARTS_CUH
#define KAVA_CUDA_PARTS_CUH
#include "kernels/cuda/element.cuh"

/* first[i] (+)= the sum over p < count of parts[p step + i]; second[i], of another row of blocks, that of
 * parts[p step + width + i]. Either may be NULL. The parts are many, the columns few: 32 warps take every 32nd part of
 * 32 columns, then a warp adds those of one column. */
template <class F>
static __global__ void __launch_bounds__(1024)
    kava_parts_kernel(const F *parts, int count, int64_t step, int width, F *first, F *second, bool add) {
  F *to = blockIdx.y ? second : first;
  KAVA_SHARED(F, room, 32 * 33);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
  F sum = 0;
  if (to && column < width)
    for (int p = warp; p < count; p += 32) sum += parts[p * step + (int64_t)blockIdx.y * width + column];
  room[warp * 33 + lane] = sum;
  __syncthreads();
  column = blockIdx.x * 32 + warp;
  sum = kava_warp_sum(room[lane * 33 + warp]);
  if (lane == 0 && to && column < width) to[column] = add ? to[column] + sum : sum;
}
template <class F>
void kava_add_parts(const char *name, const F *parts, int64_t count, int64_t step, int64_t width, void *first,
                    void *second, bool add) {
  kava_launch(name, kava_parts_kernel<F>, dim3((unsigned)((width + 31) / 32), second ? 2 : 1), 1024, 0, parts,
              (int)count, step, (int)width, (F *)first, (F *)second, add);
}
#endif

/* kernels/cuda/product_hopper.cuh: what the products of product_hopper.cu and product_back_hopper.cu share. */
#ifndef KAVA_CUDA_PRODUCT_HOPPER_CUH
#define KAVA_CUDA_PRODUCT_HOPPER_CUH
#include "kernels/cuda/element.cuh"
#include <bulk.cuh>

namespace {
/* What blocks share out among themselves: the tiles of a result, m_block rows of tiles at a time, so that their left
 * operands stay in the L2 cache; in these, column by column. */
struct tiling {
  int m_tiles, n_tiles, m_block;
};

#ifdef KAVA_WGMMA
/* Dynamic shared memory from a multiple of 1024 bytes on; launchers ask for 1024 more than is used. */
__device__ __forceinline__ kava_bf16 *tiles_begin() {
  char *at = (char *)kava_dynamic_shared();
  return (kava_bf16 *)(at + (0u - (unsigned)(uintptr_t)at) % 1024);
}
__device__ __forceinline__ void place(const tiling &a, int t, int *m, int *n) {
  int each = a.m_block * a.n_tiles, block = t / each, rest = t - block * each;
  int high = min(a.m_block, a.m_tiles - block * a.m_block);
  *n = rest / high;
  *m = block * a.m_block + rest % high;
}

__device__ __forceinline__ float low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }
#endif
} // namespace
#endif

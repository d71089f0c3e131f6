/* kernels/cuda/emulated/machine.cuh: what native/machine.cuh gives, in plain C++. Which of the two a source gets is the
 * include path's choice. */
#ifndef KAVA_MACHINE_CUH
#define KAVA_MACHINE_CUH
#include "kernels/cuda/timed.cuh"
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include "kernels/cpu/half.h"
#include <tuple>

cudaStream_t kava_cuda_stream(void);
void kava_cuda_launching(const char *name);
void kava_cuda_failed(const char *name, cudaError_t error);

/* 0: every block is an allocation, with guards of its own; KAVA_CUDA_TROUBLE says otherwise where memory is counted. */
#define KAVA_MEMORY_CHUNK (kava_emulated::chunk())
#define KAVA_SHARED(type, name, count)                                                                                 \
  static const char name##_key = 0;                                                                                    \
  type *const name = static_cast<type *>(kava_emulated::static_shared(&name##_key, sizeof(type) * (count)))
static inline void *kava_dynamic_shared() { return kava_emulated::dynamic_shared(); }

template <class V> void kava_emulated_check(const char *name, V &value) {
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(&value); /* where a stale address may lie */
  kava_emulated::check_argument(name, &value, sizeof value);
#endif
}
template <class... P, class... A>
void kava_launch(const char *name, void (*kernel)(P...), dim3 grid, dim3 block, size_t shared, A... arguments) {
  std::tuple<P...> values(static_cast<P>(arguments)...);
  std::apply([&](auto... value) { (kava_emulated_check(name, value), ...); }, values);
  const void *key = reinterpret_cast<const void *>(kernel);
  if (shared) cudaFuncSetAttribute(key, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared);
  kava_timed timed(name);
  kava_cuda_launching(name);
  cudaError_t error =
      kava_emulated::launch(name, key, grid, block, shared, kava_cuda_stream(), [=] { std::apply(kernel, values); });
  if (error == cudaSuccess && (error = cudaPeekAtLastError()) != cudaSuccess)
    cudaGetLastError(); /* an earlier call's */
  if (error != cudaSuccess) kava_cuda_failed(name, error);
}

static inline float kava_exp2(float x) { return exp2f(x); }

static inline void kava_forgotten(uint32_t &) {}
static inline float kava_root(float x) { return sqrtf(x); }
static inline float kava_ratio(float x, float y) { return x / y; }

static inline uint32_t kava_fp8_pair(float x, float y) {
  return kava_f32_to_fp8(x) | (uint32_t)kava_f32_to_fp8(y) << 8;
}
static inline uint32_t kava_fp8_shift(int by) { return (uint32_t)by; }
static inline uint32_t kava_fp8_shifted(uint32_t codes, uint32_t by) {
  uint32_t out = 0;
  for (int i = 0; i < 32; i += 8)
    out |= (uint32_t)kava_f32_to_fp8(ldexpf(kava_fp8_to_f32((uint8_t)(codes >> i)), -(int)by)) << i;
  return out;
}

static inline void kava_copy_async16(void *shared, const void *global, bool valid) {
  kava_emulated::copy_async(shared, global, 16, valid);
}
static inline void kava_copy_async4(void *shared, const void *global, bool valid) {
  kava_emulated::copy_async(shared, global, 4, valid);
}
static inline void kava_copy_commit() { kava_emulated::copy_commit(); }
template <int N> static inline void kava_copy_wait() { kava_emulated::copy_wait(N); }

/* Lane 8m + i names row i of matrix m: 8 elements of 2 bytes. Lane l gets elements 2(l%4), 2(l%4)+1 of row l/4 of
 * matrix m in out[m]; transposed: rows 2(l%4), 2(l%4)+1 of column l/4. */
static inline void kava_emulated_ldmatrix(uint32_t out[4], const void *row, bool transposed) {
  if (reinterpret_cast<uintptr_t>(row) % 16) kava_emulated::die("ldmatrix: a row is not at a multiple of 16 bytes");
  const unsigned char *slots = kava_emulated::meet(kava_emulated::LDMATRIX, 0xffffffffu, &row, sizeof row);
  unsigned lane = kava_emulated::lane(), at = lane / 4, pair = 2 * (lane % 4);
  for (unsigned m = 0; m < 4; m++) {
    uint16_t halves[2];
    for (unsigned i = 0; i < 2; i++) {
      const uint16_t *from;
      std::memcpy(&from, slots + (8 * m + (transposed ? pair + i : at)) * kava_emulated::SLOT, sizeof from);
      halves[i] = from[transposed ? at : pair + i];
    }
    out[m] = halves[0] | (uint32_t)halves[1] << 16;
  }
}
static inline void kava_ldmatrix(uint32_t out[4], const void *row) { kava_emulated_ldmatrix(out, row, false); }
static inline void kava_ldmatrix_transposed(uint32_t out[4], const void *row) {
  kava_emulated_ldmatrix(out, row, true);
}

static inline void kava_store_words(void *to, const uint32_t (&words)[4]) { std::memcpy(to, words, sizeof words); }
template <class T> uint32_t kava_pair(float x, float y);
template <> inline uint32_t kava_pair<__nv_bfloat16>(float x, float y) {
  return __float2bfloat16_rn(x).bits | (uint32_t)__float2bfloat16_rn(y).bits << 16;
}
template <> inline uint32_t kava_pair<__half>(float x, float y) {
  return __float2half_rn(x).bits | (uint32_t)__float2half_rn(y).bits << 16;
}

static inline float kava_emulated_half(__nv_bfloat16, uint32_t bits) { return kava_bf16_to_f32((uint16_t)bits); }
static inline float kava_emulated_half(__half, uint32_t bits) { return kava_f16_to_f32((uint16_t)bits); }
/* m16n8k16. With g = lane/4 and t = lane%4, A [16,16] lies in a[0]: (g, 2t), a[1]: (g+8, 2t), a[2]: (g, 2t+8),
 * a[3]: (g+8, 2t+8), each with its right neighbour; B [16,8] in b[0]: (2t, g), b[1]: (2t+8, g), each with the element
 * below; C in d[0], d[1]: (g, 2t), (g, 2t+1), d[2], d[3]: the same of row g+8. */
template <class T> void kava_mma(float d[4], const uint32_t a[4], uint32_t b0, uint32_t b1) {
  uint32_t words[6] = {a[0], a[1], a[2], a[3], b0, b1};
  float mine[12];
  for (unsigned i = 0; i < 12; i++) mine[i] = kava_emulated_half(T(), words[i / 2] >> 16 * (i % 2));
  const unsigned char *slots = kava_emulated::meet(kava_emulated::MMA, 0xffffffffu, mine, sizeof mine);
  unsigned lane = kava_emulated::lane(), g = lane / 4, t = lane % 4;
  float left[2][16], right[2][16];
  for (unsigned k = 0; k < 16; k += 2)
    for (unsigned i = 0; i < 2; i++) {
      unsigned word = 2 * (k / 8), at = k % 8 / 2;
      std::memcpy(&left[i][k], slots + (g * 4 + at) * kava_emulated::SLOT + 8 * (word + i), 8);
      std::memcpy(&right[i][k], slots + ((2 * t + i) * 4 + at) * kava_emulated::SLOT + 8 * (4 + k / 8), 8);
    }
  for (unsigned i = 0; i < 4; i++) {
    float sum = 0;
    for (unsigned k = 0; k < 16; k++) sum += left[i / 2][k] * right[i % 2][k];
    d[i] += sum;
  }
}
/* The products of a warpgroup: each warp does its part as it comes to it. */
#define KAVA_WGMMA
static inline bool kava_wgmma_built() { return true; }
struct kava_operand {
  uintptr_t at;
};
static inline kava_operand kava_operand_at(const void *tile) { return {reinterpret_cast<uintptr_t>(tile)}; }
static inline kava_operand kava_operand_behind(kava_operand o, int elements) {
  return {o.at + (uintptr_t)(elements * 2)};
}
/* Row r, column c of what begins at `o`. The swizzle goes by addresses: shared memory is at a multiple of 1024. */
template <class T> float kava_emulated_element(kava_operand o, unsigned r, unsigned c) {
  uintptr_t at = o.at + r * 128 + c * sizeof(T);
  const void *swizzled = reinterpret_cast<const void *>(at ^ (at >> 7 & 7) << 4);
  if constexpr (sizeof(T) == 1) {
    return kava_fp8_to_f32(*static_cast<const uint8_t *>(swizzled));
  } else {
    uint16_t bits;
    std::memcpy(&bits, swizzled, sizeof bits);
    return kava_emulated_half(T(), bits);
  }
}
static inline void kava_shared_fence() {}
static inline void kava_wgmma_begin() {}
static inline void kava_wgmma_end() {}
template <int N> static inline void kava_wgmma_wait() {}
static inline void kava_wgmma_done(float (&)[8][4]) {}
/* d (+)= a b for a warp's 16 rows of A, of which `left` holds a lane's two, and right(k, n). */
template <int N, int K, class Right>
void kava_emulated_wgmma(float (&d)[N][4], float (&left)[2][K], Right right, bool add) {
  for (unsigned c = 0; c < N; c++)
    for (unsigned i = 0; i < 4; i++) {
      float sum = 0;
      for (unsigned k = 0; k < K; k++) sum += left[i / 2][k] * right(k, c * 8 + kava_emulated::lane() % 4 * 2 + i % 2);
      d[c][i] = (add ? d[c][i] : 0) + sum;
    }
}
template <class T, int N> void kava_emulated_wgmma_of(float (&d)[N][4], kava_operand a, kava_operand b, bool add) {
  kava_emulated::meet(kava_emulated::MMA, 0xffffffffu, nullptr, 0);
  float left[2][32 / sizeof(T)];
  for (unsigned i = 0; i < 2; i++)
    for (unsigned k = 0; k < 32 / sizeof(T); k++)
      left[i][k] = kava_emulated_element<T>(a, threadIdx.x / 32 % 4 * 16 + kava_emulated::lane() / 4 + 8 * i, k);
  kava_emulated_wgmma(
      d, left, [&](unsigned k, unsigned n) { return kava_emulated_element<T>(b, n, k); }, add);
}
template <class T> void kava_wgmma(float (&d)[8][4], kava_operand a, kava_operand b, bool add) {
  kava_emulated_wgmma_of<T>(d, a, b, add);
}
template <class T> void kava_wgmma(float (&d)[8][4], const uint32_t (&a)[4], kava_operand b) {
  const unsigned char *slots = kava_emulated::meet(kava_emulated::MMA, 0xffffffffu, a, sizeof a);
  float left[2][16];
  for (unsigned i = 0; i < 2; i++)
    for (unsigned k = 0; k < 16; k++) {
      uint32_t word;
      std::memcpy(&word,
                  slots + (kava_emulated::lane() / 4 * 4 + k % 8 / 2) * kava_emulated::SLOT + (k / 8 * 2 + i) * 4,
                  sizeof word);
      left[i][k] = kava_emulated_half(T(), word >> 16 * (k % 2));
    }
  kava_emulated_wgmma(
      d, left, [&](unsigned k, unsigned n) { return kava_emulated_element<T>(b, k, n); }, true);
}
#endif

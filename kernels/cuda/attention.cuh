/* kernels/cuda/attention.cuh: what the attention kernels share. Three families of them: attention_hopper.cu and
 * attention.cu for bf16 and f16 on the tensor cores, attention_plain.cu for f32 and for what those do not have. */
#ifndef KAVA_CUDA_ATTENTION_CUH
#define KAVA_CUDA_ATTENTION_CUH
#include "kernels/cuda/element.cuh"

#define LOG2E 1.4426950408889634f
#define LN2 0.6931471805599453f

/* kava_attention_args as kernels take them: *_row are elements between tokens, `row` those of o and g. */
typedef struct attention_job {
  int batch, length, heads, kv_heads, dim, group; /* group: heads a key head serves */
  float scale, softcap;
  int64_t row, q_row, k_row, v_row, dq_row, dk_row, dv_row;
  const void *q, *k, *v, *g, *o;
  void *out, *dq, *dk, *dv;
  float *lse; /* [B,H,T] */
  /* scratch of the backward pass */
  float *delta; /* [B,H,T]: sum over d of o g; attention_hopper.cu's [B,H,T/64,2,64]: lse to the base 2, delta */
  int *least;   /* [B, ceil(T/n)]: the first key that any of n queries sees; n: 16, attention_hopper.cu's 64 */
  int *firsts;  /* attention_hopper.cu's [B,T/64,64]: the first key that a query sees */
  float *partial;
  int splits; /* the heads of a group are summed in so many parts, [splits, B,T,Hkv,D] twice (dk, dv) */
  const int32_t *start;
  int window;
  bool add_q, add_k, add_v;
} attention_job;

/* The first key that query t of row b sees; beyond every key when it is no query. attention_from: the same for a query
 * whose `start` is known. */
static __device__ __forceinline__ int attention_from(const attention_job &a, int start, int t) {
  if (t >= a.length) return 0x7fffffff;
  int seen = a.window ? t - a.window + 1 : 0;
  return max(max(start, seen), 0);
}
static __device__ __forceinline__ int attention_first(const attention_job &a, int b, int t) {
  return attention_from(a, a.start && t < a.length ? a.start[(int64_t)b * a.length + t] : 0, t);
}
/* c tanh(x/c), and the derivative 1 - (s/c)^2 of a capped score s */
static __device__ __forceinline__ float attention_cap(float x, float c) {
  float e = __expf(__fdividef(-2.0f * fabsf(x), c)), t = __fdividef(1.0f - e, 1.0f + e);
  return x < 0 ? -c * t : c * t;
}
static __device__ __forceinline__ float attention_slope(float s, float c) {
  float t = __fdividef(s, c);
  return 1.0f - t * t;
}

/* Whether rows can be moved 16 bytes at a time. */
static inline bool kava_attention_aligned(const attention_job &a) {
  bool aligned = true;
  for (const void *p :
       {a.q, a.k, a.v, a.g, a.o, (const void *)a.out, (const void *)a.dq, (const void *)a.dk, (const void *)a.dv})
    aligned = aligned && kava_aligned(p);
  for (int64_t row : {a.row, a.q_row, a.k_row, a.v_row, a.dq_row, a.dk_row, a.dv_row})
    aligned = aligned && row % 8 == 0;
  return aligned;
}

/* For spec/cuda: a Hopper does what other machines do. */
extern bool kava_attention_old;

/* Going back: the splits' sums, [splits, dk and dv], into dk and dv. */
void kava_attention_parts(kava_dtype dtype, const attention_job &job);

bool kava_attention_hopper_takes(kava_dtype dtype, const attention_job &job);
void kava_attention_hopper(kava_dtype dtype, const attention_job &job);
void kava_attention_hopper_grad(kava_dtype dtype, const attention_job &job);
/* Each returns false where it has no code for the job. */
bool kava_attention_tensor(kava_dtype dtype, const attention_job &job);
bool kava_attention_tensor_grad(kava_dtype dtype, const attention_job &job);
bool kava_attention_plain(kava_dtype dtype, const attention_job &job);
bool kava_attention_plain_grad(kava_dtype dtype, const attention_job &job);
#endif

/* kernels/cpu/simd/activation.c: elementwise nonlinearities, gated pairs, dropout.
 * gelu stands on Phi(-|x|) = p(t) exp(-x^2/2) / 2, t = 1/(1 + 0.3275911 |x|/sqrt 2) (Abramowitz & Stegun 7.1.26,
 * absolute error of erf below 1.5e-7): Phi(x) is this for x < 0, 1 less this for x > 0; nothing is lost in the tail.
 */
#include "kernels/cpu/simd/tail.h"
#include "base/threads.h"
#include "kernels/cpu/reference.h"
#include <string.h>

#define GRAIN 8192
#define INLINE static inline __attribute__((always_inline))

INLINE vf sigmoid(vf x) { return vf_div(vf_set(1.0f), vf_add(vf_set(1.0f), vf_exp_all(vf_sub(vf_set(0.0f), x)))); }

/* Phi(-|x|) */
INLINE vf lower_tail(vf x, vf size) {
  vf t = vf_div(vf_set(1.0f), vf_fma(size, vf_set(0.3275911f * 0.70710678f), vf_set(1.0f)));
  vf p = vf_fma(t, vf_set(1.061405429f), vf_set(-1.453152027f));
  p = vf_fma(p, t, vf_set(1.421413741f));
  p = vf_fma(p, t, vf_set(-0.284496736f));
  p = vf_fma(p, t, vf_set(0.254829592f));
  return vf_mul(vf_mul(p, vf_mul(t, vf_set(0.5f))), vf_exp_all(vf_mul(vf_mul(x, x), vf_set(-0.5f))));
}

/* The argument of gelu_tanh's sigmoid: 2 sqrt(2/pi) (x + 0.044715 x^3) */
INLINE vf tanh_argument(vf x) {
  return vf_mul(vf_mul(x, vf_set(1.59576912f)), vf_fma(vf_mul(x, x), vf_set(0.044715f), vf_set(1.0f)));
}

INLINE vf magnitude(vf x) { return vf_max(x, vf_sub(vf_set(0.0f), x)); }
/* 1 where x > 0, 0 where x <= 0 (numbers below 1e-30 in between) */
INLINE vf step(vf x) { return vf_min(vf_max(vf_mul(x, vf_set(1e30f)), vf_set(0.0f)), vf_set(1.0f)); }

/* Phi(x) from step(x) and Phi(-|x|) */
INLINE vf phi(vf h, vf tail) { return vf_fma(vf_fma(h, vf_set(-2.0f), vf_set(1.0f)), tail, h); }

INLINE vf value_of(kava_activation kind, vf x) {
  switch (kind) {
  case KAVA_SILU: return vf_mul(x, sigmoid(x));
  case KAVA_GELU: {
    return vf_mul(x, phi(step(x), lower_tail(x, magnitude(x))));
  }
  case KAVA_GELU_TANH: return vf_mul(x, sigmoid(tanh_argument(x)));
  default: return vf_max(vf_set(0.0f), x); /* in this order a NaN stays one */
  }
}

INLINE vf slope_of(kava_activation kind, vf x) {
  switch (kind) {
  case KAVA_SILU: {
    vf s = sigmoid(x);
    return vf_mul(s, vf_fma(x, vf_sub(vf_set(1.0f), s), vf_set(1.0f)));
  }
  case KAVA_GELU: {
    vf tail = lower_tail(x, magnitude(x)), h = step(x),
       density = vf_mul(vf_set(0.39894228f), vf_exp_all(vf_mul(vf_mul(x, x), vf_set(-0.5f))));
    return vf_fma(x, density, phi(h, tail));
  }
  case KAVA_GELU_TANH: {
    vf s = sigmoid(tanh_argument(x));
    vf inner = vf_mul(vf_set(1.59576912f), vf_fma(vf_mul(x, x), vf_set(3.0f * 0.044715f), vf_set(1.0f)));
    return vf_fma(vf_mul(vf_mul(x, s), vf_sub(vf_set(1.0f), s)), inner, s);
  }
  default: return step(x);
  }
}

typedef struct job {
  const float *x, *up, *grad;
  float *y, *dup, *value; /* value: gated_grad's y */
  bool add, add_up;
} job;

/* The loops, once per kind. A last partial vector is loaded and stored by its first lanes. */
#define LOOPS(name, kind)                                                                                              \
  static void name##_values(void *ctx, int64_t begin, int64_t end) {                                                   \
    const job *j = ctx;                                                                                                \
    int64_t i = begin;                                                                                                 \
    for (; i + VF_LANES <= end; i += VF_LANES) vf_store(j->y + i, value_of(kind, vf_load(j->x + i)));                  \
    if (i < end) vf_store_to(j->y + i, value_of(kind, vf_load_to(j->x + i, end - i)), end - i);                        \
  }                                                                                                                    \
  static void name##_slopes(void *ctx, int64_t begin, int64_t end) {                                                   \
    const job *j = ctx;                                                                                                \
    for (int64_t i = begin; i < end; i += VF_LANES) {                                                                  \
      int64_t n = end - i;                                                                                             \
      vf v = vf_mul(vf_load_to(j->grad + i, n), slope_of(kind, vf_load_to(j->x + i, n)));                              \
      vf_store_to(j->y + i, j->add ? vf_add(vf_load_to(j->y + i, n), v) : v, n);                                       \
    }                                                                                                                  \
  }                                                                                                                    \
  static void name##_gates(void *ctx, int64_t begin, int64_t end) {                                                    \
    const job *j = ctx;                                                                                                \
    int64_t i = begin;                                                                                                 \
    for (; i + VF_LANES <= end; i += VF_LANES)                                                                         \
      vf_store(j->y + i, vf_mul(value_of(kind, vf_load(j->x + i)), vf_load(j->up + i)));                               \
    if (i < end)                                                                                                       \
      vf_store_to(j->y + i, vf_mul(value_of(kind, vf_load_to(j->x + i, end - i)), vf_load_to(j->up + i, end - i)),     \
                  end - i);                                                                                            \
  }                                                                                                                    \
  static void name##_gate_slopes(void *ctx, int64_t begin, int64_t end) {                                              \
    const job *j = ctx;                                                                                                \
    for (int64_t i = begin; i < end; i += VF_LANES) {                                                                  \
      int64_t n = end - i;                                                                                             \
      vf gate = vf_load_to(j->x + i, n), grad = vf_load_to(j->grad + i, n), up = vf_load_to(j->up + i, n);             \
      if (j->y) {                                                                                                      \
        vf v = vf_mul(vf_mul(grad, up), slope_of(kind, gate));                                                         \
        vf_store_to(j->y + i, j->add ? vf_add(vf_load_to(j->y + i, n), v) : v, n);                                     \
      }                                                                                                                \
      if (j->dup) {                                                                                                    \
        vf v = vf_mul(grad, value_of(kind, gate));                                                                     \
        vf_store_to(j->dup + i, j->add_up ? vf_add(vf_load_to(j->dup + i, n), v) : v, n);                              \
      }                                                                                                                \
      if (j->value) vf_store_to(j->value + i, vf_mul(value_of(kind, gate), up), n);                                    \
    }                                                                                                                  \
  }
LOOPS(silu, KAVA_SILU)
LOOPS(gelu, KAVA_GELU)
LOOPS(gelu_tanh, KAVA_GELU_TANH)
LOOPS(relu, KAVA_RELU)

static void gated(const kava_gated_args *a) {
  static const kava_range_fn loops[] = {silu_gates, gelu_gates, gelu_tanh_gates, relu_gates};
  job j = {.x = a->gate, .up = a->up, .y = a->y};
  if (a->dtype == KAVA_F64)
    kava_ref_gated(a);
  else
    kava_parallel(a->count, GRAIN, loops[a->kind], &j);
}

static void gated_grad(const kava_gated_args *a) {
  static const kava_range_fn loops[] = {silu_gate_slopes, gelu_gate_slopes, gelu_tanh_gate_slopes, relu_gate_slopes};
  job j = {.x = a->gate,
           .up = a->up,
           .grad = a->grad,
           .y = a->dgate,
           .dup = a->dup,
           .value = a->y,
           .add = a->add_gate,
           .add_up = a->add_up};
  if (a->dtype == KAVA_F64)
    kava_ref_gated_grad(a);
  else
    kava_parallel(a->count, GRAIN, loops[a->kind], &j);
}

typedef struct softcap_job {
  const float *x, *grad; /* softcap_grad: x is y */
  float *y;
  float cap;
  bool add;
} softcap_job;

static void softcap_values(void *ctx, int64_t begin, int64_t end) {
  const softcap_job *j = ctx;
  vf cap = vf_set(j->cap), inverse = vf_set(1.0f / j->cap);
  for (int64_t i = begin; i < end; i += VF_LANES)
    vf_store_to(j->y + i, vf_mul(cap, vf_tanh(vf_mul(vf_load_to(j->x + i, end - i), inverse))), end - i);
}

static void softcap_slopes(void *ctx, int64_t begin, int64_t end) {
  const softcap_job *j = ctx;
  vf inverse = vf_set(1.0f / j->cap);
  for (int64_t i = begin; i < end; i += VF_LANES) {
    int64_t n = end - i;
    vf t = vf_mul(vf_load_to(j->x + i, n), inverse);
    vf v = vf_mul(vf_load_to(j->grad + i, n), vf_sub(vf_set(1.0f), vf_mul(t, t)));
    vf_store_to(j->y + i, j->add ? vf_add(vf_load_to(j->y + i, n), v) : v, n);
  }
}

static void softcap(kava_dtype dtype, double c, const void *x, void *y, int64_t count) {
  softcap_job j = {.x = x, .y = y, .cap = (float)c};
  if (dtype == KAVA_F64)
    kava_ref_softcap(dtype, c, x, y, count);
  else
    kava_parallel(count, GRAIN, softcap_values, &j);
}

static void softcap_grad(kava_dtype dtype, double c, const void *y, const void *grad, void *dx, int64_t count,
                         bool add) {
  softcap_job j = {.x = y, .grad = grad, .y = dx, .cap = (float)c, .add = add};
  if (dtype == KAVA_F64)
    kava_ref_softcap_grad(dtype, c, y, grad, dx, count, add);
  else
    kava_parallel(count, GRAIN, softcap_slopes, &j);
}

#define BLOCKS 8             /* Philox blocks of a group of elements */
#define LANES (VF_LANES / 2) /* of them in one vector */
#define TILE (KAVA_DROPOUT_GROUP * 32)
typedef uint64_t lanes __attribute__((vector_size(LANES * 8))); /* 32 bits in each; what stands above them is noise */
typedef uint32_t words __attribute__((vector_size(LANES * 4)));

/* The products of the low halves, for which there is an instruction that the compiler does not find by itself. */
INLINE lanes multiply(lanes a, uint32_t factor) {
#if defined(__AVX512F__)
  return (lanes)_mm512_mul_epu32((__m512i)a, _mm512_set1_epi64(factor));
#elif defined(__AVX2__)
  return (lanes)_mm256_mul_epu32((__m256i)a, _mm256_set1_epi64x(factor));
#else
  return (a & 0xffffffffu) * factor;
#endif
}

/* The words of LANES successive Philox blocks from `index` on: word w of block i at out[BLOCKS w + i] (base/rng.h has
 * the scalar form). */
INLINE void philox_lanes(uint64_t seed, uint64_t stream, uint64_t index, uint32_t *out) {
  static const uint64_t counts[BLOCKS] = {0, 1, 2, 3, 4, 5, 6, 7};
  lanes c0, c1, c2 = {0}, c3 = {0};
  memcpy(&c0, counts, sizeof c0);
  c0 += index;
  c1 = c0 >> 32;
  c2 += stream;
  c3 += stream >> 32;
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    lanes p0 = multiply(c0, 0xD2511F53u), p1 = multiply(c2, 0xCD9E8D57u);
    c0 = p1 >> 32 ^ c1 ^ k0;
    c2 = p0 >> 32 ^ c3 ^ k1;
    c1 = p1;
    c3 = p0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  const lanes all[4] = {c0, c1, c2, c3};
  for (int i = 0; i < 4; i++) {
    words w = __builtin_convertvector(all[i], words);
    memcpy(out + BLOCKS * i, &w, sizeof w);
  }
}

/* The bits of elements [at, at + n), n <= TILE. */
INLINE void draw(const kava_dropout_mask *mask, int64_t at, int64_t n, uint32_t *bits) {
  for (int64_t i = 0; i < n; i += KAVA_DROPOUT_GROUP)
    for (int lane = 0; lane < BLOCKS; lane += LANES)
      philox_lanes(mask->seed, mask->stream + (mask->later ? *mask->later : 0),
                   (uint64_t)((at + i) / KAVA_DROPOUT_GROUP * BLOCKS + lane), bits + i + lane);
}
/* y (+)= mask(x) of n elements that have these bits */
INLINE void drop(const kava_dropout_mask *mask, const uint32_t *bits, const float *x, float *y, int64_t n, bool add) {
  float scale = (float)(1.0 / (1.0 - mask->p));
  uint32_t limit = kava_dropout_limit(mask->p);
  if (add)
    for (int64_t i = 0; i < n; i++) y[i] += bits[i] < limit ? 0.0f : x[i] * scale;
  else
    for (int64_t i = 0; i < n; i++) y[i] = bits[i] < limit ? 0.0f : x[i] * scale;
}

static void dropout_tiles(void *ctx, int64_t begin, int64_t end) {
  const kava_dropout_args *a = ctx;
  for (int64_t at = begin * TILE; at < end * TILE && at < a->count; at += TILE) {
    uint32_t bits[TILE];
    int64_t n = a->count - at < TILE ? a->count - at : TILE;
    draw(&a->mask, at, n, bits);
    drop(&a->mask, bits, (const float *)a->x + at, (float *)a->y + at, n, a->add);
  }
}

static void dropout(const kava_dropout_args *a) {
  if (a->dtype == KAVA_F64)
    kava_ref_dropout(a);
  else
    kava_parallel((a->count + TILE - 1) / TILE, 4, dropout_tiles, (void *)a);
}

static const kava_range_fn values[] = {silu_values, gelu_values, gelu_tanh_values, relu_values};
static const kava_range_fn slopes[] = {silu_slopes, gelu_slopes, gelu_tanh_slopes, relu_slopes};

/* A tile stays in the cache between its activation and its dropout. */
static void dropped_values(void *ctx, int64_t begin, int64_t end) {
  const kava_activation_args *a = ctx;
  for (int64_t at = begin * TILE; at < end * TILE && at < a->count; at += TILE) {
    uint32_t bits[TILE];
    int64_t n = a->count - at < TILE ? a->count - at : TILE;
    float *y = (float *)a->y + at;
    job j = {.x = (const float *)a->x + at, .y = y};
    values[a->kind](&j, 0, n);
    draw(&a->mask, at, n, bits);
    drop(&a->mask, bits, y, y, n, false);
  }
}

/* What was read is held back until all of the tile is: dx may be x, y may be grad. */
static void dropped_slopes(void *ctx, int64_t begin, int64_t end) {
  const kava_activation_args *a = ctx;
  for (int64_t at = begin * TILE; at < end * TILE && at < a->count; at += TILE) {
    uint32_t bits[TILE];
    float value[TILE], grad[TILE];
    int64_t n = a->count - at < TILE ? a->count - at : TILE;
    job j = {.x = (const float *)a->x + at, .grad = (const float *)a->grad + at, .y = value, .add = a->add};
    if (a->y) values[a->kind](&j, 0, n);
    if (a->mask.p > 0) {
      draw(&a->mask, at, n, bits);
      if (a->y) drop(&a->mask, bits, value, value, n, false);
      drop(&a->mask, bits, j.grad, grad, n, false);
      j.grad = grad;
    }
    j.y = (float *)a->dx + at;
    slopes[a->kind](&j, 0, n);
    if (a->y) memcpy((float *)a->y + at, value, (size_t)n * sizeof *value);
  }
}

static void activation(const kava_activation_args *a) {
  job j = {.x = a->x, .y = a->y};
  if (a->dtype == KAVA_F64)
    kava_ref_activation(a);
  else if (a->mask.p > 0)
    kava_parallel((a->count + TILE - 1) / TILE, 4, dropped_values, (void *)a);
  else
    kava_parallel(a->count, GRAIN, values[a->kind], &j);
}

static void activation_grad(const kava_activation_args *a) {
  job j = {.x = a->x, .grad = a->grad, .y = a->dx, .add = a->add};
  if (a->dtype == KAVA_F64)
    kava_ref_activation_grad(a);
  else if (a->mask.p > 0 || a->y)
    kava_parallel((a->count + TILE - 1) / TILE, 4, dropped_slopes, (void *)a);
  else
    kava_parallel(a->count, GRAIN, slopes[a->kind], &j);
}

void KAVA_SIMD(activation)(kava_kernels *table);
void KAVA_SIMD(activation)(kava_kernels *table) {
  table->activation = activation;
  table->activation_grad = activation_grad;
  table->gated = gated;
  table->gated_grad = gated_grad;
  table->softcap = softcap;
  table->softcap_grad = softcap_grad;
  table->dropout = dropout;
}

/* kernels/cpu/elementwise.c: the plain reference of elementwise arithmetic, for f32, f64 and i64. */
#include "kernels/cpu/reference.h"
#include "kernels/cpu/strided.h"
#include <math.h>

/* integer power by squaring, wrapping; a negative exponent gives 0 (the truncated quotient), but for bases of one */
static int64_t power_i64(int64_t base, int64_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent & 1 ? -1 : 1) : 0;
  uint64_t result = 1, factor = (uint64_t)base;
  for (; exponent > 0; exponent >>= 1, factor *= factor)
    if (exponent & 1) result *= factor;
  return (int64_t)result;
}
static int64_t divide_i64(int64_t a, int64_t b) { return b == 0 ? 0 : b == -1 ? (int64_t)(0 - (uint64_t)a) : a / b; }

#define WRAP(T, a, op, b) ((T)((a)op(b)))
#define WRAP_I64(T, a, op, b) ((int64_t)((uint64_t)(a)op(uint64_t)(b))) /* overflow wraps, defined */
#define ROW(R, expression)                                                                                             \
  for (int64_t i = 0; i < n; i++) {                                                                                    \
    const T a = x[i * dx], b = y[i * dy];                                                                              \
    ((R *)out)[i * d] = (expression);                                                                                  \
  }                                                                                                                    \
  break;
/* A maximum or minimum with a NaN is NaN. */
#define BINARY(name, type, ARITHMETIC, divide, power)                                                                  \
  static void name(kava_binary op, const void *px, int64_t dx, const void *py, int64_t dy, void *out, int64_t d,       \
                   int64_t n) {                                                                                        \
    typedef type T;                                                                                                    \
    const T *x = px, *y = py;                                                                                          \
    switch (op) {                                                                                                      \
    case KAVA_ADD: ROW(T, ARITHMETIC(T, a, +, b))                                                                      \
    case KAVA_SUB: ROW(T, ARITHMETIC(T, a, -, b))                                                                      \
    case KAVA_MUL: ROW(T, ARITHMETIC(T, a, *, b))                                                                      \
    case KAVA_DIV: ROW(T, divide)                                                                                      \
    case KAVA_POW: ROW(T, power)                                                                                       \
    case KAVA_MAXIMUM: ROW(T, a > b || a != a ? a : b)                                                                 \
    case KAVA_MINIMUM: ROW(T, a < b || a != a ? a : b)                                                                 \
    case KAVA_EQ: ROW(uint8_t, a == b)                                                                                 \
    case KAVA_NE: ROW(uint8_t, a != b)                                                                                 \
    case KAVA_LT: ROW(uint8_t, a < b)                                                                                  \
    case KAVA_LE: ROW(uint8_t, a <= b)                                                                                 \
    case KAVA_GT: ROW(uint8_t, a > b)                                                                                  \
    case KAVA_GE: ROW(uint8_t, a >= b)                                                                                 \
    }                                                                                                                  \
  }
BINARY(binary_f32, float, WRAP, a / b, powf(a, b))
BINARY(binary_f64, double, WRAP, a / b, pow(a, b))
BINARY(binary_i64, int64_t, WRAP_I64, divide_i64(a, b), power_i64(a, b))

void kava_ref_binary(kava_binary op, kava_dtype type, const kava_strided *args) {
  kava_strided s = kava_strided_merge(args);
  int64_t rows = kava_strided_rows(&s), n = s.shape[s.dims - 1], size = type == KAVA_F32 ? 4 : 8;
  int64_t size_out = op >= KAVA_EQ ? 1 : size;
  int64_t dx = s.in_stride[0][s.dims - 1], dy = s.in_stride[1][s.dims - 1], d = s.out_stride[s.dims - 1];
  for (int64_t row = 0; row < rows; row++) {
    int64_t at[4];
    kava_strided_seek(&s, row, at);
    const char *x = (const char *)s.in[0] + at[0] * size, *y = (const char *)s.in[1] + at[1] * size;
    char *out = (char *)s.out + at[3] * size_out;
    if (type == KAVA_F32)
      binary_f32(op, x, dx, y, dy, out, d, n);
    else if (type == KAVA_F64)
      binary_f64(op, x, dx, y, dy, out, d, n);
    else
      binary_i64(op, x, dx, y, dy, out, d, n);
  }
}

void kava_ref_where(kava_dtype type, const kava_strided *args) {
  kava_strided s = kava_strided_merge(args);
  int last = s.dims - 1;
  int64_t rows = kava_strided_rows(&s), n = s.shape[last];
  int64_t dx = s.in_stride[0][last], dy = s.in_stride[1][last], dc = s.in_stride[2][last], d = s.out_stride[last];
  for (int64_t row = 0; row < rows; row++) {
    int64_t at[4];
    kava_strided_seek(&s, row, at);
    const uint8_t *c = (const uint8_t *)s.in[2] + at[2];
    if (type == KAVA_F32) { /* elements are only moved: their size is all that matters */
      const uint32_t *x = (const uint32_t *)s.in[0] + at[0], *y = (const uint32_t *)s.in[1] + at[1];
      uint32_t *out = (uint32_t *)s.out + at[3];
      for (int64_t i = 0; i < n; i++) out[i * d] = c[i * dc] ? x[i * dx] : y[i * dy];
    } else {
      const uint64_t *x = (const uint64_t *)s.in[0] + at[0], *y = (const uint64_t *)s.in[1] + at[1];
      uint64_t *out = (uint64_t *)s.out + at[3];
      for (int64_t i = 0; i < n; i++) out[i * d] = c[i * dc] ? x[i * dx] : y[i * dy];
    }
  }
}

#define EACH(expression)                                                                                               \
  for (int64_t i = 0; i < count; i++) {                                                                                \
    const T v = x[i];                                                                                                  \
    y[i] = (expression);                                                                                               \
  }                                                                                                                    \
  break;
#define UNARY(name, type, m)                                                                                           \
  static void name(kava_unary op, const type *x, type *y, int64_t count, type p, type q) {                             \
    typedef type T;                                                                                                    \
    switch (op) {                                                                                                      \
    case KAVA_AFFINE: EACH(p *v + q)                                                                                   \
    case KAVA_ABS: EACH(m(fabs)(v))                                                                                    \
    case KAVA_CLAMP: EACH(v<p ? p : v> q ? q : v)                                                                      \
    case KAVA_EXP: EACH(m(exp)(v))                                                                                     \
    case KAVA_LOG: EACH(m(log)(v))                                                                                     \
    case KAVA_SQRT: EACH(m(sqrt)(v))                                                                                   \
    case KAVA_TANH: EACH(m(tanh)(v))                                                                                   \
    case KAVA_SIGMOID: EACH(1 / (1 + m(exp)(-v)))                                                                      \
    case KAVA_POWER: EACH(p == 2 ? v * v : m(pow)(v, p))                                                               \
    case KAVA_RECIPROCAL: EACH(p / v)                                                                                  \
    }                                                                                                                  \
  }
#define SINGLE(name) name##f
#define DOUBLE(name) name
UNARY(unary_f32, float, SINGLE)
UNARY(unary_f64, double, DOUBLE)

static void unary_i64(kava_unary op, const int64_t *x, int64_t *y, int64_t count, int64_t p, int64_t q) {
  for (int64_t i = 0; i < count; i++) {
    int64_t v = x[i];
    switch (op) {
    case KAVA_AFFINE: v = (int64_t)((uint64_t)p * (uint64_t)v + (uint64_t)q); break;
    case KAVA_ABS: v = v < 0 ? (int64_t)(0 - (uint64_t)v) : v; break;
    case KAVA_CLAMP: v = v < p ? p : v > q ? q : v; break;
    case KAVA_POWER: v = power_i64(v, p); break;
    default: break; /* floats only: the ops refuse */
    }
    y[i] = v;
  }
}

static int64_t whole(double x) { return x >= 0x1p63 ? INT64_MAX : x <= -0x1p63 ? INT64_MIN : (int64_t)x; }

void kava_ref_unary(kava_unary op, kava_dtype type, const void *x, void *y, int64_t count, double p, double q) {
  if (type == KAVA_F32)
    unary_f32(op, x, y, count, (float)p, (float)q);
  else if (type == KAVA_F64)
    unary_f64(op, x, y, count, p, q);
  else
    unary_i64(op, x, y, count, whole(p), whole(q));
}

#define EACH_GRAD(expression)                                                                                          \
  for (int64_t i = 0; i < count; i++) {                                                                                \
    const T v = x[i], r = y[i], g = gy[i] * (expression);                                                              \
    (void)v, (void)r;                                                                                                  \
    gx[i] = add ? gx[i] + g : g;                                                                                       \
  }                                                                                                                    \
  break;
/* |x| has derivative 0 at 0; a clamped element passes nothing on; x^p at x = 0 follows pow */
#define UNARY_GRAD(name, type, m)                                                                                      \
  static void name(kava_unary op, const type *x, const type *y, const type *gy, type *gx, int64_t count, type p,       \
                   type q, bool add) {                                                                                 \
    typedef type T;                                                                                                    \
    switch (op) {                                                                                                      \
    case KAVA_AFFINE: EACH_GRAD(p)                                                                                     \
    case KAVA_ABS: EACH_GRAD((T)((v > 0) - (v < 0)))                                                                   \
    case KAVA_CLAMP: EACH_GRAD((T)(v >= p && v <= q))                                                                  \
    case KAVA_EXP: EACH_GRAD(r)                                                                                        \
    case KAVA_LOG: EACH_GRAD(1 / v)                                                                                    \
    case KAVA_SQRT: EACH_GRAD((T)0.5 / r)                                                                              \
    case KAVA_TANH: EACH_GRAD(1 - r * r)                                                                               \
    case KAVA_SIGMOID: EACH_GRAD(r *(1 - r))                                                                           \
    case KAVA_POWER: EACH_GRAD(p == 0 ? 0 : p == 1 ? 1 : p == 2 ? 2 * v : p * m(pow)(v, p - 1))                        \
    case KAVA_RECIPROCAL: EACH_GRAD(-r / v)                                                                            \
    }                                                                                                                  \
  }
UNARY_GRAD(unary_grad_f32, float, SINGLE)
UNARY_GRAD(unary_grad_f64, double, DOUBLE)

void kava_ref_unary_grad(kava_unary op, kava_dtype type, const void *x, const void *y, const void *gy, void *gx,
                         int64_t count, double p, double q, bool add) {
  if (type == KAVA_F64)
    unary_grad_f64(op, x, y, gy, gx, count, p, q, add);
  else
    unary_grad_f32(op, x, y, gy, gx, count, (float)p, (float)q, add);
}

/* kernels/cpu/reduce.c: the plain reference of reductions and of softmax. Sums of f32 are kept in double. */
#include "kernels/cpu/reference.h"
#include <math.h>

#define REDUCE(name, T, SUM)                                                                                           \
  static void name(kava_reduce op, const T *x, T *y, int64_t outer, int64_t n, int64_t inner, double scale) {          \
    for (int64_t o = 0; o < outer; o++) {                                                                              \
      for (int64_t i = 0; i < inner; i++) {                                                                            \
        const T *column = x + o * n * inner + i;                                                                       \
        SUM sum = 0;                                                                                                   \
        T best = n > 0 ? column[0] : 0;                                                                                \
        for (int64_t k = 0; k < n; k++) {                                                                              \
          T v = column[k * inner];                                                                                     \
          if (op == KAVA_SUM)                                                                                          \
            sum += (SUM)v;                                                                                             \
          else if (op == KAVA_SUM_SQUARES)                                                                             \
            sum += (SUM)v * (SUM)v;                                                                                    \
          else if (op == KAVA_MAX)                                                                                     \
            best = v > best || v != v ? v : best;                                                                      \
          else                                                                                                         \
            best = v < best || v != v ? v : best;                                                                      \
        }                                                                                                              \
        y[o * inner + i] = op >= KAVA_MAX ? best : (T)(sum * (SUM)scale);                                              \
      }                                                                                                                \
    }                                                                                                                  \
  }
REDUCE(reduce_f32, float, double)
REDUCE(reduce_f64, double, double)
REDUCE(reduce_i64, int64_t, uint64_t) /* unsigned: overflow wraps, defined */

void kava_ref_reduce(kava_reduce op, kava_dtype type, const void *x, void *y, int64_t outer, int64_t n, int64_t inner,
                     double scale) {
  if (type == KAVA_F32)
    reduce_f32(op, x, y, outer, n, inner, scale);
  else if (type == KAVA_F64)
    reduce_f64(op, x, y, outer, n, inner, scale);
  else
    reduce_i64(op, x, y, outer, n, inner, 1);
}

#define ARGREDUCE(name, T)                                                                                             \
  static void name(kava_reduce op, const T *x, int64_t *index, int64_t outer, int64_t n, int64_t inner) {              \
    for (int64_t o = 0; o < outer; o++) {                                                                              \
      for (int64_t i = 0; i < inner; i++) {                                                                            \
        const T *column = x + o * n * inner + i;                                                                       \
        int64_t at = 0;                                                                                                \
        for (int64_t k = 1; k < n; k++) {                                                                              \
          T v = column[k * inner], best = column[at * inner];                                                          \
          if (best != best) break;                                                                                     \
          if (v != v || (op == KAVA_MAX ? v > best : v < best)) at = k;                                                \
        }                                                                                                              \
        index[o * inner + i] = at;                                                                                     \
      }                                                                                                                \
    }                                                                                                                  \
  }
ARGREDUCE(argreduce_f32, float)
ARGREDUCE(argreduce_f64, double)
ARGREDUCE(argreduce_i64, int64_t)

void kava_ref_argreduce(kava_reduce op, kava_dtype type, const void *x, int64_t *index, int64_t outer, int64_t n,
                        int64_t inner) {
  if (type == KAVA_F32)
    argreduce_f32(op, x, index, outer, n, inner);
  else if (type == KAVA_F64)
    argreduce_f64(op, x, index, outer, n, inner);
  else
    argreduce_i64(op, x, index, outer, n, inner);
}

#define SOFTMAX(T, m)                                                                                                  \
  static void softmax_##T(const T *x, T *y, int64_t rows, int64_t n, bool logarithm) {                                 \
    for (int64_t r = 0; r < rows; r++, x += n, y += n) {                                                               \
      T top = -(T)INFINITY;                                                                                            \
      double sum = 0;                                                                                                  \
      for (int64_t i = 0; i < n; i++) top = x[i] > top ? x[i] : top;                                                   \
      for (int64_t i = 0; i < n; i++) sum += (double)m(exp)(x[i] - top);                                               \
      const T shift = (T)log(sum), scale = (T)(1 / sum);                                                               \
      for (int64_t i = 0; i < n; i++) y[i] = logarithm ? x[i] - top - shift : m(exp)(x[i] - top) * scale;              \
    }                                                                                                                  \
  }                                                                                                                    \
  /* softmax: gx = y (gy - sum(gy y));  log_softmax: gx = gy - exp(y) sum(gy) */                                       \
  static void softmax_grad_##T(const T *y, const T *gy, T *gx, int64_t rows, int64_t n, bool logarithm, bool add) {    \
    for (int64_t r = 0; r < rows; r++, y += n, gy += n, gx += n) {                                                     \
      double dot = 0;                                                                                                  \
      for (int64_t i = 0; i < n; i++) dot += logarithm ? (double)gy[i] : (double)gy[i] * (double)y[i];                 \
      for (int64_t i = 0; i < n; i++) {                                                                                \
        T g = logarithm ? gy[i] - m(exp)(y[i]) * (T)dot : y[i] * (gy[i] - (T)dot);                                     \
        gx[i] = add ? gx[i] + g : g;                                                                                   \
      }                                                                                                                \
    }                                                                                                                  \
  }
#define SINGLE(name) name##f
#define DOUBLE(name) name
SOFTMAX(float, SINGLE)
SOFTMAX(double, DOUBLE)

void kava_ref_softmax(kava_dtype type, const void *x, void *y, int64_t rows, int64_t n, bool logarithm) {
  if (type == KAVA_F64)
    softmax_double(x, y, rows, n, logarithm);
  else
    softmax_float(x, y, rows, n, logarithm);
}

void kava_ref_softmax_grad(kava_dtype type, const void *y, const void *gy, void *gx, int64_t rows, int64_t n,
                           bool logarithm, bool add) {
  if (type == KAVA_F64)
    softmax_grad_double(y, gy, gx, rows, n, logarithm, add);
  else
    softmax_grad_float(y, gy, gx, rows, n, logarithm, add);
}

#define DIFFERENCE(T)                                                                                                  \
  static void difference_##T(const T *a, const T *b, int64_t count, double rtol, double atol, kava_difference *out) {  \
    for (int64_t i = 0; i < count; i++) {                                                                              \
      double x = (double)a[i], y = (double)b[i], d = x == y ? 0 : fabs(x - y);                                         \
      if (d != d) d = INFINITY;                                                                                        \
      if (!(d <= atol + rtol * fabs(y)) || (d > 0 && isinf(d))) out->close = false;                                    \
      if (out->index < 0 || d > out->most) {                                                                           \
        out->most = d;                                                                                                 \
        out->index = i;                                                                                                \
      }                                                                                                                \
    }                                                                                                                  \
  }
DIFFERENCE(float)
DIFFERENCE(double)

void kava_ref_difference(kava_dtype type, const void *a, const void *b, int64_t count, double rtol, double atol,
                         kava_difference *out) {
  *out = (kava_difference){.close = true, .most = 0, .index = -1};
  if (type == KAVA_F64)
    difference_double(a, b, count, rtol, atol, out);
  else
    difference_float(a, b, count, rtol, atol, out);
}

/* kernels/cpu/linear.c: the plain reference of a linear layer's products (kava_linear_args):
 *   forward  y[r,o] = sum_i x[r,i] W[o,i] + bias[o]
 *   dx       dx[r,i] (+)= sum_o dy[r,o] W[o,i]
 *   dw       dW[o,i] (+)= sum_r dy[r,o] x[r,i],   db[o] (+)= sum_r dy[r,o]
 * W is widened a few rows at a time; with precision bf16 every operand of a product is rounded first (bias is not). */
#include "base/memory.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <string.h>

#define ROWS 64 /* of W, widened together */

static float round_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return x;
  bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* The operand as the product sees it: itself, or a rounded copy in *scratch (kava_alloc'ed). NULL: out of memory. */
static const void *operand(const kava_linear_args *a, const void *x, int64_t count, float **scratch) {
  *scratch = NULL;
  if (a->dtype == KAVA_F64 || a->precision != KAVA_BF16) return x;
  *scratch = kava_alloc((size_t)count * sizeof(float));
  for (int64_t i = 0; i < count && *scratch; i++) (*scratch)[i] = round_bf16(((const float *)x)[i]);
  return *scratch;
}

/* Rows [begin, begin+rows) of W as an array of a->dtype: in place, or widened (and rounded) into `scratch`. */
static const void *weight_rows(const kava_linear_args *a, int64_t begin, int64_t rows, float *scratch) {
  size_t row_bytes = (size_t)(a->in / kava_dtype_block(a->wtype)) * (size_t)kava_dtype_block_bytes(a->wtype);
  const char *from = (const char *)a->w + (size_t)begin * row_bytes;
  if (!scratch) return from;
  for (int64_t r = 0; r < rows && a->scaling; r++)
    kava_ref_widen_scaled(a->wtype, from + (size_t)r * row_bytes, a->scaling, a->first + begin + r, 0,
                          scratch + r * a->in, a->in);
  if (!a->scaling) kava_ref_widen(a->wtype, from, scratch, rows * a->in);
  for (int64_t i = 0; i < rows * a->in && a->precision == KAVA_BF16; i++) scratch[i] = round_bf16(scratch[i]);
  return scratch;
}

static float *weight_scratch(const kava_linear_args *a, bool *failed) {
  *failed = false;
  if (a->dtype == KAVA_F64 || (a->wtype == KAVA_F32 && a->precision != KAVA_BF16)) return NULL;
  float *scratch = kava_alloc((size_t)(a->in * ROWS) * sizeof(float));
  *failed = !scratch;
  return scratch;
}

kava_status kava_ref_linear_forward(const kava_linear_args *a, const void *x, const void *bias, void *y) {
  float *rounded = NULL;
  bool failed;
  float *scratch = weight_scratch(a, &failed);
  const void *from = operand(a, x, a->rows * a->in, &rounded);
  if (failed || !from) {
    kava_free(scratch);
    return KAVA_MEMORY;
  }
  size_t size = a->dtype == KAVA_F64 ? 8 : 4;
  for (int64_t o = 0; o < a->out; o += ROWS) {
    int64_t count = a->out - o < ROWS ? a->out - o : ROWS;
    kava_gemm_args g = {.dtype = a->dtype,
                        .trans_b = true,
                        .m = a->rows,
                        .n = count,
                        .k = a->in,
                        .alpha = 1,
                        .a = from,
                        .lda = a->in,
                        .b = weight_rows(a, o, count, scratch),
                        .ldb = a->in,
                        .c = (char *)y + (size_t)o * size,
                        .ldc = a->out,
                        .batch = 1};
    kava_ref_gemm(&g);
  }
  for (int64_t r = 0; r < a->rows && bias; r++)
    for (int64_t o = 0; o < a->out; o++) element_put(a->dtype, y, r * a->out + o, element_get(a->dtype, bias, o), true);
  kava_free(scratch);
  kava_free(rounded);
  return KAVA_OK;
}

kava_status kava_ref_linear_dx(const kava_linear_args *a, const void *dy, void *dx, bool add) {
  float *rounded = NULL;
  bool failed;
  float *scratch = weight_scratch(a, &failed);
  const void *from = operand(a, dy, a->rows * a->out, &rounded);
  if (failed || !from) {
    kava_free(scratch);
    return KAVA_MEMORY;
  }
  size_t size = a->dtype == KAVA_F64 ? 8 : 4;
  for (int64_t o = 0; o < a->out; o += ROWS) {
    int64_t count = a->out - o < ROWS ? a->out - o : ROWS;
    kava_gemm_args g = {.dtype = a->dtype,
                        .m = a->rows,
                        .n = a->in,
                        .k = count,
                        .alpha = 1,
                        .beta = add || o > 0 ? 1 : 0,
                        .a = (const char *)from + (size_t)o * size,
                        .lda = a->out,
                        .b = weight_rows(a, o, count, scratch),
                        .ldb = a->in,
                        .c = dx,
                        .ldc = a->in,
                        .batch = 1};
    kava_ref_gemm(&g);
  }
  kava_free(scratch);
  kava_free(rounded);
  return KAVA_OK;
}

kava_status kava_ref_linear_dw(const kava_linear_args *a, const void *x, const void *dy, void *dw, bool add_w, void *db,
                               bool add_b) {
  int64_t dy_row = a->dy_row ? a->dy_row : a->out;
  for (int64_t o = 0; o < a->out && db; o++) {
    double sum = 0;
    for (int64_t r = 0; r < a->rows; r++) sum += element_get(a->dtype, dy, r * dy_row + o);
    element_put(a->dtype, db, o, sum, add_b);
  }
  if (!dw) return KAVA_OK;
  float *rounded_x = NULL, *rounded_dy = NULL;
  const void *from_x = operand(a, x, a->rows * a->in, &rounded_x);
  const void *from_dy = operand(a, dy, a->rows ? (a->rows - 1) * dy_row + a->out : 0, &rounded_dy);
  kava_status st = from_x && from_dy ? KAVA_OK : KAVA_MEMORY;
  if (st == KAVA_OK) {
    kava_gemm_args g = {.dtype = a->dtype,
                        .trans_a = true,
                        .m = a->out,
                        .n = a->in,
                        .k = a->rows,
                        .alpha = 1,
                        .beta = add_w ? 1 : 0,
                        .a = from_dy,
                        .lda = dy_row,
                        .b = from_x,
                        .ldb = a->in,
                        .c = dw,
                        .ldc = a->in,
                        .batch = 1};
    kava_ref_gemm(&g);
  }
  kava_free(rounded_x);
  kava_free(rounded_dy);
  return st;
}

kava_status kava_ref_linear_gate_up(const kava_linear_args *a, kava_activation kind, const void *x, void *y,
                                    void *act) {
  int64_t width = a->out / 2, size = a->dtype == KAVA_F64 ? 8 : 4;
  char *own = y ? NULL : kava_alloc((size_t)(a->rows * a->out * size)), *both = y ? y : own;
  if (!both) return KAVA_MEMORY;
  kava_status st = kava_ref_linear_forward(a, x, NULL, both);
  for (int64_t r = 0; r < a->rows && st == KAVA_OK; r++)
    kava_ref_gated(&(kava_gated_args){.kind = kind,
                                      .dtype = a->dtype,
                                      .count = width,
                                      .gate = both + r * a->out * size,
                                      .up = both + (r * a->out + width) * size,
                                      .y = (char *)act + r * width * size});
  kava_free(own);
  return st;
}

kava_status kava_ref_linear_gated_back(const kava_linear_args *a, const void *dy, const kava_gated_args *g) {
  kava_gated_args own = *g;
  own.grad = g->y;
  kava_status st = kava_ref_linear_dx(a, dy, g->y, false);
  if (st == KAVA_OK) kava_ref_gated_grad(&own);
  return st;
}

const char *kava_ref_linear_bf16(void) { return "f32"; }

kava_status kava_ref_linear_gated(const kava_linear_args *a, kava_activation kind, const void *gate, const void *up,
                                  const void *bias, void *y) {
  void *x = kava_alloc((size_t)(a->rows * a->in) * (a->dtype == KAVA_F64 ? 8 : 4));
  if (!x) return KAVA_MEMORY;
  kava_ref_gated(
      &(kava_gated_args){.kind = kind, .dtype = a->dtype, .count = a->rows * a->in, .gate = gate, .up = up, .y = x});
  kava_status st = kava_ref_linear_forward(a, x, bias, y);
  kava_free(x);
  return st;
}

#include "ops/norm_linear.h"
#include "kernels/kernels.h"
#include "ops/linear.h"
#include "ops/norm.h"
#include "tape/tape.h"

/* Rows of G at a time: few enough to hold, enough for the product to pack little again; on a GPU whole tiles that fill
 * it, in about so many bytes. */
#define ROWS_A_BLOCK 1024
#define BYTES_A_BLOCK ((int64_t)64 << 20)
static int64_t rows_a_block(kava_device device, int64_t rows, int64_t width) {
  int64_t most = ROWS_A_BLOCK;
  if (device != KAVA_CPU) {
    int64_t blocks = rows * width * (int64_t)sizeof(float) / BYTES_A_BLOCK + 1;
    most = ((rows + blocks - 1) / blocks + 127) / 128 * 128;
  }
  return most < rows ? most : rows;
}

/* node: inputs gamma, beta, w, b; saved x, gamma, beta, w; numbers[0] eps; integers[0] precision */
static kava_status norm_linear_backward(kava_node *node, const kava_tensor *dz) {
  kava_status st = KAVA_OK;
  kava_tensor *gamma = node->saved[1], *beta = node->saved[2], *w = node->saved[3];
  kava_tensor *dgamma, *dbeta, *dw, *xhat = NULL, *g = NULL, *sums = NULL;
  bool add_w = false;
  kava_dtype wide = kava_dtype_wide(dz->dtype);
  int64_t rows, out = w->shape[0], in = w->shape[1];
  rows = kava_tensor_numel(dz) / (out ? out : 1);
  kava_no_grad(+1);
  st = kava_op_layer_norm(node->saved[0], NULL, NULL, node->numbers[0], &xhat);
  kava_no_grad(-1);
  if (st != KAVA_OK) goto out;
  kava_tensor_release(&node->saved[0]); /* read for the last time */
  KAVA_TRY(kava_grad_into_zeroed(node->inputs[0], &dgamma));
  KAVA_TRY(kava_grad_into_zeroed(node->inputs[1], &dbeta));
  KAVA_TRY(kava_grad_into_half(node->inputs[2], KAVA_BF16, &dw, &add_w));
  KAVA_TRY(kava_tensor_new_on(dz->device, wide, 1, &out, &sums));
  kava_linear_args linear = {.dtype = dz->dtype,
                             .rows = rows,
                             .in = in,
                             .out = out,
                             .w = kava_tensor_data(w),
                             .wtype = w->dtype,
                             .precision = (kava_dtype)node->integers[0]};
  KAVA_RUN_TRY(dz->device, linear_dw, &linear, kava_tensor_data(xhat), kava_tensor_data(dz), NULL, false,
               kava_tensor_data(sums), false);
  bool gpu = dz->device != KAVA_CPU, rounded = linear.precision != KAVA_F32 && dz->dtype == KAVA_F32;
  int64_t block = rows_a_block(dz->device, out, in);
  KAVA_TRY(kava_tensor_new_on(dz->device, wide, 2, (int64_t[]){block, in}, &g));
  size_t element = (size_t)kava_dtype_block_bytes(wide);
  size_t of_dz = (size_t)kava_dtype_block_bytes(dz->dtype), of_w = (size_t)kava_dtype_block_bytes(w->dtype);
  for (int64_t first = 0; first < out; first += block) {
    int64_t count = out - first < block ? out - first : block;
    const char *dz_block = (const char *)kava_tensor_data(dz) + (size_t)first * of_dz;
    if (gpu || rounded) {
      linear.out = count;
      linear.dy_row = out;
      KAVA_RUN_TRY(dz->device, linear_dw, &linear, kava_tensor_data(xhat), dz_block, kava_tensor_data(g), false, NULL,
                   false);
    } else {
      kava_gemm_args gemm = {.dtype = dz->dtype,
                             .trans_a = true,
                             .m = count,
                             .n = in,
                             .k = rows,
                             .alpha = 1,
                             .a = dz_block,
                             .b = kava_tensor_data(xhat),
                             .c = kava_tensor_data(g),
                             .lda = out,
                             .ldb = in,
                             .ldc = in,
                             .batch = 1};
      KAVA_RUN(dz->device, gemm, &gemm);
    }
    kava_norm_linear_args finish = {.dtype = wide,
                                    .wtype = w->dtype,
                                    .dw_dtype = dw ? dw->dtype : wide,
                                    .rows = count,
                                    .width = in,
                                    .g = kava_tensor_data(g),
                                    .w = (const char *)kava_tensor_data(w) + (size_t)(first * in) * of_w,
                                    .gamma = kava_tensor_data(gamma),
                                    .beta = kava_tensor_data(beta),
                                    .sums = (const char *)kava_tensor_data(sums) + (size_t)first * element,
                                    .dw = NULL,
                                    .add_w = add_w,
                                    .dgamma = dgamma ? kava_tensor_data(dgamma) : NULL,
                                    .dbeta = dbeta ? kava_tensor_data(dbeta) : NULL};
    if (dw) finish.dw = (char *)kava_tensor_data(dw) + (size_t)(first * in * kava_dtype_block_bytes(dw->dtype));
    KAVA_RUN_TRY(dz->device, norm_linear_finish, &finish);
  }
  st = kava_grad_add(node->inputs[3], sums);
out:
  kava_tensor_release(&xhat);
  kava_tensor_release(&g);
  kava_tensor_release(&sums);
  return st;
}

kava_status kava_op_norm_linear(kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, kava_tensor *w, kava_tensor *b,
                                double eps, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *normed = NULL, *y = NULL, *parameters[4] = {gamma, beta, w, b};
  kava_node *node;
  bool same = gamma && beta && b && gamma->dtype == w->dtype && beta->dtype == w->dtype && b->dtype == w->dtype &&
              kava_dtype_wide(x->dtype) == kava_dtype_wide(w->dtype) && x->device == w->device &&
              (x->device == KAVA_CPU ? x->dtype == w->dtype && w->dtype != KAVA_BF16 && w->dtype != KAVA_F16
                                     : w->dtype != KAVA_F16) &&
              kava_tensor_is_contiguous(w) && kava_tensor_is_contiguous(gamma) && kava_tensor_is_contiguous(beta);
  if (kava_needs_grad(x) || !same || !kava_tape_wanted(parameters, 4)) {
    KAVA_TRY(kava_op_layer_norm(x, gamma, beta, eps, &normed));
    KAVA_TRY(kava_op_linear(normed, w, b, out));
    goto out;
  }
  kava_no_grad(+1);
  st = kava_op_layer_norm(x, gamma, beta, eps, &normed);
  if (st == KAVA_OK) st = kava_op_linear(normed, w, b, &y);
  kava_no_grad(-1);
  if (st != KAVA_OK) goto out;
  KAVA_TRY(kava_tape_record("norm_linear", norm_linear_backward, 4, parameters, y, &node));
  node->numbers[0] = eps;
  node->integers[0] = kava_matmul_precision();
  KAVA_TRY(kava_tape_save(node, 0, x));
  for (int i = 0; i < 3; i++) KAVA_TRY(kava_tape_save(node, 1 + i, parameters[i]));
  *out = kava_tensor_retain(y);
out:
  kava_tensor_release(&normed);
  kava_tensor_release(&y);
  return st;
}

/* Whether the parameters of a norm are of x's type, or all f32 beside it. */
static bool parameters_fit(const kava_tensor *x, const kava_tensor *gamma, const kava_tensor *beta, bool *wide) {
  const kava_tensor *all[2] = {gamma, beta};
  *wide = (gamma && gamma->dtype != x->dtype) || (beta && beta->dtype != x->dtype);
  for (int i = 0; i < 2; i++)
    if (all[i] && (all[i]->device != x->device || all[i]->dims != 1 || all[i]->shape[0] != x->shape[x->dims - 1] ||
                   !kava_tensor_is_contiguous(all[i]) || all[i]->dtype != (*wide ? KAVA_F32 : x->dtype)))
      return false;
  return true;
}

/* The norm of x as kernels of codes take it. False: they do not, or it is recorded. */
static bool norm_fits(bool layer_norm, kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, double eps,
                      kava_norm_args *norm) {
  bool wide;
  if (x->device == KAVA_CPU || x->dims < 1 || kava_tensor_numel(x) == 0 || !kava_tensor_is_contiguous(x) ||
      !parameters_fit(x, gamma, beta, &wide) || kava_tape_wanted((kava_tensor *[]){x, gamma, beta}, 3))
    return false;
  int64_t width = x->shape[x->dims - 1];
  *norm = (kava_norm_args){.dtype = x->dtype,
                           .centre = layer_norm,
                           .rows = kava_tensor_numel(x) / width,
                           .width = width,
                           .eps = eps,
                           .x = kava_tensor_data(x),
                           .w = gamma ? kava_tensor_data(gamma) : NULL,
                           .b = beta ? kava_tensor_data(beta) : NULL,
                           .wide = wide};
  return true;
}

/* Likewise a layer of `in` inputs, for as many rows as x has. */
static bool layer_fits(const kava_tensor *x, int64_t in, kava_tensor *w, kava_tensor *b, kava_linear_args *a) {
  if (w->dtype != KAVA_FP8 || w->device != x->device || w->dims != 2 || w->shape[1] != in ||
      kava_tape_wanted((kava_tensor *[]){w, b}, 2) ||
      (b && (b->dtype != x->dtype || b->device != x->device || b->dims != 1 || b->shape[0] != w->shape[0] ||
             !kava_tensor_is_contiguous(b))))
    return false;
  *a = (kava_linear_args){.dtype = x->dtype,
                          .rows = kava_tensor_numel(x) / x->shape[x->dims - 1],
                          .in = in,
                          .out = w->shape[0],
                          .w = kava_tensor_data(w),
                          .wtype = w->dtype,
                          .scaling = kava_tensor_scaling(w),
                          .first = kava_tensor_first_row(w),
                          .precision = kava_matmul_precision()};
  return true;
}

/* Room for what a layer gives for x. */
static kava_status room(const kava_tensor *x, const kava_tensor *w, kava_tensor **out) {
  int64_t shape[KAVA_MAX_DIMS];
  for (int i = 0; i < x->dims; i++) shape[i] = i + 1 < x->dims ? x->shape[i] : w->shape[0];
  return kava_tensor_new_on(x->device, x->dtype, x->dims, shape, out);
}

kava_status kava_linear_normed(bool layer_norm, kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, double eps,
                               int count, kava_tensor *const *w, kava_tensor *const *bias, kava_tensor **outs) {
  kava_status st = KAVA_OK;
  kava_tensor *y[KAVA_NORMED_MOST] = {NULL};
  kava_linear_args a[KAVA_NORMED_MOST];
  const void *biases[KAVA_NORMED_MOST] = {NULL};
  void *into[KAVA_NORMED_MOST];
  kava_norm_args norm;
  for (int i = 0; i < count; i++) outs[i] = NULL;
  if (!norm_fits(layer_norm, x, gamma, beta, eps, &norm) || !kava_kernels_of(x->device)->linear_normed) return KAVA_OK;
  for (int i = 0; i < count; i++)
    if (!layer_fits(x, norm.width, w[i], bias ? bias[i] : NULL, &a[i])) return KAVA_OK;
  for (int i = 0; i < count; i++) {
    KAVA_TRY(room(x, w[i], &y[i]));
    into[i] = kava_tensor_data(y[i]);
    if (bias && bias[i]) biases[i] = kava_tensor_data(bias[i]);
  }
  st = kava_kernels_of(x->device)->linear_normed(&norm, count, a, biases, into);
  if (st == KAVA_UNSUPPORTED) {
    st = KAVA_OK;
    goto out;
  }
  KAVA_TRY(st);
  KAVA_TRY(kava_device_check(x->device, "linear_normed"));
  for (int i = 0; i < count; i++) {
    outs[i] = y[i];
    y[i] = NULL;
  }
out:
  for (int i = 0; i < count; i++) kava_tensor_release(&y[i]);
  return st;
}

kava_status kava_gated_mlp(bool layer_norm, kava_tensor *x, kava_tensor *gamma, kava_tensor *beta, double eps,
                           kava_activation kind, kava_tensor *const *w, kava_tensor *bias, kava_tensor *residual,
                           kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *act = NULL, *y = NULL;
  kava_norm_args norm;
  kava_linear_args a[3];
  *out = NULL;
  if (!norm_fits(layer_norm, x, gamma, beta, eps, &norm) || !kava_kernels_of(x->device)->gated_mlp ||
      (residual && (!kava_linear_adds(x, w[2], residual) || kava_tape_wanted(&residual, 1))))
    return KAVA_OK;
  for (int i = 0; i < 3; i++)
    if (kava_tensor_offloaded(w[i]) ||
        !layer_fits(x, i == 2 ? w[0]->shape[0] : norm.width, w[i], i == 2 ? bias : NULL, &a[i]))
      return KAVA_OK;
  if (residual) a[2].residual = kava_tensor_data(residual);
  KAVA_TRY(room(x, w[0], &act));
  KAVA_TRY(room(x, w[2], &y));
  st = kava_kernels_of(x->device)->gated_mlp(&norm, kind, a, bias ? kava_tensor_data(bias) : NULL,
                                             kava_tensor_data(act), kava_tensor_data(y));
  if (st == KAVA_UNSUPPORTED) {
    st = KAVA_OK;
    goto out;
  }
  KAVA_TRY(st);
  KAVA_TRY(kava_device_check(x->device, "gated_mlp"));
  *out = y;
  y = NULL;
out:
  kava_tensor_release(&act);
  kava_tensor_release(&y);
  return st;
}

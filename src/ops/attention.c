#include "ops/attention.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/operand.h"
#include "tape/tape.h"
#include <math.h>

double kava_attention_scale(const kava_tensor *q) {
  return q->dims == 4 && q->shape[3] > 0 ? 1.0 / sqrt((double)q->shape[3]) : 1.0;
}

static kava_attention_args arguments(const kava_tensor *q, const kava_tensor *k, const kava_tensor *v,
                                     const kava_tensor *start, int64_t window, const kava_tensor *lse, double scale,
                                     double softcap) {
  return (kava_attention_args){.dtype = q->dtype,
                               .batch = q->shape[0],
                               .length = q->shape[1],
                               .heads = q->shape[2],
                               .kv_heads = k->shape[2],
                               .head_dim = q->shape[3],
                               .scale = scale,
                               .softcap = softcap,
                               .q = kava_tensor_data(q),
                               .k = kava_tensor_data(k),
                               .v = v ? kava_tensor_data(v) : NULL,
                               .q_row = kava_operand_row(q, 2),
                               .k_row = kava_operand_row(k, 2),
                               .v_row = v ? kava_operand_row(v, 2) : 0,
                               .start = start ? kava_i32(start) : NULL,
                               .window = window,
                               .lse = lse ? kava_tensor_data(lse) : NULL};
}

/* Runs the kernel that writes the gradients of q, k and v at once; grad_p: of a map, which has no v. One tensor may be
 * two of them: then the later one's gradient gets room of its own, and is added behind. */
static kava_status gradients(kava_node *node, kava_device device, kava_attention_args *a, const kava_tensor *grad_p) {
  kava_status st = KAVA_OK;
  kava_tensor *to[3], *own[3] = {NULL};
  void **const at[] = {&a->dq, &a->dk, &a->dv};
  int64_t *const row[] = {&a->dq_row, &a->dk_row, &a->dv_row};
  bool *const add[] = {&a->add_q, &a->add_k, &a->add_v};
  for (int i = 0; i < (grad_p ? 2 : 3); i++) {
    KAVA_TRY((grad_p ? kava_grad_into : kava_grad_into_rows)(node->inputs[i], &to[i], add[i]));
    for (int j = 0; j < i && to[i] && !own[i]; j++)
      if (to[j] == to[i]) KAVA_TRY(kava_tensor_empty_like(to[i], to[i]->dtype, &own[i]));
    if (own[i]) {
      to[i] = own[i];
      *add[i] = false;
    }
    *at[i] = to[i] ? kava_tensor_data(to[i]) : NULL;
    *row[i] = to[i] ? kava_operand_row(to[i], 2) : 0;
  }
  if (grad_p)
    KAVA_RUN_TRY(device, attention_map_grad, a, kava_tensor_data(grad_p));
  else
    KAVA_RUN_TRY(device, attention_grad, a);
  for (int i = 0; i < 3; i++)
    if (own[i]) KAVA_TRY(kava_grad_add(node->inputs[i], own[i]));
out:
  for (int i = 0; i < 3; i++) kava_tensor_release(&own[i]);
  return st;
}

/* node: inputs q, k, v; saved q, k, v, start, lse, o (as the kernel read them, in the output's dtype); numbers: scale,
 * softcap; integers[0]: window */
static kava_status attention_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor **saved = node->saved;
  kava_attention_args a = arguments(saved[0], saved[1], saved[2], saved[3], node->integers[0], saved[4],
                                    node->numbers[0], node->numbers[1]);
  a.o = kava_tensor_data(saved[5]);
  a.grad_o = kava_tensor_data(grad);
  return gradients(node, grad->device, &a, NULL);
}

static kava_status map_backward(kava_node *node, const kava_tensor *grad) {
  kava_tensor **saved = node->saved;
  kava_attention_args a =
      arguments(saved[0], saved[1], NULL, saved[3], node->integers[0], saved[4], node->numbers[0], node->numbers[1]);
  return gradients(node, grad->device, &a, grad);
}

static kava_status check(const char *op, const kava_tensor *q, const kava_tensor *k, const kava_tensor *v) {
  char q_shape[96], k_shape[96];
  kava_shape_format(q->dims, q->shape, q_shape, sizeof q_shape);
  kava_shape_format(k->dims, k->shape, k_shape, sizeof k_shape);
  if (q->dims != 4 || k->dims != 4)
    return kava_fail(KAVA_MISUSE, "%s: q is %s and k %s; [B, T, H, D] and [B, T, Hkv, D] expected", op, q_shape,
                     k_shape);
  if (q->shape[0] != k->shape[0] || q->shape[1] != k->shape[1] || q->shape[3] != k->shape[3])
    return kava_fail(KAVA_MISUSE, "%s: q is %s but k %s; only the third dimension (heads) may differ", op, q_shape,
                     k_shape);
  if (q->shape[2] < 1 || q->shape[3] < 1)
    return kava_fail(KAVA_MISUSE, "%s: q is %s; at least one head of one element expected", op, q_shape);
  if (k->shape[2] == 0 || q->shape[2] % k->shape[2] != 0)
    return kava_fail(KAVA_MISUSE, "%s: q has %lld heads and k %lld; the first must be a multiple of the second", op,
                     (long long)q->shape[2], (long long)k->shape[2]);
  return v ? kava_operand_shape(op, "v", v, 4, k->shape) : KAVA_OK;
}

/* start as contiguous i32, on q's device, as it is where it is that. What comes in more bits is clamped on the way, so
 * that i32 holds it: 2^30 sees no key, as any start beyond the query does. */
static kava_status start_keys(const char *op, kava_tensor *start, kava_device device, kava_tensor **out) {
  kava_tensor *wide = NULL, *clamped = NULL, *narrow = NULL;
  kava_status st = KAVA_OK;
  if (start->dtype == KAVA_I32 && start->device == device && kava_tensor_is_contiguous(start)) {
    *out = kava_tensor_retain(start);
    return KAVA_OK;
  }
  KAVA_TRY(kava_operand_ids(op, "start", start, device, &wide));
  KAVA_TRY(kava_tensor_empty_like(wide, KAVA_I64, &clamped));
  KAVA_RUN(device, unary, KAVA_CLAMP, KAVA_I64, kava_i64(wide), kava_i64(clamped), kava_tensor_numel(wide), 0, 0x1p30);
  KAVA_TRY(kava_contiguous_as(clamped, KAVA_I32, &narrow));
  *out = narrow;
  narrow = NULL;
out:
  kava_tensor_release(&wide);
  kava_tensor_release(&clamped);
  kava_tensor_release(&narrow);
  return st;
}

/* Both ops: v NULL means attention_map. */
static kava_status attend(const char *op, kava_tensor *q, kava_tensor *k, kava_tensor *v, kava_tensor *start,
                          int64_t window, double scale, double softcap, kava_backward_fn backward, kava_tensor **out) {
  kava_status st = KAVA_OK;
  kava_tensor *inputs[3] = {q, k, v}, *given[5] = {NULL}, *y = NULL;
  static const char *const names[3] = {"q", "k", "v"};
  kava_dtype dtype;
  kava_node *node;
  KAVA_TRY(kava_operand_dtype(op, 3, inputs, names, &dtype));
  KAVA_TRY(check(op, q, k, v));
  if (!(softcap >= 0)) KAVA_FAIL(KAVA_MISUSE, "%s: softcap is %g; 0 (none) or more expected", op, softcap);
  if (window < 0) KAVA_FAIL(KAVA_MISUSE, "%s: window is %lld; 0 (all keys) or more expected", op, (long long)window);
  if (start) {
    KAVA_TRY(kava_operand_shape(op, "start", start, 2, q->shape));
    KAVA_TRY(start_keys(op, start, q->device, &given[3]));
  }
  for (int i = 0; i < 3; i++) KAVA_TRY(kava_operand_rows(op, names[i], inputs[i], dtype, 2, &given[i]));
  bool recorded = kava_tape_wanted(inputs, 3);
  if (recorded)
    KAVA_TRY(kava_tensor_new_on(q->device, kava_dtype_wide(dtype), 3,
                                (int64_t[]){q->shape[0], q->shape[2], q->shape[1]}, &given[4]));
  KAVA_TRY(v ? kava_tensor_empty_like(q, dtype, &y)
             : kava_tensor_new_on(q->device, dtype, 3, (int64_t[]){q->shape[0], q->shape[1], q->shape[1]}, &y));
  kava_attention_args a = arguments(given[0], given[1], given[2], given[3], window, given[4], scale, softcap);
  a.o = v ? kava_tensor_data(y) : NULL;
  if (kava_tensor_numel(y) && v)
    KAVA_RUN_TRY(q->device, attention, &a);
  else if (kava_tensor_numel(y))
    KAVA_RUN_TRY(q->device, attention_map, &a, kava_tensor_data(y));
  if (recorded) {
    KAVA_TRY(kava_tape_record(op, backward, 3, inputs, y, &node));
    node->numbers[0] = scale;
    node->numbers[1] = softcap;
    node->integers[0] = window;
    for (int i = 0; i < 5; i++) KAVA_TRY(kava_tape_save(node, i, given[i]));
    if (v) KAVA_TRY(kava_tape_save(node, 5, y));
  }
  *out = y;
  y = NULL;
out:
  for (int i = 0; i < 5; i++) kava_tensor_release(&given[i]);
  kava_tensor_release(&y);
  return st;
}

kava_status kava_op_attention(kava_tensor *q, kava_tensor *k, kava_tensor *v, kava_tensor *start, int64_t window,
                              double scale, double softcap, kava_tensor **out) {
  return attend("attention", q, k, v, start, window, scale, softcap, attention_backward, out);
}

kava_status kava_op_attention_map(kava_tensor *q, kava_tensor *k, kava_tensor *start, int64_t window, double scale,
                                  double softcap, kava_tensor **out) {
  return attend("attention_map", q, k, NULL, start, window, scale, softcap, map_backward, out);
}

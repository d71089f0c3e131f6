/* ops/operand: what an op does to its arguments before it calls a kernel: checks the type, and makes a contiguous copy
 * in the dtype it computes in where the tensor is not that already. Such copies carry no record: an op records the
 * tensors it was given, and gradients are contiguous whatever the strides of their tensor. */
#ifndef KAVA_OPS_OPERAND_H
#define KAVA_OPS_OPERAND_H
#include "tensor/tensor.h"

/* The dtype an op computes in: f64 when every given tensor is f64, f32 when all are f32, f16 or bf16; on a GPU the
 * first one's own. NULLs are passed over. KAVA_MISUSE names op and argument when one is no plain float, when f64 meets
 * another type, or when they are not on one device. */
kava_status kava_operand_dtype(const char *op, int count, kava_tensor *const *tensors, const char *const *names,
                               kava_dtype *out);
/* One reference to t's values as a contiguous tensor of `dtype`: t itself where it is that. NULL gives NULL.
 * t may be of any plain dtype, any strides. */
kava_status kava_operand(const char *op, const char *name, kava_tensor *t, kava_dtype dtype, kava_tensor **out);
/* The same for kernels that take rows lying apart (on a GPU): t itself also where all but its last `inner` dimensions
 * are one run of rows. */
kava_status kava_operand_rows(const char *op, const char *name, kava_tensor *t, kava_dtype dtype, int inner,
                              kava_tensor **out);
/* Elements from one such row of t to the next; 0: it is contiguous. */
int64_t kava_operand_row(const kava_tensor *t, int inner);
/* KAVA_MISUSE unless t, where there is one, is on `device`. */
kava_status kava_operand_device(const char *op, const char *name, const kava_tensor *t, kava_device device);
/* The same for ids and positions: i64 from any integer dtype, on `device`: moved there from wherever they are.
 * KAVA_MISUSE for anything else. */
kava_status kava_operand_ids(const char *op, const char *name, kava_tensor *t, kava_device device, kava_tensor **out);
/* KAVA_MISUSE saying what came and what was expected unless t has exactly this shape. */
kava_status kava_operand_shape(const char *op, const char *name, const kava_tensor *t, int dims, const int64_t *shape);
/* keep[i] = mask's i-th element != 0 for `rows` elements; NULL mask: all 1. *count: how many.
 * *keep is kava_alloc'ed. KAVA_MISUSE when the mask has another number of elements or a quantised dtype. */
kava_status kava_operand_mask(const char *op, kava_tensor *mask, int64_t rows, uint8_t **keep, int64_t *count);
/* The same as a bool tensor [rows] on `device`, or NULL without a mask; and how many rows count, as an f64 scalar
 * there: those that `keep` keeps and whose target is not negative (either may be NULL). A mask that leaves no row is
 * KAVA_MISUSE where it comes from the host; one on a GPU is not looked at: 0 rows make means that are not finite. */
kava_status kava_operand_keep(const char *op, kava_tensor *mask, int64_t rows, kava_device device, kava_tensor **out);
kava_status kava_operand_counted(const kava_tensor *keep, const kava_tensor *targets, int64_t rows, kava_device device,
                                 kava_tensor **out);
#endif

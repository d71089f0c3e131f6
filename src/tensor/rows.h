/* tensor/rows: the gradient of a table of which a step looks up few rows, without the rows that have none. What is
 * added at a time gets as many rows here as were looked up, whether alike or not: so shapes follow from shapes alone,
 * and a step can be recorded. A table's row is summed in the first of those that were looked up for it; the others are
 * 0. */
#ifndef KAVA_TENSOR_ROWS_H
#define KAVA_TENSOR_ROWS_H
#include "tensor/tensor.h"

struct kava_rows {
  kava_tensor *values; /* [room, width], of which `used` rows hold something */
  kava_tensor *ids;    /* i64 [room]: the table's row of each, or one that it has not */
  kava_tensor *slots;  /* i32 [rows of the table]: the row here; negative: there is none */
  int64_t used;
};

/* Room for `count` rows more in t->grad_rows, which is made where it is not there; `dtype`: of the values. */
kava_status kava_rows_room(kava_tensor *t, kava_dtype dtype, int64_t count);
/* t->grad_rows becomes t->grad, all rows of it. */
kava_status kava_rows_spread(kava_tensor *t);
void kava_rows_release(struct kava_rows **rows); /* accepts NULL, nulls the pointer */
#endif

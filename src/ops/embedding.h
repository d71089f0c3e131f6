/* ops/embedding: rows of a table by id. ids [..] of any integer type; w [V, D] of any float or quantised type;
 * y [.., D] in f32 (f64 for an f64 table). An id outside 0 .. V-1 is KAVA_MISUSE naming it, its position and V. */
#ifndef KAVA_OPS_EMBEDDING_H
#define KAVA_OPS_EMBEDDING_H
#include "tensor/tensor.h"

/* pad: the id whose row gets no gradient from here, as torch's padding_idx has it; < 0: none */
kava_status kava_op_embedding(kava_tensor *ids, kava_tensor *w, int64_t pad, kava_tensor **out);
/* KAVA_MISUSE unless every id (i64, contiguous) is in [0, most): "id 7 at position 2 is outside <what> of 5". Ids on a
 * GPU are not looked at. */
kava_status kava_check_ids(const char *op, const char *what, const kava_tensor *ids, int64_t most);
#endif

/* ops/dropout: inverted dropout. In training mode y = x * mask / (1-p), each element dropped with probability p;
 * otherwise, and for p = 0, y is x itself (one more reference). The mask is a function of (seed, stream, index): the
 * backward pass makes it again, and only the stream number is kept. */
#ifndef KAVA_OPS_DROPOUT_H
#define KAVA_OPS_DROPOUT_H
#include "tensor/tensor.h"

kava_status kava_op_dropout(kava_tensor *x, double p, kava_tensor **out); /* 0 <= p < 1 */
/* The same, y over x: of what nobody reads any more. backward() refuses where a record has saved x. */
kava_status kava_dropout_in_place(kava_tensor *x, double p, kava_tensor **out);
#endif

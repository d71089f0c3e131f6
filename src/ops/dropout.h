/* ops/dropout: inverted dropout. In training mode y = x * mask / (1-p), each element dropped with probability p;
 * otherwise, and for p = 0, y is x itself (one more reference). The mask is a function of (seed, stream, index): the
 * backward pass makes it again, and only the stream number is kept. */
#ifndef KAVA_OPS_DROPOUT_H
#define KAVA_OPS_DROPOUT_H
#include "kernels/kernels.h"
#include "tape/node.h"
#include "tensor/tensor.h"

kava_status kava_op_dropout(kava_tensor *x, double p, kava_tensor **out); /* 0 <= p < 1 */
/* The same, y over x: of what nobody reads any more. backward() refuses where a record has saved x. */
kava_status kava_dropout_in_place(kava_tensor *x, double p, kava_tensor **out);

/* For ops that drop of what they make. The mask to use for probability p: a fresh one, or, outside training and where p
 * is 0, one that drops nothing, for which no number is drawn. KAVA_MISUSE names op and argument where p is none. */
kava_status kava_dropout_draw(const char *op, const char *name, kava_device device, double p, kava_dropout_mask *mask);
/* A record's mask: integers[1], integers[2] and numbers[0] are its. */
void kava_dropout_keep(kava_node *node, const kava_dropout_mask *mask);
kava_dropout_mask kava_dropout_kept(const kava_node *node, kava_device device);
#endif

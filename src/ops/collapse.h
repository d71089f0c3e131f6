/* ops/collapse: figures that tell whether a set of representations has collapsed. No gradients; computed in double.
 * x [.., D] of any plain float type, leading dimensions counting as N rows; mask as for the losses (ops/loss.h), rows
 * it leaves out are not looked at. KAVA_MISUSE when no row is left. */
#ifndef KAVA_OPS_COLLAPSE_H
#define KAVA_OPS_COLLAPSE_H
#include "tensor/tensor.h"

#define KAVA_COLLAPSE_ROWS 256 /* more rows than this are sampled at equal distances: the Gram matrix is N x N */

/* exp of the entropy of the singular values, divided by their sum, of the matrix of rows (Roy & Vetterli 2007, "The
 * effective rank"): from 1 (all rows on one line through 0) to min(N, D). Rows are taken as they are, not centred: a
 * cosine loss sees their direction, the mean included. All rows zero: 0. */
kava_status kava_effective_rank(kava_tensor *x, kava_tensor *mask, double *rank);
/* The norm of the mean of the rows, each scaled to length 1: near 0 where directions spread, 1 where they are all one.
 * Rows of zeros are passed over. */
kava_status kava_mean_direction_norm(kava_tensor *x, kava_tensor *mask, double *norm);
#endif

/* optim/clip: the global norm of the gradients, and scaling them to at most a given norm. */
#ifndef KAVA_OPTIM_CLIP_H
#define KAVA_OPTIM_CLIP_H
#include "tensor/tensor.h"

/* *norm: f64 [2] on the gradients' device: the norm, and what they were multiplied by. The norm is the sqrt of the sum
 * of squares over every gradient of `params` (those without one are passed over), summed in double over fixed pieces in
 * order: the same for any number of threads. Where it is more than max_norm every gradient is scaled by max_norm /
 * (norm + 1e-6), as torch's clip_grad_norm_ does. A norm that is not finite is returned and nothing is scaled: the
 * caller skips the step. A tensor named twice counts once. scale (f32, its first element, on the gradients' device) or
 * NULL: the gradients are so many times too large; they are brought back by the same pass, and the norm is that of what
 * they are then. */
kava_status kava_clip_grad_norm(kava_tensor *const *params, int64_t count, double max_norm, const kava_tensor *scale,
                                kava_tensor **norm);
#endif

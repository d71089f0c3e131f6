/* ops/rope: rotary position embedding in the half-split layout (Su et al. 2021; as GPT-NeoX and LLaMA in HF lay it
 * out). */
#ifndef KAVA_OPS_ROPE_H
#define KAVA_OPS_ROPE_H
#include "tensor/tensor.h"

/* x [B,T,H,D]; positions i32 or i64 [B,T], NULL: 0 .. T-1 in each row; inv_freq f32 or f64 [R/2], R <= D: with
 * angle = position * inv_freq[j], element j of the first half of R and element j of its second half are rotated by
 * angle; cosine and sine, computed in double, are multiplied by `scale` first (YaRN's attention factor; 1 otherwise).
 * Elements from R on are kept. y has x's shape, f32 (f64 for f64). */
kava_status kava_op_rope(kava_tensor *x, kava_tensor *positions, kava_tensor *inv_freq, double scale,
                         kava_tensor **out);

/* The angles alone, for all layers that rotate alike: rows of them for positions [B,T], or for 0 .. length - 1 (NULL).
 * `dtype`: of the tensors that will be rotated. The caller releases *out (kava_angles_release). */
typedef struct kava_angles {
  kava_tensor *cosine, *sine; /* [rows, R/2], wide */
} kava_angles;
kava_status kava_rope_angles(const char *op, kava_tensor *positions, int64_t length, kava_tensor *inv_freq,
                             double scale, kava_dtype dtype, kava_device device, kava_angles *out);
void kava_angles_release(kava_angles *angles);
kava_status kava_op_rotate(kava_tensor *x, const kava_angles *angles, kava_tensor **out);
/* The same where nobody but the caller knows x, which is used up: y shows x's elements, where they can be read so. */
kava_status kava_rotate_in_place(kava_tensor *x, const kava_angles *angles, kava_tensor **out);
/* The same on a GPU where y's rows go to those of `into`, which may lie apart: y is a view of it. */
kava_status kava_rotate_into(kava_tensor *x, const kava_angles *angles, kava_tensor *into, kava_tensor **out);
/* k, into `into` unless that is NULL, and q, in place: on a GPU one launch. */
kava_status kava_rotate_both(kava_tensor *k, kava_tensor *q, const kava_angles *angles, kava_tensor *into,
                             kava_tensor **out_k, kava_tensor **out_q);
#endif

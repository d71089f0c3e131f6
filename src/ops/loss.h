/* ops/loss: losses over rows, each the mean over real rows (tokens); padding is not data.
 * Row losses: student and teacher [.., D] of one shape; leading dimensions count as N rows. mask: N elements of any
 * plain dtype, 0 = not data; NULL: all count. Gradients go to both sides. A loss is a tensor without dimensions, f32
 * (f64 for f64 inputs). KAVA_MISUSE when no row counts: a mean over nothing is no number. `metrics`, where given,
 * receives a detached f64 vector. */
#ifndef KAVA_OPS_LOSS_H
#define KAVA_OPS_LOSS_H
#include "tensor/tensor.h"

/* alpha (1 - mean cos) + beta mean (log(|s| + eps) - log(|t| + eps))^2, cos of x/max(|x|, 1e-12). metrics: cos_sim,
 * mag_loss */
kava_status kava_op_mercator(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, double alpha, double beta,
                             double eps, kava_tensor **loss, kava_tensor **metrics);
/* 1 - mean cos */
kava_status kava_op_cosine_loss(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, kava_tensor **loss);
/* Mean over rows of mean_D (s-t)^2; relative: of |s-t|^2 / (|t|^2 + 1e-12) */
kava_status kava_op_mse_loss(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, bool relative,
                             kava_tensor **loss);
/* Mean over rows of mean_D h(s-t): h(d) = d^2/(2 beta) where |d| < beta, else |d| - beta/2; beta 0: |d| */
kava_status kava_op_smooth_l1_loss(kava_tensor *student, kava_tensor *teacher, kava_tensor *mask, double beta,
                                   kava_tensor **loss);

/* logits [.., V]; targets: integers, one a row, < 0 = not counted. Mean over counted rows of -log
 * softmax(logits)[target]. */
kava_status kava_op_cross_entropy(kava_tensor *logits, kava_tensor *targets, kava_tensor **loss);
/* For ops with targets: i64 on `device`, each below `width`, at least one not negative; those that come from a GPU are
 * not looked at. */
kava_status kava_open_targets(const char *op, kava_tensor *targets, int64_t width, kava_device device,
                              kava_tensor **out);
/* ids [B,T], mask as ids or NULL -> targets i64 [B,T]: position t predicts id t+1, counted where the mask of position
 * t+1 is nonzero; all others, and the last position, are -1. */
kava_status kava_next_token_targets(kava_tensor *ids, kava_tensor *mask, kava_tensor **out);
/* Mean over rows of T^2 KL(softmax(teacher/T) || softmax(student/T)) */
kava_status kava_op_kl_divergence(kava_tensor *student_logits, kava_tensor *teacher_logits, kava_tensor *mask,
                                  double temperature, kava_tensor **loss);
#endif

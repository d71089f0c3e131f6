/* optim/adamw: AdamW with decoupled decay (Loshchilov & Hutter 2019), in the order of torch.optim.AdamW; formulas at
 * kava_adamw_span (kernels/args.h). Parameters stand in groups with their own learning rate and decay. A parameter
 * without a gradient is left alone: no decay, no moment, no step counted for it. State per parameter, made at its first
 * step: m and v (f64 for f64 parameters, else as state_dtype says), the number of steps, for f16 parameters a master
 * copy in f32, and for bf16 ones the 16 bits that they lack of one: 4 bytes hold both, and nothing is lost. */
#ifndef KAVA_OPTIM_ADAMW_H
#define KAVA_OPTIM_ADAMW_H
#include "tensor/tensor.h"

#define KAVA_ADAMW_CODED 4096

typedef struct kava_adamw kava_adamw;
typedef struct kava_adamw_options {
  double beta1, beta2, eps;
  /* KAVA_F32; KAVA_BF16: 4 bytes a parameter instead of 8, v rounded stochastically; KAVA_U8: 2 bytes, codes rounded
   * stochastically, of parameters of at least KAVA_ADAMW_CODED elements: the others (norms, biases) stay f32 */
  kava_dtype state_dtype;
} kava_adamw_options;

/* One piece of a parameter's state, as checkpoints name it: "<group>.<name>.m", ".v", ".step" (i64, 1 element),
 * ".master" (f32, of f16 parameters), ".low" (i16, of bf16 parameters: kava_adamw_span), ".most" (f32 [2, blocks], of
 * codes). */
typedef struct kava_adamw_entry {
  const char *name;    /* the parameter's, as given to kava_adamw_add */
  const char *part;    /* "m", "v", "master", "step" */
  int group;           /* from 0 */
  kava_tensor *tensor; /* borrowed; the live state, not a copy; NULL: none yet (or ever) */
} kava_adamw_entry;

kava_status kava_adamw_new(const kava_adamw_options *options, kava_adamw **out);
void kava_adamw_release(kava_adamw **at); /* accepts NULL, nulls the pointer */
kava_status kava_adamw_add_group(kava_adamw *opt, double lr, double decay, int *index);
/* Retains param: contiguous, a plain float type. The name is copied; unique in its group. */
kava_status kava_adamw_add(kava_adamw *opt, int group, const char *name, kava_tensor *param);
int kava_adamw_groups(const kava_adamw *opt);
int64_t kava_adamw_params(const kava_adamw *opt);
kava_tensor *kava_adamw_param(const kava_adamw *opt, int64_t index); /* borrowed */
double kava_adamw_lr(const kava_adamw *opt, int group);
void kava_adamw_set_lr(kava_adamw *opt, int group, double lr);

/* gate (f64, its first element) or NULL: nothing happens and no step is counted where it is not finite. */
kava_status kava_adamw_step(kava_adamw *opt, const kava_tensor *gate);
/* After kava_adamw_set_lr: brings the rates to where a step that was recorded reads them. */
kava_status kava_adamw_refresh(kava_adamw *opt);
/* The state that a step would make now, of every parameter that has a gradient: memory is asked for, nothing is
 * computed. */
kava_status kava_adamw_reserve(kava_adamw *opt);
void kava_adamw_zero_grad(kava_adamw *opt); /* drops the gradients: none until the next backward pass */

int64_t kava_adamw_entries(const kava_adamw *opt);
kava_adamw_entry kava_adamw_entry_at(const kava_adamw *opt, int64_t index); /* 0 <= index < entries */
/* Replaces the whole state by copies of `count` pieces, each called "<group from 1>.<name>.<part>", contiguous, and of
 * the shape and dtype this optimizer would give it; ".low" goes with the bf16 parameters that were saved beside it; an
 * f32
 * ".master" of a bf16 parameter, which was kept before there was ".low", sets the parameter as well. A parameter has
 * all its pieces or none. On failure (KAVA_MISUSE naming the piece, KAVA_MEMORY) nothing has changed. */
kava_status kava_adamw_load(kava_adamw *opt, int64_t count, const char *const *names, kava_tensor *const *values);
#endif

/* kernels/cpu/adamw.h: what a step of AdamW begins with, for the plain loops and the vectors. */
#ifndef KAVA_CPU_ADAMW_H
#define KAVA_CPU_ADAMW_H
#include "kernels/args.h"
#include "kernels/cpu/moments.h"
#include <math.h>

typedef struct adamw_rates {
  double lr, beta1, beta2, eps, correction1, correction2;
  uint32_t noise;
} adamw_rates;

/* Counts the step of every span. False: nothing is to be done. */
static inline bool adamw_begin(const kava_adamw_args *a) {
  if (a->gate && !isfinite(*a->gate)) return false;
  for (int64_t s = 0; s < a->count; s++) ++*a->spans[s].step;
  return true;
}

static inline adamw_rates adamw_rates_of(const kava_adamw_args *a, const kava_adamw_span *span) {
  double t = (double)*span->step;
  return (adamw_rates){.lr = a->lr[span->group],
                       .beta1 = a->beta1,
                       .beta2 = a->beta2,
                       .eps = a->eps,
                       .correction1 = 1 / (1 - pow(a->beta1, t)),
                       .correction2 = 1 / sqrt(1 - pow(a->beta2, t)),
                       .noise = kava_adamw_seed(span->number, *span->step)};
}

void kava_adamw_plain(const kava_adamw_args *a, const kava_adamw_span *span); /* one span, once its step is counted */
#endif

/* kernels/kernels.h: the table of kernels of a device, made from kernels.def. Kernels take raw pointers and sizes,
 * never tensors; they include only base. Unless a line of kernels.def says otherwise: buffers are contiguous, do not
 * overlap, outputs are overwritten, and a `bool add` means "add to the output instead". */
#ifndef KAVA_KERNELS_H
#define KAVA_KERNELS_H
#include "base/status.h"
#include <stdint.h>

#include "kernels/args.h"

typedef struct kava_kernels {
#define KAVA_KERNEL(result, name, signature) result(*name) signature;
#include "kernels/kernels.def"
#undef KAVA_KERNEL
} kava_kernels;

/* The CPU's table: plain reference kernels, replaced one by one by the SIMD ones this processor can run. */
const kava_kernels *kava_kernels_cpu(void);
/* The plain reference kernels alone: the oracle. */
const kava_kernels *kava_kernels_reference(void);
/* "reference", "avx2", "avx512", "avx512bf16" (+ "amx"), "neon": what kava_kernels_cpu chose. KAVA_ISA in the
 * environment may name a lower one. */
const char *kava_kernels_isa(void);
#endif

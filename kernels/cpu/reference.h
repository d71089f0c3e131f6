/* kernels/cpu/reference.h: declares kava_ref_<name> for every line of kernels.def. */
#ifndef KAVA_KERNELS_CPU_REFERENCE_H
#define KAVA_KERNELS_CPU_REFERENCE_H
#include "kernels/kernels.h"
#define KAVA_KERNEL(result, name, signature) result kava_ref_##name signature;
#include "kernels/kernels.def"
#undef KAVA_KERNEL
#endif

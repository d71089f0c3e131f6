/* base/gpus: which GPUs the machine's drivers show this process. No driver is linked and no header of theirs is needed:
 * the libraries are opened at run time, and what is declared of them here has been the same for many years.
 *
 * NVIDIA's is asked in a child process. A driver that is broken hangs, aborts or leaves threads behind; and a process
 * that has called cuInit cannot fork any more. Of all this the caller sees a message.
 *
 * libcuda tells what CUDA computes on, after masks (CUDA_VISIBLE_DEVICES). NVML, matched by UUID since it knows no
 * masks and counts otherwise, adds what only it knows: the driver's version and what is free. */
#ifndef KAVA_BASE_GPUS_H
#define KAVA_BASE_GPUS_H
#include "base/status.h"
#include <stdbool.h>
#include <stdint.h>

#define KAVA_GPUS_MOST 64

typedef struct kava_gpu {
  char name[96];
  char uuid[48];        /* "GPU-…" or "MIG-…"; empty: not known */
  int major, minor;     /* compute capability */
  int64_t memory, free; /* bytes; -1: not known */
  bool mig;             /* a slice of a GPU */
} kava_gpu;

typedef struct kava_gpu_list {
  bool library; /* whether a driver's library is there at all */
  int count;
  kava_gpu gpus[KAVA_GPUS_MOST];
  int cuda;          /* the newest CUDA this driver runs, 12040 for 12.4; 0: not known */
  char driver[80];   /* its version; empty: not known */
  int seen;          /* GPUs that NVML counts, masks aside; -1: not known */
  int code;          /* CUDA's own status; 0: none, or none of CUDA's */
  char problem[160]; /* why `count` is 0 although there is a library; empty: nothing is wrong */
} kava_gpu_list;

/* Asks at most `seconds`; what does not answer by then is a problem. Never fails: what it finds out is in `list`. */
void kava_gpus_cuda(double seconds, kava_gpu_list *list);
/* Apple's GPU; memory is the working set it recommends. None elsewhere. */
void kava_gpus_metal(kava_gpu_list *list);
#endif

/* kernels/cuda/timed.cuh: work that is timed by events around it (trace.cu), where the GPU's own records of what ran
 * cannot be had. A launch or a copy stands beneath one of these; off, it costs a test of a flag. */
#ifndef KAVA_CUDA_TIMED_CUH
#define KAVA_CUDA_TIMED_CUH
extern bool kava_cuda_timing;
void kava_cuda_timed_begin(const char *name); /* a literal */
void kava_cuda_timed_end(void);

struct kava_timed {
  bool on;
  explicit kava_timed(const char *name) : on(kava_cuda_timing) {
    if (on) kava_cuda_timed_begin(name);
  }
  ~kava_timed() {
    if (on) kava_cuda_timed_end();
  }
};
#endif

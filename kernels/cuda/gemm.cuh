/* kernels/cuda/gemm.cuh: matrix products on cuBLASLt, for gemm.cu and linear.cu. */
#ifndef KAVA_CUDA_GEMM_CUH
#define KAVA_CUDA_GEMM_CUH
#include "kernels/cuda/cuda.cuh"

/* C = alpha op(A) op(B) + beta C + bias, row-major; shapes and strides as kava_gemm_args has them. Sums are f32 (f64
 * for f64), never TF32. `in`: of A and B, `out`: of C and bias: the same type, or f32 beside bf16 and f16, or bf16 and
 * f16 beside fp8. */
typedef struct kava_product {
  kava_dtype in, out;
  bool trans_a, trans_b;
  int64_t m, n, k;
  const void *a, *b;
  void *c;
  int64_t lda, ldb, ldc;
  int64_t batch, stride_a, stride_b, stride_c;
  double alpha, beta;
  const void *added; /* what beta stands before, laid out as C, which it is not; NULL: C itself */
  const void *bias;  /* [n], added to every row; NULL: none. Not with f64 */
  /* of fp8 codes: [m] and [n], what A's rows and op(B)'s columns stand multiplied with; both or neither */
  const float *scale_a, *scale_b;
} kava_product;

/* KAVA_UNSUPPORTED where cuBLASLt has no code for it; of fp8 no failure is kept then: the caller has another way.
 * Failures of the launch are kept (kava_cuda_failed). */
kava_status kava_cuda_product(const kava_product *product);

/* Counters of a recording's products (counters.cu): begin behind the capture's own, end before the graph is
 * instantiated. Between them: a workspace for a product that needs `bytes` of it, which become what it has; NULL: it
 * needs more than a counter, none is left, or nothing is recorded. */
cudaError_t kava_cuda_counters_begin(cudaStream_t stream);
void *kava_cuda_counter(size_t *bytes);
cudaError_t kava_cuda_counters_end(cudaGraph_t graph);

/* Which of cuBLASLt's kernels does a product best is measured when it first runs (never while a step is recorded: then
 * the library's own first choice is taken), and kept in a file: what is written for another GPU or library is not read.
 * The same file means the same kernels, and so the same bits. KAVA_IO, KAVA_FORMAT with a message; a file that is not
 * there is no error. */
extern "C" kava_status kava_cuda_plans_load(const char *path);
extern "C" kava_status kava_cuda_plans_save(const char *path); /* where nothing is new: does nothing */
/* Whether first runs measure; on to begin with. */
extern "C" void kava_cuda_plans_measure(bool measure);
/* About how many bytes of a weight of another type are widened at a time. */
extern "C" void kava_cuda_linear_scratch(int64_t bytes);
/* From how many tiles (128 rows by 128 columns of its result) on linear_gate_up is one kernel; 0: as many as pay. */
extern "C" void kava_cuda_gate_up_enough(int tiles);
extern "C" void kava_cuda_gated_back_enough(int tiles); /* linear_gated_back, 128 rows by 256 columns */
#endif

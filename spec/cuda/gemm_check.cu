/* spec/cuda/gemm_check.cu: gemm.cu and its plans. */
#include "check.h"
#include "kernels/cuda/gemm.cuh"
#include <unistd.h>

static void product(kava_dtype dtype, bool trans_a, bool trans_b, int64_t m, int64_t n, int64_t k, int64_t batch,
                    double beta, bool odd) {
  int64_t lda = (trans_a ? m : k) + 3, ldb = (trans_b ? k : n) + 1, ldc = n + 2;
  int64_t rows_a = trans_a ? k : m, rows_b = trans_b ? n : k;
  array a(dtype, batch * rows_a * lda, odd), b(dtype, rows_b * ldb), c(dtype, batch * m * ldc, odd);
  a.random();
  b.random();
  c.random();
  std::vector<double> want = c.values;
  kava_gemm_args g = {dtype,  trans_a, trans_b, m,   n,   k,     0.5,          beta, a.at(),
                      b.at(), c.at(),  lda,     ldb, ldc, batch, rows_a * lda, 0,    m * ldc};
  gpu->gemm(&g);
  g.dtype = KAVA_F64;
  g.a = a.f64(), g.b = b.f64(), g.c = want.data();
  cpu->gemm(&g);
  compare("gemm " + std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k) + (trans_a ? " A'" : "") +
              (trans_b ? " B'" : "") + (beta != 0 ? " added" : "") + (odd ? " odd" : ""),
          c, want, 2 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6 * (double)(k + 1)));
}

void check_gemm() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64})
    for (int i = 0; i < 4; i++)
      for (int odd = 0; odd < 2; odd++) {
        product(dtype, i & 1, i & 2, 5, 7, 11, 1, 0, odd);
        product(dtype, i & 1, i & 2, 33, 17, 24, 3, odd ? 1 : -0.5, odd);
        product(dtype, i & 1, i & 2, 3, 4, 0, 2, odd ? 0 : 2, odd);
      }

  /* plans are found again in their file, and nobody else's are read */
  char path[] = "/tmp/kava-plans-XXXXXX";
  close(mkstemp(path));
  product(KAVA_F32, false, false, 512, 512, 256, 1, 1, false); /* large enough to be measured */
  expect("plans are saved", kava_cuda_plans_save(path) == KAVA_OK);
  FILE *f = fopen(path, "r");
  char first[256] = "", second[1024] = "", third[1024];
  expect("the file has a heading and one plan",
         f && fgets(first, sizeof first, f) && fgets(second, sizeof second, f) && !fgets(third, sizeof third, f));
  if (f) fclose(f);
  expect("it names the library", strncmp(first, "kava plans 3, cuBLASLt ", 23) == 0);
  expect("it is read", kava_cuda_plans_load(path) == KAVA_OK);
  expect("a file that is not there is no error", kava_cuda_plans_load("/nonexistent/plans") == KAVA_OK);
  f = fopen(path, "w");
  if (f) {
    fprintf(f, "%s%.40s\n1 2 three\n", first, second); /* cut, then nonsense */
    fclose(f);
  }
  expect("a damaged one is passed over", kava_cuda_plans_load(path) == KAVA_OK);
  unlink(path);
  expect("nothing new is not written", kava_cuda_plans_save("/nonexistent/plans") == KAVA_OK);
  product(KAVA_F32, false, false, 512, 512, 257, 1, 1, false);
  expect("what cannot be written is said", kava_cuda_plans_save("/nonexistent/plans") == KAVA_IO);
}

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
  kava_gemm_args g = {dtype, trans_a, trans_b,      m, n,       k,    0.5, beta, a.at(), b.at(), c.at(), lda, ldb,
                      ldc,   batch,   rows_a * lda, 0, m * ldc, false};
  gpu->gemm(&g);
  g.dtype = KAVA_F64;
  g.a = a.f64(), g.b = b.f64(), g.c = want.data();
  cpu->gemm(&g);
  compare("gemm " + std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k) + (trans_a ? " A'" : "") +
              (trans_b ? " B'" : "") + (beta != 0 ? " added" : "") + (odd ? " odd" : ""),
          c, want, 2 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6 * (double)(k + 1)));
}

/* alpha A B' + beta D + bias into a C of its own, D at an address of its own alignment */
static void product_added(kava_dtype dtype, int64_t m, int64_t n, int64_t k, double beta, bool with_bias, bool odd) {
  int64_t ldc = n + 2;
  array a(dtype, 2 * m * k), b(dtype, n * k), c(dtype, 2 * m * ldc), d(dtype, 2 * m * ldc, odd), bias(dtype, n);
  for (array *x : {&a, &b, &d, &bias}) x->random();
  c.fill(0.25); /* between the rows it stays */
  kava_product p = {};
  p.in = p.out = dtype, p.trans_b = true, p.m = m, p.n = n, p.k = k, p.batch = 2;
  p.a = a.at(), p.b = b.at(), p.c = c.at(), p.added = d.at(), p.bias = with_bias ? bias.at() : NULL;
  p.lda = p.ldb = k, p.ldc = ldc, p.stride_a = m * k, p.stride_c = m * ldc;
  p.alpha = 2, p.beta = beta;
  expect("a product that is added", kava_cuda_product(&p) == KAVA_OK);
  std::vector<double> want = c.values;
  for (int64_t i = 0; i < 2 * m; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t l = 0; l < k; l++) sum += a.values[(size_t)(i * k + l)] * b.values[(size_t)(j * k + l)];
      want[(size_t)(i * ldc + j)] =
          2 * sum + beta * d.values[(size_t)(i * ldc + j)] + (with_bias ? bias.values[(size_t)j] : 0);
    }
  compare("gemm " + std::to_string(m) + " " + std::to_string(n) + " " + std::to_string(k) + " added to another" +
              (with_bias ? ", bias" : "") + (odd ? ", odd" : ""),
          c, want, unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6 * (double)(k + 1)));
}

void check_gemm() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64})
    for (int i = 0; i < 4; i++)
      for (int odd = 0; odd < 2; odd++) {
        product(dtype, i & 1, i & 2, 5, 7, 11, 1, 0, odd);
        product(dtype, i & 1, i & 2, 33, 17, 24, 3, odd ? 1 : -0.5, odd);
        product(dtype, i & 1, i & 2, 3, 4, 0, 2, odd ? 0 : 2, odd);
        bool with_bias = (i & 1) && dtype != KAVA_F64;
        product_added(dtype, 9, 21, i & 2 ? 13 : 0, odd ? 1 : -0.5, with_bias, odd);
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
  expect("it names the library", strncmp(first, "kava plans 5, cuBLASLt ", 23) == 0);
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
  product_added(KAVA_F32, 512, 256, 256, 1, true, false); /* measured */
}

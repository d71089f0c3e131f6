/* kernels/cuda/emulated/cublas.cpp: cublasLt.h's products, column-major: D = alpha op(A) op(B) + beta C + bias. */
#include "kernels/cuda/emulated/emulated.h"
#include <cublasLt.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <vector>

struct kava_emulated_blas {};
struct kava_emulated_product {
  cublasComputeType_t compute;
  cudaDataType_t scale, bias_type;
  cublasOperation_t a = CUBLAS_OP_N, b = CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
  const void *bias = nullptr;
  int32_t mode_a = 0, mode_b = 0;
  const float *scale_a = nullptr, *scale_b = nullptr;
};
struct kava_emulated_layout {
  cudaDataType_t type;
  int64_t rows, cols, ld, batch = 1, stride = 0;
};
struct kava_emulated_preference {
  uint32_t align[4] = {256, 256, 256, 256}; /* as the library assumes */
};

namespace {
int64_t size_of(cudaDataType_t type) {
  return type == CUDA_R_64F ? 8 : type == CUDA_R_32F ? 4 : type == CUDA_R_8F_E4M3 ? 1 : 2;
}
double get(cudaDataType_t type, const void *p, int64_t i) {
  switch (type) {
  case CUDA_R_64F: return static_cast<const double *>(p)[i];
  case CUDA_R_32F: return (double)static_cast<const float *>(p)[i];
  case CUDA_R_16F: return (double)__half2float(static_cast<const __half *>(p)[i]);
  case CUDA_R_8F_E4M3: return (double)kava_fp8_to_f32(static_cast<const uint8_t *>(p)[i]);
  default: return (double)__bfloat162float(static_cast<const __nv_bfloat16 *>(p)[i]);
  }
}
void put(cudaDataType_t type, void *p, int64_t i, double value) {
  switch (type) {
  case CUDA_R_64F: static_cast<double *>(p)[i] = value; break;
  case CUDA_R_32F: static_cast<float *>(p)[i] = (float)value; break;
  case CUDA_R_16F: static_cast<__half *>(p)[i] = __float2half_rn((float)value); break;
  case CUDA_R_16BF: static_cast<__nv_bfloat16 *>(p)[i] = __float2bfloat16_rn((float)value); break;
  case CUDA_R_8F_E4M3: kava_emulated::die("products are not written in fp8");
  }
}
/* fp8: both sides e4m3 and along k (A transposed, B not), m and k multiples of 16, the result bf16, f16 or f32; scales
 * by rows and columns on both sides, with their vectors, or on none. */
bool sound_fp8(const kava_emulated_product *p, const kava_emulated_layout *a, const kava_emulated_layout *b,
               const kava_emulated_layout *c) {
  const char *gpu = getenv("KAVA_EMULATED_FP8");
  bool outer = p->mode_a == CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  cudaDeviceProp prop;
  cudaGetDeviceProperties(&prop, 0);
  if (10 * prop.major + prop.minor < 89 || (outer && prop.major != 9)) return false;
  if (gpu && (strcmp(gpu, "none") == 0 || (strcmp(gpu, "plain") == 0 && outer))) return false;
  if (p->mode_a != p->mode_b || outer != (p->scale_a != nullptr) || outer != (p->scale_b != nullptr)) return false;
  for (const kava_emulated_layout *l : {a, b})
    if (l->rows % 16 || l->ld % 16) return false;
  return p->a == CUBLAS_OP_T && p->b == CUBLAS_OP_N && a->cols % 16 == 0 && b->type == a->type && c->type != a->type;
}
/* Whether shapes and types go together as the library wants them. */
bool sound(const kava_emulated_product *p, const kava_emulated_layout *a, const kava_emulated_layout *b,
           const kava_emulated_layout *c) {
  int64_t m = p->a == CUBLAS_OP_T ? a->cols : a->rows, k = p->a == CUBLAS_OP_T ? a->rows : a->cols;
  int64_t n = p->b == CUBLAS_OP_T ? b->rows : b->cols, k2 = p->b == CUBLAS_OP_T ? b->cols : b->rows;
  bool doubles = p->compute == CUBLAS_COMPUTE_64F;
  for (const kava_emulated_layout *l : {a, b, c})
    if (l->ld < l->rows || l->rows < 1 || l->cols < 1 || l->batch != a->batch || (l->type == CUDA_R_64F) != doubles)
      return false;
  if (a->type == CUDA_R_8F_E4M3) {
    if (!sound_fp8(p, a, b, c)) return false;
  } else if (a->type != b->type || (c->type != a->type && c->type != CUDA_R_32F))
    return false;
  if ((p->scale == CUDA_R_64F) != doubles) return false;
  if (p->epilogue == CUBLASLT_EPILOGUE_BIAS && (doubles || p->bias_type != c->type)) return false;
  return k == k2 && c->rows == m && c->cols == n;
}
/* A matrix as `count` rows of `depth` doubles, of which each lies in one stored column (`along`) or in one stored row.
 */
std::vector<double> rows_of(const kava_emulated_layout &l, bool along, const void *p, int64_t batch, int64_t count,
                            int64_t depth) {
  std::vector<double> out((size_t)(count * depth));
  for (int64_t i = 0; i < count; i++)
    for (int64_t k = 0; k < depth; k++)
      out[(size_t)(i * depth + k)] = get(l.type, p, batch * l.stride + (along ? i * l.ld + k : k * l.ld + i));
  return out;
}
template <class T> T read(const void *value) {
  T x;
  memcpy(&x, value, sizeof x);
  return x;
}
} // namespace

size_t cublasLtGetVersion(void) { return 130000; }
cublasStatus_t cublasLtCreate(cublasLtHandle_t *handle) {
  return *handle = new kava_emulated_blas, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescCreate(cublasLtMatmulDesc_t *out, cublasComputeType_t compute, cudaDataType_t scale) {
  *out = new kava_emulated_product;
  (*out)->compute = compute;
  (*out)->scale = (*out)->bias_type = scale;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulDescSetAttribute(cublasLtMatmulDesc_t product, cublasLtMatmulDescAttributes_t what,
                                              const void *value, size_t size) {
  bool pointer = what == CUBLASLT_MATMUL_DESC_BIAS_POINTER || what == CUBLASLT_MATMUL_DESC_A_SCALE_POINTER ||
                 what == CUBLASLT_MATMUL_DESC_B_SCALE_POINTER;
  if (size != (pointer ? 8u : what == CUBLASLT_MATMUL_DESC_FAST_ACCUM ? 1u : 4u)) return CUBLAS_STATUS_INVALID_VALUE;
  switch (what) {
  case CUBLASLT_MATMUL_DESC_TRANSA: product->a = read<cublasOperation_t>(value); break;
  case CUBLASLT_MATMUL_DESC_TRANSB: product->b = read<cublasOperation_t>(value); break;
  case CUBLASLT_MATMUL_DESC_EPILOGUE: product->epilogue = read<cublasLtEpilogue_t>(value); break;
  case CUBLASLT_MATMUL_DESC_BIAS_POINTER: product->bias = read<const void *>(value); break;
  case CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE: product->bias_type = read<cudaDataType_t>(value); break;
  case CUBLASLT_MATMUL_DESC_A_SCALE_POINTER: product->scale_a = read<const float *>(value); break;
  case CUBLASLT_MATMUL_DESC_B_SCALE_POINTER: product->scale_b = read<const float *>(value); break;
  case CUBLASLT_MATMUL_DESC_FAST_ACCUM: break; /* sums are double */
  case CUBLASLT_MATMUL_DESC_A_SCALE_MODE: product->mode_a = read<int32_t>(value); break;
  case CUBLASLT_MATMUL_DESC_B_SCALE_MODE: product->mode_b = read<int32_t>(value); break;
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutCreate(cublasLtMatrixLayout_t *out, cudaDataType_t type, uint64_t rows,
                                          uint64_t cols, int64_t ld) {
  *out = new kava_emulated_layout;
  (*out)->type = type;
  (*out)->rows = (int64_t)rows;
  (*out)->cols = (int64_t)cols;
  (*out)->ld = ld;
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatrixLayoutSetAttribute(cublasLtMatrixLayout_t layout, cublasLtMatrixLayoutAttribute_t what,
                                                const void *value, size_t size) {
  if (size != (what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT ? 4u : 8u)) return CUBLAS_STATUS_INVALID_VALUE;
  if (what == CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT)
    layout->batch = read<int32_t>(value);
  else
    layout->stride = read<int64_t>(value);
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceCreate(cublasLtMatmulPreference_t *out) {
  return *out = new kava_emulated_preference, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceDestroy(cublasLtMatmulPreference_t preference) {
  return delete preference, CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulPreferenceSetAttribute(cublasLtMatmulPreference_t preference,
                                                    cublasLtMatmulPreferenceAttributes_t what, const void *value,
                                                    size_t size) {
  if (what == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES)
    return size == 8 ? CUBLAS_STATUS_SUCCESS : CUBLAS_STATUS_INVALID_VALUE;
  if (size != 4) return CUBLAS_STATUS_INVALID_VALUE;
  preference->align[what - CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES] = read<uint32_t>(value);
  return CUBLAS_STATUS_SUCCESS;
}
/* Two algorithms, which carry the alignments that they were asked for: the first needs a counter, the second as much
 * workspace as one that shares out its sums, with a counter before them. */
const size_t NEEDS[] = {4, 65536};
cublasStatus_t cublasLtMatmulAlgoGetHeuristic(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                                              cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c,
                                              cublasLtMatrixLayout_t, cublasLtMatmulPreference_t preference, int asked,
                                              cublasLtMatmulHeuristicResult_t *found, int *count) {
  *count = 0;
  if (!sound(product, a, b, c)) return CUBLAS_STATUS_NOT_SUPPORTED;
  for (; *count < 2 && *count < asked; ++*count) {
    found[*count] = {};
    found[*count].algo.data[0] = (uint64_t)*count + 1;
    found[*count].workspaceSize = NEEDS[*count];
    for (int i = 0; i < 4; i++) found[*count].algo.data[1 + i] = preference->align[i];
  }
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmulAlgoCheck(cublasLtHandle_t, cublasLtMatmulDesc_t product, cublasLtMatrixLayout_t a,
                                       cublasLtMatrixLayout_t b, cublasLtMatrixLayout_t c, cublasLtMatrixLayout_t,
                                       const cublasLtMatmulAlgo_t *algorithm, cublasLtMatmulHeuristicResult_t *result) {
  *result = {};
  result->algo = *algorithm;
  if (!sound(product, a, b, c) || algorithm->data[0] < 1 || algorithm->data[0] > 2) return CUBLAS_STATUS_NOT_SUPPORTED;
  result->workspaceSize = NEEDS[algorithm->data[0] - 1];
  return CUBLAS_STATUS_SUCCESS;
}
cublasStatus_t cublasLtMatmul(cublasLtHandle_t, cublasLtMatmulDesc_t product, const void *alpha, const void *a,
                              cublasLtMatrixLayout_t a_layout, const void *b, cublasLtMatrixLayout_t b_layout,
                              const void *beta, const void *c, cublasLtMatrixLayout_t c_layout, void *d,
                              cublasLtMatrixLayout_t d_layout, const cublasLtMatmulAlgo_t *algorithm, void *room,
                              size_t bytes, cudaStream_t stream) {
  const void *pointers[] = {a, b, c, d};
  if (!sound(product, a_layout, b_layout, c_layout) || c_layout != d_layout) return CUBLAS_STATUS_INVALID_VALUE;
  const char *gpu = getenv("KAVA_EMULATED_FP8");
  if (gpu && strcmp(gpu, "alone") == 0 && product->scale_a && read<float>(beta) != 0)
    return CUBLAS_STATUS_NOT_SUPPORTED;
  for (int i = 0; i < 4; i++)
    if (reinterpret_cast<uintptr_t>(pointers[i]) % algorithm->data[1 + i]) return CUBLAS_STATUS_INVALID_VALUE;
  for (const kava_emulated_layout *l : {a_layout, b_layout, c_layout}) {
    size_t bytes = (size_t)(((l->batch - 1) * l->stride + (l->cols - 1) * l->ld + l->rows) * size_of(l->type));
    if (!kava_emulated::on_device(l == a_layout   ? a
                                  : l == b_layout ? b
                                                  : d,
                                  bytes) ||
        (l == c_layout && !kava_emulated::on_device(c, bytes)))
      kava_emulated::die("a product is given the host's memory");
  }
  if ((product->scale_a && !kava_emulated::on_device(product->scale_a, (size_t)c_layout->rows * 4)) ||
      (product->scale_b && !kava_emulated::on_device(product->scale_b, (size_t)c_layout->cols * 4)))
    kava_emulated::die("a product is given scales in the host's memory");
  if (bytes < NEEDS[algorithm->data[0] - 1] || reinterpret_cast<uintptr_t>(room) % 16 ||
      !kava_emulated::on_device(room, bytes))
    return CUBLAS_STATUS_INVALID_VALUE;
  kava_emulated_product p = *product; /* what is set afterwards is the next product's */
  kava_emulated_layout la = *a_layout, lb = *b_layout, lc = *c_layout;
  bool doubles = p.compute == CUBLAS_COMPUTE_64F;
  double by = doubles ? read<double>(alpha) : (double)read<float>(alpha);
  double keep = doubles ? read<double>(beta) : (double)read<float>(beta);
  int64_t depth = p.a == CUBLAS_OP_T ? la.rows : la.cols;
  uint32_t *counter = static_cast<uint32_t *>(room);
  cudaMemsetAsync(counter, 0, sizeof *counter, stream);
  kava_emulated::on_stream(stream, [=] {
    return kava_emulated::watched("a product", [=] {
      if ((*counter)++ != 0) kava_emulated::die("a product's counter does not begin at zero");
      for (int64_t batch = 0; batch < lc.batch; batch++) {
        std::vector<double> left = rows_of(la, p.a == CUBLAS_OP_T, a, batch, lc.rows, depth),
                            right = rows_of(lb, p.b != CUBLAS_OP_T, b, batch, lc.cols, depth);
        for (int64_t j = 0; j < lc.cols; j++)
          for (int64_t i = 0; i < lc.rows; i++) {
            const double *x = left.data() + i * depth, *y = right.data() + j * depth;
            double sum = 0;
            for (int64_t k = 0; k < depth; k++) sum += x[k] * y[k];
            int64_t at = batch * lc.stride + j * lc.ld + i;
            sum *= by;
            if (p.scale_a) sum *= (double)p.scale_a[i] * (double)p.scale_b[j];
            if (keep != 0) sum += keep * get(lc.type, c, at);
            if (p.epilogue == CUBLASLT_EPILOGUE_BIAS) sum += get(p.bias_type, p.bias, i);
            put(lc.type, d, at, sum);
          }
      }
      return cudaSuccess;
    });
  });
  return CUBLAS_STATUS_SUCCESS;
}

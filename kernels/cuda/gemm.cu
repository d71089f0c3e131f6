/* kernels/cuda/gemm.cu: matrix products on cuBLASLt. A row-major C = A B is the column-major C' = B' A' of the same
 * bytes, so B is the library's first operand and bias runs along its rows.
 *
 * A plan is a product's descriptors and one of the library's algorithms. It is made once a shape; the heuristic's first
 * choice need not be the best, so the first TRIED are timed where they may be. A workspace belongs to one stream, or is
 * one product's counter in a recording, and outlives every graph.
 *
 * Predicted: bf16 at 600-720 TFLOP/s on an H100 for a teacher's products (m 4096, n and k 1536 to 8960). */
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/element.cuh"
#include <cublasLt.h>
#include <map>
#include <stdio.h>
#include <string.h>
#include <string>
#include <unistd.h>

#define WORKSPACE ((size_t)32 << 20) /* what NVIDIA recommends for Hopper */
#define TRIED 16
#define WORTH 1e8    /* operations below which a choice is not worth measuring */
#define HEAVY 2e10   /* and from which on it is measured at the power limit */
#define SHORT 300.0f /* microseconds */
#define LONG 8000.0f
#define NEAR 1.08f
#define WORDS ((int)(sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t)))

namespace {
/* All that a plan depends on; compared as bytes. adds: 1 to C, 2 to another; align_c: of both. */
struct key {
  int32_t in, out, trans_a, trans_b, bias, adds, align_a, align_b, align_c, scales;
  int64_t m, n, k, lda, ldb, ldc, batch, stride_a, stride_b, stride_c;
  bool operator<(const key &other) const { return memcmp(this, &other, sizeof *this) < 0; }
};
struct plan {
  cublasLtMatmulDesc_t product;
  cublasLtMatrixLayout_t a, b, c;
  cublasLtMatmulAlgo_t algorithm;
  size_t workspace;   /* bytes that the algorithm needs */
  float microseconds; /* as measured; 0: it was not */
  bool none;          /* the library has nothing for it */
};

cublasLtHandle_t handle;
void *workspace[KAVA_CUDA_LANES];
std::map<key, plan> plans;
std::map<key, plan> known; /* read from a file: the algorithm alone is set */
bool measures = true, changed;

bool done(cublasStatus_t status, const char *what) {
  if (status == CUBLAS_STATUS_SUCCESS) return true;
  kava_cuda_failed(what, status == CUBLAS_STATUS_ALLOC_FAILED ? cudaErrorMemoryAllocation : cudaErrorUnknown);
  return false;
}
bool ready() {
  void **room = &workspace[kava_cuda_lane()];
  if (!*room) {
    cudaError_t error = cudaMalloc(room, WORKSPACE);
    if (error != cudaSuccess) {
      cudaGetLastError(); /* is kept here: the next launch is not to be blamed for it */
      kava_cuda_failed("cuBLASLt's workspace", error);
      return false;
    }
  }
  return handle || done(cublasLtCreate(&handle), "cublasLtCreate");
}

cudaDataType_t type_of(kava_dtype dtype) {
  switch (dtype) {
  case KAVA_BF16: return CUDA_R_16BF;
  case KAVA_F16: return CUDA_R_16F;
  case KAVA_F64: return CUDA_R_64F;
  case KAVA_FP8: return CUDA_R_8F_E4M3;
  default: return CUDA_R_32F;
  }
}
/* The largest power of two, up to 256, that an address is a multiple of. */
int32_t alignment(const void *p) {
  uintptr_t at = reinterpret_cast<uintptr_t>(p) | 256;
  return (int32_t)(at & -at);
}
key key_of(const kava_product *p) {
  key k;
  memset(&k, 0, sizeof k);
  k.in = p->in, k.out = p->out;
  k.trans_a = p->trans_a, k.trans_b = p->trans_b;
  k.bias = p->bias != NULL, k.adds = p->beta == 0 ? 0 : p->added ? 2 : 1, k.scales = p->scale_a != NULL;
  k.align_a = alignment(p->a), k.align_b = alignment(p->b), k.align_c = alignment(p->c);
  if (k.adds == 2 && alignment(p->added) < k.align_c) k.align_c = alignment(p->added);
  k.m = p->m, k.n = p->n, k.k = p->k;
  k.lda = p->lda, k.ldb = p->ldb, k.ldc = p->ldc;
  k.batch = p->batch;
  if (p->batch > 1) k.stride_a = p->stride_a, k.stride_b = p->stride_b, k.stride_c = p->stride_c;
  return k;
}

/* rows and columns as the bytes lie row-major */
bool layout(cublasLtMatrixLayout_t *out, kava_dtype type, int64_t rows, int64_t columns, int64_t ld, const key &k,
            int64_t stride) {
  if (!done(cublasLtMatrixLayoutCreate(out, type_of(type), (uint64_t)columns, (uint64_t)rows, ld), "a matrix layout"))
    return false;
  if (k.batch == 1) return true;
  int32_t batch = (int32_t)k.batch;
  return done(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &batch, sizeof batch),
              "a matrix layout") &&
         done(cublasLtMatrixLayoutSetAttribute(*out, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, &stride,
                                               sizeof stride),
              "a matrix layout");
}
/* fp8: tensor cores of Hopper keep some 14 bits of a sum; without "fast accumulation" it is taken over into f32 every
 * few steps. What that loses beside the codes' own 2^-4 is little, and the teacher it is for gets no gradient. */
bool describe_fp8(const key &k, plan *out) {
  int8_t fast = 1;
  int32_t outer = CUBLASLT_MATMUL_MATRIX_SCALE_OUTER_VEC_32F;
  auto set = [&](cublasLtMatmulDescAttributes_t what, const void *value, size_t size) {
    return cublasLtMatmulDescSetAttribute(out->product, what, value, size) == CUBLAS_STATUS_SUCCESS;
  };
  return set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, &fast, sizeof fast) &&
         (!k.scales || (set(CUBLASLT_MATMUL_DESC_A_SCALE_MODE, &outer, sizeof outer) &&
                        set(CUBLASLT_MATMUL_DESC_B_SCALE_MODE, &outer, sizeof outer)));
}
bool describe(const key &k, plan *out) {
  kava_dtype in = (kava_dtype)k.in, to = (kava_dtype)k.out;
  cublasOperation_t first = k.trans_b ? CUBLAS_OP_T : CUBLAS_OP_N, second = k.trans_a ? CUBLAS_OP_T : CUBLAS_OP_N;
  cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_BIAS;
  cudaDataType_t bias = type_of(to);
  bool ok = done(cublasLtMatmulDescCreate(&out->product, in == KAVA_F64 ? CUBLAS_COMPUTE_64F : CUBLAS_COMPUTE_32F,
                                          in == KAVA_F64 ? CUDA_R_64F : CUDA_R_32F),
                 "a product's description");
  ok = ok && done(cublasLtMatmulDescSetAttribute(out->product, CUBLASLT_MATMUL_DESC_TRANSA, &first, sizeof first),
                  "a product's description");
  ok = ok && done(cublasLtMatmulDescSetAttribute(out->product, CUBLASLT_MATMUL_DESC_TRANSB, &second, sizeof second),
                  "a product's description");
  if (k.bias) {
    ok = ok &&
         done(cublasLtMatmulDescSetAttribute(out->product, CUBLASLT_MATMUL_DESC_EPILOGUE, &epilogue, sizeof epilogue),
              "a product's epilogue");
    ok = ok &&
         done(cublasLtMatmulDescSetAttribute(out->product, CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, &bias, sizeof bias),
              "a product's epilogue");
  }
  if (in == KAVA_FP8) ok = ok && describe_fp8(k, out);
  return ok && layout(&out->a, in, k.trans_a ? k.k : k.m, k.trans_a ? k.m : k.k, k.lda, k, k.stride_a) &&
         layout(&out->b, in, k.trans_b ? k.n : k.k, k.trans_b ? k.k : k.n, k.ldb, k, k.stride_b) &&
         layout(&out->c, to, k.m, k.n, k.ldc, k, k.stride_c);
}

/* What a description does not know of its product. */
void point(const kava_product *p, const plan &with) {
  if (p->bias)
    cublasLtMatmulDescSetAttribute(with.product, CUBLASLT_MATMUL_DESC_BIAS_POINTER, &p->bias, sizeof p->bias);
  if (!p->scale_a) return;
  cublasLtMatmulDescSetAttribute(with.product, CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, &p->scale_b, sizeof p->scale_b);
  cublasLtMatmulDescSetAttribute(with.product, CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, &p->scale_a, sizeof p->scale_a);
}

cublasStatus_t multiply(const kava_product *p, const plan &with, const cublasLtMatmulAlgo_t *algorithm, size_t needs,
                        void *c) {
  void *room = kava_cuda_counter(&needs);
  if (!room) room = workspace[kava_cuda_lane()], needs = WORKSPACE;
  float alpha = (float)p->alpha, beta = (float)p->beta;
  const void *scales[2] = {&alpha, &beta};
  if (p->in == KAVA_F64) scales[0] = &p->alpha, scales[1] = &p->beta;
  point(p, with);
  return cublasLtMatmul(handle, with.product, scales[0], p->b, with.b, p->a, with.a, scales[1], p->added ? p->added : c,
                        with.c, c, with.c, algorithm, room, needs, kava_cuda_stream());
}

bool recording() {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  return cudaStreamIsCapturing(kava_cuda_stream(), &status) != cudaSuccess || status != cudaStreamCaptureStatusNone;
}

/* Microseconds a launch, of `launches` behind one another in a recording, as steps run them. 0: it does not work. */
float timed(const kava_product *p, const plan &with, const cublasLtMatmulHeuristicResult_t &tried, void *c,
            int launches, cudaEvent_t from, cudaEvent_t to) {
  cudaStream_t stream = kava_cuda_stream();
  cudaGraph_t graph = NULL;
  cudaGraphExec_t all = NULL;
  float ms = 0;
  if (cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed) != cudaSuccess) return cudaGetLastError(), 0;
  bool works = kava_cuda_counters_begin(stream) == cudaSuccess;
  for (int i = 0; i < launches && works; i++)
    works = multiply(p, with, &tried.algo, tried.workspaceSize, c) == CUBLAS_STATUS_SUCCESS;
  works = cudaStreamEndCapture(stream, &graph) == cudaSuccess && works;
  works = kava_cuda_counters_end(works ? graph : NULL) == cudaSuccess && works;
  works = works && cudaGraphInstantiate(&all, graph, 0) == cudaSuccess;
  works = works && cudaEventRecord(from, stream) == cudaSuccess && cudaGraphLaunch(all, stream) == cudaSuccess &&
          cudaEventRecord(to, stream) == cudaSuccess && cudaEventSynchronize(to) == cudaSuccess &&
          cudaEventElapsedTime(&ms, from, to) == cudaSuccess;
  if (all) cudaGraphExecDestroy(all);
  if (graph) cudaGraphDestroy(graph);
  if (!works) cudaGetLastError();
  return works ? ms * 1000 / (float)launches : 0;
}

/* The fastest of `count` algorithms, tried on a C of its own where C itself is added to. First each runs for SHORT, so
 * that what a launch costs the host does not count. What takes most of a step runs at the chip's power limit there,
 * where clocks fall by a quarter and the order is another: of those the best within NEAR run LONG again, twice, behind
 * one another without a rest. */
int fastest(const kava_product *p, const plan &with, const cublasLtMatmulHeuristicResult_t *tried, int count,
            float *best) {
  void *c = p->c, *own = NULL;
  cudaEvent_t from, to;
  size_t size = p->out == KAVA_F64 ? 8 : p->out == KAVA_F32 ? 4 : 2;
  size_t bytes = (size_t)((p->batch - 1) * p->stride_c + (p->m - 1) * p->ldc + p->n) * size;
  float took[TRIED] = {0}, again[TRIED] = {0};
  int chosen = 0;
  *best = 0;
  cudaDeviceSynchronize(); /* nothing else runs meanwhile */
  if (p->beta != 0 && !p->added) {
    if (cudaMalloc(&own, bytes) != cudaSuccess) return cudaGetLastError(), 0;
    cudaMemsetAsync(own, 0, bytes, kava_cuda_stream());
    c = own;
  }
  cudaEventCreate(&from);
  cudaEventCreate(&to);
  auto launches = [](float us, float window) { return us > 0 && us < window / 2 ? (int)(window / us) : 2; };
  for (int i = 0; i < count; i++) {
    if (multiply(p, with, &tried[i].algo, tried[i].workspaceSize, c) != CUBLAS_STATUS_SUCCESS)
      continue; /* loads its kernel */
    float once = timed(p, with, tried[i], c, 2, from, to);
    if (once > 0) took[i] = timed(p, with, tried[i], c, launches(once, SHORT), from, to);
    if (took[i] > 0 && (*best == 0 || took[i] < *best)) {
      *best = took[i];
      chosen = i;
    }
  }
  if (*best > 0 && 2.0 * (double)p->m * (double)p->n * (double)p->k * (double)p->batch >= HEAVY) {
    timed(p, with, tried[chosen], c, launches(*best, 2 * LONG), from, to);
    for (int i = 0; i < 2 * count; i++) {
      int at = i % count;
      if (took[at] == 0 || took[at] > NEAR * *best) continue;
      timed(p, with, tried[at], c, launches(*best, LONG / 4), from, to);
      again[at] += timed(p, with, tried[at], c, launches(*best, LONG), from, to) / 2;
    }
    for (int i = 0; i < count; i++)
      if (again[i] > 0 && again[i] < again[chosen]) chosen = i;
    *best = again[chosen];
  }
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  cudaFree(own);
  return chosen;
}

/* Asks the library for algorithms, and chooses. False: there is none. */
bool choose(const kava_product *p, const key &k, plan *out) {
  cublasLtMatmulPreference_t preference;
  cublasLtMatmulHeuristicResult_t found[TRIED];
  size_t room = WORKSPACE;
  uint32_t a = (uint32_t)k.align_a, b = (uint32_t)k.align_b, c = (uint32_t)k.align_c;
  int count = 0;
  if (!done(cublasLtMatmulPreferenceCreate(&preference), "a preference")) return false;
  const struct {
    cublasLtMatmulPreferenceAttributes_t what;
    const void *value;
    size_t size;
  } wishes[] = {{CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &room, sizeof room},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b, sizeof b}, /* the library's A is our B */
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof a},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c, sizeof c},
                {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c, sizeof c}};
  bool ok = true;
  for (const auto &wish : wishes)
    ok = ok && done(cublasLtMatmulPreferenceSetAttribute(preference, wish.what, wish.value, wish.size), "a preference");
  ok = ok && cublasLtMatmulAlgoGetHeuristic(handle, out->product, out->b, out->a, out->c, out->c, preference, TRIED,
                                            found, &count) == CUBLAS_STATUS_SUCCESS;
  cublasLtMatmulPreferenceDestroy(preference);
  if (!ok || count == 0) return false;
  int chosen = 0;
  bool worth = 2.0 * (double)k.m * (double)k.n * (double)k.k * (double)k.batch >= WORTH;
  if (measures && worth && !recording()) {
    chosen = fastest(p, *out, found, count, &out->microseconds);
    changed = true;
  }
  out->algorithm = found[chosen].algo;
  out->workspace = found[chosen].workspaceSize;
  return true;
}

plan *plan_for(const kava_product *p) {
  if (!ready()) return NULL;
  key k = key_of(p);
  auto there = plans.find(k);
  if (there != plans.end()) return &there->second;
  plan made = {};
  if (!describe(k, &made)) return plans[k].none = true, &plans[k];
  point(p, made);
  auto read = known.find(k);
  cublasLtMatmulHeuristicResult_t result;
  if (read != known.end() &&
      cublasLtMatmulAlgoCheck(handle, made.product, made.b, made.a, made.c, made.c, &read->second.algorithm, &result) ==
          CUBLAS_STATUS_SUCCESS &&
      result.workspaceSize <= WORKSPACE) {
    made.algorithm = read->second.algorithm;
    made.workspace = result.workspaceSize;
    made.microseconds = read->second.microseconds;
  } else {
    made.none = !choose(p, k, &made);
  }
  return &(plans[k] = made);
}
} // namespace

/* What is left of a product over nothing. */
template <class T>
static __global__ void __launch_bounds__(256)
    nothing_kernel(T *c, const T *added, int64_t m, int64_t n, int64_t ldc, int64_t batch, int64_t stride,
                   kava_wide<T> beta, const T *bias) {
  for (int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x; i < batch * m * n; i += (int64_t)gridDim.x * 256) {
    int64_t row = i / n, column = i % n;
    int64_t at = row / m * stride + row % m * ldc + column;
    kava_wide<T> value = beta == 0 ? 0 : beta * kava_widen(added[at]);
    c[at] = kava_narrow<T>(bias ? value + kava_widen(bias[column]) : value);
  }
}
static kava_status nothing(const kava_product *p) {
  bool known = kava_for_float(p->out, [&](auto t) {
    typedef decltype(t) T;
    kava_launch("a product over nothing", nothing_kernel<T>, kava_cuda_blocks(p->batch * p->m * p->n, 256), 256, 0,
                (T *)p->c, (const T *)(p->added ? p->added : p->c), p->m, p->n, p->ldc, p->batch, p->stride_c, p->beta,
                (const T *)p->bias);
  });
  return known ? KAVA_OK : kava_cuda_unsupported("a product", p->out);
}

kava_status kava_cuda_product(const kava_product *p) {
  if (p->m == 0 || p->n == 0 || p->batch == 0) return KAVA_OK;
  if (p->k == 0) return nothing(p);
  plan *with = plan_for(p);
  bool fp8 = p->in == KAVA_FP8;
  if (!with) return KAVA_MEMORY; /* the failure is kept */
  if (with->none) return fp8 ? KAVA_UNSUPPORTED : kava_cuda_unsupported("a product", p->in);
  kava_timed timed("a product");
  kava_cuda_launching("a product");
  cublasStatus_t status = multiply(p, *with, &with->algorithm, with->workspace, p->c);
  if (fp8 && (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)) {
    with->none = true;
    return KAVA_UNSUPPORTED;
  }
  done(status, "a product");
  return KAVA_OK;
}

extern "C" void kava_cuda_gemm(const kava_gemm_args *a) {
  kava_dtype out = a->wide && a->dtype != KAVA_F64 ? KAVA_F32 : a->dtype;
  kava_product p = {a->dtype,    out,      a->trans_a, a->trans_b, a->m,   a->n,     a->k,        a->a,
                    a->b,        a->c,     a->lda,     a->ldb,     a->ldc, a->batch, a->stride_a, a->stride_b,
                    a->stride_c, a->alpha, a->beta,    NULL,       NULL,   NULL,     NULL};
  kava_cuda_product(&p);
}

/* ---- the plans' file: a line that names GPU and library, then a line a plan: the key's numbers, the algorithm's
 * words in hexadecimal, microseconds ---- */

static std::string heading() {
  cudaDeviceProp prop;
  int device = 0;
  if (cudaGetDevice(&device) != cudaSuccess || cudaGetDeviceProperties(&prop, device) != cudaSuccess) return "";
  return std::string("kava plans 5, cuBLASLt ") + std::to_string(cublasLtGetVersion()) + ", " + prop.name + "\n";
}
static int32_t *small_of(key *k) { return &k->in; }
static int64_t *large_of(key *k) { return &k->m; }
#define SMALL 10
#define LARGE 10

extern "C" kava_status kava_cuda_plans_load(const char *path) {
  FILE *f = fopen(path, "r");
  if (!f) return KAVA_OK;
  char line[1024];
  bool ours = fgets(line, sizeof line, f) && heading() == line;
  while (ours && fgets(line, sizeof line, f)) {
    key k;
    plan p = {};
    memset(&k, 0, sizeof k);
    const char *at = line;
    int used = 0, fields = 0;
    for (int i = 0; i < SMALL && sscanf(at, "%d%n", &small_of(&k)[i], &used) == 1; i++, fields++) at += used;
    for (int i = 0; i < LARGE; i++, fields++) {
      long long value;
      if (sscanf(at, "%lld%n", &value, &used) != 1) break;
      large_of(&k)[i] = value;
      at += used;
    }
    for (int i = 0; i < WORDS; i++, fields++) {
      unsigned long long value;
      if (sscanf(at, "%llx%n", &value, &used) != 1) break;
      p.algorithm.data[i] = value;
      at += used;
    }
    if (fields == SMALL + LARGE + WORDS && sscanf(at, "%f", &p.microseconds) == 1) known[k] = p;
  }
  fclose(f);
  return KAVA_OK;
}

extern "C" kava_status kava_cuda_plans_save(const char *path) {
  if (!changed) return KAVA_OK;
  std::string text = heading(), temporary = std::string(path) + "." + std::to_string(getpid());
  std::map<key, plan> all = known;
  for (const auto &entry : plans)
    if (entry.second.microseconds > 0) all[entry.first] = entry.second;
  for (auto &entry : all) {
    key k = entry.first;
    char word[64];
    for (int i = 0; i < SMALL; i++) text += std::to_string(small_of(&k)[i]) + " ";
    for (int i = 0; i < LARGE; i++) text += std::to_string(large_of(&k)[i]) + " ";
    for (uint64_t data : entry.second.algorithm.data) {
      snprintf(word, sizeof word, "%llx ", (unsigned long long)data);
      text += word;
    }
    snprintf(word, sizeof word, "%.3f\n", (double)entry.second.microseconds);
    text += word;
  }
  FILE *f = fopen(temporary.c_str(), "w");
  bool ok = f && fwrite(text.data(), 1, text.size(), f) == text.size();
  if (f && fclose(f) != 0) ok = false;
  if (!ok || rename(temporary.c_str(), path) != 0) {
    unlink(temporary.c_str());
    return KAVA_IO;
  }
  changed = false;
  return KAVA_OK;
}

extern "C" void kava_cuda_plans_measure(bool measure) { measures = measure; }

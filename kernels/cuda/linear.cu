/* kernels/cuda/linear.cu: a linear layer's products (kava_linear_args; what they are: kernels/cpu/linear.c). W in the
 * activations' own type is read as it lies; in any other type (quantised, or a master copy in f32) it is widened into
 * scratch first, about 128 MiB at a time, so that a vocabulary's head takes no more. Codes of fp8 with a scale a row
 * are multiplied as they are (fp8.cu).
 * Predicted beside the products (gemm.cu), H100: widening 1.3 G elements of NF4 to bf16 moves 3.3 GB, 1.2 ms at the
 * 2.8 TB/s of a large copy; db of 4096 x 1536 bf16, 12.6 MB, 5 us. */
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/parts.cuh"

#define TILE 128

static int64_t scratch = (int64_t)128 << 20;
extern "C" void kava_cuda_linear_scratch(int64_t bytes) { scratch = bytes; }

static int64_t size_of(kava_dtype dtype) { return kava_dtype_block_bytes(dtype); } /* of a plain type */
static kava_dtype wide(kava_dtype dtype) { return dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32; }

/* Calls each(first, rows, W's rows [first, first + rows) as `dtype`) until all of them had their turn. */
template <class Each> static kava_status over_weight(const kava_linear_args *a, Each each) {
  if (a->wtype == a->dtype && !a->scaling) return each((int64_t)0, a->out, a->w);
  if (a->dtype == KAVA_F64) return kava_cuda_unsupported("linear, W of another type,", KAVA_F64);
  int64_t row = a->in * size_of(a->dtype), most = scratch / row > 0 ? scratch / row : 1;
  int64_t row_bytes = a->in / kava_dtype_block(a->wtype) * kava_dtype_block_bytes(a->wtype);
  /* pieces of about the same size; whole tiles of rows, since a piece's first row is where its columns of y begin, and
   * cuBLASLt's good kernels want those at multiples of 16 bytes (without: 3.1 ms for 0.4) */
  int64_t pieces = (a->out + most - 1) / most;
  most = (a->out + pieces - 1) / pieces;
  most = most + TILE - 1 - (most + TILE - 1) % TILE;
  if (most > a->out) most = a->out;
  void *room = kava_cuda_scratch((size_t)(most * row));
  if (!room) return KAVA_MEMORY;
  kava_status st = KAVA_OK;
  for (int64_t first = 0; first < a->out && st == KAVA_OK; first += most) {
    int64_t rows = a->out - first < most ? a->out - first : most;
    st = kava_cuda_widen_matrix(a->wtype, (const char *)a->w + first * row_bytes, a->scaling, a->first + first, 0,
                                a->in, rows * a->in, a->dtype, room);
    if (st == KAVA_OK) st = each(first, rows, (const void *)room);
  }
  return st;
}

static kava_product product_of(const kava_linear_args *a) {
  kava_product p = {};
  p.in = p.out = a->dtype;
  p.batch = 1;
  p.alpha = 1;
  return p;
}

extern "C" kava_status kava_cuda_linear_forward(const kava_linear_args *a, const void *x, const void *bias, void *y) {
  if (a->rows == 0 || a->out == 0) return KAVA_OK;
  kava_status st = kava_cuda_linear_fp8(a, x, bias, y);
  if (st != KAVA_UNSUPPORTED) return st;
  return over_weight(a, [&](int64_t first, int64_t rows, const void *w) {
    kava_product p = product_of(a);
    p.trans_b = true;
    p.m = a->rows, p.n = rows, p.k = a->in;
    p.a = x, p.lda = a->in;
    p.b = w, p.ldb = a->in;
    p.c = (char *)y + first * size_of(a->dtype), p.ldc = a->out;
    p.bias = bias ? (const char *)bias + first * size_of(a->dtype) : NULL;
    p.added = a->residual ? (const char *)a->residual + first * size_of(a->dtype) : NULL;
    p.beta = a->residual ? 1 : 0;
    return kava_cuda_product(&p);
  });
}

extern "C" kava_status kava_cuda_linear_dx(const kava_linear_args *a, const void *dy, void *dx, bool add) {
  if (a->rows == 0 || a->in == 0) return KAVA_OK;
  return over_weight(a, [&](int64_t first, int64_t rows, const void *w) {
    kava_product p = product_of(a);
    p.m = a->rows, p.n = a->in, p.k = rows;
    p.a = (const char *)dy + first * size_of(a->dtype), p.lda = a->out;
    p.b = w, p.ldb = a->in;
    p.c = dx, p.ldc = a->in;
    p.beta = add || first > 0 ? 1 : 0;
    return kava_cuda_product(&p);
  });
}

/* ---- db: the sums of dy's columns. A block has COLUMNS of them and a share of the rows, a warp every WARPS-th row of
 * that; shares are added in order by a second kernel. ---- */
#define WARPS 8

template <class T, int V> struct sums { /* V columns a lane */
  static constexpr int columns = 32 * V;
};
template <class T, int V>
static __global__ void __launch_bounds__(32 * WARPS)
    column_sums_kernel(const T *dy, int64_t rows, int64_t width, int64_t share, kava_wide<T> *out, bool add) {
  typedef kava_wide<T> F;
  KAVA_SHARED(F, room, WARPS * 32 * V);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int64_t column = (int64_t)blockIdx.x * sums<T, V>::columns + lane * V;
  int64_t begin = (int64_t)blockIdx.y * share, end = begin + share < rows ? begin + share : rows;
  F sum[V];
#pragma unroll
  for (int j = 0; j < V; j++) sum[j] = 0;
  if (column < width)
    for (int64_t r = begin + warp; r < end; r += WARPS) {
      F x[V];
      kava_load<T, V>(dy + r * width + column, x);
#pragma unroll
      for (int j = 0; j < V; j++) sum[j] += x[j];
    }
#pragma unroll
  for (int j = 0; j < V; j++) room[(warp * 32 + lane) * V + j] = sum[j];
  __syncthreads();
  out += blockIdx.y * width;
  for (int i = threadIdx.x; i < 32 * V; i += 32 * WARPS) {
    int64_t to = (int64_t)blockIdx.x * sums<T, V>::columns + i;
    if (to >= width) break;
    F whole = add ? out[to] : F(0);
    for (int w = 0; w < WARPS; w++) whole += room[w * 32 * V + i];
    out[to] = whole;
  }
}
template <class T, int V> static kava_status column_sums(const kava_linear_args *a, const T *dy, void *db, bool add) {
  typedef kava_wide<T> F;
  int64_t tiles = (a->out + sums<T, V>::columns - 1) / sums<T, V>::columns;
  int64_t shares = 4 * kava_cuda_device()->multiprocessors / tiles, most = (a->rows + 8 * WARPS - 1) / (8 * WARPS);
  if (shares > most) shares = most;
  if (shares < 1) shares = 1;
  int64_t share = (a->rows + shares - 1) / shares;
  shares = share ? (a->rows + share - 1) / share : 1;
  if (shares <= 1) {
    kava_launch("linear_dw: db", column_sums_kernel<T, V>, dim3((unsigned)tiles), 32 * WARPS, 0, dy, a->rows, a->out,
                a->rows, (F *)db, add);
    return KAVA_OK;
  }
  F *room = (F *)kava_cuda_scratch((size_t)(shares * a->out) * sizeof(F));
  if (!room) return KAVA_MEMORY;
  kava_launch("linear_dw: db", column_sums_kernel<T, V>, dim3((unsigned)tiles, (unsigned)shares), 32 * WARPS, 0, dy,
              a->rows, a->out, share, room, false);
  kava_add_parts<F>("linear_dw: db's shares", room, shares, a->out, a->out, db, NULL, add);
  return KAVA_OK;
}

extern "C" kava_status kava_cuda_linear_dw(const kava_linear_args *a, const void *x, const void *dy, void *dw,
                                           bool add_w, void *db, bool add_b) {
  kava_status st = KAVA_OK;
  if (db && a->out) { /* dy is contiguous then */
    bool known = kava_for_float(a->dtype, [&](auto t) {
      typedef decltype(t) T;
      constexpr int V = 8 / (int)sizeof(T) > 0 ? 8 / (int)sizeof(T) : 1; /* 8 bytes a lane */
      const T *from = (const T *)dy;
      bool vectors = a->out % V == 0 && reinterpret_cast<uintptr_t>(dy) % (V * sizeof(T)) == 0;
      st = vectors ? column_sums<T, V>(a, from, db, add_b) : column_sums<T, 1>(a, from, db, add_b);
    });
    if (!known) return kava_cuda_unsupported("linear_dw", a->dtype);
  }
  if (!dw || st != KAVA_OK || a->out == 0 || a->in == 0) return st;
  kava_product p = product_of(a);
  p.out = a->dw_half ? a->dtype : wide(a->dtype);
  p.trans_a = true;
  p.m = a->out, p.n = a->in, p.k = a->rows;
  p.a = dy, p.lda = a->dy_row ? a->dy_row : a->out;
  p.b = x, p.ldb = a->in;
  p.c = dw, p.ldc = a->in;
  p.beta = add_w ? 1 : 0;
  return kava_cuda_product(&p);
}

extern "C" const char *kava_cuda_linear_bf16(void) { return "tensor cores"; }

extern "C" kava_status kava_cuda_linear_gated(const kava_linear_args *a, kava_activation kind, const void *gate,
                                              const void *up, const void *bias, void *y) {
  return kava_cuda_linear_gated_fp8(a, kind, gate, up, bias, y);
}

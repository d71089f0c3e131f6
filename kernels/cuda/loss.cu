/* kernels/cuda/loss.cu: losses over pairs of rows and over rows of logits, and means over rows (kernels/args.h,
 * kernels/cpu/loss.c, pairs.c). A block takes a row: threads add in f32 (f64 for f64), the block in double; the mean
 * over rows is one block's, in a fixed order. No value goes to the host. Predicted, bf16 at 3.35 TB/s: mercator over
 * 4096 pairs of 3072, 50 MB, 15 us, its gradient of one side 75 MB, 23 us; logits of 512 x 151936: 156 MB and its
 * passes again from the L2, about 150 us with the gradient. */
#include "kernels/cuda/element.cuh"

namespace {
enum { THREADS = 256, WARPS = THREADS / 32, WIDE = 512 };

__device__ __forceinline__ double wide_at(kava_dtype dtype, const void *p) {
  return dtype == KAVA_F64 ? *(const double *)p : (double)*(const float *)p;
}
__device__ __forceinline__ void put_wide(kava_dtype dtype, void *p, double x) {
  if (dtype == KAVA_F64)
    *(double *)p = x;
  else
    *(float *)p = (float)x;
}

/* body(M as a constant, i) over a row of `width` by a block, N elements together where the rows allow it */
template <int N> struct many { static constexpr int count = N; };
template <int N, class Body> __device__ __forceinline__ void along(int64_t width, bool packs, Body body) {
  int64_t head = packs ? width / N : 0;
  for (int64_t i = threadIdx.x; i < head; i += blockDim.x) body(many<N>(), i * N);
  for (int64_t i = head * N + threadIdx.x; i < width; i += blockDim.x) body(many<1>(), i);
}
template <class T> bool packs_of(const kava_pair_loss_args &a) {
  return a.width % kava_vector<T>() == 0 && kava_aligned(a.s) && kava_aligned(a.t) && kava_aligned(a.ds) &&
         kava_aligned(a.dt);
}
template <int M, class T> __device__ __forceinline__ void put(T *to, kava_wide<T> (&v)[M], bool add) {
  if (add) {
    kava_wide<T> old[M];
    kava_load<T, M>(to, old);
#pragma unroll
    for (int j = 0; j < M; j++) v[j] += old[j];
  }
  kava_store<T, M>(to, v);
}

/* sums[r] (and dots[r]), a block each */
template <class T, bool DISTANCE>
__global__ void __launch_bounds__(THREADS) pairs_kernel(kava_pair_loss_args a, bool packs) {
  typedef kava_wide<T> F;
  KAVA_SHARED(double, room, WARPS);
  int64_t r = blockIdx.x;
  const T *s = (const T *)a.s + r * a.width, *t = (const T *)a.t + r * a.width;
  F ss = 0, tt = 0, st = 0, h = 0, bend = (F)a.beta;
  if (!a.keep || a.keep[r])
    along<kava_vector<T>()>(a.width, packs, [&](auto m, int64_t i) {
      constexpr int M = decltype(m)::count;
      F x[M], y[M];
      kava_load<T, M>(s + i, x);
      kava_load<T, M>(t + i, y);
#pragma unroll
      for (int j = 0; j < M; j++) {
        ss += x[j] * x[j];
        tt += y[j] * y[j];
        st += x[j] * y[j];
        if (!DISTANCE) continue;
        F d = fabs(x[j] - y[j]);
        h += a.distance == KAVA_SQUARE ? d * d : d < bend ? F(0.5) * d * d / bend : d - F(0.5) * bend;
      }
    });
  double *dots = DISTANCE ? (a.relative ? a.dots : NULL) : a.sums;
  if (dots) {
    double sum = kava_block_sum<WARPS>((double)ss, room);
    if (threadIdx.x == 0) dots[3 * r] = sum;
    sum = kava_block_sum<WARPS>((double)tt, room);
    if (threadIdx.x == 0) dots[3 * r + 1] = sum;
    sum = kava_block_sum<WARPS>((double)st, room);
    if (threadIdx.x == 0) dots[3 * r + 2] = sum;
  }
  if (!DISTANCE) return;
  double sum = kava_block_sum<WARPS>((double)h, room);
  if (threadIdx.x == 0) a.sums[r] = sum;
}
__device__ __forceinline__ double divisor(const kava_pair_loss_args &a, int64_t r) {
  return a.relative ? a.dots[3 * r + 1] + KAVA_RELATIVE_EPS : (double)a.width;
}
__global__ void __launch_bounds__(1024) mercator_kernel(kava_pair_loss_args a) {
  KAVA_SHARED(double, room, 32);
  double cosine = 0, magnitude = 0;
  for (int64_t r = threadIdx.x; r < a.rows; r += 1024) {
    if (a.keep && !a.keep[r]) continue;
    double ns = sqrt(a.sums[3 * r]), nt = sqrt(a.sums[3 * r + 1]), gap = log(ns + a.eps) - log(nt + a.eps);
    cosine += a.sums[3 * r + 2] / (fmax(ns, KAVA_UNIT_EPS) * fmax(nt, KAVA_UNIT_EPS));
    magnitude += gap * gap;
  }
  cosine = kava_block_sum<32>(cosine, room) / *a.counted;
  magnitude = kava_block_sum<32>(magnitude, room) / *a.counted;
  if (threadIdx.x) return;
  a.metrics[0] = cosine;
  a.metrics[1] = magnitude;
  put_wide(a.dtype, a.loss, a.alpha * (1 - cosine) + (a.beta != 0 ? a.beta * magnitude : 0));
}
__global__ void __launch_bounds__(1024) distance_kernel(kava_pair_loss_args a) {
  KAVA_SHARED(double, room, 32);
  double total = 0;
  for (int64_t r = threadIdx.x; r < a.rows; r += 1024)
    if (!a.keep || a.keep[r]) total += a.sums[r] / divisor(a, r);
  total = kava_block_sum<32>(total, room) / *a.counted;
  if (threadIdx.x) return;
  a.metrics[0] = total;
  put_wide(a.dtype, a.loss, total);
}

/* The gradient of one side is own (its row) + other (the other row). */
__device__ __forceinline__ void mercator_slopes(const kava_pair_loss_args &a, double mine, double theirs, double st,
                                                double scale, double *own, double *other) {
  double norm = sqrt(mine), n = fmax(norm, KAVA_UNIT_EPS), m = fmax(sqrt(theirs), KAVA_UNIT_EPS);
  double gap = log(norm + a.eps) - log(sqrt(theirs) + a.eps);
  *other = -a.alpha * scale / (n * m);
  *own = norm > KAVA_UNIT_EPS ? a.alpha * scale * st / (n * n * n * m) : 0;
  if (norm > 0 && a.beta != 0) *own += a.beta * scale * 2 * gap / (norm * (norm + a.eps));
}
/* dx and dy of every pair of elements of row r, by slopes(x, y, &dx, &dy); a row that is not kept counts as zeros. */
template <class T, class Slopes>
__device__ __forceinline__ void along_gradients(const kava_pair_loss_args &a, int64_t r, bool keep, bool packs,
                                                Slopes slopes) {
  typedef kava_wide<T> F;
  int64_t at = r * a.width;
  along<kava_vector<T>()>(a.width, packs, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    F x[M], y[M], dx[M], dy[M];
#pragma unroll
    for (int j = 0; j < M; j++) x[j] = y[j] = 0;
    if (keep) {
      kava_load<T, M>((const T *)a.s + at + i, x);
      kava_load<T, M>((const T *)a.t + at + i, y);
    }
#pragma unroll
    for (int j = 0; j < M; j++) slopes(x[j], y[j], &dx[j], &dy[j]);
    if (a.ds) put<M>((T *)a.ds + at + i, dx, a.add_s);
    if (a.dt) put<M>((T *)a.dt + at + i, dy, a.add_t);
  });
}
template <class T> __global__ void __launch_bounds__(THREADS) mercator_grad_kernel(kava_pair_loss_args a, bool packs) {
  typedef kava_wide<T> F;
  int64_t r = blockIdx.x;
  bool keep = !a.keep || a.keep[r];
  double s_own = 0, s_other = 0, t_own = 0, t_other = 0, scale = wide_at(a.dtype, a.grad) / *a.counted;
  if (keep) {
    double ss = a.sums[3 * r], tt = a.sums[3 * r + 1], st = a.sums[3 * r + 2];
    mercator_slopes(a, ss, tt, st, scale, &s_own, &s_other);
    mercator_slopes(a, tt, ss, st, scale, &t_own, &t_other);
  }
  along_gradients<T>(a, r, keep, packs, [&](F x, F y, F *dx, F *dy) {
    *dx = (F)s_own * x + (F)s_other * y;
    *dy = (F)t_own * y + (F)t_other * x;
  });
}
template <class T> __global__ void __launch_bounds__(THREADS) distance_grad_kernel(kava_pair_loss_args a, bool packs) {
  typedef kava_wide<T> F;
  int64_t r = blockIdx.x;
  bool keep = !a.keep || a.keep[r];
  double scale = wide_at(a.dtype, a.grad) / *a.counted, divided = keep ? scale / divisor(a, r) : 0;
  F slope = (F)divided, bend = (F)a.beta;
  /* the teacher also stands in the divisor */
  F inside = keep && a.relative ? (F)(-2 * divided * a.sums[r] / divisor(a, r)) : F(0);
  along_gradients<T>(a, r, keep, packs, [&](F x, F y, F *dx, F *dy) {
    F d = x - y;
    d = a.distance == KAVA_SQUARE ? 2 * d : fabs(d) < bend ? d / bend : d > 0 ? F(1) : d < 0 ? F(-1) : d;
    *dx = slope * d;
    *dy = -slope * d + inside * y;
  });
}

__global__ void __launch_bounds__(1024)
    count_kernel(const uint8_t *keep, const int64_t *targets, int64_t rows, double *count) {
  KAVA_SHARED(double, room, 32);
  double counted = 0;
  for (int64_t r = threadIdx.x; r < rows; r += 1024) counted += (!keep || keep[r]) && (!targets || targets[r] >= 0);
  counted = kava_block_sum<32>(counted, room);
  if (threadIdx.x == 0) *count = counted;
}
__global__ void __launch_bounds__(1024) means_kernel(kava_means_args a) {
  KAVA_SHARED(double, room, 32);
  double loss = 0, n = *a.counted;
  for (int64_t c = 0; c < a.columns; c++) {
    double sum = 0;
    for (int64_t r = threadIdx.x; r < a.rows; r += 1024) sum += a.stats[r * a.columns + c];
    sum = kava_block_sum<32>(sum, room) / n;
    double weight = a.weight[c] * (a.by[c] ? wide_at(a.dtype, a.by[c]) : 1);
    if (weight != 0) loss += weight * sum;
    if (threadIdx.x == 0) a.metrics[c] = sum;
  }
  if (threadIdx.x) return;
  a.metrics[a.columns] = n;
  if (a.loss) put_wide(a.dtype, a.loss, loss);
}

/* The logarithm of the sum of exp(x scale) over a row, for the whole block, by one pass; *first: its first maximum. */
template <class T> struct running {
  typedef kava_wide<T> F;
  F most = -INFINITY, sum = 0;
  int64_t first = 0;
  template <int M> __device__ __forceinline__ void take(const F (&v)[M], F scale, int64_t i) {
    F before = most;
#pragma unroll
    for (int j = 0; j < M; j++)
      if (v[j] * scale > most) most = v[j] * scale, first = i + j;
    if (most > before) sum *= (F)exp(before - most);
#pragma unroll
    for (int j = 0; j < M; j++) { /* infinities have no difference */
      F x = v[j] * scale;
      sum += x == -INFINITY ? F(0) : x == most ? F(1) : (F)exp(x - most);
    }
  }
  __device__ __forceinline__ F over_block(double *room) {
    constexpr int N = WIDE / 32;
    F top = kava_block_most<N>(most, (F *)room);
    F mine = most > -INFINITY || sum != sum ? sum * (F)exp(most - top) : F(0);
    double place = most == top && top > -INFINITY ? -(double)first : -1e18;
    first = (int64_t)-kava_block_most<N>(place, room);
    return top + (F)log(kava_block_sum<N>((double)mine, room));
  }
};
template <class T> bool packs_of(const kava_logits_args &a) {
  return a.width % kava_vector<T>() == 0 && kava_aligned(a.s) && kava_aligned(a.t) && kava_aligned(a.ds) &&
         kava_aligned(a.dt);
}
/* WITH: there is another row (t), or a temperature. */
template <class T, bool WITH> __global__ void __launch_bounds__(WIDE, 2) logits_kernel(kava_logits_args a, bool packs) {
  typedef kava_wide<T> F;
  constexpr int N = kava_vector<T>();
  KAVA_SHARED(double, room, WIDE / 32);
  int64_t r = blockIdx.x, at = r * a.width, target = a.targets ? a.targets[r] : -1;
  const T *s = (const T *)a.s + at, *t = WITH && a.t ? (const T *)a.t + at : NULL;
  T *ds = a.ds ? (T *)a.ds + at : NULL, *dt = WITH && a.dt ? (T *)a.dt + at : NULL;
  if (a.keep && !a.keep[r]) {
    if (threadIdx.x < 3) a.stats[3 * r + threadIdx.x] = 0;
    for (int64_t i = threadIdx.x; i < a.width; i += WIDE) {
      if (ds && !a.add_s) ds[i] = kava_narrow<T>(F(0));
      if (dt && !a.add_t) dt[i] = kava_narrow<T>(F(0));
    }
    return;
  }
  F heat = WITH ? (F)a.temperature : F(1), scale = WITH ? (F)(1 / a.temperature) : F(1);
  running<T> plain, soft, teacher;
  along<N>(a.width, packs, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    F v[M];
    kava_load<T, M>(s + i, v);
    plain.take(v, F(1), i);
    if (WITH && heat != 1) soft.take(v, scale, i);
    if (!t) return;
    kava_load<T, M>(t + i, v);
    teacher.take(v, scale, i);
  });
  F log_plain = plain.over_block(room), log_soft = log_plain, log_teacher = 0;
  if (WITH && heat != 1) log_soft = soft.over_block(room);
  if (t) log_teacher = teacher.over_block(room);
  double kl = 0;
  if (t) {
    F sum = 0;
    along<N>(a.width, packs, [&](auto m, int64_t i) {
      constexpr int M = decltype(m)::count;
      F v[M], w[M];
      kava_load<T, M>(s + i, v);
      kava_load<T, M>(t + i, w);
#pragma unroll
      for (int j = 0; j < M; j++) {
        F log_q = w[j] * scale - log_teacher, q = exp(log_q);
        if (q > 0) sum += q * (log_q - (v[j] * scale - log_soft));
      }
    });
    kl = kava_block_sum<WIDE / 32>((double)sum, room);
  }
  if (threadIdx.x == 0) {
    a.stats[3 * r] = target < 0 ? 0 : target < a.width ? (double)(log_plain - kava_widen(s[target])) : (double)NAN;
    a.stats[3 * r + 1] = a.temperature * a.temperature * kl;
    a.stats[3 * r + 2] = t && plain.first == teacher.first;
  }
  if (!ds && !dt) return;
  __syncthreads(); /* stats are read before s is overwritten */
  double counted = a.counted ? *a.counted : 1;
  F ce = (F)(a.ce_scale * (a.ce_by ? wide_at(a.dtype, a.ce_by) : 1) / counted), mean = (F)kl;
  F soften = (F)(a.kl_scale * (a.kl_by ? wide_at(a.dtype, a.kl_by) : 1) / counted * a.temperature);
  along<N>(a.width, packs, [&](auto m, int64_t i) {
    constexpr int M = decltype(m)::count;
    F v[M], w[M] = {}, gs[M], gt[M];
    kava_load<T, M>(s + i, v);
    if (t) kava_load<T, M>(t + i, w);
#pragma unroll
    for (int j = 0; j < M; j++) {
      gs[j] = gt[j] = 0;
      if (target >= 0) gs[j] = target < a.width ? ce * ((F)exp(v[j] - log_plain) - F(i + j == target)) : F(NAN);
      if (!t) continue;
      F log_q = w[j] * scale - log_teacher, q = exp(log_q), log_p = v[j] * scale - log_soft;
      gs[j] += soften * ((F)exp(log_p) - q);
      gt[j] = q > 0 ? soften * q * (log_q - log_p - mean) : F(0);
    }
    if (ds) put<M>(ds + i, gs, a.add_s);
    if (dt) put<M>(dt + i, gt, a.add_t);
  });
}

template <bool DISTANCE> bool pairs(const char *name, const kava_pair_loss_args *a) {
  if (a->rows == 0) return true;
  return kava_for_float(a->dtype, [&](auto t) {
    typedef decltype(t) T;
    kava_launch(name, pairs_kernel<T, DISTANCE>, (unsigned)a->rows, THREADS, 0, *a, packs_of<T>(*a));
  });
}
} // namespace

extern "C" void kava_cuda_mercator(const kava_pair_loss_args *a) {
  if (!pairs<false>("mercator", a))
    kava_cuda_unsupported("mercator", a->dtype);
  else
    kava_launch("mercator: mean", mercator_kernel, 1, 1024, 0, *a);
}
extern "C" void kava_cuda_distance(const kava_pair_loss_args *a) {
  if (!pairs<true>("distance", a))
    kava_cuda_unsupported("distance", a->dtype);
  else
    kava_launch("distance: mean", distance_kernel, 1, 1024, 0, *a);
}
extern "C" kava_status kava_cuda_mercator_grad(const kava_pair_loss_args *a) {
  if (a->rows == 0 || kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("mercator_grad", mercator_grad_kernel<T>, (unsigned)a->rows, THREADS, 0, *a, packs_of<T>(*a));
      }))
    return KAVA_OK;
  return kava_cuda_unsupported("mercator_grad", a->dtype);
}
extern "C" kava_status kava_cuda_distance_grad(const kava_pair_loss_args *a) {
  if (a->rows == 0 || kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        kava_launch("distance_grad", distance_grad_kernel<T>, (unsigned)a->rows, THREADS, 0, *a, packs_of<T>(*a));
      }))
    return KAVA_OK;
  return kava_cuda_unsupported("distance_grad", a->dtype);
}
extern "C" void kava_cuda_count_rows(const uint8_t *keep, const int64_t *targets, int64_t rows, double *count) {
  kava_launch("count_rows", count_kernel, 1, 1024, 0, keep, targets, rows, count);
}
extern "C" void kava_cuda_means(const kava_means_args *a) { kava_launch("means", means_kernel, 1, 1024, 0, *a); }
extern "C" void kava_cuda_logits_rows(const kava_logits_args *a) {
  if (a->rows && !kava_for_float(a->dtype, [&](auto t) {
        typedef decltype(t) T;
        if (a->t || a->temperature != 1)
          kava_launch("logits_rows", logits_kernel<T, true>, (unsigned)a->rows, WIDE, 0, *a, packs_of<T>(*a));
        else
          kava_launch("logits_rows", logits_kernel<T, false>, (unsigned)a->rows, WIDE, 0, *a, packs_of<T>(*a));
      }))
    kava_cuda_unsupported("logits_rows", a->dtype);
}

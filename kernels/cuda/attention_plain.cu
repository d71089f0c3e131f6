/* kernels/cuda/attention_plain.cu: attention in f32 arithmetic on the ordinary cores, for f32 (no TF32) and for head
 * dimensions that attention.cu has no code for, up to 256; the attention map; and the entries of the table, which
 * choose.
 *
 * One pattern throughout: a warp owns a row (a query, or going back a key) and 32 rows of the other kind lie in shared
 * memory, where WARPS warps share them. For the scores a lane owns one of the 32; for the sums it owns dimensions lane,
 * lane + 32, ... Formulas: kernels/cpu/attention.c. Every sum has one order. */
#include "kernels/cuda/attention.cuh"

namespace {
enum { WARPS = 8, THREADS = 32 * WARPS, EACH = 8 }; /* EACH: dimensions a lane owns at most */

/* `count` rows, `stride` apart, as f32 into shared memory, dim + 1 apart; those that are not there are 0 */
template <class T> __device__ void fetch(float *to, const T *from, int64_t stride, int count, int there, int dim) {
  for (int i = threadIdx.x; i < count * dim; i += THREADS) {
    int r = i / dim, d = i % dim;
    to[r * (dim + 1) + d] = r < there ? kava_widen(from[r * stride + d]) : 0;
  }
}
__device__ __forceinline__ float dot(const float *x, const float *y, int dim) {
  float sum = 0;
  for (int d = 0; d < dim; d++) sum += x[d] * y[d];
  return sum;
}
__device__ __forceinline__ float score(const attention_job &a, float product, float *slope) {
  float s = product * a.scale;
  *slope = 1;
  if (a.softcap <= 0) return s;
  s = a.softcap * tanhf(s / a.softcap);
  *slope = attention_slope(s, a.softcap);
  return s;
}
/* acc[i] += sum over the 32 rows of weight[row] rows[row][d] */
__device__ __forceinline__ void gather(float (&acc)[EACH], const float *weight, const float *rows, int dim, int lane) {
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int d = lane + 32 * i;
    if (d >= dim) break;
    for (int j = 0; j < 32; j++) acc[i] += weight[j] * rows[j * (dim + 1) + d];
  }
}
template <class T>
__device__ __forceinline__ void put(T *to, const float (&acc)[EACH], float factor, int dim, int lane, bool add) {
#pragma unroll
  for (int i = 0; i < EACH; i++) {
    int d = lane + 32 * i;
    if (d < dim) to[d] = kava_narrow<T>(acc[i] * factor + (add ? kava_widen(to[d]) : 0));
  }
}
/* where head h of token t begins, with `row` elements between tokens */
__device__ __forceinline__ int64_t place(const attention_job &a, int64_t row, int b, int t, int h) {
  return ((int64_t)b * a.length + t) * row + h * a.dim;
}
__device__ __forceinline__ int64_t line_at(const attention_job &a, int b, int h) {
  return ((int64_t)b * a.heads + h) * a.length;
}
/* the tiles of 32 keys that a block's queries see: the first's first key, and one behind the last's */
__device__ __forceinline__ int keys_from(const attention_job &a, int b, int t0) {
  int least = 0x7fffffff;
  for (int i = 0; i < WARPS; i++) least = min(least, attention_first(a, b, t0 + i));
  return least / 32 * 32;
}

template <class T> __global__ void __launch_bounds__(THREADS) forward_kernel(attention_job a) {
  int dim = a.dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *q = (float *)kava_dynamic_shared(), *k = q + WARPS * (dim + 1), *v = k + 32 * (dim + 1);
  KAVA_SHARED(float, weights, WARPS * 32);
  float *weight = weights + 32 * warp;
  int t0 = (gridDim.x - 1 - blockIdx.x) * WARPS, t = t0 + warp, h = blockIdx.y, b = blockIdx.z, hk = h / a.group;
  fetch(q, (const T *)a.q + place(a, a.q_row, b, t0, h), a.q_row, WARPS, a.length - t0, dim);
  int first = attention_first(a, b, t), from = keys_from(a, b, t0), end = min(t0 + WARPS, a.length);
  float most = -INFINITY, sum = 0, acc[EACH] = {0, 0, 0, 0, 0, 0, 0, 0}, slope;
  for (int j0 = from; j0 < end; j0 += 32) {
    __syncthreads();
    fetch(k, (const T *)a.k + place(a, a.k_row, b, j0, hk), a.k_row, 32, a.length - j0, dim);
    fetch(v, (const T *)a.v + place(a, a.v_row, b, j0, hk), a.v_row, 32, a.length - j0, dim);
    __syncthreads();
    float s = score(a, dot(q + warp * (dim + 1), k + lane * (dim + 1), dim), &slope);
    if (j0 + lane > t || j0 + lane < first) s = -INFINITY;
    float top = fmaxf(most, kava_warp_most(s)), base = top == -INFINITY ? 0 : top, shrink = expf(most - base);
    float p = expf(s - base);
    most = top;
    sum = sum * shrink + kava_warp_sum(p);
    weight[lane] = p;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < EACH; i++) acc[i] *= shrink;
    gather(acc, weight, v, dim, lane);
    __syncwarp();
  }
  if (t >= a.length) return;
  put((T *)a.out + place(a, a.row, b, t, h), acc, sum > 0 ? 1 / sum : 0, dim, lane, false);
  if (lane == 0 && a.lse) a.lse[line_at(a, b, h) + t] = sum > 0 ? most + logf(sum) : -INFINITY;
}

/* delta[b,h,t] = sum over d of o g, a warp each */
template <class T> __global__ void __launch_bounds__(THREADS) delta_kernel(attention_job a) {
  int lane = threadIdx.x % 32;
  int64_t total = (int64_t)a.batch * a.length * a.heads;
  for (int64_t at = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; at < total; at += (int64_t)gridDim.x * WARPS) {
    int64_t token = at / a.heads, head = token * a.row + at % a.heads * a.dim;
    float sum = 0;
    for (int d = lane; d < a.dim; d += 32)
      sum += kava_widen(((const T *)a.o)[head + d]) * kava_widen(((const T *)a.g)[head + d]);
    sum = kava_warp_sum(sum);
    if (lane == 0) a.delta[(token / a.length * a.heads + at % a.heads) * a.length + token % a.length] = sum;
  }
}

/* What the map's kernels share with those of attention: dP is g.v, or for the map its gradient over the heads. */
template <class T, bool MAP>
__device__ __forceinline__ float slope_of_p(const attention_job &a, const float *g, const float *v, int b, int t,
                                            int j) {
  if (MAP) return kava_widen(((const T *)a.g)[((int64_t)b * a.length + t) * a.length + j]) / (float)a.heads;
  return dot(g, v, a.dim);
}

template <class T, bool MAP> __global__ void __launch_bounds__(THREADS) queries_kernel(attention_job a) {
  int dim = a.dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *q = (float *)kava_dynamic_shared(), *g = q + WARPS * (dim + 1), *k = g + WARPS * (dim + 1),
        *v = k + 32 * (dim + 1);
  KAVA_SHARED(float, weights, WARPS * 32);
  float *weight = weights + 32 * warp;
  int t0 = (gridDim.x - 1 - blockIdx.x) * WARPS, t = t0 + warp, h = blockIdx.y, b = blockIdx.z, hk = h / a.group;
  fetch(q, (const T *)a.q + place(a, a.q_row, b, t0, h), a.q_row, WARPS, a.length - t0, dim);
  if (!MAP) fetch(g, (const T *)a.g + place(a, a.row, b, t0, h), a.row, WARPS, a.length - t0, dim);
  int first = attention_first(a, b, t), from = keys_from(a, b, t0), end = min(t0 + WARPS, a.length);
  float lse = t < a.length ? a.lse[line_at(a, b, h) + t] : 0, mean = t < a.length ? a.delta[line_at(a, b, h) + t] : 0;
  float acc[EACH] = {0, 0, 0, 0, 0, 0, 0, 0}, slope;
  for (int j0 = from; j0 < end; j0 += 32) {
    __syncthreads();
    fetch(k, (const T *)a.k + place(a, a.k_row, b, j0, hk), a.k_row, 32, a.length - j0, dim);
    if (!MAP) fetch(v, (const T *)a.v + place(a, a.v_row, b, j0, hk), a.v_row, 32, a.length - j0, dim);
    __syncthreads();
    float s = score(a, dot(q + warp * (dim + 1), k + lane * (dim + 1), dim), &slope), ds = 0;
    if (j0 + lane <= t && j0 + lane >= first)
      ds = expf(s - lse) * slope *
           (slope_of_p<T, MAP>(a, g + warp * (dim + 1), v + lane * (dim + 1), b, t, j0 + lane) - mean);
    weight[lane] = ds;
    __syncwarp();
    gather(acc, weight, k, dim, lane);
    __syncwarp();
  }
  if (t < a.length) put((T *)a.dq + place(a, a.dq_row, b, t, h), acc, a.scale, dim, lane, a.add_q);
}

template <class T, bool MAP> __global__ void __launch_bounds__(THREADS) keys_kernel(attention_job a) {
  int dim = a.dim, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  float *k = (float *)kava_dynamic_shared(), *v = k + WARPS * (dim + 1), *q = v + WARPS * (dim + 1),
        *g = q + 32 * (dim + 1);
  KAVA_SHARED(float, weights, WARPS * 64);
  float *weight = weights + 64 * warp;
  int j0 = blockIdx.x * WARPS, j = j0 + warp, hk = blockIdx.y, b = blockIdx.z;
  fetch(k, (const T *)a.k + place(a, a.k_row, b, j0, hk), a.k_row, WARPS, a.length - j0, dim);
  if (!MAP) fetch(v, (const T *)a.v + place(a, a.v_row, b, j0, hk), a.v_row, WARPS, a.length - j0, dim);
  float dk[EACH] = {0, 0, 0, 0, 0, 0, 0, 0}, dv[EACH] = {0, 0, 0, 0, 0, 0, 0, 0}, slope;
  for (int h = hk * a.group; h < (hk + 1) * a.group; h++)
    for (int t0 = j0 / 32 * 32; t0 < a.length; t0 += 32) {
      int t = t0 + lane, first = attention_first(a, b, t);
      if (!__syncthreads_or(first < j0 + WARPS)) continue;
      fetch(q, (const T *)a.q + place(a, a.q_row, b, t0, h), a.q_row, 32, a.length - t0, dim);
      if (!MAP) fetch(g, (const T *)a.g + place(a, a.row, b, t0, h), a.row, 32, a.length - t0, dim);
      __syncthreads();
      float s = score(a, dot(k + warp * (dim + 1), q + lane * (dim + 1), dim), &slope), p = 0, ds = 0;
      if (t < a.length && j <= t && j >= first) {
        p = expf(s - a.lse[line_at(a, b, h) + t]);
        ds = p * slope *
             (slope_of_p<T, MAP>(a, g + lane * (dim + 1), v + warp * (dim + 1), b, t, j) -
              a.delta[line_at(a, b, h) + t]);
      }
      weight[lane] = ds;
      weight[32 + lane] = p;
      __syncwarp();
      gather(dk, weight, q, dim, lane);
      if (!MAP) gather(dv, weight + 32, g, dim, lane);
      __syncthreads();
    }
  if (j >= a.length) return;
  if (a.dk) put((T *)a.dk + place(a, a.dk_row, b, j, hk), dk, a.scale, dim, lane, a.add_k);
  if (a.dv && !MAP) put((T *)a.dv + place(a, a.dv_row, b, j, hk), dv, 1, dim, lane, a.add_v);
}

/* The map: a warp for each (row, query), first lse of every head, then p, which each lane adds up in its own places. */
template <class T> __device__ float map_score(const attention_job &a, int b, int t, int h, int j) {
  const T *q = (const T *)a.q + place(a, a.q_row, b, t, h), *k = (const T *)a.k + place(a, a.k_row, b, j, h / a.group);
  float sum = 0, slope;
  for (int d = 0; d < a.dim; d++) sum += kava_widen(q[d]) * kava_widen(k[d]);
  return score(a, sum, &slope);
}
__device__ __forceinline__ int map_first(const attention_job &a, int b, int t) { /* it may be added to */
  return min(attention_first(a, b, t), a.length);
}
template <class T> __global__ void __launch_bounds__(THREADS) map_kernel(attention_job a) {
  int lane = threadIdx.x % 32, t = blockIdx.x * WARPS + threadIdx.x / 32, b = blockIdx.y;
  if (t >= a.length) return;
  int first = map_first(a, b, t);
  T *p = (T *)a.out + ((int64_t)b * a.length + t) * a.length;
  float share = 1.0f / (float)a.heads;
  for (int h = 0; h < a.heads; h++) {
    float most = -INFINITY, sum = 0;
    for (int j = first + lane; j <= t; j += 32) most = fmaxf(most, map_score<T>(a, b, t, h, j));
    most = kava_warp_most(most);
    for (int j = first + lane; j <= t; j += 32) sum += expf(map_score<T>(a, b, t, h, j) - most);
    sum = kava_warp_sum(sum);
    if (lane == 0) a.lse[line_at(a, b, h) + t] = sum > 0 ? most + logf(sum) : -INFINITY;
  }
  __syncwarp();
  for (int j = lane; j < a.length; j += 32) {
    float sum = 0;
    for (int h = 0; h < a.heads && j >= first && j <= t; h++)
      sum += expf(map_score<T>(a, b, t, h, j) - a.lse[line_at(a, b, h) + t]);
    p[j] = kava_narrow<T>(sum * share);
  }
}
/* delta[b,h,t] = sum over j of P dP */
template <class T> __global__ void __launch_bounds__(THREADS) map_delta_kernel(attention_job a) {
  int lane = threadIdx.x % 32, t = blockIdx.x * WARPS + threadIdx.x / 32, h = blockIdx.y, b = blockIdx.z;
  if (t >= a.length) return;
  float sum = 0, lse = a.lse[line_at(a, b, h) + t];
  for (int j = map_first(a, b, t) + lane; j <= t; j += 32)
    sum += expf(map_score<T>(a, b, t, h, j) - lse) * slope_of_p<T, true>(a, NULL, NULL, b, t, j);
  sum = kava_warp_sum(sum);
  if (lane == 0) a.delta[line_at(a, b, h) + t] = sum;
}

unsigned tiles_of(const attention_job &a) { return (unsigned)((a.length + WARPS - 1) / WARPS); }
size_t shared_of(const attention_job &a, int rows) { return (size_t)(rows * (a.dim + 1)) * sizeof(float); }

template <class T, bool MAP> void backward(const attention_job &a) {
  if (a.dk || a.dv)
    kava_launch("attention_grad: keys, plain", keys_kernel<T, MAP>, dim3(tiles_of(a), a.kv_heads, a.batch), THREADS,
                shared_of(a, 2 * WARPS + 64), a);
  if (a.dq)
    kava_launch("attention_grad: queries, plain", queries_kernel<T, MAP>, dim3(tiles_of(a), a.heads, a.batch), THREADS,
                shared_of(a, 2 * WARPS + 64), a);
}

/* Calls body(T()) for the types there is code for. */
template <class Body> bool for_type(kava_dtype dtype, const attention_job &a, Body body) {
  if (a.dim > 32 * EACH || dtype == KAVA_F64) return false;
  if (dtype == KAVA_F32) return body(float()), true;
  if (dtype == KAVA_BF16) return body(kava_bf16()), true;
  return dtype == KAVA_F16 && (body(kava_f16()), true);
}

attention_job job_of(const kava_attention_args *a) {
  attention_job job = {};
  job.batch = (int)a->batch, job.length = (int)a->length, job.heads = (int)a->heads, job.kv_heads = (int)a->kv_heads;
  job.dim = (int)a->head_dim, job.group = job.heads / job.kv_heads;
  job.scale = (float)a->scale, job.softcap = (float)a->softcap;
  int64_t row = a->heads * a->head_dim, kv_row = a->kv_heads * a->head_dim;
  job.row = row;
  job.q_row = a->q_row ? a->q_row : row, job.dq_row = a->dq_row ? a->dq_row : row;
  job.k_row = a->k_row ? a->k_row : kv_row, job.dk_row = a->dk_row ? a->dk_row : kv_row;
  job.v_row = a->v_row ? a->v_row : kv_row, job.dv_row = a->dv_row ? a->dv_row : kv_row;
  job.q = a->q, job.k = a->k, job.v = a->v, job.g = a->grad_o;
  job.start = a->start;
  job.window = a->window < a->length ? (int)a->window : 0; /* a longer one hides nothing */
  job.lse = (float *)a->lse;
  return job;
}
/* The same going back, with its scratch. */
bool job_back(const kava_attention_args *a, attention_job *job) {
  *job = job_of(a);
  job->o = a->o;
  job->dq = a->dq, job->dk = a->dk, job->dv = a->dv;
  job->add_q = a->add_q, job->add_k = a->add_k, job->add_v = a->add_v;
  int64_t whole = (a->length + 63) / 64 * 64, lines = 2 * a->batch * a->heads * whole, firsts = a->batch * whole,
          least = a->batch * ((a->length + 15) / 16);
  int64_t keys = a->batch * a->length * a->kv_heads * a->head_dim;
  /* Blocks of keys differ in length by the causal mask: about four a multiprocessor even that out, or three to two
   * where they are of several warpgroups. */
  int64_t blocks = (a->length + 63) / 64 * a->kv_heads * a->batch, many = kava_cuda_device()->multiprocessors;
  int64_t wanted = kava_attention_hopper_takes(a->dtype, *job) ? many * 3 / 2 : many * 4;
  int64_t splits = (wanted + blocks - 1) / blocks;
  job->splits = a->dtype == KAVA_F32 ? 1 : (int)(splits < job->group ? splits : job->group); /* f32: no such kernels */
  int64_t parts = job->splits > 1 ? 2 * keys * job->splits : 0;
  least = (least + 3) / 4 * 4; /* what follows is at a multiple of 16 bytes */
  job->delta = (float *)kava_cuda_scratch((size_t)(lines + firsts + least + parts) * 4);
  job->firsts = (int *)(job->delta + lines);
  job->least = job->firsts + firsts;
  job->partial = (float *)(job->least + least);
  return job->delta != NULL;
}
bool empty(const kava_attention_args *a) { return a->batch == 0 || a->length == 0; }
} // namespace

bool kava_attention_plain(kava_dtype dtype, const attention_job &job) {
  return for_type(dtype, job, [&](auto t) {
    kava_launch("attention, plain", forward_kernel<decltype(t)>, dim3(tiles_of(job), job.heads, job.batch), THREADS,
                shared_of(job, WARPS + 64), job);
  });
}
bool kava_attention_plain_grad(kava_dtype dtype, const attention_job &job) {
  return for_type(dtype, job, [&](auto t) {
    kava_launch("attention_grad: delta, plain", delta_kernel<decltype(t)>,
                kava_cuda_blocks((int64_t)job.batch * job.length * job.heads, WARPS), THREADS, 0, job);
    backward<decltype(t), false>(job);
  });
}

extern "C" kava_status kava_cuda_attention(const kava_attention_args *a) {
  if (empty(a)) return KAVA_OK;
  attention_job job = job_of(a);
  job.out = a->o;
  if (kava_attention_hopper_takes(a->dtype, job)) return kava_attention_hopper(a->dtype, job), KAVA_OK;
  if (kava_attention_tensor(a->dtype, job) || kava_attention_plain(a->dtype, job)) return KAVA_OK;
  return kava_cuda_unsupported("attention", a->dtype);
}
extern "C" kava_status kava_cuda_attention_grad(const kava_attention_args *a) {
  attention_job job;
  if (empty(a)) return KAVA_OK;
  if (!job_back(a, &job)) return KAVA_MEMORY;
  if (kava_attention_hopper_takes(a->dtype, job)) return kava_attention_hopper_grad(a->dtype, job), KAVA_OK;
  if (kava_attention_tensor_grad(a->dtype, job) || kava_attention_plain_grad(a->dtype, job)) return KAVA_OK;
  return kava_cuda_unsupported("attention_grad", a->dtype);
}
extern "C" kava_status kava_cuda_attention_map(const kava_attention_args *a, void *p) {
  if (empty(a)) return KAVA_OK;
  attention_job job = job_of(a);
  job.out = p;
  if (!job.lse) job.lse = (float *)kava_cuda_scratch((size_t)(a->batch * a->heads * a->length) * sizeof(float));
  if (!job.lse) return KAVA_MEMORY;
  bool done = for_type(a->dtype, job, [&](auto t) {
    kava_launch("attention_map", map_kernel<decltype(t)>, dim3(tiles_of(job), job.batch), THREADS, 0, job);
  });
  return done ? KAVA_OK : kava_cuda_unsupported("attention_map", a->dtype);
}
extern "C" kava_status kava_cuda_attention_map_grad(const kava_attention_args *a, const void *grad_p) {
  attention_job job;
  if (empty(a)) return KAVA_OK;
  if (!job_back(a, &job)) return KAVA_MEMORY;
  job.g = grad_p;
  bool done = for_type(a->dtype, job, [&](auto t) {
    kava_launch("attention_map_grad: delta", map_delta_kernel<decltype(t)>, dim3(tiles_of(job), job.heads, job.batch),
                THREADS, 0, job);
    backward<decltype(t), true>(job);
  });
  return done ? KAVA_OK : kava_cuda_unsupported("attention_map_grad", a->dtype);
}

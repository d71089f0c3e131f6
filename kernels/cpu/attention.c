/* kernels/cpu/attention.c: the plain reference of causal grouped-query attention (kava_attention_args), in double.
 * With s[t,j] = scale q[t].k[j] over the keys start[t] <= j <= t, P = softmax(s), o = P v and g = grad_o:
 *   dv[j] = sum_t P[t,j] g[t]        dP[t,j] = g[t].v[j]        dS = P (dP - sum_j P dP)
 *   dq[t] = scale sum_j dS[t,j] k[j]                  dk[j] = scale sum_t dS[t,j] q[t]
 * With a softcap c: s = c tanh(scale q.k / c), and dS gets the factor 1 - (s/c)^2.
 * P is made again from lse. A task is one (row, key head): it owns that head's dk and dv, so sums have one order.
 * attention_map is P averaged over all heads; there dP[t,j] = grad_p[t,j] / H for each head. */
#include "base/memory.h"
#include "base/threads.h"
#include "kernels/cpu/element.h"
#include "kernels/cpu/reference.h"
#include <math.h>
#include <string.h>

typedef struct attention_job {
  const kava_attention_args *a;
  double *scratch; /* per thread: scores, dP (length each), dk, dv (length * dim each) */
  int64_t scratch_each;
  void *p;            /* attention_map: [B,T,T] */
  const void *grad_p; /* attention_map_grad */
} attention_job;

static int64_t q_at(const kava_attention_args *a, int64_t b, int64_t t, int64_t h) {
  return ((b * a->length + t) * a->heads + h) * a->head_dim;
}
static int64_t k_at(const kava_attention_args *a, int64_t b, int64_t j, int64_t h) {
  return ((b * a->length + j) * a->kv_heads + h) * a->head_dim;
}
static int64_t first_key(const kava_attention_args *a, int64_t b, int64_t t) {
  return kava_attention_first(a->start, a->window, b * a->length + t, t);
}
static double dot(kava_dtype dtype, const void *x, int64_t xi, const void *y, int64_t yi, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += element_get(dtype, x, xi + i) * element_get(dtype, y, yi + i);
  return sum;
}

/* the score of query row q and key row k (offsets), capped; *slope: of the cap there */
static double score(const kava_attention_args *a, int64_t q, int64_t k, double *slope) {
  double s = a->scale * dot(a->dtype, a->q, q, a->k, k, a->head_dim);
  *slope = 1;
  if (a->softcap <= 0) return s;
  double t = tanh(s / a->softcap);
  *slope = 1 - t * t;
  return a->softcap * t;
}

/* s[j] = scores of query t of head h over its keys; returns lse (-inf: no key) */
static double scores(const kava_attention_args *a, int64_t b, int64_t t, int64_t h, double *s) {
  int64_t hk = h / (a->heads / a->kv_heads);
  double top = -INFINITY, sum = 0, slope;
  for (int64_t j = first_key(a, b, t); j <= t; j++) {
    s[j] = score(a, q_at(a, b, t, h), k_at(a, b, j, hk), &slope);
    if (s[j] > top) top = s[j];
  }
  for (int64_t j = first_key(a, b, t); j <= t; j++) sum += exp(s[j] - top);
  return sum > 0 ? top + log(sum) : -INFINITY;
}

static void forward_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  double *s = job->scratch + kava_thread_index() * job->scratch_each, *sum = s + a->length;
  for (int64_t at = begin; at < end; at++) { /* at: (row, head) */
    int64_t b = at / a->heads, h = at % a->heads, hk = h / (a->heads / a->kv_heads);
    for (int64_t t = 0; t < a->length; t++) {
      double lse = scores(a, b, t, h, s);
      if (a->lse) element_put(a->dtype, a->lse, at * a->length + t, lse, false);
      memset(sum, 0, (size_t)a->head_dim * sizeof *sum);
      for (int64_t j = first_key(a, b, t); j <= t; j++) {
        double p = exp(s[j] - lse);
        for (int64_t d = 0; d < a->head_dim; d++) sum[d] += p * element_get(a->dtype, a->v, k_at(a, b, j, hk) + d);
      }
      for (int64_t d = 0; d < a->head_dim; d++) element_put(a->dtype, a->o, q_at(a, b, t, h) + d, sum[d], false);
    }
  }
}

static void backward_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  int64_t n = a->length, dim = a->head_dim, group = a->heads / a->kv_heads;
  double *s = job->scratch + kava_thread_index() * job->scratch_each, *dp = s + n, *slope = dp + n, *dk = slope + n,
         *dv = dk + n * dim;
  for (int64_t at = begin; at < end; at++) { /* at: (row, key head) */
    int64_t b = at / a->kv_heads, hk = at % a->kv_heads;
    memset(dk, 0, (size_t)(2 * n * dim) * sizeof *dk);
    for (int64_t h = hk * group; h < (hk + 1) * group; h++) {
      for (int64_t t = 0; t < n; t++) {
        double lse = element_get(a->dtype, a->lse, (b * a->heads + h) * n + t), mean = 0;
        int64_t first = first_key(a, b, t), q = q_at(a, b, t, h);
        for (int64_t j = first; j <= t; j++) {
          s[j] = exp(score(a, q, k_at(a, b, j, hk), &slope[j]) - lse);
          dp[j] = job->grad_p ? element_get(a->dtype, job->grad_p, (b * n + t) * n + j) / (double)a->heads
                              : dot(a->dtype, a->grad_o, q, a->v, k_at(a, b, j, hk), dim);
          mean += s[j] * dp[j];
        }
        for (int64_t j = first; j <= t && !job->grad_p; j++)
          for (int64_t d = 0; d < dim; d++) dv[j * dim + d] += s[j] * element_get(a->dtype, a->grad_o, q + d);
        for (int64_t j = first; j <= t; j++) {
          dp[j] = a->scale * slope[j] * s[j] * (dp[j] - mean); /* dS with the scale in it */
          for (int64_t d = 0; d < dim; d++) dk[j * dim + d] += dp[j] * element_get(a->dtype, a->q, q + d);
        }
        for (int64_t d = 0; d < dim && a->dq; d++) {
          double sum = 0;
          for (int64_t j = first; j <= t; j++) sum += dp[j] * element_get(a->dtype, a->k, k_at(a, b, j, hk) + d);
          element_put(a->dtype, a->dq, q + d, sum, a->add_q);
        }
      }
    }
    for (int64_t j = 0; j < n; j++)
      for (int64_t d = 0; d < dim; d++) {
        if (a->dk) element_put(a->dtype, a->dk, k_at(a, b, j, hk) + d, dk[j * dim + d], a->add_k);
        if (a->dv && !job->grad_p) element_put(a->dtype, a->dv, k_at(a, b, j, hk) + d, dv[j * dim + d], a->add_v);
      }
  }
}

static void map_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  int64_t n = a->length;
  double *s = job->scratch + kava_thread_index() * job->scratch_each, *sum = s + n;
  for (int64_t at = begin; at < end; at++) { /* at: (row, query) */
    int64_t b = at / n, t = at % n;
    memset(sum, 0, (size_t)n * sizeof *sum);
    for (int64_t h = 0; h < a->heads; h++) {
      double lse = scores(a, b, t, h, s);
      if (a->lse) element_put(a->dtype, a->lse, (b * a->heads + h) * n + t, lse, false);
      for (int64_t j = first_key(a, b, t); j <= t; j++) sum[j] += exp(s[j] - lse);
    }
    for (int64_t j = 0; j < n; j++) element_put(a->dtype, job->p, at * n + j, sum[j] / (double)a->heads, false);
  }
}

static kava_status run(attention_job *job, int64_t count, int64_t scratch_each, kava_range_fn tasks) {
  job->scratch_each = scratch_each;
  job->scratch = kava_alloc((size_t)(scratch_each * kava_threads()) * sizeof(double));
  if (!job->scratch) return KAVA_MEMORY;
  kava_parallel(count, 1, tasks, job);
  kava_free(job->scratch);
  return KAVA_OK;
}

kava_status kava_ref_attention(const kava_attention_args *a) {
  attention_job job = {.a = a};
  return run(&job, a->batch * a->heads, a->length + a->head_dim, forward_tasks);
}

kava_status kava_ref_attention_grad(const kava_attention_args *a) {
  attention_job job = {.a = a};
  return run(&job, a->batch * a->kv_heads, a->length * (3 + 2 * a->head_dim), backward_tasks);
}

kava_status kava_ref_attention_map(const kava_attention_args *a, void *p) {
  attention_job job = {.a = a, .p = p};
  return run(&job, a->batch * a->length, 2 * a->length, map_tasks);
}

kava_status kava_ref_attention_map_grad(const kava_attention_args *a, const void *grad_p) {
  attention_job job = {.a = a, .grad_p = grad_p};
  return run(&job, a->batch * a->kv_heads, a->length * (3 + 2 * a->head_dim), backward_tasks);
}

/* kernels/cpu/simd/attention.c: causal grouped-query attention in tiles (kava_attention_args), without T x T memory.
 *
 *   forward   a task is a block of queries of one head. Over blocks of keys: S = Q K^T, a running maximum and sum
 *             (softmax), O = O * correction + P V.
 *   backward  P is made again from lse; delta[t] = sum_d grad_o o = sum_j P dP. Two passes, so that every sum has
 *             one owner and one order: a block of queries sums dq over its keys; a block of keys sums dk and dv over
 *             the group's heads and their queries, with the transposed tiles S^T = K Q^T and dP^T = V dO^T.
 *   map       P averaged over the heads, [B,T,T]: a task is a block of queries of all heads, so that a row has one
 *             owner; the sums first, then P. Backward as above, with dP[t,j] = grad_p[t,j] / H for every head.
 *
 * Every tile product is rows of A times packed panels of B (panels.h). Panels of a head: "across" has its vectors as
 * columns (for products over D), "along" has them as rows (for sums over positions). */
#include "base/memory.h"
#include "kernels/cpu/reference.h"
#include "kernels/cpu/simd/pack.h"
#include <math.h>

#define TILE_M (ROWS == 14 ? 56 : 64 / ROWS * ROWS) /* rows of a tile: whole micro-kernels, at most 64 */
#define TILE_N 128                                  /* its columns: whole panels */

/* One activation [B,T,heads,D] and its packed panels. */
typedef struct operand {
  const float *x;
  int64_t heads;
  char *across, *along; /* per (row, head); NULL: not wanted */
  bool *wild;           /* per (row, head): holds an infinity or a NaN; NULL: nobody asks */
} operand;

typedef struct attention_job {
  const kava_attention_args *a;
  operand q, k, v, g; /* g: grad_o */
  const float *o, *lse;
  float *p;            /* the map, [B,T,T] */
  const float *grad_p; /* its gradient; NULL: attention's own */
  float *delta;        /* [B,H,T] */
  int64_t width;       /* D up to whole panels */
  float *scratch;
  int64_t scratch_each, blocks;
} attention_job;

static int64_t across_bytes(const kava_attention_args *a) {
  return (int64_t)panel_bytes(PANEL_F32, a->length, a->head_dim);
}
static int64_t along_bytes(const kava_attention_args *a) {
  return (int64_t)panel_bytes(PANEL_F32, a->head_dim, a->length);
}
static int64_t at_row(const kava_attention_args *a, const operand *x, int64_t b, int64_t t, int64_t h) {
  return ((b * a->length + t) * x->heads + h) * a->head_dim;
}
static int64_t start_of(const kava_attention_args *a, int64_t b, int64_t t) {
  return kava_attention_first(a->start, a->window, b * a->length + t, t);
}
/* The earliest key that queries [t, t+count) of row b see. */
static int64_t earliest(const kava_attention_args *a, int64_t b, int64_t t, int64_t count) {
  int64_t first = t + count;
  for (int64_t i = t; i < t + count; i++) first = least(first, start_of(a, b, i));
  return first;
}

/* ---- panels ---- */

typedef struct pack_job {
  const kava_attention_args *a;
  const operand *x;
} pack_job;

static bool has_wild(const float *x, int64_t ld, int64_t rows, int64_t columns) {
  vf sum = vf_set(0); /* of zeros, unless one of them is a NaN */
  for (int64_t i = 0; i < rows; i++)
    for (int64_t d = 0; d < columns; d += VF_LANES)
      sum = vf_fma(vf_load_n(x + i * ld + d, least(columns - d, VF_LANES)), vf_set(0), sum);
  return isnan(vf_sum(sum));
}

/* Tasks: (row, head, block of 32 positions) */
static void pack_positions(void *ctx, int64_t begin, int64_t end) {
  const pack_job *job = ctx;
  const kava_attention_args *a = job->a;
  const operand *x = job->x;
  int64_t blocks = ceil_div(a->length, PANEL), ld = x->heads * a->head_dim;
  for (int64_t at = begin; at < end; at++) {
    int64_t head = at / blocks, t = at % blocks * PANEL, count = least(a->length - t, PANEL);
    const float *from = x->x + at_row(a, x, head / x->heads, t, head % x->heads);
    if (x->across)
      pack_transposed(PANEL_F32, from, ld, count, a->head_dim,
                      x->across + head * across_bytes(a) + t / PANEL * a->head_dim * STEP_BYTES);
    for (int64_t d = 0; d < a->head_dim && x->along; d += PANEL)
      pack_plain(PANEL_F32, from + d, ld, least(a->head_dim - d, PANEL), count, true,
                 x->along + head * along_bytes(a) + (d / PANEL * a->length + t) * STEP_BYTES);
    if (x->wild && has_wild(from, ld, count, a->head_dim)) __atomic_store_n(x->wild + head, true, __ATOMIC_RELAXED);
  }
}

static void pack(const kava_attention_args *a, const operand *x) {
  pack_job job = {a, x};
  kava_parallel(a->batch * x->heads * ceil_div(a->length, PANEL), 1, pack_positions, &job);
}

/* s[m, keys [j, j+n)] = rows of A times the columns of an "across"; j is a multiple of 32. */
static void scores(const kava_attention_args *a, const float *rows, int64_t ld, int64_t m, const char *across,
                   int64_t j, int64_t n, float *s) {
  for (int64_t i = 0; i < n; i += PANEL)
    panel_rows_f32((const char *)rows, ld * 4, m, across + (j + i) * a->head_dim * 4, a->head_dim, s + i, TILE_N, PANEL,
                   NULL, false);
}

/* sum[m, D] += P[m, positions [j, j+n)] times the rows of an "along" */
static void weigh(const attention_job *job, const float *p, int64_t m, const char *along, int64_t j, int64_t n,
                  float *sum) {
  const kava_attention_args *a = job->a;
  for (int64_t d = 0; d < a->head_dim; d += PANEL)
    panel_rows_f32((const char *)p, TILE_N * 4, m, along + (d / PANEL * a->length + j) * STEP_BYTES, n, sum + d,
                   job->width, PANEL, NULL, true);
}

/* The factor on q.k, and the softcap c: a score becomes c tanh(scale q.k / c) where c > 0. */
typedef struct scoring {
  vf scale, cap, inverse; /* inverse: scale / c */
  bool capped;
} scoring;

static scoring scoring_of(const kava_attention_args *a) {
  bool capped = a->softcap > 0;
  return (scoring){vf_set((float)a->scale), vf_set((float)a->softcap),
                   vf_set(capped ? (float)(a->scale / a->softcap) : 0), capped};
}

/* exp(score - lse), and *slope = d score / d q.k, for the products s */
static inline vf softmax_of(const scoring *c, vf s, vf lse, vf *slope) {
  *slope = c->scale;
  if (!c->capped) return vf_exp(vf_fma(s, c->scale, vf_sub(vf_set(0), lse)));
  vf t = vf_tanh(vf_mul(s, c->inverse));
  *slope = vf_mul(c->scale, vf_sub(vf_set(1), vf_mul(t, t)));
  return vf_exp(vf_fma(t, c->cap, vf_sub(vf_set(0), lse)));
}

static void zero(float *x, int64_t from, int64_t to) {
  if (to > from) memset(x + from, 0, (size_t)(to - from) * sizeof *x);
}

/* ---- forward ---- */

/* Row r of S becomes P over the visible columns [from, to), zero elsewhere up to n. Returns the factor by which what
 * was summed before must shrink. */
static float soften(float *s, int64_t from, int64_t to, int64_t n, const scoring *c, float scale, float *top,
                    float *sum) {
  if (from >= to) {
    zero(s, 0, n);
    return 1;
  }
  zero(s, 0, from); /* finite values for the lanes that do not count */
  zero(s, to, n);
  int64_t first = from / VF_LANES * VF_LANES;
  float most = -INFINITY;
  int64_t i = from;
  for (; i < least(to, first + VF_LANES); i++) most = s[i] > most ? s[i] : most;
  if (i + VF_LANES <= to) {
    vf high = vf_load(s + i);
    for (i += VF_LANES; i + VF_LANES <= to; i += VF_LANES) high = vf_max(high, vf_load(s + i));
    float rest = vf_hmax(high);
    most = rest > most ? rest : most;
  }
  for (; i < to; i++) most = s[i] > most ? s[i] : most;
  most = c->capped ? vf_hmax(vf_mul(c->cap, vf_tanh(vf_mul(vf_set(most), c->inverse)))) : most * scale; /* it rises */
  if (most < *top) most = *top;
  float shrink = *top == -INFINITY ? 0.0f : expf(*top - most);
  vf total = vf_set(0), unused;
  for (i = first; i < to; i += VF_LANES) {
    vf p = softmax_of(c, vf_load(s + i), vf_set(most), &unused);
    vf_store(s + i, p);
    if (i >= from && i + VF_LANES <= to)
      total = vf_add(total, p);
    else {
      zero(s, i, from);
      zero(s, to, i + VF_LANES);
      total = vf_add(total, vf_load(s + i));
    }
  }
  *sum = *sum * shrink + vf_sum(total);
  *top = most;
  return shrink;
}

static void scale_row(float *x, int64_t count, float factor) {
  for (int64_t i = 0; i < count; i += VF_LANES) vf_store(x + i, vf_mul(vf_load(x + i), vf_set(factor)));
}

/* The same as weigh(), of each query's own keys only: 0 times what it does not see is no 0 where that is a NaN. */
static void weigh_seen(const attention_job *job, const float *p, int64_t b, int64_t t, int64_t m, const char *along,
                       int64_t j, int64_t n, float *sum) {
  for (int64_t r = 0; r < m; r++) {
    int64_t from = start_of(job->a, b, t + r) - j, to = least(t + r + 1 - j, n);
    if (from < 0) from = 0;
    if (from < to) weigh(job, p + r * TILE_N + from, 1, along, j + from, to - from, sum + r * job->width);
  }
}

static void forward_block(const attention_job *job, int64_t b, int64_t h, int64_t t, int64_t m, float *s, float *sum) {
  const kava_attention_args *a = job->a;
  int64_t hk = b * a->kv_heads + h / (a->heads / a->kv_heads), first = earliest(a, b, t, m) / PANEL * PANEL;
  float top[64], total[64];
  scoring c = scoring_of(a);
  for (int64_t r = 0; r < m; r++) {
    top[r] = -INFINITY;
    total[r] = 0;
  }
  zero(sum, 0, m * job->width);
  for (int64_t j = first; j < t + m; j += TILE_N) {
    int64_t n = least(t + m - j, TILE_N);
    scores(a, job->q.x + at_row(a, &job->q, b, t, h), a->heads * a->head_dim, m, job->k.across + hk * across_bytes(a),
           j, n, s);
    for (int64_t r = 0; r < m; r++) {
      int64_t from = start_of(a, b, t + r) - j, to = least(t + r + 1 - j, n);
      float shrink = soften(s + r * TILE_N, from > 0 ? from : 0, to, ceil_div(n, PANEL) * PANEL, &c, (float)a->scale,
                            top + r, total + r);
      if (shrink < 1 && j > first) scale_row(sum + r * job->width, job->width, shrink);
    }
    if (job->v.wild[hk])
      weigh_seen(job, s, b, t, m, job->v.along + hk * along_bytes(a), j, n, sum);
    else
      weigh(job, s, m, job->v.along + hk * along_bytes(a), j, n, sum);
  }
  for (int64_t r = 0; r < m; r++) {
    float *o = (float *)a->o + at_row(a, &job->q, b, t + r, h);
    scale_row(sum + r * job->width, job->width, total[r] == 0 ? 0 : 1 / total[r]); /* 0: no key; a NaN stays */
    memcpy(o, sum + r * job->width, (size_t)a->head_dim * sizeof *o);
    if (a->lse)
      ((float *)a->lse)[(b * a->heads + h) * a->length + t + r] = total[r] == 0 ? -INFINITY : top[r] + logf(total[r]);
  }
}

static void forward_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  float *s = job->scratch + kava_thread_index() * job->scratch_each, *sum = s + TILE_M * TILE_N;
  for (int64_t at = begin; at < end; at++) {
    int64_t head = at / job->blocks, t = at % job->blocks * TILE_M;
    forward_block(job, head / a->heads, head % a->heads, t, least(a->length - t, TILE_M), s, sum);
  }
}

/* ---- the map ---- */

/* p[row r of the block, visible columns of the tile at j] += P / H */
static void add_weights(const attention_job *job, const scoring *c, int64_t b, int64_t t, int64_t m, int64_t j,
                        int64_t n, const float *s, const float *lse) {
  const kava_attention_args *a = job->a;
  vf share = vf_set(1 / (float)a->heads), unused;
  for (int64_t r = 0; r < m; r++) {
    int64_t from = start_of(a, b, t + r) - j, to = least(t + r + 1 - j, n);
    float *p = job->p + (b * a->length + t + r) * a->length + j;
    for (int64_t i = from > 0 ? from : 0; i < to; i += VF_LANES) {
      int64_t lanes = least(to - i, VF_LANES);
      vf weight = softmax_of(c, vf_load_n(s + r * TILE_N + i, lanes), vf_set(lse[r]), &unused);
      vf_store_n(p + i, vf_fma(weight, share, vf_load_n(p + i, lanes)), lanes);
    }
  }
}

static void map_block(const attention_job *job, int64_t b, int64_t t, int64_t m, float *s) {
  const kava_attention_args *a = job->a;
  int64_t first = earliest(a, b, t, m) / PANEL * PANEL, ld = a->heads * a->head_dim;
  float top[64], total[64], lse[64];
  scoring c = scoring_of(a);
  zero(job->p + (b * a->length + t) * a->length, 0, m * a->length);
  for (int64_t h = 0; h < a->heads; h++) {
    const float *q = job->q.x + at_row(a, &job->q, b, t, h);
    const char *keys = job->k.across + (b * a->kv_heads + h / (a->heads / a->kv_heads)) * across_bytes(a);
    for (int64_t r = 0; r < m; r++) {
      top[r] = -INFINITY;
      total[r] = 0;
    }
    for (int64_t j = first; j < t + m; j += TILE_N) {
      int64_t n = least(t + m - j, TILE_N);
      scores(a, q, ld, m, keys, j, n, s);
      for (int64_t r = 0; r < m; r++) {
        int64_t from = start_of(a, b, t + r) - j;
        soften(s + r * TILE_N, from > 0 ? from : 0, least(t + r + 1 - j, n), ceil_div(n, PANEL) * PANEL, &c,
               (float)a->scale, top + r, total + r);
      }
    }
    for (int64_t r = 0; r < m; r++) lse[r] = total[r] == 0 ? -INFINITY : top[r] + logf(total[r]);
    if (a->lse) memcpy((float *)a->lse + (b * a->heads + h) * a->length + t, lse, (size_t)m * sizeof *lse);
    for (int64_t j = first; j < t + m; j += TILE_N) {
      int64_t n = least(t + m - j, TILE_N);
      scores(a, q, ld, m, keys, j, n, s);
      add_weights(job, &c, b, t, m, j, n, s, lse);
    }
  }
}

static void map_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  float *s = job->scratch + kava_thread_index() * job->scratch_each;
  for (int64_t at = begin; at < end; at++) {
    int64_t t = at % job->blocks * TILE_M;
    map_block(job, at / job->blocks, t, least(job->a->length - t, TILE_M), s);
  }
}

/* dP of queries [t, t+m) and keys [j, j+n): rows of the tile are the queries. */
static void weight_slopes(const attention_job *job, int64_t b, int64_t h, int64_t t, int64_t m, int64_t j, int64_t n,
                          float *dp) {
  const kava_attention_args *a = job->a;
  if (!job->grad_p) {
    int64_t hk = b * a->kv_heads + h / (a->heads / a->kv_heads);
    scores(a, job->g.x + at_row(a, &job->g, b, t, h), a->heads * a->head_dim, m, job->v.across + hk * across_bytes(a),
           j, n, dp);
    return;
  }
  float share = 1 / (float)a->heads;
  for (int64_t r = 0; r < m; r++) {
    const float *from = job->grad_p + (b * a->length + t + r) * a->length + j;
    for (int64_t i = 0; i < n; i++) dp[r * TILE_N + i] = share * from[i];
    zero(dp + r * TILE_N, n, ceil_div(n, PANEL) * PANEL);
  }
}

/* The same, turned: rows of the tile are keys [j, j+m) of key head hk, columns queries [t, t+n) of head h. */
static void weight_slopes_turned(const attention_job *job, int64_t b, int64_t hk, int64_t h, int64_t j, int64_t m,
                                 int64_t t, int64_t n, float *dp) {
  const kava_attention_args *a = job->a;
  if (!job->grad_p) {
    scores(a, job->v.x + at_row(a, &job->v, b, j, hk), a->kv_heads * a->head_dim, m,
           job->g.across + (b * a->heads + h) * across_bytes(a), t, n, dp);
    return;
  }
  float share = 1 / (float)a->heads;
  for (int64_t i = 0; i < n; i++) {
    const float *from = job->grad_p + (b * a->length + t + i) * a->length + j;
    for (int64_t r = 0; r < m; r++) dp[r * TILE_N + i] = share * from[r];
  }
  for (int64_t r = 0; r < m; r++) zero(dp + r * TILE_N, n, ceil_div(n, PANEL) * PANEL);
}

/* delta[t] = sum_j P dP of the map: no output of one head is there to take it from. Tasks: (row, head, block). */
static void map_delta_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  float *s = job->scratch + kava_thread_index() * job->scratch_each, *dp = s + TILE_M * TILE_N;
  scoring c = scoring_of(a);
  for (int64_t at = begin; at < end; at++) {
    int64_t head = at / job->blocks, b = head / a->heads, h = head % a->heads, t = at % job->blocks * TILE_M;
    int64_t m = least(a->length - t, TILE_M), hk = b * a->kv_heads + h / (a->heads / a->kv_heads);
    float *delta = job->delta + head * a->length + t;
    zero(delta, 0, m);
    for (int64_t j = earliest(a, b, t, m) / PANEL * PANEL; j < t + m; j += TILE_N) {
      int64_t n = least(t + m - j, TILE_N);
      scores(a, job->q.x + at_row(a, &job->q, b, t, h), a->heads * a->head_dim, m, job->k.across + hk * across_bytes(a),
             j, n, s);
      weight_slopes(job, b, h, t, m, j, n, dp);
      for (int64_t r = 0; r < m; r++) {
        int64_t from = start_of(a, b, t + r) - j, to = least(t + r + 1 - j, n);
        vf sum = vf_set(0), lse = vf_set(job->lse[head * a->length + t + r]), unused;
        for (int64_t i = from > 0 ? from : 0; i < to; i += VF_LANES) {
          int64_t lanes = least(to - i, VF_LANES);
          vf weight = softmax_of(&c, vf_load_n(s + r * TILE_N + i, lanes), lse, &unused);
          sum = vf_fma(weight, vf_load_n(dp + r * TILE_N + i, lanes), sum); /* lanes beyond: dP is 0 */
        }
        delta[r] += vf_sum(sum);
      }
    }
  }
}

/* ---- backward ---- */

static void delta_tasks(void *ctx, int64_t begin, int64_t end) { /* tasks: (row, position) */
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  for (int64_t at = begin; at < end; at++)
    for (int64_t h = 0; h < a->heads; h++) {
      const float *g = job->g.x + (at * a->heads + h) * a->head_dim, *o = job->o + (at * a->heads + h) * a->head_dim;
      vf sum = vf_set(0);
      for (int64_t d = 0; d < a->head_dim; d += VF_LANES) {
        int64_t n = least(a->head_dim - d, VF_LANES);
        sum = vf_fma(vf_load_n(g + d, n), vf_load_n(o + d, n), sum);
      }
      job->delta[(at / a->length * a->heads + h) * a->length + at % a->length] = vf_sum(sum);
    }
}

/* Adds or writes m rows of a sum to a gradient's rows from position t of head h. */
static void put(const attention_job *job, const operand *like, float *gradient, bool add, int64_t b, int64_t t,
                int64_t h, int64_t m, const float *sum) {
  const kava_attention_args *a = job->a;
  for (int64_t r = 0; r < m; r++) {
    float *to = gradient + at_row(a, like, b, t + r, h);
    for (int64_t d = 0; d < a->head_dim; d += VF_LANES) {
      int64_t n = least(a->head_dim - d, VF_LANES);
      vf value = vf_load_n(sum + r * job->width + d, n);
      vf_store_n(to + d, add ? vf_add(value, vf_load_n(to + d, n)) : value, n);
    }
  }
}

static void query_block(const attention_job *job, int64_t b, int64_t h, int64_t t, int64_t m, float *s, float *dp,
                        float *sum) {
  const kava_attention_args *a = job->a;
  int64_t hk = b * a->kv_heads + h / (a->heads / a->kv_heads), ld = a->heads * a->head_dim;
  int64_t row = (b * a->heads + h) * a->length + t;
  scoring c = scoring_of(a);
  zero(sum, 0, m * job->width);
  for (int64_t j = earliest(a, b, t, m) / PANEL * PANEL; j < t + m; j += TILE_N) {
    int64_t n = least(t + m - j, TILE_N), padded = ceil_div(n, PANEL) * PANEL;
    scores(a, job->q.x + at_row(a, &job->q, b, t, h), ld, m, job->k.across + hk * across_bytes(a), j, n, s);
    weight_slopes(job, b, h, t, m, j, n, dp);
    for (int64_t r = 0; r < m; r++) {
      float *ds = s + r * TILE_N;
      int64_t from = start_of(a, b, t + r) - j, to = least(t + r + 1 - j, n);
      if (from < 0) from = 0;
      vf lse = vf_set(job->lse[row + r]), delta = vf_set(job->delta[row + r]), slope;
      for (int64_t i = from / VF_LANES * VF_LANES; i < to; i += VF_LANES) {
        vf p = softmax_of(&c, vf_load(ds + i), lse, &slope);
        vf_store(ds + i, vf_mul(vf_mul(p, slope), vf_sub(vf_load(dp + r * TILE_N + i), delta)));
      }
      zero(ds, 0, least(from, padded));
      zero(ds, to > 0 ? to : 0, padded);
    }
    weigh(job, s, m, job->k.along + hk * along_bytes(a), j, n, sum);
  }
  put(job, &job->q, a->dq, a->add_q, b, t, h, m, sum);
}

static void query_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  float *s = job->scratch + kava_thread_index() * job->scratch_each, *dp = s + TILE_M * TILE_N,
        *sum = dp + TILE_M * TILE_N;
  for (int64_t at = begin; at < end; at++) {
    int64_t head = at / job->blocks, t = at % job->blocks * TILE_M;
    query_block(job, head / a->heads, head % a->heads, t, least(a->length - t, TILE_M), s, dp, sum);
  }
}

/* dk and dv of keys [j, j+m) of key head hk: rows of the tiles are keys, columns queries. */
static void key_block(const attention_job *job, int64_t b, int64_t hk, int64_t j, int64_t m, float *s, float *dp,
                      float *dk, float *dv) {
  const kava_attention_args *a = job->a;
  int64_t group = a->heads / a->kv_heads, ld = a->kv_heads * a->head_dim;
  scoring c = scoring_of(a);
  zero(dk, 0, m * job->width);
  zero(dv, 0, m * job->width);
  for (int64_t h = hk * group; h < (hk + 1) * group; h++) {
    int64_t head = b * a->heads + h;
    for (int64_t t = j / PANEL * PANEL; t < a->length; t += TILE_N) {
      int64_t n = least(a->length - t, TILE_N);
      if (earliest(a, b, t, n) >= j + m) continue; /* another document's queries */
      scores(a, job->k.x + at_row(a, &job->k, b, j, hk), ld, m, job->q.across + head * across_bytes(a), t, n, s);
      weight_slopes_turned(job, b, hk, h, j, m, t, n, dp);
      const float *lse = job->lse + head * a->length + t, *delta = job->delta + head * a->length + t;
      for (int64_t r = 0; r < m; r++) {
        float *p = s + r * TILE_N, *ds = dp + r * TILE_N;
        int64_t from = j + r - t; /* queries before the key do not see it */
        for (int64_t i = 0; i < n; i += VF_LANES) {
          int64_t lanes = least(n - i, VF_LANES);
          vf slope, value = softmax_of(&c, vf_load(p + i), vf_load_n(lse + i, lanes), &slope);
          vf_store(p + i, value);
          vf_store(ds + i, vf_mul(vf_mul(value, slope), vf_sub(vf_load(ds + i), vf_load_n(delta + i, lanes))));
        }
        zero(p, 0, least(from, n));
        zero(ds, 0, least(from, n));
      }
      for (int64_t i = 0; i < n && (a->start || a->window); i++) /* queries of which the key is no part */
        for (int64_t r = 0; r < least(start_of(a, b, t + i) - j, m); r++) s[r * TILE_N + i] = dp[r * TILE_N + i] = 0;
      if (!job->grad_p) weigh(job, s, m, job->g.along + head * along_bytes(a), t, n, dv);
      weigh(job, dp, m, job->q.along + head * along_bytes(a), t, n, dk);
    }
  }
  if (a->dk) put(job, &job->k, a->dk, a->add_k, b, j, hk, m, dk);
  if (a->dv) put(job, &job->v, a->dv, a->add_v, b, j, hk, m, dv);
}

static void key_tasks(void *ctx, int64_t begin, int64_t end) {
  const attention_job *job = ctx;
  const kava_attention_args *a = job->a;
  float *s = job->scratch + kava_thread_index() * job->scratch_each, *dp = s + TILE_M * TILE_N;
  float *dk = dp + TILE_M * TILE_N, *dv = dk + TILE_M * job->width;
  for (int64_t at = begin; at < end; at++) {
    int64_t head = at / job->blocks, j = at % job->blocks * TILE_M;
    key_block(job, head / a->kv_heads, head % a->kv_heads, j, least(a->length - j, TILE_M), s, dp, dk, dv);
  }
}

/* ---- entries ---- */

static attention_job prepare(const kava_attention_args *a) {
  attention_job job = {.a = a, .width = ceil_div(a->head_dim, PANEL) * PANEL, .blocks = ceil_div(a->length, TILE_M)};
  job.q = (operand){.x = a->q, .heads = a->heads};
  job.k = (operand){.x = a->k, .heads = a->kv_heads};
  job.v = (operand){.x = a->v, .heads = a->kv_heads};
  job.g = (operand){.x = a->grad_o, .heads = a->heads};
  job.scratch_each = 2 * TILE_M * (TILE_N + job.width);
  return job;
}

static bool get(const kava_attention_args *a, operand *x, bool across, bool along) {
  if (across) x->across = kava_alloc((size_t)(a->batch * x->heads * across_bytes(a)));
  if (along) x->along = kava_alloc((size_t)(a->batch * x->heads * along_bytes(a)));
  return (x->across || !across) && (x->along || !along);
}

static void let_go(attention_job *job) {
  operand *all[] = {&job->q, &job->k, &job->v, &job->g};
  for (int i = 0; i < 4; i++) {
    kava_free(all[i]->across);
    kava_free(all[i]->along);
    kava_free(all[i]->wild);
  }
  kava_free(job->scratch);
  kava_free(job->delta);
}

static kava_status attention(const kava_attention_args *a) {
  if (a->dtype == KAVA_F64) return kava_ref_attention(a);
  attention_job job = prepare(a);
  kava_status st = KAVA_MEMORY;
  if (!get(a, &job.k, true, false) || !get(a, &job.v, false, true)) goto out;
  if (!(job.v.wild = kava_calloc((size_t)(a->batch * a->kv_heads), sizeof(bool)))) goto out;
  if (!(job.scratch = kava_alloc((size_t)(kava_threads() * job.scratch_each) * sizeof(float)))) goto out;
  pack(a, &job.k);
  pack(a, &job.v);
  kava_parallel(a->batch * a->heads * job.blocks, 1, forward_tasks, &job);
  st = KAVA_OK;
out:
  let_go(&job);
  return st;
}

static kava_status attention_grad(const kava_attention_args *a) {
  if (a->dtype == KAVA_F64 || !a->o) return kava_ref_attention_grad(a);
  attention_job job = prepare(a);
  kava_status st = KAVA_MEMORY;
  bool keys = a->dk || a->dv;
  job.o = a->o;
  job.lse = a->lse;
  if (!get(a, &job.q, keys, keys) || !get(a, &job.g, keys, keys)) goto out;
  if (!get(a, &job.k, a->dq, a->dq) || !get(a, &job.v, a->dq, false)) goto out;
  job.delta = kava_alloc((size_t)(a->batch * a->heads * a->length) * sizeof(float));
  job.scratch = kava_alloc((size_t)(kava_threads() * job.scratch_each) * sizeof(float));
  if (!job.delta || !job.scratch) goto out;
  kava_parallel(a->batch * a->length, 16, delta_tasks, &job);
  if (a->dq) {
    pack(a, &job.k);
    pack(a, &job.v);
    kava_parallel(a->batch * a->heads * job.blocks, 1, query_tasks, &job);
  }
  if (keys) {
    pack(a, &job.q);
    pack(a, &job.g);
    kava_parallel(a->batch * a->kv_heads * job.blocks, 1, key_tasks, &job);
  }
  st = KAVA_OK;
out:
  let_go(&job);
  return st;
}

static kava_status attention_map(const kava_attention_args *a, void *p) {
  if (a->dtype == KAVA_F64) return kava_ref_attention_map(a, p);
  attention_job job = prepare(a);
  kava_status st = KAVA_MEMORY;
  job.p = p;
  if (!get(a, &job.k, true, false)) goto out;
  if (!(job.scratch = kava_alloc((size_t)(kava_threads() * job.scratch_each) * sizeof(float)))) goto out;
  pack(a, &job.k);
  kava_parallel(a->batch * job.blocks, 1, map_tasks, &job);
  st = KAVA_OK;
out:
  let_go(&job);
  return st;
}

static kava_status attention_map_grad(const kava_attention_args *a, const void *grad_p) {
  if (a->dtype == KAVA_F64) return kava_ref_attention_map_grad(a, grad_p);
  attention_job job = prepare(a);
  kava_status st = KAVA_MEMORY;
  job.grad_p = grad_p;
  job.lse = a->lse;
  if (!get(a, &job.k, true, a->dq) || !get(a, &job.q, a->dk, a->dk)) goto out;
  job.delta = kava_alloc((size_t)(a->batch * a->heads * a->length) * sizeof(float));
  job.scratch = kava_alloc((size_t)(kava_threads() * job.scratch_each) * sizeof(float));
  if (!job.delta || !job.scratch) goto out;
  pack(a, &job.k);
  kava_parallel(a->batch * a->heads * job.blocks, 1, map_delta_tasks, &job);
  if (a->dq) kava_parallel(a->batch * a->heads * job.blocks, 1, query_tasks, &job);
  if (a->dk) {
    pack(a, &job.q);
    kava_parallel(a->batch * a->kv_heads * job.blocks, 1, key_tasks, &job);
  }
  st = KAVA_OK;
out:
  let_go(&job);
  return st;
}

void KAVA_SIMD(attention)(kava_kernels *table);
void KAVA_SIMD(attention)(kava_kernels *table) {
  table->attention = attention;
  table->attention_grad = attention_grad;
  table->attention_map = attention_map;
  table->attention_map_grad = attention_map_grad;
}

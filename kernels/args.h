/* kernels/args.h: structs for kernels with too many arguments for a readable call. */
#ifndef KAVA_KERNELS_ARGS_H
#define KAVA_KERNELS_ARGS_H
#include "kava.h"
/* Buffers lie on the device of the table that the kernel is in; the structs themselves, arrays of spans and scalings on
 * the host. `dtype` is f32 or f64, on a GPU also f16 or bf16 (and not always f64); then what is said to be "wide" is
 * f32, as it is for f32 itself; beside f64 it is f64. */

/* Rows of `width` elements, normalised: y = (x - mean) / sqrt(var + eps) * w + b, or with `centre` false
 * y = x / sqrt(mean(x^2) + eps) * w + b. Every buffer is of `dtype` but dw and db, which are wide, as w and b may be
 * (`wide`); those are [width] or NULL.
 * norm_grad recomputes the statistics from x, and y where that is not NULL, which may be grad. It sums the parameters'
 * gradients over fixed blocks of rows, block by block into `partial`, and adds the blocks in order: the result does not
 * depend on the number of threads. */
typedef struct kava_norm_args {
  kava_dtype dtype;
  bool centre;
  int64_t rows, width;
  double eps;
  const void *x, *w, *b;
  void *y;
  /* norm_grad only; dx, dw, db may be NULL */
  const void *grad;
  void *dx, *dw, *db;
  bool add_x;    /* dw and db are always added to */
  void *partial; /* kava_norm_blocks(rows) * 2 * width wide elements; may be NULL when dw and db are; not on a GPU */
  bool wide;     /* w and b are; not on the CPU */
} kava_norm_args;
static inline int64_t kava_norm_block_rows(int64_t rows) { return rows <= 1024 ? 16 : (rows + 63) / 64; }
static inline int64_t kava_norm_blocks(int64_t rows) {
  int64_t block = kava_norm_block_rows(rows);
  return (rows + block - 1) / block;
}

/* x, y: [tokens, heads, dim] of `dtype`; cosine, sine: [period, rotated/2], wide, token i uses row i % period. With j <
 * rotated/2 and k = j + rotated/2: y[j] = x[j] cos - x[k] sin, y[k] = x[k] cos + x[j] sin; elements from `rotated` on
 * are copied. `inverse` negates the sine. x may be y. *_row: elements from one token to the next; 0: contiguous, all
 * that kernels on the CPU take. */
typedef struct kava_rope_args {
  kava_dtype dtype;
  int64_t tokens, period, heads, dim, rotated;
  const void *x, *cosine, *sine;
  void *y;
  bool inverse, add;
  int64_t x_row, y_row;
} kava_rope_args;

/* Rows of cosines and sines [rows, half], wide, of the angle position inv_freq[j], times scale; a row's position is
 * positions[row], or the row's own number where that is NULL. */
typedef struct kava_rope_table_args {
  kava_dtype dtype;
  int64_t rows, half;
  const int64_t *positions;
  const double *inv_freq;
  double scale;
  void *cosine, *sine;
} kava_rope_table_args;

/* silu: x*sigmoid(x). gelu: x*Phi(x), exact. gelu_tanh: 0.5x(1+tanh(sqrt(2/pi)(x+0.044715x^3))). relu: max(x,0) */
typedef enum kava_activation { KAVA_SILU, KAVA_GELU, KAVA_GELU_TANH, KAVA_RELU, KAVA_ACTIVATIONS } kava_activation;

/* y = f(gate) * up: dgate = grad * up * f'(gate), dup = grad * f(gate); either may be NULL. gated_grad gives y once
 * more where that is not NULL; dgate may be gate, dup up, and y grad. Rows of `width` of gate and up may lie `row`
 * elements apart, of dgate and dup `grad_row`: columns of one buffer. 0: contiguous, all that kernels on the CPU take,
 * as y and grad always are. */
typedef struct kava_gated_args {
  kava_activation kind;
  kava_dtype dtype;
  int64_t count;
  const void *gate, *up, *grad;
  void *dgate, *dup;
  bool add_gate, add_up;
  void *y;
  int64_t width, row, grad_row;
} kava_gated_args;

/* Which elements dropout drops: mask(x)[i] = bits[i] < limit ? 0 : x[i] / (1-p). The bits of a group of 32 elements are
 * 8 successive Philox blocks of (seed, stream), word by word: element i takes word i/8 % 4 of block 8 (i/32) + i % 8,
 * so that vectors of blocks are vectors of elements. */
#define KAVA_DROPOUT_GROUP 32
static inline uint32_t kava_dropout_limit(double p) { return (uint32_t)(p * 0x1p32); } /* p < 1 */
typedef struct kava_dropout_mask {
  uint64_t seed, stream;
  const uint64_t *later; /* added to stream: a recorded step that runs again; NULL: 0 */
  double p;              /* 0: nothing is dropped */
} kava_dropout_mask;

/* y (+)= mask(x). y may be x. */
typedef struct kava_dropout_args {
  kava_dtype dtype;
  int64_t count;
  kava_dropout_mask mask;
  const void *x;
  void *y;
  bool add;
} kava_dropout_args;

/* activation: y = mask(f(x)). activation_grad: dx (+)= mask(grad) f'(x), and y once more where that is not NULL. dx may
 * be x or grad, y may be x (activation) or grad (its gradient). f(x) and mask(grad) are rounded to dtype on the way:
 * the bits are those of the two one after the other. */
typedef struct kava_activation_args {
  kava_activation kind;
  kava_dtype dtype;
  int64_t count;
  const void *x, *grad;
  void *y, *dx;
  bool add;
  kava_dropout_mask mask;
} kava_activation_args;

/* Where the values of a matrix of codes (nf4 ... fp8) come from: value(r, c) = (code - zero) scale, each step rounded
 * to f32, then to `round`. The number of element (r, c)'s scale is
 *   (r / rows) across + g         g = c / group, or group_of[c] where columns are grouped in another order (GPTQ's
 *                                 desc_act)
 *   (r columns + c) / group       where across is 0: elements are grouped one after another, over the ends of rows
 *                                 (bitsandbytes)
 * A scale of type u8 is a code itself: map[u8] outer[number / outer_group] + offset (bitsandbytes' double
 * quantisation).
 */
typedef struct kava_scaling {
  int64_t columns, group, rows, across;
  const int32_t *group_of; /* [columns], each in [0, across); NULL: c / group */
  kava_dtype type;         /* of the scales: f32, f16, bf16 or u8 */
  const void *scales;
  const float *map, *outer; /* of u8 scales: [256], [ceil(scales / outer_group)] */
  int64_t outer_group;
  float offset;
  float zero;           /* where `zeros` is NULL */
  const uint8_t *zeros; /* numbered as the scales; i8 where the codes are int8 */
  kava_dtype round;     /* f32, f16 or bf16 */
} kava_scaling;

/* A matrix [rows, columns] as codes of `type` and scales (kava_scaling: value = code scale). A scale serves `group`
 * columns of `group_rows` rows, `across` groups lie beside each other, and group g begins at row g / across group_rows,
 * column g % across group. It is (the largest magnitude in the group) / most, and a code is that of x (most / the
 * largest). The nf4 codes of two neighbours share a byte: columns are even. x is `from`: f32 on the CPU, where values
 * are finite; a GPU also takes bf16 and f16, and sets *bad where one is not. */
typedef struct kava_encode_args {
  kava_dtype type, from;
  int64_t rows, columns, group, group_rows, across;
  float most;
  const void *x;
  uint8_t *codes;
  float *scales;
  int32_t *bad;
} kava_encode_args;

/* x is [outer, rows, inner] and y [outer, count, inner]: y[o, j] = x[o, ids[j]], `from` turned into `dtype`. Either the
 * two are the same plain type, any of them; or outer is 1, `from` any float or quantised type (with its scaling, of
 * which x's first row is row `first`) and dtype f32, on a GPU f16 or bf16. An id that x has not: on the CPU the caller
 * has looked; a GPU gives NaN (0 for integers).
 * gather_grad: dx[o, ids[j]] += grad[o, j] in the order of j, passing over ids that are `pad`; dx is wide, on a GPU
 * with dx_half of `dtype`: then what one call adds to a row is summed before it is rounded. With slots [rows], on a
 * GPU, dx has rows of its own: a row of the table is added to in dx[slots[row]], or where that is negative (or base or
 * more, which is this call's doing) becomes dx[base + j] of the first j that has it; all other rows base + j become 0.
 */
typedef struct kava_gather_args {
  kava_dtype dtype, from;
  int64_t outer, rows, inner, count;
  const int64_t *ids;
  const void *x;
  const kava_scaling *scaling;
  int64_t first;
  void *y;
  /* gather_grad only */
  const void *grad;
  void *dx;
  bool dx_half;
  int64_t pad; /* -1: none */
  int32_t *slots;
  int64_t base;
} kava_gather_args;
static inline size_t kava_gather_row_bytes(const kava_gather_args *a) {
  return (size_t)(a->inner / kava_dtype_block(a->from)) * (size_t)kava_dtype_block_bytes(a->from);
}

/* C = alpha * op(A) op(B) + beta * C, row-major, `batch` times at the given strides. op(A) is [m,k], op(B) [k,n]: A
 * itself is [m,k] with row stride lda, or with trans_a [k,m]; B likewise. beta 0: C is not read. dtype: f32 or f64, of
 * all three (on a GPU also f16 and bf16, summed in f32); strides count elements; a stride of 0 uses the same matrix
 * each time (not for C). */
typedef struct kava_gemm_args {
  kava_dtype dtype;
  bool trans_a, trans_b;
  int64_t m, n, k;
  double alpha, beta;
  const void *a, *b;
  void *c;
  int64_t lda, ldb, ldc;
  int64_t batch, stride_a, stride_b, stride_c;
  bool wide; /* C is, beside f16 and bf16; on a GPU alone */
} kava_gemm_args;

/* A linear layer's products, for `rows` rows of activations. W is [out, in] row-major in `wtype`: any float dtype but
 * f64, or a quantised one, whose rows are whole blocks; codes come with their scaling, of which W's first row is row
 * `first`. x, y, bias, dx and dy are contiguous and of `dtype`; f64 needs wtype f64 (plain loops: for finite
 * differences). dw and db are wide. Of linear_dw: with dy_row dy's rows are that far apart; with dw_half, on a GPU, dw
 * is of `dtype`. Of linear_forward and linear_gated, on a GPU: with a residual, [rows, out] of `dtype`, that is added
 * to y before y is rounded; it is not y.
 * precision, on the CPU: KAVA_F32, or KAVA_BF16 = both operands rounded to bf16, products summed in f32. */
typedef struct kava_linear_args {
  kava_dtype dtype;
  int64_t rows, in, out;
  const void *w;
  kava_dtype wtype;
  const kava_scaling *scaling; /* NULL: the type says it all */
  int64_t first;
  kava_dtype precision;
  bool dw_half;
  int64_t dy_row;       /* 0: out */
  const void *residual; /* NULL: none */
} kava_linear_args;

/* Causal grouped-query attention. q, o: [B,T,H,D]; k, v: [B,T,Hkv,D]; scale multiplies q.k; with softcap c > 0 the
 * scaled score s becomes c tanh(s/c). A token's heads lie together; *_row: elements from one token to the next, so that
 * q, k, v may be columns of one buffer and their gradients of another. 0: contiguous, as o and grad_o always are, and
 * all that kernels on the CPU take. Every buffer is of `dtype` but start and lse, which is wide. Query t of
 * row b sees keys j with kava_attention_first(..) <= j <= t: start[b*T+t] on (documents packed in a row, left padding;
 * NULL or negative: 0), of which the last `window` (0: all). A query that sees no key (start > t) yields o = 0. lse
 * [B,H,T]: log of the softmax's denominator (the scaled maximum included), -inf for such queries. On a GPU tiles are
 * multiplied whole: a NaN or an infinity may reach queries nearby that do not see it (0 times it). */
typedef struct kava_attention_args {
  kava_dtype dtype;
  int64_t batch, length, heads, kv_heads, head_dim;
  double scale, softcap; /* softcap 0: none */
  const void *q, *k, *v;
  int64_t q_row, k_row, v_row;
  const int32_t *start;
  int64_t window;
  void *o, *lse; /* o: read by the backward pass */
  /* backward only: gradients; any of dq, dk, dv may be NULL; add_*: add instead of overwrite */
  const void *grad_o;
  void *dq, *dk, *dv;
  int64_t dq_row, dk_row, dv_row;
  bool add_q, add_k, add_v;
} kava_attention_args;
static inline int64_t kava_attention_first(const int32_t *start, int64_t window, int64_t at, int64_t t) {
  int64_t first = start ? start[at] : 0, seen = window ? t - window + 1 : 0;
  first = first < seen ? seen : first;
  return first < 0 ? 0 : first;
}

/* Pairs of rows s[r], t[r] of `width` elements of `dtype`. Rows with keep[r] == 0 are not read: their sums are 0 and
 * their gradient rows are 0. Sums are double, and the same for any number of threads. The CPU's losses stand on
 *   row_dots            sums[3r..] = s.s, t.t, s.t
 *   row_combine         out[r] (+)= a[r] s[r] + b[r] t[r]
 *   row_distance        sums[r] = sum of h(s - t)
 *   row_distance_grad   out[r] (+)= a[r] h'(s - t)
 * h(d) = d^2 (KAVA_SQUARE), or d^2/(2 beta) where |d| < beta, else |d| - beta/2 (KAVA_HUBER; beta 0: |d|). */
typedef enum kava_distance { KAVA_SQUARE, KAVA_HUBER } kava_distance;
typedef struct kava_rows_args {
  kava_dtype dtype;
  kava_distance distance;
  double beta;
  int64_t rows, width;
  const void *s, *t;
  const uint8_t *keep; /* NULL: every row */
  double *sums;
  const double *a, *b;
  void *out;
  bool add;
} kava_rows_args;

/* A loss over such pairs, a mean over the n = *counted rows that count; its scalar and the gradient of that are wide.
 *
 * mercator: sums [rows, 3] as row_dots has them. With c = s.t / (max(|s|, 1e-12) max(|t|, 1e-12)) and g = log(|s| +
 * eps)
 * - log(|t| + eps), metrics[0] is the mean of c, metrics[1] the mean of g^2, and loss = alpha (1 - metrics[0]) + beta
 * metrics[1]; beta 0: without the second, whatever it is.
 *
 * distance: sums [rows] as row_distance has them; loss = metrics[0] = the mean of sums[r] / width, or with `relative`
 * of sums[r] / (|t|^2 + 1e-12), where dots [rows, 3] gets what row_dots gives.
 *
 * The gradients read what the losses wrote, and give each side that is not NULL its rows, times *grad. */
typedef struct kava_pair_loss_args {
  kava_dtype dtype;
  int64_t rows, width;
  const void *s, *t;
  const uint8_t *keep;   /* NULL: every row */
  const double *counted; /* from count_rows */
  double alpha, beta, eps;
  kava_distance distance; /* with beta as its bend */
  bool relative;
  double *sums, *dots;
  void *loss;
  double *metrics;
  /* gradients only */
  const void *grad;
  void *ds, *dt;
  bool add_s, add_t;
} kava_pair_loss_args;
#define KAVA_UNIT_EPS 1e-12     /* F.normalize's */
#define KAVA_RELATIVE_EPS 1e-12 /* keeps a teacher row of zeros from dividing by 0 */

/* `count` tensors of pairs of rows, `rows` pairs of `width` elements in each; tensor i's rows of s, t and ds are
 * s_row[i], t_row[i] and ds_row[i] elements apart. With c the cosine as mercator has it:
 *   loss = 1 - the sum of c over all pairs / (*counted count)
 * where rows with keep[r] == 0, of any tensor, are not read and do not count; loss is wide, as slopes [count, rows, 2]
 * are, for which dc/ds = slopes[0] s + slopes[1] t. The gradient reads those, and gives ds[i] its rows, times *grad. */
#define KAVA_COSINES_MOST 64
typedef struct kava_cosines_args {
  kava_dtype dtype;
  int count;
  int64_t rows, width;
  const void *s[KAVA_COSINES_MOST], *t[KAVA_COSINES_MOST];
  int64_t s_row[KAVA_COSINES_MOST], t_row[KAVA_COSINES_MOST];
  const uint8_t *keep; /* NULL: every row */
  const double *counted;
  void *slopes, *loss;
  /* gradient only; each ds is another buffer, or NULL */
  const void *grad;
  void *ds[KAVA_COSINES_MOST];
  int64_t ds_row[KAVA_COSINES_MOST];
  bool add[KAVA_COSINES_MOST];
} kava_cosines_args;

/* `count` matrices x[i] of `rows` rows of width[i] elements, x_row[i] apart, side by side as the columns of y, whose
 * rows are y_row apart. Of one plain type, or f32 that becomes bf16 or f16. */
#define KAVA_JOIN_MOST 64
typedef struct kava_join_args {
  kava_dtype from, to;
  int count;
  int64_t rows, y_row;
  const void *x[KAVA_JOIN_MOST];
  int64_t x_row[KAVA_JOIN_MOST], width[KAVA_JOIN_MOST];
  void *y;
} kava_join_args;

/* Rows of logits. With p = softmax(s), p' = softmax(s/T), q' = softmax(t/T), per row:
 *   ce = -log p[target]   (0 without targets or where the target is < 0)
 *   kl = T^2 sum q' (log q' - log p')   (0 without t)
 *   agree = 1 when s and t have the same first maximum, else 0
 * stats[3r..] = ce, kl, agree. Gradients where ds, dt are given:
 *   ds (+)= ce_scale (p - onehot(target)) + kl_scale T (p' - q')
 *   dt (+)= kl_scale T q' (log q' - log p' - kl/T^2)
 * where ce_scale is multiplied by *ce_by and kl_scale by *kl_by (NULL: 1), and both are divided by *counted (NULL: 1).
 * ds may be s and dt may be t (not added then). Rows with keep[r] == 0: stats 0, gradients 0. A target of `width` or
 * more: on the CPU the caller has looked; a GPU gives NaN. */
typedef struct kava_logits_args {
  kava_dtype dtype;
  int64_t rows, width;
  const void *s, *t;      /* t may be NULL */
  const int64_t *targets; /* may be NULL */
  const uint8_t *keep;    /* NULL: every row */
  double temperature, ce_scale, kl_scale;
  const void *ce_by, *kl_by; /* wide */
  const double *counted;
  double *stats;
  void *ds, *dt;
  bool add_s, add_t;
} kava_logits_args;

/* With n = *counted: metrics[c] = sum over r of stats[r columns + c], / n; metrics[columns] = n; and where loss is
 * given (wide beside `dtype`, as is what `by` points to): loss = sum of weight[c] *by[c] metrics[c] (by[c] NULL: 1),
 * without those that weigh 0. In the order of rows, or one that is as fixed. */
#define KAVA_MEANS_COLUMNS 4
typedef struct kava_means_args {
  int64_t rows, columns;
  const double *stats, *counted;
  double weight[KAVA_MEANS_COLUMNS];
  const void *by[KAVA_MEANS_COLUMNS];
  kava_dtype dtype;
  void *loss;
  double *metrics;
} kava_means_args;

/* AdamW (Loshchilov & Hutter 2019, in the order of torch.optim.AdamW), one span a parameter, t = ++*step:
 *   p -= lr decay p;  m += (1-beta1)(g-m);  v = beta2 v + (1-beta2) g^2;  p -= lr correction1 m / (sqrt(v) correction2
 * + eps) with correction1 = 1/(1-beta1^t), correction2 = 1/sqrt(1-beta2^t), lr = the args' lr[group].
 *
 * p is f32, f64, f16 or bf16. What f16 is rounded from is `master`, f32. What bf16 is rounded from, to nearest, ties
 * away from 0, is an f32 whose low 16 bits `master` holds: bits = (p << 16) + (int16_t)low, which is exact (ties to
 * even could not be undone). A NaN loses its low bits.
 *
 * g is wide, or bf16 beside f32, f16 and bf16 parameters. m and v are wide, or of state_dtype:
 * bf16  m rounded to nearest; v stochastically, by a hash of (kava_adamw_seed, index): to nearest, 0.999 v would round
 *       back to v and v could never fall.
 * u8    codes of |x| / the most of its block of KAVA_MOMENT_BLOCK elements, floats of 3 bits after the point whose
 *       exponents are 4 bits beside m's sign, 5 for v, which has none: code c is c below 8, else (8 + c % 8)
 *       2^(c/8 - 1), over what the highest code is: 15 2^14 for m and 15 2^30 for v. Both are rounded stochastically,
 *       v > 0 to 1 at least, so that what is divided by never vanishes before m. `most`: f32 [2, blocks], m's and v's.
 *       A most that is not finite makes NaN of its block.
 * Dettmers et al. 2022 look codes up in a table of about the same precision, to nearest; here a code is a few shifts.
 */
#define KAVA_MOMENT_BLOCK 256
#define KAVA_MOMENT_TOP_M 0x1.ep17f /* 15 2^14 */
#define KAVA_MOMENT_TOP_V 0x1.ep33f /* 15 2^30 */
static inline int64_t kava_moment_blocks(int64_t count) { return (count + KAVA_MOMENT_BLOCK - 1) / KAVA_MOMENT_BLOCK; }
typedef struct kava_adamw_span {
  int64_t count;
  kava_dtype dtype, state_dtype, grad_dtype;
  void *p, *m, *v;
  const void *g;
  const int32_t *slots; /* on a GPU: g has a row of `width` for each row of p whose slot is not negative; NULL: dense */
  int64_t width;
  void *master; /* f16: f32; bf16: i16; else NULL */
  float *most;  /* of u8 states */
  int64_t *step;
  int group;
  uint32_t number; /* of the parameter */
  double decay;
} kava_adamw_span;
typedef struct kava_adamw_args {
  const kava_adamw_span *spans;
  int64_t count;
  const double *lr;
  const double *gate; /* nothing happens, no step is counted, where *gate is not finite; NULL: there is none */
  double beta1, beta2, eps;
} kava_adamw_args;
static inline uint32_t kava_adamw_seed(uint32_t number, int64_t step) { return number * 0x27d4eb2fu + (uint32_t)step; }
/* Random bits for element i: a finaliser of MurmurHash3 over a Weyl sequence. bf16's v takes the low 16; of codes v
 * takes the low, m the high ones. */
static inline uint32_t kava_adamw_noise(uint32_t noise, uint32_t i) {
  uint32_t h = noise ^ (i * 0x9E3779B9u);
  h = (h ^ h >> 16) * 0x85EBCA6Bu;
  h = (h ^ h >> 13) * 0xC2B2AE35u;
  return h ^ h >> 16;
}

/* A buffer among several that one kernel goes over. */
typedef struct kava_array {
  kava_dtype dtype;
  int64_t count;
  void *data;
} kava_array;

/* Strided elementwise work: `out` and up to three operands, each with its own element strides (0 broadcasts). */
typedef struct kava_strided {
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  const void *in[3];
  void *out;
  int64_t in_stride[3][KAVA_MAX_DIMS], out_stride[KAVA_MAX_DIMS];
} kava_strided;

/* From KAVA_EQ on the output is bool, before it of the operands' type. */
typedef enum kava_binary {
  KAVA_ADD,
  KAVA_SUB,
  KAVA_MUL,
  KAVA_DIV,
  KAVA_POW,
  KAVA_MAXIMUM,
  KAVA_MINIMUM,
  KAVA_EQ,
  KAVA_NE,
  KAVA_LT,
  KAVA_LE,
  KAVA_GT,
  KAVA_GE
} kava_binary;

/* Of one operand x and two numbers p and q. Integers know affine, abs, clamp and power. */
typedef enum kava_unary {
  KAVA_AFFINE, /* p*x + q */
  KAVA_ABS,
  KAVA_CLAMP, /* min(max(x, p), q) */
  KAVA_EXP,
  KAVA_LOG,
  KAVA_SQRT,
  KAVA_TANH,
  KAVA_SIGMOID,
  KAVA_POWER,     /* x^p */
  KAVA_RECIPROCAL /* p/x */
} kava_unary;

typedef enum kava_reduce { KAVA_SUM, KAVA_SUM_SQUARES, KAVA_MAX, KAVA_MIN } kava_reduce;

/* The pass that finishes the gradients of linear(layer_norm(x)) from g = dz^T xhat; see kernels/cpu/norm_linear.c. g,
 * sums, dgamma and dbeta are wide; w, gamma and beta of wtype, dw of dw_dtype, which are that, too, and on a GPU may be
 * bf16. KAVA_MEMORY when scratch cannot be had. */
typedef struct kava_norm_linear_args {
  kava_dtype dtype, wtype, dw_dtype;
  int64_t rows, width;
  const void *g, *w, *gamma, *beta, *sums;
  void *dw, *dgamma, *dbeta;
  bool add_w;
} kava_norm_linear_args;

typedef struct kava_difference {
  bool close;
  double most;   /* the largest |a - b|; infinite where a NaN takes part */
  int64_t index; /* of the first such element; -1 when there are no elements */
} kava_difference;

#endif

/* spec/cuda/attention_check.cu: attention.cu and attention_plain.cu against the reference. */
#include "check.h"
#include "kernels/cuda/attention.cuh"
#include <cmath>
#include <cstring>

struct shape {
  int64_t batch, length, heads, kv_heads, dim;
  double softcap;
  int starts; /* 0: none, 1: documents, 2: documents and a window, 3: at random, some see nothing */
};

/* q, k and v as columns of one buffer, their gradients as columns of another, `between` elements after them. */
struct joined {
  int64_t widths[3], row = 0;
  array buffer;
  static int64_t width(const shape &s, int64_t between) { return (s.heads + 2 * s.kv_heads) * s.dim + between; }
  joined(kava_dtype dtype, const shape &s, int64_t between)
      : widths{s.heads * s.dim, s.kv_heads * s.dim, s.kv_heads * s.dim}, row(width(s, between)),
        buffer(dtype, s.batch * s.length * row) {}
  std::vector<double> of(const std::vector<double> &q, const std::vector<double> &k,
                         const std::vector<double> &v) const {
    std::vector<double> all(buffer.values.size(), NAN);
    const std::vector<double> *each[3] = {&q, &k, &v};
    for (size_t at = 0, t = 0; at < all.size(); at += (size_t)row, t++)
      for (size_t i = 0, to = at; i < 3; to += (size_t)widths[i++])
        for (size_t c = 0; c < (size_t)widths[i]; c++) all[to + c] = (*each[i])[t * (size_t)widths[i] + c];
    return all;
  }
  void *column(int i) {
    int64_t from = (i > 0 ? widths[0] : 0) + (i > 1 ? widths[1] : 0);
    return (char *)buffer.at() + from * (buffer.dtype == KAVA_F32 ? 4 : 2);
  }
};

static std::vector<int32_t> starts_of(const shape &s) {
  std::vector<int32_t> start((size_t)(s.batch * s.length));
  for (int64_t b = 0; b < s.batch; b++)
    for (int64_t t = 0, document = 0; t < s.length; t++) {
      if (uniform() > 0.9) document = t;
      int64_t first = s.starts == 3 ? (int64_t)((uniform() + 1) * 0.55 * (double)t) : document;
      int64_t none = t % 2 ? t + 1 : INT32_MAX;
      start[(size_t)(b * s.length + t)] = (int32_t)(s.starts == 3 && uniform() > 0.8 ? none : first);
    }
  return start;
}

static void check_shape(kava_dtype dtype, const shape &s) {
  int64_t n = s.batch * s.length * s.heads * s.dim, m = s.batch * s.length * s.kv_heads * s.dim,
          lines = s.batch * s.length * s.heads;
  std::string name = "[" + std::to_string(s.batch) + "," + std::to_string(s.length) + "," + std::to_string(s.heads) +
                     "/" + std::to_string(s.kv_heads) + "," + std::to_string(s.dim) + "] cap " +
                     std::to_string((int)s.softcap) + " starts " + std::to_string(s.starts);
  if (!wanted(kava_dtype_name(dtype) + (" " + name))) return;
  array q(dtype, n), k(dtype, m), v(dtype, m), o(dtype, n), g(dtype, n), lse(KAVA_F32, lines), dq(dtype, n),
      dk(dtype, m), dv(dtype, m);
  q.random(2), k.random(2), v.random(1), g.random(1), dq.random(1), dk.random(1), dv.random(1);
  list<int32_t> start(starts_of(s));
  double tolerance = dtype == KAVA_F32 ? 3e-6 : unit(dtype) / 2; /* P is rounded to dtype */

  kava_attention_args a = {}, r;
  a.dtype = dtype;
  a.batch = s.batch, a.length = s.length, a.heads = s.heads, a.kv_heads = s.kv_heads, a.head_dim = s.dim;
  a.scale = 1 / sqrt((double)s.dim), a.softcap = s.softcap;
  a.q = q.at(), a.k = k.at(), a.v = v.at(), a.o = o.at(), a.lse = lse.at();
  a.window = s.starts == 2 ? 20 : s.starts == 1 ? ((int64_t)1 << 32) + 1 : 0; /* the second: longer than any row */
  a.start = s.starts ? start.device : nullptr;
  std::vector<double> want_o((size_t)n), want_lse((size_t)lines), want_dq = dq.values, want_dk = dk.values,
                                                                  want_dv = dv.values;
  r = a;
  r.dtype = KAVA_F64;
  r.q = q.f64(), r.k = k.f64(), r.v = v.f64(), r.o = want_o.data(), r.lse = want_lse.data();
  r.start = s.starts ? start.values.data() : nullptr;
  expect("attention " + name + " runs", gpu->attention(&a) == KAVA_OK);
  cpu->attention(&r);
  compare("attention " + name, o, want_o, tolerance);
  compare("attention, lse, " + name, lse, want_lse, 1e-5);

  a.grad_o = g.at(), a.dq = dq.at(), a.dk = dk.at(), a.dv = dv.at();
  r.grad_o = g.f64(), r.dq = want_dq.data(), r.dk = want_dk.data(), r.dv = want_dv.data();
  a.add_q = r.add_q = s.starts == 1;
  a.add_k = r.add_k = s.starts == 2;
  a.add_v = r.add_v = s.starts == 3;
  expect("attention_grad " + name + " runs", gpu->attention_grad(&a) == KAVA_OK);
  cpu->attention_grad(&r);
  compare("attention_grad, q, " + name, dq, want_dq, 2.5 * tolerance);
  compare("attention_grad, k, " + name, dk, want_dk, 2.5 * tolerance);
  compare("attention_grad, v, " + name, dv, want_dv, 2.5 * tolerance);

  for (int64_t between : {8, 3}) { /* 3: not at multiples of 16 bytes */
    if (s.length > 90 || (s.starts == 0 && between == 3)) continue;
    joined from(dtype, s, between), to(dtype, s, between);
    from.buffer.set(from.of(q.values, k.values, v.values));
    to.buffer.set(to.of(dq.values, dk.values, dv.values));
    kava_attention_args j = a;
    j.q = from.column(0), j.k = from.column(1), j.v = from.column(2), j.q_row = j.k_row = j.v_row = from.row;
    j.dq = to.column(0), j.dk = to.column(1), j.dv = to.column(2), j.dq_row = j.dk_row = j.dv_row = to.row;
    gpu->attention(&j);
    compare("attention, joined, " + name, o, want_o, tolerance);
    gpu->attention_grad(&j);
    compare("attention_grad, joined, " + name, to.buffer, to.of(want_dq, want_dk, want_dv), 2.5 * tolerance);
  }

  if (s.length > 40 || s.dim > 64) return;
  int64_t pairs = s.batch * s.length * s.length;
  array p(dtype, pairs), gp(dtype, pairs);
  gp.random(1);
  std::vector<double> want_p((size_t)pairs);
  gpu->attention_map(&a, p.at());
  cpu->attention_map(&r, want_p.data());
  compare("attention_map " + name, p, want_p, tolerance);
  dq.random(1), dk.random(1);
  want_dq = dq.values, want_dk = dk.values;
  r.dq = want_dq.data(), r.dk = want_dk.data();
  gpu->attention_map_grad(&a, gp.at());
  cpu->attention_map_grad(&r, gp.f64());
  compare("attention_map_grad, q, " + name, dq, want_dq, 2.5 * tolerance);
  compare("attention_map_grad, k, " + name, dk, want_dk, 2.5 * tolerance);
}

void check_attention() {
  static const shape shapes[] = {
      {2, 70, 4, 2, 64, 0, 0},  {1, 37, 2, 2, 96, 5, 3},   {1, 70, 7, 1, 64, 0, 3},  {1, 1, 1, 1, 64, 0, 0},
      {1, 67, 2, 1, 80, 0, 2},  {1, 37, 2, 1, 256, 0, 3},  {1, 81, 2, 1, 128, 3, 2}, {1, 129, 2, 1, 128, 0, 1},
      {1, 200, 6, 2, 64, 0, 0}, {1, 270, 3, 1, 128, 0, 1},
  };
  static const shape plain[] = {
      {1, 1, 1, 1, 8, 0, 0},    {2, 35, 4, 2, 16, 0, 1}, {1, 70, 3, 3, 33, 4, 2},
      {1, 40, 2, 1, 64, 0, 3},  {1, 9, 1, 1, 168, 0, 0}, {1, 9, 1, 1, 150, 0, 0}, /* nearly 48 KiB of shared memory */
      {1, 19, 2, 1, 200, 0, 1},
  };
  for (const shape &s : shapes) check_shape(KAVA_BF16, s);
  for (int i = 0; i < 2; i++) check_shape(KAVA_F16, shapes[i]);
  check_shape(KAVA_BF16, {1, 260, 3, 1, 64, 0, 0});
  kava_attention_old = true;
  for (const shape &s : {shapes[0], shapes[2], shapes[6]}) check_shape(KAVA_BF16, s);
  kava_attention_old = false;
  for (const shape &s : plain)
    for (kava_dtype dtype : {KAVA_F32, KAVA_BF16}) check_shape(dtype, s);
}

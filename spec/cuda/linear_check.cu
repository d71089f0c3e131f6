/* spec/cuda/linear_check.cu: linear.cu against the reference, for weights of the activations' type and of others. */
#include "check.h"
#include "kernels/cuda/gemm.cuh"

static double tolerance(kava_dtype dtype, int64_t k) {
  return 2 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6 * (double)(k + 1));
}

/* Weights of the type, and the values they have: `raw` on the device. */
static void layer(kava_dtype dtype, kava_dtype wtype, int64_t rows, int64_t in, int64_t out, bool odd, int pieces = 1) {
  int64_t block = kava_dtype_block(wtype), bytes = out * in / block * kava_dtype_block_bytes(wtype);
  std::vector<uint8_t> raw((size_t)bytes);
  std::vector<float> values((size_t)(out * in));
  array plain(wtype == KAVA_F32 || wtype == KAVA_BF16 || wtype == KAVA_F16 || wtype == KAVA_F64 ? wtype : KAVA_F32,
              out * in);
  plain.random();
  const void *w = plain.at();
  std::vector<double> exact = plain.values;
  if (block > 1) {
    std::vector<float> source(plain.values.begin(), plain.values.end());
    cpu->narrow(wtype, source.data(), raw.data(), out * in);
    cpu->widen(wtype, raw.data(), values.data(), out * in);
    exact.assign(values.begin(), values.end());
  }
  list<uint8_t> blocks(raw);
  if (block > 1) w = blocks.device;
  /* rounded to the activations' type on its way: what the GPU multiplies */
  array rounded(dtype, out * in);
  rounded.set(exact);
  exact = rounded.values;

  std::string name = std::string(kava_dtype_name(wtype)) + " " + std::to_string(rows) + " x " + std::to_string(in) +
                     " to " + std::to_string(out) + (odd ? " odd" : "");
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  array x(dtype, rows * in, odd), bias(dtype, out), y(dtype, rows * out), dy(dtype, rows * out, odd);
  array dx(dtype, rows * in), dw(wide, out * in), db(wide, out, odd);
  for (array *a : {&x, &bias, &dy, &dx, &dw, &db}) a->random();
  kava_linear_args g = {dtype, rows, in, out, w, wtype, NULL, 0, KAVA_F32, false, 0, NULL},
                   r = {KAVA_F64, rows, in, out, exact.data(), KAVA_F64, NULL, 0, KAVA_F32, false, 0, NULL};
  std::vector<double> want((size_t)(rows * out));
  for (int with = 0; with < (dtype == KAVA_F64 ? 1 : 2); with++) {
    expect("linear_forward " + name, gpu->linear_forward(&g, x.at(), with ? bias.at() : NULL, y.at()) == KAVA_OK);
    cpu->linear_forward(&r, x.f64(), with ? bias.f64() : NULL, want.data());
    compare("linear_forward " + name + (with ? ", bias" : ""), y, want, tolerance(dtype, in));
    array residual(dtype, rows * out, odd);
    residual.random(8);
    kava_linear_args sum = g;
    sum.residual = residual.at();
    expect("linear_forward " + name, gpu->linear_forward(&sum, x.at(), with ? bias.at() : NULL, y.at()) == KAVA_OK);
    for (size_t i = 0; i < want.size(); i++) want[i] += residual.values[i];
    /* rounded once: no more than half a unit of the sum itself, where f32's own sums are not in the way */
    compare("linear_forward " + name + (with ? ", bias, added" : ", added"), y, want,
            unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6 * (double)(in + 1)));
  }
  for (int add = 0; add < 2; add++) {
    dx.random();
    want = dx.values;
    expect("linear_dx " + name, gpu->linear_dx(&g, dy.at(), dx.at(), add) == KAVA_OK);
    cpu->linear_dx(&r, dy.f64(), want.data(), add);
    /* each further piece rounds what the ones before gave, which may be a few times what all of them give */
    compare("linear_dx " + name, dx, want, tolerance(dtype, out) + 4 * (pieces - 1) * unit(dtype));
    dw.random();
    db.random();
    std::vector<double> want_b = db.values;
    want = dw.values;
    expect("linear_dw " + name, gpu->linear_dw(&g, x.at(), dy.at(), dw.at(), add, db.at(), add) == KAVA_OK);
    cpu->linear_dw(&r, x.f64(), dy.f64(), want.data(), add, want_b.data(), add);
    compare("linear_dw " + name, dw, want, tolerance(wide, rows));
    compare("linear_dw " + name + ", db", db, want_b, tolerance(wide, rows));
  }
  /* the last of dy's columns alone, rounded where that is asked for */
  int64_t skipped = out / 2, size = dtype == KAVA_F64 ? 8 : dtype == KAVA_F32 ? 4 : 2;
  array part(dtype, (out - skipped) * in);
  for (int add = 0; add < 2; add++) {
    part.fill(0.25);
    want.assign((size_t)(out * in), 0);
    for (size_t i = 0; i < part.values.size(); i++) want[(size_t)(skipped * in) + i] = part.values[i];
    kava_linear_args h = g;
    h.out = out - skipped, h.dy_row = out, h.dw_half = true;
    expect("linear_dw of columns " + name,
           gpu->linear_dw(&h, x.at(), (char *)dy.at() + skipped * size, part.at(), add, NULL, false) == KAVA_OK);
    cpu->linear_dw(&r, x.f64(), dy.f64(), want.data(), add, NULL, false);
    want.erase(want.begin(), want.begin() + skipped * in);
    compare("linear_dw of columns " + name, part, want, tolerance(dtype, rows));
  }
}

/* Gate and up, and what is made of them, in one: against the reference, and against two kernels, of which it differs by
 * what the order of a product's sums may change. */
static void gate_up(int64_t rows, int64_t in, int64_t width) {
  std::string name = std::to_string(rows) + " x " + std::to_string(in) + " to 2 x " + std::to_string(width);
  array x(KAVA_BF16, rows * in), w(KAVA_BF16, 2 * width * in), y(KAVA_BF16, rows * 2 * width),
      act(KAVA_BF16, rows * width), two(KAVA_BF16, rows * width);
  x.random();
  w.random(0.25);
  kava_linear_args g = {KAVA_BF16, rows, in, 2 * width, w.at(), KAVA_BF16, NULL, 0, KAVA_F32, false, 0, NULL},
                   r = {KAVA_F64, rows, in, 2 * width, w.f64(), KAVA_F64, NULL, 0, KAVA_F32, false, 0, NULL};
  std::vector<double> want_y((size_t)(rows * 2 * width)), want((size_t)(rows * width));
  cpu->linear_gate_up(&r, KAVA_SILU, x.f64(), want_y.data(), want.data());
  /* gate, up and act are rounded to bf16, each by half a part in 128 at most, and silu's slope is at most 1.1 */
  double allowed = 2 * unit(KAVA_BF16);
  for (int keeps = 0; keeps < 2; keeps++) {
    act.fill(NAN), y.fill(NAN);
    kava_status st = gpu->linear_gate_up(&g, KAVA_SILU, x.at(), keeps ? y.at() : NULL, act.at());
    if (st == KAVA_UNSUPPORTED) { /* not a Hopper, or addresses of another kind */
      expect("linear_gate_up " + name + " is not here", kava_cuda_device()->major != 9);
      return;
    }
    expect("linear_gate_up " + name, st == KAVA_OK);
    compare("linear_gate_up " + name, act, want, allowed);
    if (!keeps) continue;
    compare("linear_gate_up " + name + ", kept", y, want_y, tolerance(KAVA_BF16, in));
    kava_gated_args a = {};
    a.kind = KAVA_SILU, a.dtype = KAVA_BF16, a.count = rows * width, a.width = width, a.row = 2 * width;
    a.gate = y.at(), a.up = (char *)y.at() + width * 2, a.y = two.at();
    gpu->gated(&a);
    expect("linear_gate_up " + name + ": to the bit what gated makes of gate and up", act.download() == two.download());
  }
}
static void gate_ups() {
  kava_linear_args none = {KAVA_BF16, 8, 512, 16, NULL, KAVA_BF16, NULL, 0, KAVA_F32, false, 0, NULL};
  expect("linear_gate_up: few tiles are not for it",
         gpu->linear_gate_up(&none, KAVA_SILU, NULL, NULL, NULL) == KAVA_UNSUPPORTED);
  kava_cuda_gate_up_enough(1);
  none.in = 448;
  expect("linear_gate_up: nor short sums", gpu->linear_gate_up(&none, KAVA_SILU, NULL, NULL, NULL) == KAVA_UNSUPPORTED);
  none.in = 516;
  expect("linear_gate_up: nor rows of other lengths",
         gpu->linear_gate_up(&none, KAVA_SILU, NULL, NULL, NULL) == KAVA_UNSUPPORTED);
  gate_up(128, 512, 128);
  gate_up(1, 512, 8);
  gate_up(257, 520, 136); /* edges in every direction */
  gate_up(300, 712, 264);
  gate_up(1300, 456, 128); /* a block has several tiles */
  kava_cuda_gate_up_enough(0);
}

/* What comes back over the down projection and the gate in one: against the reference, and against two kernels: the
 * bits differ by what the order of a product's sums may change, and what d has nothing to do with not at all. */
static void gated_back(int64_t rows, int64_t in, int64_t width, bool joined) {
  std::string name = "linear_gated_back " + std::to_string(rows) + " x " + std::to_string(in) + " to " +
                     std::to_string(width) + (joined ? ", rows apart" : "");
  int64_t row = joined ? 2 * width : width, n = rows * width;
  array dy(KAVA_BF16, rows * in), w(KAVA_BF16, in * width), both(KAVA_BF16, 2 * n), act(KAVA_BF16, n),
      two(KAVA_BF16, 2 * n), act_two(KAVA_BF16, n);
  dy.random();
  w.random(0.25);
  both.random(2);
  two.set(both.values);
  kava_linear_args g = {KAVA_BF16, rows, width, in, w.at(), KAVA_BF16, NULL, 0, KAVA_F32, false, 0, NULL},
                   r = {KAVA_F64, rows, width, in, w.f64(), KAVA_F64, NULL, 0, KAVA_F32, false, 0, NULL};
  auto gated = [&](array &from, array &y) {
    kava_gated_args a = {};
    a.kind = KAVA_SILU, a.dtype = KAVA_BF16, a.count = n, a.width = width, a.row = a.grad_row = joined ? row : 0;
    a.gate = a.dgate = from.at(), a.up = a.dup = (char *)from.at() + (joined ? width : n) * 2;
    a.grad = a.y = y.at();
    return a;
  };
  kava_gated_args one = gated(both, act), a = gated(two, act_two);
  kava_status st = gpu->linear_gated_back(&g, dy.at(), &one);
  if (st == KAVA_UNSUPPORTED) { /* not a Hopper */
    expect(name + " is not here", kava_cuda_device()->major != 9);
    return;
  }
  expect(name, st == KAVA_OK);
  gpu->linear_dx(&g, dy.at(), act_two.at(), false);
  gpu->gated_grad(&a);
  std::vector<double> d((size_t)n), want(both.values), want_act((size_t)n);
  cpu->linear_dx(&r, dy.f64(), d.data(), false);
  for (int64_t i = 0; i < rows; i++) { /* row by row: the reference takes no rows that lie apart */
    double *gate = want.data() + i * row, *up = gate + (joined ? width : n);
    kava_gated_args of_row = {};
    of_row.kind = KAVA_SILU, of_row.dtype = KAVA_F64, of_row.count = width;
    of_row.gate = of_row.dgate = gate, of_row.up = of_row.dup = up;
    of_row.grad = d.data() + i * width, of_row.y = want_act.data() + i * width;
    cpu->gated_grad(&of_row);
  }
  /* d is rounded, and what is made of it; of an up of at most 2 and a slope of at most 1.1 */
  double allowed = 5 * unit(KAVA_BF16);
  compare(name + ": dgate and dup", both, want, allowed);
  compare(name + ": act", act, want_act, unit(KAVA_BF16));
  expect(name + ": act to the bit what gated_grad makes", act.download() == act_two.download());
  compare(name + ": dgate and dup beside those of two kernels", both, two.download(), allowed);
}
static void gated_backs() {
  array some(KAVA_BF16, 8 * 1024);
  kava_linear_args none = {KAVA_BF16, 8, 16, 512, some.at(), KAVA_BF16, NULL, 0, KAVA_F32, false, 0, NULL};
  kava_gated_args g = {};
  g.kind = KAVA_SILU, g.dtype = KAVA_BF16, g.count = 8 * 16, g.width = 16;
  g.gate = g.dgate = some.at(), g.up = g.dup = (char *)some.at() + 256, g.y = (char *)some.at() + 512;
  auto refused = [&](const char *what) {
    expect(std::string("linear_gated_back: ") + what, gpu->linear_gated_back(&none, some.at(), &g) == KAVA_UNSUPPORTED);
  };
  refused("few tiles are not for it");
  kava_cuda_gated_back_enough(1);
  none.out = 448;
  refused("nor short sums");
  none.out = 516;
  refused("nor rows of other lengths");
  none.out = 512, g.kind = KAVA_GELU;
  refused("nor another nonlinearity");
  g.kind = KAVA_SILU, g.dgate = (char *)some.at() + 1024;
  refused("nor gradients elsewhere");
  gated_back(128, 512, 256, true);
  gated_back(1, 512, 8, true);
  gated_back(257, 520, 264, false); /* edges in every direction */
  gated_back(70, 904, 200, true);
  gated_back(1300, 712, 136, true); /* a block has several tiles */
  gated_back(300, 1104, 520, true);
  kava_cuda_gated_back_enough(0);
}

void check_linear() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64})
    for (int odd = 0; odd < 2; odd++) {
      layer(dtype, dtype, 3, 5, 7, odd);
      layer(dtype, dtype, 40, 48, 20, odd);
      layer(dtype, dtype, 300, 8, 136, odd);
    }
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16})
    for (kava_dtype wtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_Q4_0, KAVA_Q4_1, KAVA_Q8_0})
      layer(dtype, wtype, 9, 64, 24, false);
  kava_cuda_linear_scratch(1000); /* piece by piece */
  layer(KAVA_BF16, KAVA_F32, 9, 64, 300, false, 3);
  layer(KAVA_F32, KAVA_Q8_0, 9, 32, 257, false, 3);
  kava_cuda_linear_scratch((int64_t)128 << 20);
  gate_ups();
  gated_backs();
}

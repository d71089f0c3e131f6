/* spec/cuda/training_check.cu: vector.cu, embedding.cu, adamw.cu and rope_table against the reference. */
#include "check.h"
#include "kernels/cpu/moments.h"
#include <cmath>
#include <cstring>

static void check_vectors(kava_dtype dtype) {
  for (int64_t n : {1, 64, 1003}) {
    array x(dtype, n), y(dtype, n);
    x.random(), y.random();
    std::vector<double> want = y.values;
    gpu->accumulate(dtype, x.at(), y.at(), n);
    cpu->accumulate(KAVA_F64, x.f64(), want.data(), n);
    compare("accumulate", y, want, unit(dtype) / 2);
    gpu->fill(dtype, y.at(), n, 2.5, 7);
    compare("fill", y, std::vector<double>((size_t)n, 2.5), 0);
    if (dtype == KAVA_F32)
      for (int add = 0; add < 2; add++) {
        y.random();
        std::vector<float> xs(x.values.begin(), x.values.end()), ys(y.values.begin(), y.values.end());
        gpu->axpy(1.5f, (float *)x.at(), (float *)y.at(), n, add);
        cpu->axpy(1.5f, xs.data(), ys.data(), n, add);
        compare("axpy", y, std::vector<double>(ys.begin(), ys.end()), 1e-6);
      }
  }
}

static void check_gather(kava_dtype dtype, int64_t outer, int64_t rows, int64_t inner, int64_t count) {
  std::string name =
      std::to_string(outer) + "," + std::to_string(rows) + "," + std::to_string(inner) + " by " + std::to_string(count);
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  array x(dtype, outer * rows * inner), y(dtype, outer * count * inner), grad(dtype, outer * count * inner),
      dx(wide, outer * rows * inner);
  x.random(), grad.random(), dx.random();
  std::vector<int64_t> numbers((size_t)count);
  for (int64_t &id : numbers) id = (int64_t)((uniform() + 1) * 0.5 * (double)(rows < 9 ? rows : 9)); /* many twice */
  list<int64_t> ids(numbers);
  std::vector<double> want((size_t)(outer * count * inner)), want_dx = dx.values;
  kava_gather_args a = {}, r;
  a.dtype = a.from = dtype, a.outer = outer, a.rows = rows, a.inner = inner, a.count = count, a.pad = 2;
  r = a;
  r.dtype = r.from = KAVA_F64;
  a.ids = ids.device, a.x = x.at(), a.y = y.at(), a.grad = grad.at(), a.dx = dx.at();
  r.ids = numbers.data(), r.x = x.f64(), r.y = want.data(), r.grad = grad.f64(), r.dx = want_dx.data();
  gpu->gather(&a);
  cpu->gather(&r);
  compare("gather " + name, y, want, 0);
  expect("gather_grad runs", gpu->gather_grad(&a) == KAVA_OK);
  cpu->gather_grad(&r);
  compare("gather_grad " + name, dx, want_dx, dtype == KAVA_F64 ? 1e-13 : 2e-5);
  if (dtype != KAVA_BF16 && dtype != KAVA_F16) return;
  array half(dtype, outer * rows * inner);
  half.random();
  want_dx = half.values;
  a.dx = half.at(), a.dx_half = true, r.dx = want_dx.data();
  expect("gather_grad runs", gpu->gather_grad(&a) == KAVA_OK);
  cpu->gather_grad(&r);
  compare("gather_grad, rounded once, " + name, half, want_dx, unit(dtype) / 2 + 2e-5);
}

static void check_widening(kava_dtype from, kava_dtype to) {
  int64_t rows = 5, inner = 512, count = 7, bytes = inner / kava_dtype_block(from) * kava_dtype_block_bytes(from);
  std::vector<uint8_t> weight((size_t)(rows * bytes));
  for (uint8_t &b : weight) b = (uint8_t)((uniform() + 1) * 60); /* small exponents: no infinities */
  list<uint8_t> x(weight);
  list<int64_t> ids({4, 0, 3, 3, 1, 9, 2});
  list<float> scales({0.5f, 2, 1, 0.25f, 3});
  std::vector<int64_t> numbers = ids.values;
  numbers[5] = 0;
  array y(to, count * inner);
  std::vector<float> want((size_t)(count * inner));
  kava_scaling s = {}, d;
  s.columns = inner, s.group = inner, s.rows = 1, s.across = 1, s.type = KAVA_F32, s.round = KAVA_F32;
  d = s;
  s.scales = scales.values.data(), d.scales = scales.device;
  bool scaled = from >= KAVA_NF4;
  kava_gather_args a = {}, r;
  a.dtype = to, a.from = from, a.outer = 1, a.rows = rows, a.inner = inner, a.count = count;
  r = a;
  r.dtype = KAVA_F32;
  a.ids = ids.device, a.x = x.device, a.y = y.at(), a.scaling = scaled ? &d : nullptr;
  r.ids = numbers.data(), r.x = weight.data(), r.y = want.data(), r.scaling = scaled ? &s : nullptr;
  gpu->gather(&a);
  cpu->gather(&r);
  std::vector<double> wide(want.begin(), want.end());
  for (int64_t i = 5 * inner; i < 6 * inner; i++) wide[(size_t)i] = NAN; /* there is no row 9 */
  compare(std::string("gather of ") + kava_dtype_name(from), y, wide, to == KAVA_F32 ? 0 : unit(to) / 2);
}

/* Parameters of `dtype`, states and gradients of theirs, against the CPU's table. */
static void check_adamw(kava_dtype dtype, kava_dtype state, kava_dtype grad) {
  bool f64 = dtype == KAVA_F64, f16 = dtype == KAVA_F16, bf16 = dtype == KAVA_BF16, small = state == KAVA_BF16;
  kava_dtype wide = f64 ? KAVA_F64 : KAVA_F32;
  std::string name = std::string("adamw ") + kava_dtype_name(dtype) + ", states " + kava_dtype_name(state) +
                     ", gradients " + kava_dtype_name(grad);
  static const int64_t counts[] = {1, 100, 0, 20000, 333};
  enum { SPANS = 5 };
  std::vector<array *> p, m, v, g, w;
  std::vector<list<int16_t> *> low;
  std::vector<int64_t> steps = {0, 4, 4, 10, 1000};
  list<int64_t> step(steps);
  list<double> lr({0.01, 0.002});
  std::vector<kava_adamw_span> spans(SPANS), reference(SPANS);
  /* The reference of bf16 states is f32's: f64 has none. So both sides are f32 here, but where p is f64. */
  std::vector<std::vector<float>> pf(SPANS), mf(SPANS), vf(SPANS), gf(SPANS);
  std::vector<std::vector<uint16_t>> ph(SPANS), mh(SPANS), vh(SPANS);
  std::vector<std::vector<int16_t>> pl(SPANS);
  for (int i = 0; i < SPANS; i++) {
    int64_t n = counts[i];
    bool odd = i == 3; /* not where vectors are read */
    w.push_back(new array(wide, n, odd)), p.push_back(new array(dtype, n, odd)), m.push_back(new array(state, n)),
        v.push_back(new array(state, n)), g.push_back(new array(grad, n));
    w[i]->random(), m[i]->random(0.1), v[i]->random(0.01, 0.011), g[i]->random();
    std::vector<double> rounded = w[i]->values;
    for (double &x : rounded)
      if (bf16) {
        ph[i].push_back(adamw_high((float)x)), pl[i].push_back(adamw_low((float)x));
        x = (double)kava_bf16_to_f32(ph[i].back());
      }
    p[i]->set(rounded);
    low.push_back(new list<int16_t>(pl[i]));
    spans[i].count = n, spans[i].dtype = dtype, spans[i].state_dtype = state, spans[i].grad_dtype = grad;
    spans[i].p = p[i]->at(), spans[i].m = m[i]->at(), spans[i].v = v[i]->at(), spans[i].g = g[i]->at();
    spans[i].master = bf16 ? (void *)low[i]->device : f16 ? (void *)w[i]->at() : nullptr;
    spans[i].step = step.device + i, spans[i].group = i % 2, spans[i].number = (uint32_t)i;
    spans[i].decay = i % 2 ? 0.1 : 0.0;
    for (double x : w[i]->values) pf[i].push_back((float)x);
    for (double x : g[i]->values) gf[i].push_back((float)x);
    for (double x : m[i]->values) mf[i].push_back((float)x), mh[i].push_back(kava_f32_to_bf16((float)x));
    for (double x : v[i]->values) vf[i].push_back((float)x), vh[i].push_back(kava_f32_to_bf16((float)x));
    ph[i].resize((size_t)n);
    reference[i] = spans[i];
    reference[i].step = &steps[i];
    reference[i].grad_dtype = wide;
    reference[i].g = f64 ? (void *)g[i]->f64() : gf[i].data();
    reference[i].m = f64 ? (void *)m[i]->f64() : small ? (void *)mh[i].data() : mf[i].data();
    reference[i].v = f64 ? (void *)v[i]->f64() : small ? (void *)vh[i].data() : vf[i].data();
    reference[i].p = f64 ? (void *)p[i]->f64() : bf16 || f16 ? (void *)ph[i].data() : pf[i].data();
    reference[i].master = bf16 ? (void *)pl[i].data() : f16 ? pf[i].data() : nullptr;
  }
  array gate(KAVA_F64, 2);
  gate.set({1, NAN});
  kava_adamw_args a = {spans.data(), SPANS, lr.device, (double *)gate.at(), 0.9, 0.95, 1e-8}, r = a;
  r.spans = reference.data(), r.lr = lr.values.data(), r.gate = gate.f64();
  for (int closed = 0; closed < 2; closed++) {
    a.gate = (double *)gate.at() + closed, r.gate = gate.f64() + closed; /* the second changes nothing */
    gpu->adamw(&a);
    cpu->adamw(&r);
  }
  expect(name + " counts its steps", step.download() == steps);
  for (int i = 0; i < SPANS; i++) {
    auto floats = [](const std::vector<float> &x) { return std::vector<double>(x.begin(), x.end()); };
    auto halves = [](const std::vector<uint16_t> &x) {
      std::vector<double> y;
      for (uint16_t h : x) y.push_back((double)kava_bf16_to_f32(h));
      return y;
    };
    auto joined = [](const std::vector<double> &high, const std::vector<int16_t> &rest) {
      std::vector<double> y;
      for (size_t k = 0; k < high.size(); k++)
        y.push_back((double)adamw_joined(kava_f32_to_bf16((float)high[k]), rest[k]));
      return y;
    };
    std::string place = name + " [" + std::to_string(counts[i]) + "]";
    double tolerance = f64 ? 1e-14 : 1e-6, rough = small ? 1e-3 : tolerance;
    if (bf16) {
      array together(KAVA_F32, counts[i]);
      together.set(joined(p[i]->download(), low[i]->download()));
      compare(place + ", values,", together, joined(halves(ph[i]), pl[i]), tolerance);
    } else
      compare(place + ", values,", f16 ? *w[i] : *p[i], f64 ? p[i]->values : floats(pf[i]), tolerance);
    if (bf16 || f16) compare(place + ", rounded,", *p[i], bf16 ? halves(ph[i]) : floats(pf[i]), unit(dtype));
    compare(place + ", m,", *m[i], f64 ? m[i]->values : small ? halves(mh[i]) : floats(mf[i]), rough);
    compare(place + ", v,", *v[i], f64 ? v[i]->values : small ? halves(vh[i]) : floats(vf[i]), rough / 4);
  }
  for (auto *all : {&p, &m, &v, &g, &w})
    for (array *one : *all) delete one;
  for (auto *one : low) delete one;
}

/* States as codes: a few steps from nothing. A last bit of f32 may tip a code over to its neighbour, seldom. */
static void check_coded_adamw(int64_t count) {
  std::string name = "adamw, coded states [" + std::to_string(count) + "]";
  size_t n = (size_t)count, blocks = (size_t)kava_moment_blocks(count);
  list<uint16_t> p(std::vector<uint16_t>(n, 0x3f80));
  list<int16_t> low(std::vector<int16_t>(n, 0));
  list<uint8_t> m(std::vector<uint8_t>(n, 0)), v(std::vector<uint8_t>(n, 0));
  list<float> most(std::vector<float>(2 * blocks, 0));
  list<int64_t> step({0});
  list<double> lr({0.01});
  array g(KAVA_BF16, count);
  std::vector<float> wide(n);
  std::vector<uint16_t> half(n);
  kava_adamw_span s = {}, c;
  s.count = count, s.dtype = KAVA_BF16, s.state_dtype = KAVA_U8, s.grad_dtype = KAVA_BF16, s.number = 3, s.decay = 0.1;
  c = s;
  s.p = p.device, s.m = m.device, s.v = v.device, s.g = g.at(), s.master = low.device, s.most = most.device,
  s.step = step.device;
  c.p = p.values.data(), c.m = m.values.data(), c.v = v.values.data(), c.g = half.data(), c.master = low.values.data(),
  c.most = most.values.data(), c.step = step.values.data();
  kava_adamw_args a = {&s, 1, lr.device, nullptr, 0.9, 0.99, 1e-8},
                  r = {&c, 1, lr.values.data(), nullptr, 0.9, 0.99, 1e-8};
  for (int turn = 0; turn < 4; turn++) {
    g.random(pow(10, -2 * turn));
    if (count > 500) g.values[300] = 50; /* alone in its block by far */
    g.upload();
    for (size_t i = 0; i < n; i++) half[i] = kava_f32_to_bf16((float)g.values[i]);
    gpu->adamw(&a);
    cpu->adamw(&r);
  }
  auto differ = [&](const list<uint8_t> &codes) {
    int64_t few = 0;
    std::vector<uint8_t> got = codes.download();
    for (size_t i = 0; i < n; i++)
      few += abs((int)got[i] - (int)codes.values[i]) > 1 ? count : got[i] != codes.values[i];
    return few;
  };
  expect(name + ", codes of m", differ(m) <= count / 200);
  expect(name + ", codes of v", differ(v) <= count / 200);
  std::vector<float> got_most = most.download();
  array mosts(KAVA_F32, (int64_t)(2 * blocks)), values(KAVA_F32, count);
  mosts.set(std::vector<double>(got_most.begin(), got_most.end()));
  compare(name + ", mosts,", mosts, std::vector<double>(most.values.begin(), most.values.end()), 1e-5);
  std::vector<uint16_t> high = p.download();
  std::vector<int16_t> rest = low.download();
  std::vector<double> got, want;
  for (size_t i = 0; i < n; i++) {
    got.push_back((double)adamw_joined(high[i], rest[i]));
    want.push_back((double)adamw_joined(p.values[i], low.values[i]));
  }
  values.set(got);
  compare(name + ", values,", values, want, 1e-3); /* a step is 0.01; a neighbouring code an eighth of that */
}

static void check_clipping() {
  array a(KAVA_F32, 70001), b(KAVA_F64, 33), c(KAVA_F32, 0), d(KAVA_F32, 5, true), norm(KAVA_F64, 2);
  a.random(), b.random(), d.random();
  kava_array arrays[] = {
      {KAVA_F32, 70001, a.at()}, {KAVA_F64, 33, b.at()}, {KAVA_F32, 0, c.at()}, {KAVA_F32, 5, d.at()}};
  std::vector<double> want(2);
  double sum = 0;
  for (const array *x : {&a, &b, &d})
    for (double v : x->values) sum += v * v;
  for (double most : {1.5, 1e9}) {
    expect("gradient_norm runs", gpu->gradient_norm(arrays, 4, most, NULL, (double *)norm.at()) == KAVA_OK);
    want[0] = sqrt(sum), want[1] = sqrt(sum) > most ? most / (sqrt(sum) + 1e-6) : 1;
    compare("gradient_norm", norm, want, 1e-12);
    gpu->rescale(arrays, 4, KAVA_F64, (double *)norm.at() + 1);
    for (array *x : {&a, &b, &d}) {
      for (double &v : x->values) v *= want[1];
      compare("rescale", *x, x->values, 1e-7);
      x->values = x->download();
    }
    sum = 0;
    for (const array *x : {&a, &b, &d})
      for (double v : x->values) sum += v * v;
  }
  d.values[3] = INFINITY;
  d.upload();
  gpu->gradient_norm(arrays, 4, 1, NULL, (double *)norm.at());
  compare("gradient_norm of an infinity", norm, {INFINITY, 1}, 0);
  d.values[3] = 1;
  d.upload();
  array sixteen(KAVA_F32, 1);
  sixteen.fill(16);
  sum = 0;
  for (const array *x : {&a, &b, &d})
    for (double v : x->values) sum += v * v;
  gpu->gradient_norm(arrays, 4, 1, (const float *)sixteen.at(), (double *)norm.at());
  double real = sqrt(sum) / 16;
  compare("gradient_norm of scaled gradients", norm, {real, (real > 1 ? 1 / (real + 1e-6) : 1) / 16}, 1e-12);
  array half(KAVA_BF16, 70003), factor(KAVA_F32, 1);
  half.random(), factor.fill(0.125);
  kava_array whole = {KAVA_BF16, 70003, half.at()};
  sum = 0;
  for (double v : half.values) sum += v * v;
  gpu->gradient_norm(&whole, 1, 1e9, NULL, (double *)norm.at());
  compare("gradient_norm of bf16", norm, {sqrt(sum), 1}, 1e-12);
  kava_array one = {KAVA_BF16, 70003, half.at()};
  gpu->rescale(&one, 1, KAVA_F32, factor.at());
  for (double &v : half.values) v *= 0.125;
  compare("rescale", half, half.values, 0);
}

void check_training() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64}) {
    check_vectors(dtype);
    check_gather(dtype, 1, 11, 40, 30);
    check_gather(dtype, 2, 5, 7, 6);
    check_gather(dtype, 1, 7, 1100, 3);
  }
  check_gather(KAVA_F32, 1, 10, 5, 1300);  /* more of a number than are listed at a time */
  check_gather(KAVA_F32, 1, 900, 3, 4500); /* more numbers than a chunk has */
  for (kava_dtype to : {KAVA_F32, KAVA_BF16})
    for (kava_dtype from : {KAVA_Q8_0, KAVA_Q4_K, KAVA_Q6_K, KAVA_NF4, KAVA_INT8, KAVA_F16}) check_widening(from, to);
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16})
    for (kava_dtype state : {KAVA_F32, KAVA_BF16})
      for (kava_dtype grad : {KAVA_F32, KAVA_BF16}) check_adamw(dtype, state, grad);
  check_adamw(KAVA_F64, KAVA_F64, KAVA_F64);
  for (int64_t count : {1, 255, 256, 20003}) check_coded_adamw(count);
  check_clipping();

  list<int64_t> positions({0, 5, 100, 31000});
  array frequencies(KAVA_F64, 8), cosine(KAVA_F32, 32), sine(KAVA_F32, 32);
  frequencies.random(0.5, 0.5);
  std::vector<double> want_c(32), want_s(32);
  kava_rope_table_args t = {KAVA_F32, 4, 8, positions.device, (double *)frequencies.at(), 1.25, cosine.at(), sine.at()};
  gpu->rope_table(&t);
  t = {KAVA_F64, 4, 8, positions.values.data(), frequencies.f64(), 1.25, want_c.data(), want_s.data()};
  cpu->rope_table(&t);
  compare("rope_table, cosines,", cosine, want_c, 1e-7);
  compare("rope_table, sines,", sine, want_s, 1e-7);
}

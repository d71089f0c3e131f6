/* spec/cuda/training_check.cu: vector.cu, embedding.cu, adamw.cu and rope_table against the reference. */
#include "check.h"
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
    for (int add = 0; add < 2; add++) {
      list<uint64_t> later({3});
      y.random();
      want = y.values;
      kava_dropout_args a = {dtype, n, 99, 5, later.device, 0.3, x.at(), y.at(), add == 1};
      gpu->dropout(&a);
      a = {KAVA_F64, n, 99, 5, later.values.data(), 0.3, x.f64(), want.data(), add == 1};
      cpu->dropout(&a);
      compare("dropout", y, want, unit(dtype) / 2);
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

static void check_adamw(kava_dtype dtype, kava_dtype state) {
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  bool master = dtype == KAVA_F16 || dtype == KAVA_BF16;
  std::string name = std::string("adamw ") + kava_dtype_name(dtype) + ", states " + kava_dtype_name(state);
  static const int64_t counts[] = {1, 100, 0, 20000, 333};
  enum { SPANS = 5 };
  std::vector<array *> p, m, v, g, w;
  std::vector<int64_t> steps = {0, 4, 4, 10, 1000};
  list<int64_t> step(steps);
  list<double> lr({0.01, 0.002});
  std::vector<kava_adamw_span> spans(SPANS), reference(SPANS);
  std::vector<std::vector<double>> states;
  /* The reference of bf16 states is f32's: f64 has none. So both sides are f32 here, but where p is f64. */
  std::vector<std::vector<float>> pf(SPANS), mf(SPANS), vf(SPANS), gf(SPANS);
  std::vector<std::vector<uint16_t>> ph(SPANS), mh(SPANS), vh(SPANS);
  for (int i = 0; i < SPANS; i++) {
    int64_t n = counts[i];
    w.push_back(new array(wide, n)), p.push_back(new array(dtype, n)), m.push_back(new array(state, n)),
        v.push_back(new array(state, n)), g.push_back(new array(wide, n));
    w[i]->random(), m[i]->random(0.1), v[i]->random(0.01, 0.011), g[i]->random();
    p[i]->set(w[i]->values);
    spans[i] = {n,
                dtype,
                state,
                p[i]->at(),
                m[i]->at(),
                v[i]->at(),
                g[i]->at(),
                master ? (float *)w[i]->at() : nullptr,
                step.device + i,
                i % 2,
                (uint32_t)i,
                i % 2 ? 0.1 : 0.0};
    reference[i] = spans[i];
    reference[i].step = &steps[i];
    for (double x : w[i]->values) pf[i].push_back((float)x);
    for (double x : g[i]->values) gf[i].push_back((float)x);
    for (double x : m[i]->values) mf[i].push_back((float)x), mh[i].push_back(kava_f32_to_bf16((float)x));
    for (double x : v[i]->values) vf[i].push_back((float)x), vh[i].push_back(kava_f32_to_bf16((float)x));
    ph[i].resize((size_t)n);
    bool small = state == KAVA_BF16;
    reference[i].g = dtype == KAVA_F64 ? (void *)g[i]->f64() : gf[i].data();
    reference[i].m = dtype == KAVA_F64 ? (void *)m[i]->f64() : small ? (void *)mh[i].data() : mf[i].data();
    reference[i].v = dtype == KAVA_F64 ? (void *)v[i]->f64() : small ? (void *)vh[i].data() : vf[i].data();
    reference[i].p = dtype == KAVA_F64 ? (void *)p[i]->f64() : master ? (void *)ph[i].data() : pf[i].data();
    reference[i].master = master ? pf[i].data() : nullptr;
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
    std::string place = name + " [" + std::to_string(counts[i]) + "]";
    double tolerance = dtype == KAVA_F64 ? 1e-14 : 1e-6, rough = state == KAVA_BF16 ? 1e-3 : tolerance;
    std::vector<double> values = dtype == KAVA_F64 ? p[i]->values : floats(pf[i]);
    compare(place + ", values,", master ? *w[i] : *p[i], values, tolerance);
    if (master) compare(place + ", rounded,", *p[i], values, unit(dtype) / 2);
    compare(place + ", m,", *m[i],
            dtype == KAVA_F64    ? m[i]->values
            : state == KAVA_BF16 ? halves(mh[i])
                                 : floats(mf[i]),
            rough);
    compare(place + ", v,", *v[i],
            dtype == KAVA_F64    ? v[i]->values
            : state == KAVA_BF16 ? halves(vh[i])
                                 : floats(vf[i]),
            rough / 4);
  }
  for (auto *all : {&p, &m, &v, &g, &w})
    for (array *one : *all) delete one;
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
    expect("gradient_norm runs", gpu->gradient_norm(arrays, 4, most, (double *)norm.at()) == KAVA_OK);
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
  gpu->gradient_norm(arrays, 4, 1, (double *)norm.at());
  compare("gradient_norm of an infinity", norm, {INFINITY, 1}, 0);
  array half(KAVA_BF16, 100), factor(KAVA_F32, 1);
  half.random(), factor.fill(0.125);
  kava_array one = {KAVA_BF16, 100, half.at()};
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
  check_gather(KAVA_F32, 1, 10, 5, 1300); /* more of a number than are listed at a time */
  for (kava_dtype to : {KAVA_F32, KAVA_BF16})
    for (kava_dtype from : {KAVA_Q8_0, KAVA_Q4_K, KAVA_Q6_K, KAVA_NF4, KAVA_INT8, KAVA_F16}) check_widening(from, to);
  check_adamw(KAVA_F32, KAVA_F32);
  check_adamw(KAVA_F32, KAVA_BF16);
  check_adamw(KAVA_BF16, KAVA_F32);
  check_adamw(KAVA_F16, KAVA_BF16);
  check_adamw(KAVA_F64, KAVA_F64);
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

/* spec/cuda/activation_check.cu: activation.cu against the reference. */
#include "check.h"

/* gate and up as columns of one buffer, their gradients as columns of another: as rows that lie together give them */
static void check_columns(kava_dtype dtype, int64_t rows, int64_t width, int64_t row, int64_t first) {
  array x(dtype, rows * row), dx(dtype, rows * (row + width)), grad(dtype, rows * width), y(dtype, rows * width);
  x.random(2), dx.random(), grad.random();
  int64_t size = kava_dtype_block_bytes(dtype), grad_row = row + width, n = rows * width;
  std::vector<double> gate((size_t)n), up((size_t)n), want((size_t)n), want_x = dx.values, dgate((size_t)n),
                                                                       dup((size_t)n);
  for (int64_t i = 0; i < n; i++) {
    size_t at = (size_t)(i / width * row + i % width + first);
    gate[(size_t)i] = x.values[at], up[(size_t)i] = x.values[at + (size_t)width];
  }
  kava_gated_args a = {}, r = {};
  a.kind = r.kind = KAVA_SILU, a.count = r.count = n, a.dtype = dtype, r.dtype = KAVA_F64;
  a.width = width, a.row = row, a.grad_row = grad_row;
  a.gate = (const char *)x.at() + first * size, a.up = (const char *)a.gate + width * size, a.y = y.at();
  r.gate = gate.data(), r.up = up.data(), r.y = want.data();
  gpu->gated(&a);
  cpu->gated(&r);
  std::string name = std::to_string(rows) + " x " + std::to_string(width) + " of " + std::to_string(row);
  double tolerance = 2 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6);
  compare("gated, columns, " + name, y, want, tolerance);
  a.grad = grad.at(), r.grad = grad.f64(), a.add_up = r.add_up = true;
  a.dgate = (char *)dx.at() + first * size, a.dup = (char *)a.dgate + width * size;
  r.dgate = dgate.data(), r.dup = dup.data();
  for (int64_t i = 0; i < n; i++) dup[(size_t)i] = want_x[(size_t)(i / width * grad_row + i % width + first + width)];
  gpu->gated_grad(&a);
  cpu->gated_grad(&r);
  for (int64_t i = 0; i < n; i++) {
    size_t at = (size_t)(i / width * grad_row + i % width + first);
    want_x[at] = dgate[(size_t)i], want_x[at + (size_t)width] = dup[(size_t)i];
  }
  compare("gated_grad, columns, " + name, dx, want_x, tolerance);

  /* in place: y over grad, the gradients over gate and up */
  a.grad_row = row, a.dgate = (void *)a.gate, a.dup = (void *)a.up, a.y = grad.at(), a.add_up = false;
  r.y = want.data(), r.add_up = false;
  gpu->gated_grad(&a);
  cpu->gated_grad(&r);
  want_x = x.values;
  for (int64_t i = 0; i < n; i++) {
    size_t at = (size_t)(i / width * row + i % width + first);
    want_x[at] = dgate[(size_t)i], want_x[at + (size_t)width] = dup[(size_t)i];
  }
  compare("gated_grad, in place, " + name, x, want_x, tolerance);
  compare("gated_grad, its y in place, " + name, grad, want, tolerance);
}

/* Dropout, alone and behind a nonlinearity: against the reference, and bit for bit against one after the other. */
static void check_dropped(kava_dtype dtype, int64_t n, bool odd, kava_activation kind, bool add) {
  std::string name = "kind " + std::to_string((int)kind) + ", " + std::to_string(n) + (odd ? ", odd" : "");
  double tolerance = 4 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6);
  list<uint64_t> later({3});
  array x(dtype, n, odd), grad(dtype, n), y(dtype, n, odd), dx(dtype, n), two(dtype, n);
  x.random(4), grad.random(), y.random();
  std::vector<double> want = y.values, want_y((size_t)n);
  kava_dropout_mask mask = {99, ((uint64_t)7 << 32) - 2, later.device, 0.3}, host = mask;
  host.later = later.values.data();

  kava_dropout_args d = {dtype, n, mask, x.at(), y.at(), add}, e = {KAVA_F64, n, host, x.f64(), want.data(), add};
  gpu->dropout(&d);
  cpu->dropout(&e);
  compare("dropout " + name, y, want, unit(dtype) / 2);

  kava_activation_args a = {}, r = {};
  a.kind = r.kind = kind, a.count = r.count = n, a.dtype = dtype, r.dtype = KAVA_F64;
  a.x = x.at(), a.y = y.at(), a.mask = mask;
  r.x = x.f64(), r.y = want.data(), r.mask = host;
  gpu->activation(&a);
  cpu->activation(&r);
  compare("activation, dropped, " + name, y, want, tolerance);
  a.mask.p = 0, a.y = two.at();
  gpu->activation(&a);
  d.x = d.y = two.at(), d.add = false;
  gpu->dropout(&d);
  compare("activation, then dropped, " + name, two, y.download(), 0);

  dx.random();
  want = dx.values;
  a.mask = mask, a.grad = grad.at(), a.dx = dx.at(), a.y = NULL, a.add = add;
  r.grad = grad.f64(), r.dx = want.data(), r.y = NULL, r.add = add;
  gpu->activation_grad(&a);
  cpu->activation_grad(&r);
  compare("activation_grad, dropped, " + name, dx, want, tolerance);
  a.add = r.add = false, r.y = want_y.data();
  gpu->activation_grad(&a);
  cpu->activation_grad(&r);
  d.x = grad.at();
  gpu->dropout(&d);
  a.mask.p = 0, a.grad = a.dx = two.at();
  gpu->activation_grad(&a);
  compare("activation_grad of what was dropped, " + name, two, dx.download(), 0);

  /* in place: dx over x, y over grad */
  a.mask = mask, a.grad = a.y = grad.at(), a.dx = x.at();
  gpu->activation_grad(&a);
  compare("activation_grad, dropped, in place, " + name, x, want, tolerance);
  compare("activation_grad, dropped, its y in place, " + name, grad, y.download(), 0);
  compare("activation_grad, dropped, its y, " + name, grad, want_y, tolerance);
}

void check_activation() {
  static const kava_dtype types[] = {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64};
  static const int64_t counts[] = {1, 7, 64, 1003, 20011};
  for (kava_dtype dtype : types) {
    check_columns(dtype, 9, 48, 96, 0);
    check_columns(dtype, 5, 8, 40, 16);
    check_columns(dtype, 7, 5, 13, 2);
  }
  for (kava_dtype dtype : types)
    for (int64_t n : {1, 31, 1024, 1027, 5000})
      for (int k = 0; k < KAVA_ACTIVATIONS; k++) check_dropped(dtype, n, (k + n / 1000) % 2, (kava_activation)k, k / 2);
  for (kava_dtype dtype : types)
    for (int64_t n : counts)
      for (int odd = 0; odd < 2; odd++)
        for (int k = 0; k < KAVA_ACTIVATIONS; k++) {
          if (n > 10000 && (odd || k)) continue;
          kava_activation kind = (kava_activation)k;
          std::string name = "kind " + std::to_string(k) + (odd ? ", odd," : "");
          double tolerance = 2 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6);
          bool add = (k + odd) % 2;
          array x(dtype, n, odd), up(dtype, n), grad(dtype, n), y(dtype, n, odd), dx(dtype, n), dup(dtype, n, odd);
          x.random(4);
          up.random();
          grad.random();
          std::vector<double> want((size_t)n), want_up((size_t)n);
          kava_activation_args f = {}, g = {};
          f.kind = g.kind = kind, f.count = g.count = n, f.dtype = dtype, g.dtype = KAVA_F64;
          f.x = x.at(), f.y = y.at();
          g.x = x.f64(), g.y = want.data();
          gpu->activation(&f);
          cpu->activation(&g);
          compare("activation " + name, y, want, tolerance);

          dx.random();
          std::vector<double> slopes = dx.values;
          y.fill(0);
          f.grad = grad.at(), f.dx = dx.at(), f.add = g.add = add;
          g.grad = grad.f64(), g.dx = slopes.data();
          gpu->activation_grad(&f);
          cpu->activation_grad(&g);
          compare("activation_grad " + name, dx, slopes, tolerance);
          compare("activation_grad, y, " + name, y, want, tolerance);

          kava_gated_args a = {}, r = {};
          a.kind = r.kind = kind, a.count = r.count = n, a.dtype = dtype, r.dtype = KAVA_F64;
          a.gate = x.at(), a.up = up.at(), a.y = y.at();
          r.gate = x.f64(), r.up = up.f64(), r.y = want.data();
          gpu->gated(&a);
          cpu->gated(&r);
          compare("gated " + name, y, want, tolerance);

          dx.random();
          dup.random();
          std::vector<double> want_y = want;
          y.fill(0);
          want = dx.values;
          want_up = dup.values;
          r.y = NULL;
          a.grad = grad.at(), a.dgate = dx.at(), a.dup = dup.at(), a.add_gate = r.add_gate = add;
          r.grad = grad.f64(), r.dgate = want.data(), r.dup = want_up.data(), a.add_up = r.add_up = !add;
          gpu->gated_grad(&a);
          cpu->gated_grad(&r);
          compare("gated_grad " + name, dx, want, tolerance);
          compare("gated_grad, up, " + name, dup, want_up, tolerance);
          compare("gated_grad, y, " + name, y, want_y, tolerance);

          if (k) continue;
          gpu->softcap(dtype, 2.5, x.at(), y.at(), n);
          cpu->softcap(KAVA_F64, 2.5, x.f64(), want.data(), n);
          compare("softcap" + name, y, want, tolerance);
          y.set(want); /* rounded alike on both sides */
          dx.random();
          want = dx.values;
          gpu->softcap_grad(dtype, 2.5, y.at(), grad.at(), dx.at(), n, !add);
          cpu->softcap_grad(KAVA_F64, 2.5, y.f64(), grad.f64(), want.data(), n, !add);
          compare("softcap_grad" + name, dx, want, tolerance);
        }
}

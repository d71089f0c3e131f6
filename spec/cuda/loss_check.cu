/* spec/cuda/loss_check.cu: loss.cu against the reference. */
#include "check.h"
#include <cmath>

static void check_pairs(kava_dtype dtype, int64_t rows, int64_t width, int kind, bool odd) {
  /* kind 0: mercator, 1: squares, 2: squares over the teacher's, 3: Huber */
  std::string name = (kind ? "distance " : "mercator ") + std::to_string(kind) + ", " + std::to_string(rows) + " x " +
                     std::to_string(width) + (odd ? " odd" : "");
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  array s(dtype, rows * width, odd), t(dtype, rows * width), loss(wide, 1), grad(wide, 1), ds(dtype, rows * width),
      dt(dtype, rows * width), sums(KAVA_F64, 3 * rows), dots(KAVA_F64, 3 * rows), metrics(KAVA_F64, 2),
      counted(KAVA_F64, 1);
  s.random(), t.random(), ds.random(0.1), dt.random(0.1),
      grad.fill(1.5 * (double)rows); /* so that gradients are of size 1 */
  std::vector<uint8_t> flags((size_t)rows, 1);
  if (rows > 2) flags[1] = 0;
  for (int64_t i = 0; i < width && rows > 3 && dtype != KAVA_F16; i++)
    s.values[(size_t)(2 * width + i)] = 0; /* a row of zeros */
  s.upload();
  list<uint8_t> keep(flags);
  kava_pair_loss_args a = {}, r;
  a.dtype = dtype, a.rows = rows, a.width = width, a.alpha = 0.75, a.beta = kind == 3 ? 0.3 : 0.5, a.eps = 1e-2;
  a.distance = kind == 3 ? KAVA_HUBER : KAVA_SQUARE, a.relative = kind == 2;
  a.add_s = kind % 2, a.add_t = !a.add_s;
  r = a;
  r.dtype = KAVA_F64;
  std::vector<double> want_sums((size_t)(3 * rows)), want_dots((size_t)(3 * rows)), want_metrics(2), want_loss(1),
      count(1), want_ds = ds.values, want_dt = dt.values;
  a.s = s.at(), a.t = t.at(), a.keep = keep.device, a.counted = (double *)counted.at(), a.sums = (double *)sums.at(),
  a.dots = (double *)dots.at(), a.loss = loss.at(), a.metrics = (double *)metrics.at(), a.grad = grad.at(),
  a.ds = ds.at(), a.dt = dt.at();
  r.s = s.f64(), r.t = t.f64(), r.keep = flags.data(), r.counted = count.data(), r.sums = want_sums.data(),
  r.dots = want_dots.data(), r.loss = want_loss.data(), r.metrics = want_metrics.data(), r.grad = grad.f64(),
  r.ds = want_ds.data(), r.dt = want_dt.data();
  gpu->count_rows(keep.device, nullptr, rows, (double *)counted.at());
  cpu->count_rows(flags.data(), nullptr, rows, count.data());
  compare("count_rows", counted, count, 0);
  (kind ? gpu->distance : gpu->mercator)(&a);
  (kind ? cpu->distance : cpu->mercator)(&r);
  compare(name, loss, want_loss, dtype == KAVA_F64 ? 1e-13 : 2e-6);
  if (kind) want_metrics.pop_back(), metrics.values.pop_back();
  compare(name + ", metrics,", metrics, want_metrics, dtype == KAVA_F64 ? 1e-13 : 2e-6);
  (kind ? gpu->distance_grad : gpu->mercator_grad)(&a);
  (kind ? cpu->distance_grad : cpu->mercator_grad)(&r);
  double tolerance = dtype == KAVA_F64 ? 1e-12 : dtype == KAVA_F32 ? 1e-5 : unit(dtype) / 2;
  compare(name + ", s,", ds, want_ds, tolerance);
  compare(name + ", t,", dt, want_dt, tolerance);
}

static void check_logits(kava_dtype dtype, int64_t rows, int64_t width, bool with_t, double temperature,
                         bool in_place) {
  std::string name = "logits_rows " + std::to_string(rows) + " x " + std::to_string(width) + (with_t ? " kl" : "") +
                     (in_place ? " in place" : "");
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  array s(dtype, rows * width), t(dtype, rows * width), ds(dtype, rows * width), dt(dtype, rows * width),
      ce_by(wide, 1), kl_by(wide, 1), stats(KAVA_F64, 3 * rows), counted(KAVA_F64, 1);
  s.random(4), t.random(4), ds.random(), dt.random(), ce_by.fill(3), kl_by.fill(-5), counted.fill((double)rows / 4);
  if (width > 9) s.values[4] = -INFINITY, t.values[5] = -INFINITY, t.values[width - 1] = s.values[width - 1] = 5;
  s.upload(), t.upload();
  std::vector<int64_t> ids((size_t)rows);
  std::vector<uint8_t> flags((size_t)rows, 1);
  for (int64_t i = 0; i < rows; i++) ids[(size_t)i] = i % 4 == 3 ? -100 : (i * 7) % width;
  if (rows > 2) flags[2] = 0;
  list<int64_t> targets(ids);
  list<uint8_t> keep(flags);
  std::vector<double> want_stats((size_t)(3 * rows)), want_ds = in_place ? s.values : ds.values, want_dt = dt.values;
  kava_logits_args a = {}, r;
  a.dtype = dtype, a.rows = rows, a.width = width, a.temperature = temperature, a.ce_scale = 0.5, a.kl_scale = 0.25;
  a.add_s = !in_place, a.add_t = false;
  r = a;
  r.dtype = KAVA_F64;
  r.s = in_place ? want_ds.data() : s.f64(), r.t = with_t ? t.f64() : nullptr, r.targets = ids.data(),
  r.keep = flags.data();
  r.ce_by = ce_by.f64(), r.kl_by = kl_by.f64(), r.counted = counted.f64(), r.stats = want_stats.data(),
  r.ds = want_ds.data(), r.dt = with_t ? want_dt.data() : nullptr;
  a.s = s.at(), a.t = with_t ? t.at() : nullptr, a.targets = targets.device, a.keep = keep.device, a.ce_by = ce_by.at(),
  a.kl_by = kl_by.at(), a.counted = (double *)counted.at(), a.stats = (double *)stats.at(),
  a.ds = in_place ? s.at() : ds.at(), a.dt = with_t ? dt.at() : nullptr;
  gpu->logits_rows(&a);
  cpu->logits_rows(&r);
  double tolerance = dtype == KAVA_F64 ? 1e-12 : dtype == KAVA_F32 ? 1e-5 : unit(dtype);
  compare(name + ", stats,", stats, want_stats, dtype == KAVA_F64 ? 1e-12 : 1e-5);
  compare(name + ", s,", in_place ? s : ds, want_ds, tolerance);
  if (with_t) compare(name + ", t,", dt, want_dt, tolerance);

  array loss(wide, 1), metrics(KAVA_F64, 4);
  std::vector<double> want_loss(1), want_metrics(4);
  kava_means_args m = {};
  m.rows = rows, m.columns = 3, m.stats = (double *)stats.at(), m.counted = (double *)counted.at();
  m.weight[0] = 0.5, m.weight[1] = 0.25, m.by[0] = ce_by.at(), m.by[1] = kl_by.at();
  m.dtype = dtype, m.loss = loss.at(), m.metrics = (double *)metrics.at();
  gpu->means(&m);
  m.stats = want_stats.data(), m.counted = counted.f64(), m.by[0] = ce_by.f64(), m.by[1] = kl_by.f64();
  m.dtype = KAVA_F64, m.loss = want_loss.data(), m.metrics = want_metrics.data();
  cpu->means(&m);
  compare("means", loss, want_loss, 1e-5);
  compare("means, metrics,", metrics, want_metrics, 1e-5);
}

void check_loss() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64})
    for (int kind = 0; kind < 4; kind++) {
      check_pairs(dtype, 5, 96, kind, false);
      check_pairs(dtype, 4, 33, kind, true);
      if (dtype == KAVA_BF16) check_pairs(dtype, 1, 3000, kind, false);
    }
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F64}) {
    check_logits(dtype, 5, 37, true, 2, false);
    check_logits(dtype, 4, 1300, true, 1, true);
    check_logits(dtype, 3, 700, false, 1, false);
    check_logits(dtype, 4, 4800, true, 2, true);
  }
}

/* spec/cuda/each_check.cu: each.cu against the reference. */
#include "check.h"

/* rows of s, t and ds lie `gap` elements further apart than they are wide */
static void check_cosines(kava_dtype dtype, int count, int64_t rows, int64_t width, int64_t gap, bool odd) {
  std::string name = "cosines " + std::to_string(count) + " x " + std::to_string(rows) + " x " + std::to_string(width) +
                     (gap ? " apart" : "") + (odd ? " odd" : "");
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  int64_t row = width + gap, size = rows * row;
  array s(dtype, count * size, odd), t(dtype, count * size), ds(dtype, count * size), slopes(wide, 2 * count * rows),
      loss(wide, 1), grad(wide, 1), counted(KAVA_F64, 1);
  s.random(), t.random(), ds.random(0.1), grad.fill(1.5 * (double)(rows * count));
  std::vector<uint8_t> flags((size_t)rows, 1);
  if (rows > 2) flags[1] = 0;
  for (int64_t i = 0; i < width && rows > 3 && dtype != KAVA_F16; i++)
    s.values[(size_t)(2 * row + i)] = 0;                                             /* a row of zeros */
  for (int64_t i = 0; i < width && rows > 2; i++) t.values[(size_t)(row + i)] = NAN; /* is not read */
  s.upload(), t.upload();
  list<uint8_t> keep(flags);
  kava_cosines_args a = {}, r;
  a.dtype = dtype, a.count = count, a.rows = rows, a.width = width;
  for (int i = 0; i < count; i++) a.s_row[i] = a.t_row[i] = a.ds_row[i] = row, a.add[i] = i % 2;
  r = a;
  r.dtype = KAVA_F64;
  std::vector<double> want_slopes((size_t)(2 * count * rows)), want_loss(1), count_of(1), want_ds = ds.values;
  size_t bytes = dtype == KAVA_F64 ? 8 : dtype == KAVA_F32 ? 4 : 2;
  for (int i = 0; i < count; i++) {
    size_t at = (size_t)(i * size);
    a.s[i] = (char *)s.at() + at * bytes, a.t[i] = (char *)t.at() + at * bytes;
    r.s[i] = s.f64() + at, r.t[i] = t.f64() + at;
    if (i == 2) continue; /* one that wants none */
    a.ds[i] = (char *)ds.at() + at * bytes, r.ds[i] = want_ds.data() + at;
  }
  a.keep = keep.device, a.counted = (double *)counted.at(), a.slopes = slopes.at(), a.loss = loss.at(),
  a.grad = grad.at();
  r.keep = flags.data(), r.counted = count_of.data(), r.slopes = want_slopes.data(), r.loss = want_loss.data(),
  r.grad = grad.f64();
  gpu->count_rows(keep.device, nullptr, rows, (double *)counted.at());
  cpu->count_rows(flags.data(), nullptr, rows, count_of.data());
  gpu->cosines(&a);
  cpu->cosines(&r);
  compare(name, loss, want_loss, dtype == KAVA_F64 ? 1e-13 : 2e-6);
  compare(name + ", slopes,", slopes, want_slopes, dtype == KAVA_F64 ? 1e-12 : 1e-5);
  gpu->cosines_grad(&a);
  cpu->cosines_grad(&r);
  compare(name + ", s,", ds, want_ds, dtype == KAVA_F64 ? 1e-12 : dtype == KAVA_F32 ? 1e-5 : unit(dtype) / 2);
}

static void check_join(kava_dtype from, kava_dtype to, bool odd) {
  int64_t rows = 7, widths[3] = {16, 24, odd ? 5 : 8}, sum = 0, gap = odd ? 3 : 8;
  std::string name = std::string("join ") + kava_dtype_name(from) + " to " + kava_dtype_name(to) + (odd ? " odd" : "");
  kava_join_args a = {}, r;
  a.from = from, a.to = to, a.count = 3, a.rows = rows;
  for (int64_t width : widths) sum += width;
  a.y_row = sum + gap;
  array x(from, 3 * rows * 40, odd), y(to, rows * a.y_row);
  x.random(), y.random();
  std::vector<double> want = y.values;
  r = a;
  r.from = r.to = KAVA_F64;
  size_t bytes = from == KAVA_F64 ? 8 : from == KAVA_F32 ? 4 : 2;
  for (int i = 0; i < 3; i++) {
    a.width[i] = r.width[i] = widths[i];
    a.x_row[i] = r.x_row[i] = i == 1 ? widths[i] : 40;
    a.x[i] = (char *)x.at() + (size_t)(i * rows * 40) * bytes;
    r.x[i] = x.f64() + i * rows * 40;
  }
  a.y = y.at(), r.y = want.data();
  gpu->join(&a);
  cpu->join(&r);
  compare(name, y, want, from == to ? 0 : unit(to) / 2);
}

void check_each() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64}) {
    check_cosines(dtype, 3, 21, 64, 0, false);
    check_cosines(dtype, 4, 5, 300, 8, false);
    check_cosines(dtype, 2, 9, 33, 1, true);
    check_join(dtype, dtype, false);
    check_join(dtype, dtype, true);
  }
  check_cosines(KAVA_BF16, KAVA_COSINES_MOST, 3, 16, 0, false);
  for (kava_dtype to : {KAVA_BF16, KAVA_F16}) {
    check_join(KAVA_F32, to, false);
    check_join(KAVA_F32, to, true);
  }
}

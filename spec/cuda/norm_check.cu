/* spec/cuda/norm_check.cu: norm.cu and rope.cu against the reference. */
#include "check.h"

static void check_norms(kava_dtype dtype, int64_t rows, int64_t width, bool centre, bool odd, bool parameters,
                        bool widened) {
  std::string name = std::to_string(rows) + " x " + std::to_string(width) + (centre ? " layer" : " rms") +
                     (odd ? " odd" : "") + (parameters ? "" : " bare") + (widened ? " wide" : "");
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  array x(dtype, rows * width, odd), w(widened ? wide : dtype, width), b(widened ? wide : dtype, width),
      y(dtype, rows * width), g(dtype, rows * width), dx(dtype, rows * width), dw(wide, width), db(wide, width);
  x.random(2, 0.5), w.random(1, 1), b.random(), g.random(), dx.random(), dw.random(), db.random();
  std::vector<double> want((size_t)(rows * width)), want_dx = dx.values, want_dw = dw.values, want_db = db.values;
  kava_norm_args a = {}, r;
  a.dtype = dtype, a.wide = widened, a.centre = centre, a.rows = rows, a.width = width, a.eps = 1e-5;
  r = a;
  r.dtype = KAVA_F64, r.wide = false;
  a.x = x.at(), a.w = parameters ? w.at() : nullptr, a.b = parameters && centre ? b.at() : nullptr, a.y = y.at();
  r.x = x.f64(), r.w = parameters ? w.f64() : nullptr, r.b = parameters && centre ? b.f64() : nullptr,
  r.y = want.data();
  gpu->norm(&a);
  cpu->norm(&r);
  double tolerance = dtype == KAVA_F64 ? 1e-12 : dtype == KAVA_F32 ? 2e-6 : unit(dtype) / 2;
  compare("norm " + name, y, want, tolerance);
  std::vector<double> made = y.download(), want_y = want;
  bool again = width % 3 != 0; /* y once more, in grad's place */
  a.y = again ? g.at() : nullptr, r.y = again ? want.data() : nullptr;
  a.grad = g.at(), a.dx = dx.at(), a.add_x = r.add_x = odd != centre;
  r.grad = g.f64(), r.dx = want_dx.data();
  if (parameters) {
    a.dw = dw.at(), r.dw = want_dw.data();
    a.db = centre ? db.at() : nullptr, r.db = centre ? want_db.data() : nullptr;
  }
  gpu->norm_grad(&a);
  cpu->norm_grad(&r);
  compare("norm_grad " + name, dx, want_dx, 2 * tolerance);
  if (again) expect("norm_grad gives y's bits once more, " + name, g.download() == made && want == want_y);
  compare("norm_grad, w, " + name, dw, want_dw, dtype == KAVA_F64 ? 1e-12 : 5e-6); /* summed in f32 from x as it is */
  compare("norm_grad, b, " + name, db, want_db, dtype == KAVA_F64 ? 1e-12 : 5e-6);
}

static void check_rope(kava_dtype dtype, int64_t tokens, int64_t heads, int64_t dim, int64_t rotated, bool inverse,
                       bool add) {
  int64_t period = tokens / 2 ? tokens / 2 : 1, n = tokens * heads * dim;
  kava_dtype wide = dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  array x(dtype, n), c(wide, period * rotated / 2), s(wide, period * rotated / 2), y(dtype, n);
  x.random(), c.random(), s.random(), y.random();
  std::vector<double> want = y.values;
  kava_rope_args a = {dtype, tokens, period, heads, dim, rotated, x.at(), c.at(), s.at(), y.at(), inverse, add, 0, 0};
  gpu->rope(&a);
  a = {KAVA_F64, tokens, period, heads, dim, rotated, x.f64(), c.f64(), s.f64(), want.data(), inverse, add, 0, 0};
  cpu->rope(&a);
  std::string name = std::to_string(dim) + " of which " + std::to_string(rotated);
  compare("rope " + name, y, want, unit(dtype));
  if (dim % 8 == 0 && !add) { /* columns of a buffer, into columns of another */
    int64_t row = heads * dim, x_row = row + 16, y_row = row + 8;
    array wide_x(dtype, tokens * x_row), wide_y(dtype, tokens * y_row);
    wide_x.random(), wide_y.random();
    std::vector<double> given((size_t)n), whole = wide_y.values;
    for (int64_t i = 0; i < n; i++) given[(size_t)i] = wide_x.values[(size_t)(i / row * x_row + i % row + 8)];
    kava_rope_args apart = a;
    apart.x = given.data(), apart.y = want.data();
    cpu->rope(&apart);
    for (int64_t i = 0; i < n; i++) whole[(size_t)(i / row * y_row + i % row)] = want[(size_t)i];
    apart = {dtype,
             tokens,
             period,
             heads,
             dim,
             rotated,
             (const char *)wide_x.at() + 8 * kava_dtype_block_bytes(dtype),
             c.at(),
             s.at(),
             wide_y.at(),
             inverse,
             add,
             x_row,
             y_row};
    gpu->rope(&apart);
    compare("rope of columns " + name, wide_y, whole, unit(dtype));
  }
  want = x.values;
  a.x = a.y = want.data();
  a.add = false;
  cpu->rope(&a);
  a.dtype = dtype;
  a.x = a.y = x.at(), a.cosine = c.at(), a.sine = s.at();
  gpu->rope(&a);
  compare("rope in place " + name, x, want, unit(dtype));

  /* two at once, of which one has fewer heads */
  array z(dtype, n), first(dtype, n), second(dtype, tokens * dim);
  z.random(), first.random(), second.random();
  std::vector<double> want_first = first.values, want_second = second.values;
  kava_rope_args b = a, ra = a, rb = a;
  a.x = z.at(), a.y = first.at(), b.x = x.at(), b.y = second.at(), b.heads = 1;
  ra.dtype = rb.dtype = KAVA_F64, ra.cosine = rb.cosine = c.f64(), ra.sine = rb.sine = s.f64();
  ra.x = z.f64(), ra.y = want_first.data(), rb.y = want_second.data(), rb.heads = 1;
  std::vector<double> given = x.download();
  rb.x = given.data();
  gpu->rope_two(&a, &b);
  cpu->rope_two(&ra, &rb);
  compare("rope_two " + name, first, want_first, unit(dtype));
  compare("rope_two, the other, " + name, second, want_second, unit(dtype));
}

void check_norm() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64}) {
    static const int64_t shapes[][2] = {{1, 1},     {7, 64},   {5, 200},  {33, 128}, {3, 896},  {19, 1536},
                                        {70, 1000}, {2, 4096}, {4, 5000}, {2, 8200}, {3, 20000}};
    for (const auto &s : shapes)
      for (int centre = 0; centre < 2; centre++) {
        if (s[1] > 1000 && (centre != (dtype == KAVA_F32) || dtype == KAVA_F64)) continue;
        bool half = dtype == KAVA_F16 || dtype == KAVA_BF16;
        check_norms(dtype, s[0], s[1], centre, false, true, false);
        if (half) check_norms(dtype, s[0], s[1], centre, false, true, true);
        if (s[1] < 1000) check_norms(dtype, s[0], s[1], centre, true, s[0] != 33, half && s[0] == 33);
      }
    check_rope(dtype, 5, 3, 64, 64, false, false);
    check_rope(dtype, 6, 2, 80, 32, true, true);
    check_rope(dtype, 7, 1, 10, 6, true, false);
    check_rope(dtype, 1, 1, 2, 2, false, true);
  }
  const struct {
    kava_dtype dtype, w, dw;
    int64_t rows, width;
  } finishes[] = {{KAVA_F32, KAVA_F32, KAVA_F32, 21, 45},     {KAVA_F64, KAVA_F64, KAVA_F64, 21, 45},
                  {KAVA_F32, KAVA_F32, KAVA_F32, 300, 256},   {KAVA_F32, KAVA_BF16, KAVA_F32, 21, 45},
                  {KAVA_F32, KAVA_BF16, KAVA_BF16, 600, 136}, {KAVA_F32, KAVA_F32, KAVA_BF16, 3, 8}};
  for (auto &f : finishes) {
    int64_t rows = f.rows, width = f.width;
    array g(f.dtype, rows * width), w(f.w, rows * width), gamma(f.w, width), beta(f.w, width), sums(f.dtype, rows),
        dw(f.dw, rows * width), dgamma(f.dtype, width), dbeta(f.dtype, width);
    g.random(), w.random(), gamma.random(), beta.random(), sums.random(), dw.random(), dgamma.random(), dbeta.random();
    std::vector<double> want_w = dw.values, want_g = dgamma.values, want_b = dbeta.values;
    kava_norm_linear_args a = {f.dtype,    f.w,       f.dw,      rows,    width,       g.at(),     w.at(),
                               gamma.at(), beta.at(), sums.at(), dw.at(), dgamma.at(), dbeta.at(), true};
    expect("norm_linear_finish runs", gpu->norm_linear_finish(&a) == KAVA_OK);
    a = {KAVA_F64,    KAVA_F64,   KAVA_F64,   rows,          width,         g.f64(),       w.f64(),
         gamma.f64(), beta.f64(), sums.f64(), want_w.data(), want_g.data(), want_b.data(), true};
    cpu->norm_linear_finish(&a);
    double loose = rows > 100 ? 8 : 1;
    compare("norm_linear_finish, w,", dw, want_w, f.dw == KAVA_BF16 ? unit(f.dw) / 2 : 2 * unit(f.dtype));
    compare("norm_linear_finish, gamma,", dgamma, want_g, 4 * loose * unit(f.dtype));
    compare("norm_linear_finish, beta,", dbeta, want_b, 4 * loose * unit(f.dtype));
  }
}

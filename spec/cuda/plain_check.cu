/* spec/cuda/plain_check.cu: copy.cu, elementwise.cu and reduce.cu against the reference, with strides. */
#include "check.h"
#include <cmath>
#include <cstring>

/* [3, 5, 8] out; operands as they are, transposed, broadcast, or with a step */
static kava_strided layout(int kind) {
  static const int64_t strides[][3] = {{40, 8, 1}, {8, 24, 1}, {1, 3, 15}, {0, 8, 1}, {40, 8, 0}, {80, 16, 2}};
  kava_strided s = {};
  s.dims = 3;
  int64_t shape[3] = {3, 5, 8}, out[3] = {40, 8, 1};
  for (int d = 0; d < 3; d++) {
    s.shape[d] = shape[d], s.out_stride[d] = out[d];
    s.in_stride[0][d] = strides[kind][d];
    s.in_stride[1][d] = strides[(kind + 1) % 6][d];
    s.in_stride[2][d] = strides[(kind + 2) % 6][d];
  }
  return s;
}

static void check_elementwise(kava_dtype dtype) {
  double tolerance = dtype == KAVA_F64 ? 1e-13 : dtype == KAVA_F32 ? 2e-6 : unit(dtype) / 2;
  array x(dtype, 300), y(dtype, 300), out(dtype, 120);
  std::vector<uint8_t> bits(300), flags(120);
  for (size_t i = 0; i < 300; i++) bits[i] = uniform() > 0;
  list<uint8_t> choose(bits), compared(std::vector<uint8_t>(120, 7));
  for (int kind = 0; kind < 6; kind++)
    for (int op = 0; op <= KAVA_GE; op++) {
      x.random(2, op == KAVA_POW ? 3 : 0), y.random(2);
      for (size_t i = 0; i < 300; i += 3) y.values[i] = x.values[i];
      if (op == KAVA_MAXIMUM || op == KAVA_MINIMUM) x.values[8] = NAN, y.values[16] = NAN;
      x.upload(), y.upload();
      kava_strided s = layout(kind);
      std::vector<double> want(120);
      s.in[0] = x.f64(), s.in[1] = y.f64(), s.out = op >= KAVA_EQ ? (void *)flags.data() : want.data();
      cpu->binary((kava_binary)op, KAVA_F64, &s);
      s.in[0] = x.at(), s.in[1] = y.at(), s.out = op >= KAVA_EQ ? (void *)compared.device : out.at();
      gpu->binary((kava_binary)op, dtype, &s);
      std::string name = "binary " + std::to_string(op) + " strides " + std::to_string(kind);
      if (op >= KAVA_EQ)
        expect(name, compared.download() == flags);
      else
        compare(name, out, want, 2 * tolerance);
    }
  for (int kind = 0; kind < 6; kind++) {
    kava_strided s = layout(kind);
    std::vector<double> want(120);
    s.in[0] = x.f64(), s.in[1] = y.f64(), s.in[2] = bits.data(), s.out = want.data();
    cpu->where(KAVA_F64, &s);
    s.in[0] = x.at(), s.in[1] = y.at(), s.in[2] = choose.device, s.out = out.at();
    gpu->where(dtype, &s);
    compare("where, strides " + std::to_string(kind), out, want, 0);
  }
  array gy(dtype, 300), gx(dtype, 300);
  for (int op = 0; op <= KAVA_RECIPROCAL; op++) {
    bool positive = op == KAVA_LOG || op == KAVA_SQRT || op == KAVA_POWER || op == KAVA_RECIPROCAL;
    double p = op == KAVA_CLAMP ? -0.5 : op == KAVA_POWER ? 1.5 : 3, q = 0.75;
    x.random(1, positive ? 2 : 0), gy.random(), gx.random();
    std::vector<double> want(300), want_gx = gx.values;
    cpu->unary((kava_unary)op, KAVA_F64, x.f64(), want.data(), 300, p, q);
    gpu->unary((kava_unary)op, dtype, x.at(), y.at(), 300, p, q);
    compare("unary " + std::to_string(op), y, want, 2 * tolerance);
    y.set(want);
    cpu->unary_grad((kava_unary)op, KAVA_F64, x.f64(), y.f64(), gy.f64(), want_gx.data(), 300, p, q, op % 2);
    gpu->unary_grad((kava_unary)op, dtype, x.at(), y.at(), gy.at(), gx.at(), 300, p, q, op % 2);
    compare("unary_grad " + std::to_string(op), gx, want_gx, 2 * tolerance);
  }
}

static void check_reduce(kava_dtype dtype) {
  double tolerance = dtype == KAVA_F64 ? 1e-13 : dtype == KAVA_F32 ? 1e-6 : unit(dtype) / 2;
  static const int64_t shapes[][3] = {{1, 1, 1},    {1, 30011, 1}, {7, 33, 1}, {3, 5, 7},
                                      {2, 300, 40}, {1, 1000, 3},  {4, 0, 2}};
  for (const auto &s : shapes) {
    std::string name = std::to_string(s[0]) + "," + std::to_string(s[1]) + "," + std::to_string(s[2]);
    array x(dtype, s[0] * s[1] * s[2]), y(dtype, s[0] * s[2]);
    x.random();
    std::vector<double> want((size_t)(s[0] * s[2]));
    for (int op = 0; op <= KAVA_MIN; op++) {
      if (op >= KAVA_MAX && s[1] == 0) continue;
      if (op >= KAVA_MAX && s[1] == 300) x.values[77] = NAN, x.upload();
      gpu->reduce((kava_reduce)op, dtype, x.at(), y.at(), s[0], s[1], s[2], 0.25);
      cpu->reduce((kava_reduce)op, KAVA_F64, x.f64(), want.data(), s[0], s[1], s[2], 0.25);
      compare("reduce " + std::to_string(op) + " of " + name, y, want, tolerance);
      if (op < KAVA_MAX) continue;
      std::vector<int64_t> place((size_t)(s[0] * s[2]));
      list<int64_t> index(place);
      gpu->argreduce((kava_reduce)op, dtype, x.at(), index.device, s[0], s[1], s[2]);
      cpu->argreduce((kava_reduce)op, KAVA_F64, x.f64(), place.data(), s[0], s[1], s[2]);
      expect("argreduce " + std::to_string(op) + " of " + name, index.download() == place);
    }
  }
  for (int64_t n : {1, 40, 700}) {
    array x(dtype, 3 * n), y(dtype, 3 * n), gy(dtype, 3 * n), gx(dtype, 3 * n);
    for (int logarithm = 0; logarithm < 2; logarithm++) {
      x.random(5), gy.random(), gx.random();
      if (n == 40) x.values[3] = -INFINITY, x.upload();
      std::vector<double> want((size_t)(3 * n)), want_gx = gx.values;
      std::string name = std::to_string(n) + (logarithm ? " log" : "");
      gpu->softmax(dtype, x.at(), y.at(), 3, n, logarithm);
      cpu->softmax(KAVA_F64, x.f64(), want.data(), 3, n, logarithm);
      compare("softmax of " + name, y, want, 2 * tolerance);
      y.set(want);
      gpu->softmax_grad(dtype, y.at(), gy.at(), gx.at(), 3, n, logarithm, logarithm);
      cpu->softmax_grad(KAVA_F64, y.f64(), gy.f64(), want_gx.data(), 3, n, logarithm, logarithm);
      compare("softmax_grad of " + name, gx, want_gx, 10 * tolerance);
    }
  }
}

/* The place of the first element of `got` that is another number than `want`'s, both as bytes; count: there is none. A
 * NaN may be any NaN: a GPU makes its own of every one that it converts (0x7fffffff, 0x7fff), a CPU keeps its bits. */
static int64_t first_other(kava_dtype dtype, const std::vector<uint8_t> &got, const std::vector<uint8_t> &want,
                           int64_t count, double numbers[2]) {
  size_t size = (size_t)kava_dtype_block_bytes(dtype);
  for (int64_t i = 0; i < count; i++) {
    const uint8_t *a = &got[(size_t)i * size], *b = &want[(size_t)i * size];
    cpu->convert(dtype, a, KAVA_F64, &numbers[0], 1);
    cpu->convert(dtype, b, KAVA_F64, &numbers[1], 1);
    if (memcmp(a, b, size) && !(std::isnan(numbers[0]) && std::isnan(numbers[1]))) return i;
  }
  return count;
}

/* every pair of plain types, through both sides' convert */
static void check_convert() {
  static const kava_dtype types[] = {KAVA_F64, KAVA_F32, KAVA_F16, KAVA_BF16, KAVA_I64,
                                     KAVA_I32, KAVA_I16, KAVA_I8,  KAVA_U8,   KAVA_BOOL};
  std::vector<double> numbers = {0,     -0.0,   1,   -1,   0.5,  -2.5,  127.9, 128,      255,       256, -300,
                                 70000, -70000, 3e9, -3e9, 1e19, -1e19, 1e-6,  INFINITY, -INFINITY, NAN};
  for (int i = 0; i < 40; i++) numbers.push_back(uniform() * 200);
  int64_t n = (int64_t)numbers.size();
  for (kava_dtype from : types) {
    std::vector<uint8_t> source((size_t)n * 8);
    cpu->convert(KAVA_F64, numbers.data(), from, source.data(), n);
    list<uint8_t> x(source);
    for (kava_dtype to : types) {
      std::vector<uint8_t> want((size_t)n * 8, 0);
      list<uint8_t> y(want);
      cpu->convert(from, source.data(), to, want.data(), n);
      gpu->convert(from, x.device, to, y.device, n);
      std::string name = std::string("convert ") + kava_dtype_name(from) + " to " + kava_dtype_name(to);
      double is[2];
      int64_t other = first_other(to, y.download(), want, n, is);
      if (other < n)
        name += ": " + std::to_string(numbers[(size_t)other]) + " became " + std::to_string(is[0]) + ", " +
                std::to_string(is[1]) + " expected";
      expect(name, other == n);
    }
  }
  for (int kind = 0; kind < 6; kind++)
    for (kava_dtype to : {KAVA_F32, KAVA_BF16}) {
      array x(KAVA_F32, 300), y(to, 120);
      x.random();
      kava_strided s = layout(kind);
      std::vector<double> want(120);
      s.in[0] = x.f64(), s.out = want.data();
      cpu->copy(KAVA_F64, KAVA_F64, &s);
      s.in[0] = x.at(), s.out = y.at();
      gpu->copy(KAVA_F32, to, &s);
      compare("copy, strides " + std::to_string(kind), y, want, to == KAVA_F32 ? 0 : unit(to) / 2);
    }
}

void check_plain() {
  for (kava_dtype dtype : {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64}) {
    check_elementwise(dtype);
    check_reduce(dtype);
  }
  check_convert();
  std::vector<int64_t> a = {3, -7, INT64_MAX, 5, 0, -2}, b = {2, 3, 1, 0, 9, 5}, want(6);
  list<int64_t> x(a), y(b), out(want);
  kava_strided s = {};
  s.dims = 1, s.shape[0] = 6, s.in_stride[0][0] = s.in_stride[1][0] = s.out_stride[0] = 1;
  for (int op = 0; op <= KAVA_MINIMUM; op++) {
    s.in[0] = a.data(), s.in[1] = b.data(), s.out = want.data();
    cpu->binary((kava_binary)op, KAVA_I64, &s);
    s.in[0] = x.device, s.in[1] = y.device, s.out = out.device;
    gpu->binary((kava_binary)op, KAVA_I64, &s);
    expect("binary i64 " + std::to_string(op), out.download() == want);
  }
  for (int op = 0; op <= KAVA_MIN; op++) {
    want[0] = 0;
    cpu->reduce((kava_reduce)op, KAVA_I64, a.data(), want.data(), 1, 6, 1, 1);
    gpu->reduce((kava_reduce)op, KAVA_I64, x.device, out.device, 1, 6, 1, 1);
    expect("reduce i64 " + std::to_string(op), out.download()[0] == want[0]);
  }
}

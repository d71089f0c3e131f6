/* spec/cuda/fp8_check.cu: fp8.cu against sums in f64 of the same codes, which are found here once more, and its ways
 * round what a GPU or its library lacks. */
#include "check.h"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/gemm.cuh"
#include <cmath>

/* The values that codes with a scale a row stand for. */
static std::vector<double> quantised(const std::vector<double> &x, int64_t width, std::vector<uint8_t> *codes,
                                     std::vector<float> *scales) {
  std::vector<double> out(x.size());
  for (size_t r = 0; r < x.size() / (size_t)width; r++) {
    float most = 0;
    for (size_t i = 0; i < (size_t)width; i++) most = std::max(most, fabsf((float)x[r * (size_t)width + i]));
    float factor = 448.0f * (1 / most);
    if (!(factor <= 3.0e38f)) factor = 0;
    scales->push_back(most / 448);
    for (size_t i = r * (size_t)width; i < (r + 1) * (size_t)width; i++) {
      codes->push_back(kava_f32_to_fp8((float)x[i] * factor));
      out[i] = (double)kava_fp8_to_f32(codes->back()) * (double)scales->back();
    }
  }
  return out;
}

/* (f(gate) up) W^T + residual in one is what it is in two, to the bit. */
static void gated(const std::string &name, const kava_linear_args &a, array *bias, bool expected) {
  int64_t count = a.rows * a.in;
  array gate(a.dtype, count), up(a.dtype, count), x(a.dtype, count), one(a.dtype, a.rows * a.out),
      two(a.dtype, a.rows * a.out);
  gate.random(4);
  up.random();
  one.fill(NAN);
  for (kava_activation kind : {KAVA_SILU, KAVA_GELU, KAVA_GELU_TANH}) {
    kava_status st = gpu->linear_gated(&a, kind, gate.at(), up.at(), bias ? bias->at() : NULL, one.at());
    expect(name + ", gated", st == (expected ? KAVA_OK : KAVA_UNSUPPORTED));
    if (st != KAVA_OK) return;
    kava_gated_args both = {};
    both.kind = kind, both.dtype = a.dtype, both.count = count, both.gate = gate.at(), both.up = up.at(),
    both.y = x.at();
    gpu->gated(&both);
    gpu->linear_forward(&a, x.at(), bias ? bias->at() : NULL, two.at());
    expect(name + ", gated as in two", one.download() == two.download());
  }
}

static void linear(const char *way, kava_dtype dtype, int64_t rows, int64_t in, int64_t out, int64_t first,
                   bool with_bias, bool expected, bool added = false) {
  setenv("KAVA_EMULATED_FP8", way, 1);
  array x(dtype, rows * in), w(KAVA_F32, (first + out) * in), bias(dtype, out), y(dtype, rows * out),
      residual(dtype, rows * out);
  x.random(3);
  for (int64_t i = 0; i < in; i++) x.values[(size_t)i] = 0; /* a row of nothing */
  x.upload();
  w.random(0.1);
  bias.random();
  residual.random(5);
  y.fill(NAN);
  std::vector<uint8_t> x_codes, w_codes;
  std::vector<float> x_scales, w_scales;
  std::vector<double> w_is = quantised(w.values, in, &w_codes, &w_scales),
                      x_is = quantised(x.values, in, &x_codes, &x_scales);
  list<uint8_t> codes(w_codes);
  list<float> scales(w_scales);
  kava_scaling s = {};
  s.columns = s.group = in, s.rows = 1, s.across = 1, s.type = s.round = KAVA_F32, s.scales = scales.device;
  kava_linear_args a = {};
  a.dtype = dtype, a.rows = rows, a.in = in, a.out = out, a.w = codes.device + first * in, a.wtype = KAVA_FP8;
  a.scaling = &s, a.first = first, a.residual = added ? residual.at() : NULL;
  std::string name = std::string("fp8 ") + (*way ? way : "scaled") + " " + kava_dtype_name(dtype) + " " +
                     std::to_string(rows) + " x " + std::to_string(in) + " to " + std::to_string(out) +
                     (first ? " of more" : "") + (added ? " added" : "");
  kava_status st = kava_cuda_linear_fp8(&a, x.at(), with_bias ? bias.at() : NULL, y.at());
  expect(name + (expected ? " is multiplied in fp8" : " is not"), st == (expected ? KAVA_OK : KAVA_UNSUPPORTED));
  if (st == KAVA_UNSUPPORTED) { /* all the same there is a result: of W's values, rounded to x's type */
    array rounded(dtype, (first + out) * in);
    rounded.set(w_is);
    w_is = rounded.values, x_is = x.values;
    expect(name + ", widened", gpu->linear_forward(&a, x.at(), with_bias ? bias.at() : NULL, y.at()) == KAVA_OK);
  }
  gated(name, a, with_bias ? &bias : NULL, expected);
  std::vector<double> want((size_t)(rows * out));
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < out; j++) {
      double sum = 0;
      for (int64_t k = 0; k < in; k++) sum += x_is[(size_t)(i * in + k)] * w_is[(size_t)((first + j) * in + k)];
      want[(size_t)(i * out + j)] =
          sum + (with_bias ? bias.values[(size_t)j] : 0) + (added ? residual.values[(size_t)(i * out + j)] : 0);
    }
  /* y rounded at most twice; a GPU keeps 14 bits of a sum at each step of 32 products */
  compare(name, y, want, 3 * unit(dtype) + 0x1p-16 * (double)in);
}

/* Codes of a norm's rows: each the nearest to what the norm gives in f64, but for the norm's own rounding in f32; and
 * products of them. */
static void normed(kava_dtype dtype, int64_t rows, int64_t width, bool centre, bool wide, bool fits) {
  std::string name = std::string("fp8 of ") + (centre ? "layer" : "rms") + " norm " + kava_dtype_name(dtype) + " " +
                     std::to_string(rows) + " x " + std::to_string(width) + (wide ? " wide" : "");
  array x(dtype, rows * width), w(wide ? KAVA_F32 : dtype, width), b(wide ? KAVA_F32 : dtype, width);
  x.random(3, 0.5);
  for (int64_t i = 0; i < width; i++) x.values[(size_t)i] = 0; /* a row of nothing */
  x.upload();
  w.random();
  b.random();
  kava_norm_args a = {};
  a.dtype = dtype, a.centre = centre, a.rows = rows, a.width = width, a.eps = 1e-6, a.wide = wide;
  a.x = x.at(), a.w = w.at(), a.b = centre ? b.at() : NULL;
  kava_norm_args f64 = a;
  std::vector<double> y((size_t)(rows * width));
  f64.dtype = KAVA_F64, f64.x = x.f64(), f64.w = w.f64(), f64.b = centre ? b.f64() : NULL, f64.y = y.data();
  f64.wide = false;
  cpu->norm(&f64);
  list<uint8_t> codes(std::vector<uint8_t>((size_t)(rows * width + 16), 0x7f));
  list<float> scales(std::vector<float>((size_t)rows, NAN));
  kava_status st = kava_cuda_fp8_norm_rows(&a, codes.device, scales.device);
  expect(name, st == (fits ? KAVA_OK : KAVA_UNSUPPORTED));
  if (st != KAVA_OK) return;
  std::vector<uint8_t> got = codes.download();
  std::vector<float> scale = scales.download();
  bool right = true;
  for (int64_t r = 0; r < rows; r++) {
    double most = 0;
    for (int64_t i = r * width; i < (r + 1) * width; i++) most = std::max(most, fabs(y[(size_t)i]));
    right = right && fabs(scale[(size_t)r] - most / 448) <= 1e-5 * most / 448;
    for (int64_t i = r * width; i < (r + 1) * width; i++) {
      double value = most > 0 ? y[(size_t)i] / most * 448 : 0, is = (double)kava_fp8_to_f32(got[(size_t)i]);
      /* half a step: 2^-4 of a normal code, 2^-10 below 2^-6; and a few roundings of f32 on the way to it */
      right = right && fabs(is - value) <= std::max(fabs(value) / 16, 0x1p-10) * (1 + 1e-4) + 1e-4 * fabs(value);
    }
  }
  expect(name + ": codes and scales", right);
  expect(name + ": nothing behind them", got.back() == 0x7f);
}

/* Several layers of one norm: products of its codes, in f64. */
static void linear_normed(const char *way, kava_dtype dtype, int64_t rows, int64_t in, bool expected) {
  setenv("KAVA_EMULATED_FP8", way, 1);
  std::string name = std::string("linear_normed ") + (*way ? way : "scaled") + " " + kava_dtype_name(dtype) + " " +
                     std::to_string(rows) + " x " + std::to_string(in);
  int64_t outs[2] = {48, 32};
  array x(dtype, rows * in), g(dtype, in), first(dtype, rows * outs[0]), second(dtype, rows * outs[1]),
      bias(dtype, outs[1]);
  x.random(3);
  g.random(0.2, 1);
  bias.random();
  kava_norm_args norm = {};
  norm.dtype = dtype, norm.rows = rows, norm.width = in, norm.eps = 1e-6, norm.x = x.at(), norm.w = g.at();
  array w(KAVA_F32, (outs[0] + outs[1]) * in);
  w.random(0.1);
  std::vector<uint8_t> w_codes;
  std::vector<float> w_scales;
  std::vector<double> w_is = quantised(w.values, in, &w_codes, &w_scales);
  list<uint8_t> codes(w_codes), x_codes(std::vector<uint8_t>((size_t)(rows * in)));
  list<float> scales(w_scales), x_scales(std::vector<float>((size_t)rows));
  kava_scaling s = {};
  s.columns = s.group = in, s.rows = 1, s.across = 1, s.type = s.round = KAVA_F32, s.scales = scales.device;
  kava_linear_args a[2] = {};
  for (int i = 0; i < 2; i++) {
    a[i].dtype = dtype, a[i].rows = rows, a[i].in = in, a[i].out = outs[i], a[i].wtype = KAVA_FP8, a[i].scaling = &s;
    a[i].first = i ? outs[0] : 0, a[i].w = codes.device + a[i].first * in;
  }
  const void *biases[2] = {NULL, bias.at()};
  void *y[2] = {first.at(), second.at()};
  kava_status st = gpu->linear_normed(&norm, 2, a, biases, y);
  expect(name + (expected ? "" : " is not there"), st == (expected ? KAVA_OK : KAVA_UNSUPPORTED));
  if (st != KAVA_OK) return;
  kava_cuda_fp8_norm_rows(&norm, x_codes.device, x_scales.device);
  std::vector<uint8_t> x_is = x_codes.download();
  std::vector<float> x_scale = x_scales.download();
  for (int i = 0; i < 2; i++) {
    std::vector<double> want((size_t)(rows * outs[i]));
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < outs[i]; j++) {
        double sum = 0;
        for (int64_t k = 0; k < in; k++)
          sum += (double)kava_fp8_to_f32(x_is[(size_t)(r * in + k)]) * w_is[(size_t)((a[i].first + j) * in + k)];
        want[(size_t)(r * outs[i] + j)] = sum * (double)x_scale[(size_t)r] + (i ? bias.values[(size_t)j] : 0);
      }
    compare(name, i ? second : first, want, 3 * unit(dtype) + 0x1p-16 * (double)in);
  }
}

/* The frozen MLP in one: f(gate) up as codes beside f64's of the same codes of x, their powers of 64 and what one scale
 * a row makes of them, to the bit, where some rows hold nothing or a NaN; and their product with down. */
struct codes_of { /* a layer's */
  std::vector<uint8_t> codes;
  std::vector<float> scales;
  std::vector<double> is;
  list<uint8_t> *there;
  list<float> *scale;
  kava_scaling scaling = {};
  codes_of(int64_t out, int64_t in, int64_t large) { /* rows from there on are a thousandth */
    array w(KAVA_F32, out * in);
    w.random(0.1);
    for (int64_t i = large * in; i < out * in; i++) w.values[(size_t)i] /= 1024;
    is = quantised(w.values, in, &codes, &scales);
    there = new list<uint8_t>(codes), scale = new list<float>(scales);
    scaling.columns = scaling.group = in, scaling.rows = 1, scaling.across = 1;
    scaling.type = scaling.round = KAVA_F32, scaling.scales = scale->device;
  }
  codes_of(const codes_of &) = delete;
  ~codes_of() { delete there, delete scale; }
};
static void gated_mlp(int64_t rows, int64_t in, int64_t width, int64_t first, bool expected) {
  int64_t out = 48;
  std::string name = "gated_mlp " + std::to_string(rows) + " x " + std::to_string(in) + " to " + std::to_string(width);
  int64_t tiles = (width + KAVA_FP8_TILE - 1) / KAVA_FP8_TILE;
  array x(KAVA_BF16, rows * in), g(KAVA_BF16, in), y(KAVA_BF16, rows * out), bias(KAVA_BF16, out),
      residual(KAVA_BF16, rows * out);
  list<uint8_t> act(std::vector<uint8_t>((size_t)(2 * rows * width + 16), 7));
  x.random(3);
  /* Of x, whose norm then gives zeros or NaN. */
  auto row = [&](int64_t r, double value) {
    for (int64_t i = 0; r < rows && i < in; i++) x.values[(size_t)(r * in + i)] = value;
  };
  row(1, 0), row(4, NAN);
  x.upload();
  g.random(0.2, 1);
  bias.random();
  residual.random(5);
  y.fill(NAN);
  codes_of gate(first + width, in, first + width), up(first + width, in, first + KAVA_FP8_TILE), down(out, width, out);
  kava_norm_args norm = {};
  norm.dtype = KAVA_BF16, norm.rows = rows, norm.width = in, norm.eps = 1e-6, norm.x = x.at(), norm.w = g.at();
  kava_linear_args layers[3] = {};
  for (int i = 0; i < 3; i++) {
    codes_of &w = i == 0 ? gate : i == 1 ? up : down;
    kava_linear_args &a = layers[i];
    a.dtype = KAVA_BF16, a.rows = rows, a.in = i == 2 ? width : in, a.out = i == 2 ? out : width, a.wtype = KAVA_FP8;
    a.first = i == 2 ? 0 : first, a.scaling = &w.scaling, a.w = w.there->device + a.first * a.in;
  }
  layers[2].residual = residual.at();
  kava_status st = gpu->gated_mlp(&norm, KAVA_SILU, layers, bias.at(), act.device, y.at());
  expect(name + (expected ? "" : " is not there"), st == (expected ? KAVA_OK : KAVA_UNSUPPORTED));
  if (st != KAVA_OK) return;

  list<uint8_t> x_codes(std::vector<uint8_t>((size_t)(rows * in)));
  list<float> x_scales(std::vector<float>((size_t)rows)), scales(std::vector<float>((size_t)rows, NAN));
  kava_cuda_fp8_norm_rows(&norm, x_codes.device, x_scales.device);
  std::vector<uint8_t> x_is = x_codes.download();
  std::vector<float> x_scale = x_scales.download();
  auto product = [&](const codes_of &w, int64_t r, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < in; k++)
      sum += (double)kava_fp8_to_f32(x_is[(size_t)(r * in + k)]) * w.is[(size_t)((first + j) * in + k)];
    return (double)kava_bf16_to_f32(kava_f32_to_bf16((float)(sum * (double)x_scale[(size_t)r])));
  };
  list<uint8_t> made(std::vector<uint8_t>((size_t)(rows * width)));
  list<int8_t> made_powers(std::vector<int8_t>((size_t)(rows * tiles), 99));
  expect(name + " of codes", kava_cuda_gate_up_fp8(x_codes.device, x_scales.device, &layers[0], &layers[1], made.device,
                                                   made_powers.device) == KAVA_OK);
  std::vector<uint8_t> codes = made.download();
  std::vector<int8_t> powers = made_powers.download();
  auto power = [&](int64_t r, int64_t j) { return (int)powers[(size_t)(j / KAVA_FP8_TILE * rows + r)]; };
  bool right = true, least = true;
  for (int64_t r = 0; r < rows; r++)
    for (int64_t from = 0; from < width; from += KAVA_FP8_TILE) {
      double most = 0, scale = ldexp(1, KAVA_FP8_OCTAVES * power(r, from));
      for (int64_t j = from; j < width && j < from + KAVA_FP8_TILE; j++) {
        double v = product(gate, r, j), u = product(up, r, j), want = v / (1 + exp(-v)) * u;
        double is = (double)kava_fp8_to_f32(codes[(size_t)(r * width + j)]) * scale;
        double off = 4 * unit(KAVA_BF16) * (1 + fabs(want)) + fmax(fabs(want) / 16, scale / 1024);
        right = right && (want != want ? is != is : fabs(is - want) <= off);
        most = fmax(most, fabs(is));
      }
      least = least && most <= 448 * scale && (most > 6.5 * scale || power(r, from) == -20);
    }
  expect(name + ": f(gate) up as codes", right);
  expect(name + ": with the least powers", least);

  kava_cuda_fp8_one_scale(made.device, made_powers.device, rows, width, scales.device);
  std::vector<uint8_t> shifted = made.download(), act_is = act.download();
  std::vector<float> scale = scales.download();
  for (int64_t r = 0; r < rows; r++) {
    int most = -128;
    for (int64_t t = 0; t < tiles; t++) most = std::max(most, power(r, t * KAVA_FP8_TILE));
    right = right && scale[(size_t)r] == ldexpf(1, KAVA_FP8_OCTAVES * most);
    for (int64_t j = 0; j < width; j++) {
      size_t at = (size_t)(r * width + j);
      float value = ldexpf(kava_fp8_to_f32(codes[at]), KAVA_FP8_OCTAVES * (power(r, j) - most));
      right = right && (shifted[at] & (value != value ? 0x7f : 0xff)) == kava_f32_to_fp8(value);
    }
  }
  expect(name + ": brought to one scale a row", right);
  expect(name + " works with them", memcmp(act_is.data(), shifted.data(), shifted.size()) == 0);
  for (int64_t i = 2 * rows * width; i < 2 * rows * width + 16; i++) right = right && act_is[(size_t)i] == 7;
  expect(name + ": nothing behind its room", right);

  std::vector<double> one = y.download();
  for (int64_t r = 0; r < rows; r++)
    for (int64_t o = 0; o < out; o++) {
      double sum = bias.values[(size_t)o] + residual.values[(size_t)(r * out + o)], size = fabs(sum);
      for (int64_t j = 0; j < width; j++) {
        double by = (double)kava_fp8_to_f32(shifted[(size_t)(r * width + j)]) * (double)scale[(size_t)r] *
                    down.is[(size_t)(o * width + j)];
        sum += by, size += fabs(by);
      }
      double is = one[(size_t)(r * out + o)];
      right = right && (sum != sum ? is != is : fabs(is - sum) <= 2 * unit(KAVA_BF16) * fabs(sum) + size * 0x1p-12);
    }
  expect(name + ": their product with down", right);
}
static void gated_mlps() {
  bool hopper = kava_wgmma_built() && kava_cuda_device()->major == 9;
  setenv("KAVA_EMULATED_FP8", "", 1);
  gated_mlp(9, 1024, 64, 0, false); /* few tiles are not for it */
  kava_cuda_gate_up_enough(1);
  gated_mlp(9, 896, 64, 0, false);  /* nor short sums */
  gated_mlp(9, 1024, 72, 0, false); /* nor rows of other lengths */
  gated_mlp(128, 1024, 128, 0, hopper);
  gated_mlp(1, 912, 16, 0, hopper);
  gated_mlp(259, 1040, 144, 4, hopper); /* edges in every direction */
  gated_mlp(600, 1168, 144, 0, hopper); /* a block has several tiles */
  kava_cuda_gate_up_enough(0);
}

void check_fp8() {
  const kava_cuda_facts *facts = kava_cuda_device();
  bool has = facts->major > 8 || (facts->major == 8 && facts->minor == 9), plain = has, none = has;
#ifdef KAVA_EMULATED_CUDA_RUNTIME_H /* on which the environment makes no impression */
  none = false;
#endif
  linear("", KAVA_BF16, 5, 64, 48, 0, true, has);
  linear("", KAVA_BF16, 33, 4112, 16, 0, false, has);
  linear("", KAVA_F16, 7, 48, 32, 0, true, has && facts->major == 9);
  linear("", KAVA_BF16, 2, 24576, 16, 0, false, has); /* gated: rows of 48 KiB */
  linear("", KAVA_BF16, 6, 64, 32, 4, true, has);
  linear("", KAVA_BF16, 6, 64, 32, 3, true, false); /* scales not at a multiple of 16 bytes */
  linear("", KAVA_BF16, 6, 72, 32, 0, true, false);
  linear("", KAVA_BF16, 6, 64, 40, 0, false, false);
  linear("", KAVA_F32, 6, 64, 32, 0, true, false);
  linear("", KAVA_BF16, 33, 64, 48, 4, true, has, true);
  linear("", KAVA_F16, 7, 48, 32, 0, false, has && facts->major == 9, true);
  linear("alone", KAVA_BF16, 11, 64, 48, 0, true, has, true);
  linear("alone", KAVA_F16, 11, 64, 48, 0, true, has && facts->major == 9, true);
  linear("plain", KAVA_BF16, 9, 80, 48, 0, true, plain);
  linear("plain", KAVA_BF16, 9, 2064, 48, 0, true, plain, true);
  linear("plain", KAVA_BF16, 9, 96, 2064, 4, false, plain);
  linear("plain", KAVA_F16, 9, 112, 32, 0, true, has && facts->major == 9 && none);
  linear("none", KAVA_BF16, 8, 80, 32, 0, true, none);
  linear("none", KAVA_BF16, 8, 80, 32, 0, true, none); /* remembered */
  linear("none", KAVA_BF16, 8, 80, 32, 0, true, none, true);
  linear_normed("", KAVA_BF16, 9, 64, has);
  linear_normed("", KAVA_BF16, 5, 1536, has);
  linear_normed("plain", KAVA_BF16, 5, 2064, plain);
  linear_normed("none", KAVA_BF16, 6, 80, none);
  gated_mlps();
  unsetenv("KAVA_EMULATED_FP8");
  for (kava_dtype dtype : {KAVA_BF16, KAVA_F16})
    for (int i = 0; i < 4; i++) {
      normed(dtype, 5, i & 1 ? 512 : 24, i & 2, !(i & 1), true);
      normed(dtype, 7, i & 1 ? 1024 : 776, i & 2, i & 1, true);
    }
  normed(KAVA_BF16, 3, 1536, false, false, true);
  normed(KAVA_BF16, 2, 2048, true, true, true);
  normed(KAVA_BF16, 3, 3584, false, true, true);
  normed(KAVA_BF16, 2, 8192, true, false, true);
  normed(KAVA_BF16, 2, 8200, false, false, false);
  normed(KAVA_BF16, 2, 20, false, false, false);
  normed(KAVA_F32, 2, 64, false, false, false);
}

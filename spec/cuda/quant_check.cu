/* spec/cuda/quant_check.cu: quant.cu against the reference, to the bit. Any bytes are a quantised weight. */
#include "check.h"
#include <cmath>
#include <cstring>

static std::vector<uint8_t> random_bytes(size_t count) {
  std::vector<uint8_t> bytes(count);
  for (uint8_t &b : bytes) b = (uint8_t)((uniform() + 1) * 128);
  return bytes;
}
static bool same(const std::vector<float> &a, const std::vector<float> &b) {
  for (size_t i = 0; i < a.size(); i++)
    if (!(std::isnan(a[i]) && std::isnan(b[i])) && memcmp(&a[i], &b[i], 4) != 0) {
      printf("# %zu: %.9g, %.9g expected\n", i, (double)a[i], (double)b[i]);
      return false;
    }
  return true;
}

/* What a GPU makes is what the reference makes, to the bit: codes and scales, of values that hit halves, zeros and
 * ends.
 */
static void encode(kava_dtype type, kava_dtype from, int64_t rows, int64_t columns, int64_t group, int64_t group_rows,
                   float most) {
  int64_t count = rows * columns;
  array x(from, count);
  x.random(3);
  for (int64_t i = 0; i < count; i += 7) x.values[(size_t)i] = (double)((i / 7) % 19 - 9) / 8;
  for (int64_t i = 0; i < columns; i++) x.values[(size_t)i] = 0; /* a row or groups of nothing */
  for (int64_t i = columns; i < count && i < columns + 3; i++)
    x.values[(size_t)i] = -1e-42 * (double)(from == KAVA_F32);
  x.upload();
  std::vector<float> plain(x.values.begin(), x.values.end());
  kava_encode_args a = {};
  a.type = type, a.from = KAVA_F32, a.group = group, a.group_rows = group_rows, a.most = most;
  a.rows = type == KAVA_NF4 ? 1 : rows, a.columns = type == KAVA_NF4 ? count : columns;
  a.across = (a.columns + group - 1) / group;
  int64_t groups = (a.rows + group_rows - 1) / group_rows * a.across;
  std::vector<uint8_t> codes((size_t)(count / kava_dtype_block(type)));
  std::vector<float> scales((size_t)groups);
  a.x = plain.data(), a.codes = codes.data(), a.scales = scales.data();
  cpu->encode(&a, 0, groups);
  list<uint8_t> c(std::vector<uint8_t>(codes.size(), 0xa5));
  list<float> s(std::vector<float>(scales.size(), NAN));
  list<int32_t> bad({0});
  a.from = from, a.x = x.at(), a.codes = c.device, a.scales = s.device, a.bad = bad.device;
  gpu->encode(&a, 0, groups);
  std::string name = std::string("encode ") + kava_dtype_name(type) + " of " + kava_dtype_name(from) + " " +
                     std::to_string(rows) + " x " + std::to_string(columns) + " by " + std::to_string(group_rows) +
                     " x " + std::to_string(group);
  expect(name, c.download() == codes && same(s.download(), scales) && bad.download()[0] == 0);
  x.values[(size_t)(count - 1)] = INFINITY;
  x.upload();
  gpu->encode(&a, 0, groups);
  expect(name + ", one infinite", bad.download()[0] == 1);
}

static void narrow(kava_dtype type) {
  std::vector<float> values(32 * 50);
  for (size_t i = 0; i < values.size(); i++)
    values[i] = i < 32    ? 0.0f
                : i < 64  ? (i % 2 ? -0.0f : 0.0f)
                : i < 320 ? (float)((int)(i * 37 % 33) - 16) / 4 /* ties, both ends as far */
                          : (float)uniform();
  list<float> x(values);
  std::vector<uint8_t> want((size_t)(50 * kava_dtype_block_bytes(type)));
  cpu->narrow(type, values.data(), want.data(), (int64_t)values.size());
  list<uint8_t> out(std::vector<uint8_t>(want.size(), 0xa5));
  gpu->narrow(type, x.device, out.device, (int64_t)values.size());
  std::vector<uint8_t> is = out.download();
  size_t bad = 0;
  while (bad < is.size() && is[bad] == want[bad]) bad++;
  cudaError_t error;
  const char *failed = kava_cuda_failure(&error);
  std::string what = std::string("narrow to ") + kava_dtype_name(type);
  if (failed) what += std::string(": ") + failed + ": " + cudaGetErrorString(error);
  if (bad < is.size())
    what += ": byte " + std::to_string(bad) + " of " + std::to_string(is.size()) + " is " + std::to_string(is[bad]) +
            ", " + std::to_string(want[bad]) + " expected";
  expect(what, !failed && bad == is.size());
}

enum { ROWS = 6 };
struct way {
  const char *name;
  int64_t group, rows, across;
  bool ordered, zeros, doubled;
  kava_dtype scales, round;
};
/* Codes with their scales, a matrix at once. */
static void scaled(const way &w, kava_dtype type, int64_t columns) {
  int64_t block = kava_dtype_block(type), bytes = ROWS * columns / block * kava_dtype_block_bytes(type);
  list<uint8_t> src(random_bytes((size_t)bytes)), zeros(random_bytes(64)), codes(random_bytes(64));
  std::vector<float> numbers(256), outer(8);
  for (float &x : numbers) x = (float)uniform();
  for (float &x : outer) x = (float)uniform();
  list<float> map(numbers), outers(outer);
  std::vector<uint8_t> scale_bytes(256);
  cpu->convert(KAVA_F32, numbers.data(), w.scales == KAVA_U8 ? KAVA_F32 : w.scales, scale_bytes.data(), 64);
  if (w.doubled) scale_bytes = codes.values;
  list<uint8_t> scales(scale_bytes);
  std::vector<int32_t> order(columns);
  for (int i = 0; i < columns; i++) order[(size_t)i] = (i * 7 + 3) % 3;
  list<int32_t> group_of(order);
  kava_scaling s = {}, d;
  s.columns = columns, s.group = w.group, s.rows = w.rows, s.across = w.across, s.type = w.scales, s.round = w.round;
  s.outer_group = 5, s.offset = 0.125f, s.zero = 7;
  d = s;
  s.scales = scale_bytes.data(), s.map = numbers.data(), s.outer = outer.data();
  d.scales = scales.device, d.map = map.device, d.outer = outers.device;
  if (w.zeros) s.zeros = zeros.values.data(), d.zeros = zeros.device;
  if (w.ordered) s.group_of = order.data(), d.group_of = group_of.device;
  std::vector<float> want(ROWS * columns);
  for (int r = 0; r < ROWS; r++)
    cpu->widen_scaled(type, src.values.data() + bytes / ROWS * r, &s, r, 0, want.data() + r * columns, columns);
  list<float> out(std::vector<float>(ROWS * columns, NAN));
  gpu->widen_scaled(type, src.device, &d, 0, 0, out.device, ROWS * columns);
  expect(std::string("widen_scaled ") + kava_dtype_name(type) + ", " + w.name + ", " + std::to_string(columns) +
             " columns",
         same(out.download(), want));
}

void check_quant() {
  for (kava_dtype from : {KAVA_F32, KAVA_BF16, KAVA_F16}) {
    encode(KAVA_NF4, from, 5, 160, 64, 1, 1);
    encode(KAVA_NF4, from, 3, 50, 64, 1, 1);
    encode(KAVA_INT8, from, 6, 2056, 2056, 1, 127);
    encode(KAVA_INT8, from, 4, 13, 13, 1, 127);
    encode(KAVA_FP8, from, 6, 2056, 2056, 1, 448);
    encode(KAVA_FP8, from, 150, 272, 128, 128, 448);
    encode(KAVA_FP8, from, 130, 131, 128, 128, 448);
  }
  for (kava_dtype type : {KAVA_Q4_0, KAVA_Q4_1, KAVA_Q8_0}) narrow(type);
  for (int t = 0; t < KAVA_DTYPES; t++) {
    kava_dtype type = (kava_dtype)t;
    if (!kava_dtype_is_quantised(type) && !kava_dtype_is_float(type)) continue;
    int64_t blocks = 2048 / kava_dtype_block(type) + 1, count = blocks * kava_dtype_block(type);
    list<uint8_t> src(random_bytes((size_t)(blocks * kava_dtype_block_bytes(type))));
    std::vector<float> want((size_t)count);
    list<float> out(std::vector<float>((size_t)count, NAN));
    cpu->widen(type, src.values.data(), want.data(), count);
    gpu->widen(type, src.device, out.device, count);
    expect(std::string("widen ") + kava_dtype_name(type), same(out.download(), want));

    list<uint16_t> half(std::vector<uint16_t>((size_t)count, 0));
    kava_cuda_widen_matrix(type, src.device, nullptr, 0, 0, 8, count, KAVA_BF16, half.device);
    std::vector<uint16_t> is = half.download();
    bool right = true;
    for (size_t i = 0; i < is.size(); i++)
      right = right && (std::isnan(want[i]) ? (is[i] & 0x7fff) > 0x7f80 : is[i] == kava_f32_to_bf16(want[i]));
    expect(std::string("widen to bf16 ") + kava_dtype_name(type), right);
  }

  static const way ways[] = {{"a scale a row", 48, 1, 1, false, false, false, KAVA_F32, KAVA_F32},
                             {"groups of 16", 16, 1, 3, false, true, false, KAVA_F16, KAVA_F16},
                             {"groups of 12, over rows' ends", 12, 1, 0, false, false, true, KAVA_U8, KAVA_F32},
                             {"groups of 32, over rows' ends", 32, 1, 0, false, false, true, KAVA_U8, KAVA_BF16},
                             {"blocks of 2 x 16", 16, 2, 3, false, false, false, KAVA_BF16, KAVA_BF16},
                             {"groups in another order", 16, 1, 3, true, true, false, KAVA_F32, KAVA_F16}};
  for (const way &w : ways)
    for (kava_dtype type : {KAVA_NF4, KAVA_FP4, KAVA_INT2, KAVA_INT3, KAVA_INT4, KAVA_UINT8, KAVA_INT8, KAVA_FP8})
      for (int64_t columns : {48, 36}) /* 36: eight neighbours may be of two rows */
        if (columns % kava_dtype_block(type) == 0) scaled(w, type, columns);
}

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

void check_quant() {
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

  enum { ROWS = 6, COLUMNS = 48 };
  struct way {
    const char *name;
    int64_t group, rows, across;
    bool ordered, zeros, doubled;
    kava_dtype scales, round;
  };
  static const way ways[] = {{"a scale a row", COLUMNS, 1, 1, false, false, false, KAVA_F32, KAVA_F32},
                             {"groups of 16", 16, 1, 3, false, true, false, KAVA_F16, KAVA_F16},
                             {"groups of 12, over rows' ends", 12, 1, 0, false, false, true, KAVA_U8, KAVA_F32},
                             {"groups of 32, over rows' ends", 32, 1, 0, false, false, true, KAVA_U8, KAVA_BF16},
                             {"blocks of 2 x 16", 16, 2, 3, false, false, false, KAVA_BF16, KAVA_BF16},
                             {"groups in another order", 16, 1, 3, true, true, false, KAVA_F32, KAVA_F16}};
  for (const way &w : ways)
    for (kava_dtype type : {KAVA_NF4, KAVA_FP4, KAVA_INT2, KAVA_INT3, KAVA_INT4, KAVA_UINT8, KAVA_INT8, KAVA_FP8}) {
      int64_t block = kava_dtype_block(type), bytes = ROWS * COLUMNS / block * kava_dtype_block_bytes(type);
      list<uint8_t> src(random_bytes((size_t)bytes)), zeros(random_bytes(64)), codes(random_bytes(64));
      std::vector<float> numbers(256), outer(8);
      for (float &x : numbers) x = (float)uniform();
      for (float &x : outer) x = (float)uniform();
      list<float> map(numbers), outers(outer);
      std::vector<uint8_t> scale_bytes(256);
      cpu->convert(KAVA_F32, numbers.data(), w.scales == KAVA_U8 ? KAVA_F32 : w.scales, scale_bytes.data(), 64);
      if (w.doubled) scale_bytes = codes.values;
      list<uint8_t> scales(scale_bytes);
      std::vector<int32_t> order(COLUMNS);
      for (int i = 0; i < COLUMNS; i++) order[(size_t)i] = (i * 7 + 3) % 3;
      list<int32_t> group_of(order);
      kava_scaling s = {}, d;
      s.columns = COLUMNS, s.group = w.group, s.rows = w.rows, s.across = w.across, s.type = w.scales,
      s.round = w.round;
      s.outer_group = 5, s.offset = 0.125f, s.zero = 7;
      d = s;
      s.scales = scale_bytes.data(), s.map = numbers.data(), s.outer = outer.data();
      d.scales = scales.device, d.map = map.device, d.outer = outers.device;
      if (w.zeros) s.zeros = zeros.values.data(), d.zeros = zeros.device;
      if (w.ordered) s.group_of = order.data(), d.group_of = group_of.device;
      std::vector<float> want(ROWS * COLUMNS);
      for (int r = 0; r < ROWS; r++)
        cpu->widen_scaled(type, src.values.data() + bytes / ROWS * r, &s, r, 0, want.data() + r * COLUMNS, COLUMNS);
      list<float> out(std::vector<float>(ROWS * COLUMNS, NAN));
      gpu->widen_scaled(type, src.device, &d, 0, 0, out.device, ROWS * COLUMNS);
      expect(std::string("widen_scaled ") + kava_dtype_name(type) + ", " + w.name, same(out.download(), want));
    }
}

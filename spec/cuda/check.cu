/* spec/cuda/check.cu: the program that spec/cuda/kernels_spec.lua runs: kernels_check FAMILY [PART], on a GPU or under
 * the emulator. One line for each comparison; it fails when one of them does. kernels_check time [PART]: timing.cu. */
#include "check.h"
extern "C" {
#include "base/rng.h"
}
#include <cmath>
#include <cstring>

int failures;
const kava_kernels *gpu, *cpu;
static uint64_t stream_number, position;

void seed(uint64_t value) { stream_number = value, position = 0; }
double uniform() {
  uint32_t bits[4];
  kava_philox(17, stream_number, position++, bits);
  return 2 * (double)kava_unit_float(bits[0]) - 1;
}

double unit(kava_dtype dtype) {
  switch (dtype) {
  case KAVA_F64: return 0x1p-50;
  case KAVA_F32: return 0x1p-22;
  case KAVA_F16: return 0x1p-10;
  case KAVA_BF16: return 0x1p-7;
  default: return 0;
  }
}
static size_t size_of(kava_dtype dtype) { return dtype == KAVA_F64 ? 8 : dtype == KAVA_F32 ? 4 : 2; }

array::array(kava_dtype dtype_, int64_t count, bool odd) : dtype(dtype_), values((size_t)count, NAN) {
  size_t skip = odd ? size_of(dtype) : 0, bytes = (size_t)count * size_of(dtype) + skip;
  cudaMalloc(&room, bytes);
  if (bytes) cudaMemsetAsync(room, 0xff, bytes, kava_cuda_stream());
  device = room + skip;
}
static double rounded(kava_dtype dtype, double x) {
  switch (dtype) {
  case KAVA_F64: return x;
  case KAVA_F32: return (float)x;
  case KAVA_F16: return kava_f16_to_f32(kava_f32_to_f16((float)x));
  default: return kava_bf16_to_f32(kava_f32_to_bf16((float)x));
  }
}
array &array::set(const std::vector<double> &from) {
  for (size_t i = 0; i < values.size(); i++) values[i] = rounded(dtype, from[i]);
  upload();
  return *this;
}
array &array::random(double scale, double shift) {
  for (double &v : values) v = rounded(dtype, shift + scale * uniform());
  upload();
  return *this;
}
array &array::fill(double value) {
  for (double &v : values) v = rounded(dtype, value);
  upload();
  return *this;
}
void array::upload() {
  std::vector<char> bytes(values.size() * size_of(dtype));
  for (size_t i = 0; i < values.size(); i++) {
    float single = (float)values[i];
    uint16_t half = dtype == KAVA_F16 ? kava_f32_to_f16(single) : kava_f32_to_bf16(single);
    const void *from = dtype == KAVA_F64 ? (void *)&values[i] : dtype == KAVA_F32 ? (void *)&single : (void *)&half;
    memcpy(&bytes[i * size_of(dtype)], from, size_of(dtype));
  }
  if (bytes.empty()) return;
  cudaDeviceSynchronize(); /* kernels may still read what was there */
  cudaMemcpy(device, bytes.data(), bytes.size(), cudaMemcpyHostToDevice);
  cudaDeviceSynchronize(); /* a small copy may be on its way still, and kernels' stream does not wait for it */
}
std::vector<double> array::download() const {
  std::vector<char> bytes(values.size() * size_of(dtype));
  std::vector<double> to(values.size());
  cudaStreamSynchronize(kava_cuda_stream());
  if (!bytes.empty()) cudaMemcpy(bytes.data(), device, bytes.size(), cudaMemcpyDeviceToHost);
  for (size_t i = 0; i < to.size(); i++) {
    const char *from = &bytes[i * size_of(dtype)];
    float single;
    uint16_t half;
    if (dtype == KAVA_F64) memcpy(&to[i], from, 8);
    if (dtype == KAVA_F32) memcpy(&single, from, 4), to[i] = (double)single;
    if (dtype == KAVA_F16) memcpy(&half, from, 2), to[i] = (double)kava_f16_to_f32(half);
    if (dtype == KAVA_BF16) memcpy(&half, from, 2), to[i] = (double)kava_bf16_to_f32(half);
  }
  return to;
}

static const char *part = "";
bool wanted(const std::string &name) {
  static unsigned count;
  unsigned which, of;
  if (sscanf(part, "%u/%u", &which, &of) == 2 && of) return count++ % of == which % of;
  return name.find(part) != std::string::npos;
}

void expect(const std::string &what, bool holds) {
  if (!holds) failures++;
  printf("%s %s\n", holds ? "ok" : "not ok", what.c_str());
}
void compare(const std::string &what, const array &got, const std::vector<double> &want, double tolerance) {
  std::vector<double> is = got.download();
  double worst = 0;
  size_t place = 0, bad = 0;
  for (size_t i = 0; i < is.size(); i++) {
    bool same = is[i] == want[i] || (std::isnan(is[i]) && std::isnan(want[i]));
    double off = same ? 0 : fabs(is[i] - want[i]) / (1 + fabs(want[i]));
    if (!(off <= tolerance)) bad++;
    if (!(off <= worst)) worst = std::isnan(off) ? INFINITY : off, place = i;
  }
  cudaError_t error;
  const char *kernel = kava_cuda_failure(&error);
  if (kernel) printf("not ok %s: %s: %s\n", what.c_str(), kernel, cudaGetErrorString(error)), failures++;
  if (is.size() != want.size()) printf("not ok %s: sizes differ\n", what.c_str()), failures++;
  if (bad) {
    failures++;
    printf("not ok %s %s: %zu of %zu are off, by %.3g (%.3g allowed) at %zu: %.9g, %.9g expected\n", what.c_str(),
           kava_dtype_name(got.dtype), bad, is.size(), worst, tolerance, place, is[place], want[place]);
  } else {
    printf("ok %s %s %zu (%.2g of %.2g)\n", what.c_str(), kava_dtype_name(got.dtype), is.size(), worst, tolerance);
  }
}

int main(int argc, char **argv) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    printf("no device\n");
    return 3;
  }
  gpu = kava_cuda_kernels();
  cpu = kava_kernels_reference();
  bool found = false;
  if (argc > 2) part = argv[2];
  if (argc > 1 && strcmp(argv[1], "time") == 0) {
    time_kernels(false);
    return failures == 0 ? 0 : 1;
  }
  for (const family *f = families; f->name; f++) {
    if (argc > 1 && strcmp(argv[1], f->name) != 0) continue;
    if (argc == 1 && strncmp(f->name, "die-", 4) == 0) continue;
    found = true;
    f->run();
  }
  if (!found) printf("no such family\n");
  return found && failures == 0 ? 0 : 1;
}

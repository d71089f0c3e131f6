/* spec/cuda/check.h: how the programs under spec/cuda compare a GPU's kernel with the plain CPU reference in f64. */
#ifndef KAVA_SPEC_CUDA_CHECK_H
#define KAVA_SPEC_CUDA_CHECK_H
#include "kernels/cuda/cuda.cuh"
#include "kernels/cpu/half.h"
#include <stdio.h>
#include <stdlib.h>
#include <string>
#include <vector>

/* Numbers in f64, as the reference sees them, and the same on the device in `dtype`, to which they were rounded first.
 */
struct array {
  kava_dtype dtype;
  std::vector<double> values;
  char *device = nullptr, *room = nullptr;

  array(kava_dtype dtype_, int64_t count, bool odd = false); /* all NaN; odd: not at a multiple of 16 bytes */
  array(const array &) = delete;
  ~array() { cudaFree(room); }
  array &random(double scale = 1, double shift = 0);
  array &fill(double value);
  array &set(const std::vector<double> &from);
  void upload();
  std::vector<double> download() const; /* waits */
  double *f64() { return values.data(); }
  void *at() { return device; }
};
template <class T> struct list { /* of plain values, the same on both sides */
  std::vector<T> values;
  T *device = nullptr;
  list(std::vector<T> from) : values(std::move(from)) { upload(); }
  list(const list &) = delete;
  ~list() { cudaFree(device); }
  void upload() {
    if (!device && !values.empty()) cudaMalloc(&device, values.size() * sizeof(T));
    cudaDeviceSynchronize(); /* kernels may still read what was there */
    if (!values.empty()) cudaMemcpy(device, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice);
    cudaDeviceSynchronize(); /* see array::upload */
  }
  std::vector<T> download() const {
    std::vector<T> to(values.size());
    cudaStreamSynchronize(kava_cuda_stream());
    if (!to.empty()) cudaMemcpy(to.data(), device, to.size() * sizeof(T), cudaMemcpyDeviceToHost);
    return to;
  }
};

/* Whether a check is asked for: kernels_check FAMILY PART takes those alone whose names have the part in them, or with
 * I/N the Ith, the (I + N)th … of them. */
bool wanted(const std::string &name);
double uniform(); /* in [-1, 1), always the same row of them */
void seed(uint64_t value);

/* Prints "ok" or "not ok" with the largest difference, measured against `tolerance` times (1 + |reference|). */
void compare(const std::string &what, const array &got, const std::vector<double> &want, double tolerance);
void expect(const std::string &what, bool holds);
/* The unit of rounding of a type, for tolerances. */
double unit(kava_dtype dtype);
extern int failures;
extern const kava_kernels *gpu, *cpu;
#define COUNT(x) (sizeof(x) / sizeof *(x))

void time_kernels(bool tiny);

/* The families: each checks its kernels. */
struct family {
  const char *name;
  void (*run)();
};
extern const family families[];
#endif

/* spec/cuda/machine_check.cu: what the kernels stand on (element.cuh, machine.cuh): shuffles, barriers, shared memory,
 * asynchronous copies, ldmatrix and mma, whose fragments' layout is as documented; and, under the emulator, that it
 * notices what it says it notices (the families die-...). */
#include "check.h"
#include "kernels/cuda/element.cuh"

/* The sum of each block's numbers, kept by all its threads. */
template <int WARPS> static __global__ void sums_kernel(const float *x, float *y) {
  KAVA_SHARED(float, room, WARPS);
  float v = x[blockIdx.x * 32 * WARPS + threadIdx.x], sum = kava_block_sum<WARPS>(v, room);
  float most = kava_block_most<WARPS>(v, room);
  y[blockIdx.x * 32 * WARPS + threadIdx.x] = sum + 100 * most;
}
template <int WARPS> static void check_sums(const char *name) {
  int blocks = 3, n = 32 * WARPS;
  array x(KAVA_F32, blocks * n), y(KAVA_F32, blocks * n);
  x.random();
  kava_launch("sums", sums_kernel<WARPS>, blocks, n, 0, (const float *)x.at(), (float *)y.at());
  std::vector<double> want;
  for (int b = 0; b < blocks; b++) {
    double sum = 0, most = -1;
    for (int i = 0; i < n; i++) {
      sum += x.values[(size_t)(b * n + i)];
      if (x.values[(size_t)(b * n + i)] > most) most = x.values[(size_t)(b * n + i)];
    }
    want.insert(want.end(), (size_t)n, sum + 100 * most);
  }
  compare(name, y, want, 1e-6);
}

/* C [16,8] = A [16,16] B [16,8], through shared memory (asynchronously copied) and ldmatrix: B from its own rows
 * transposed on the way, and from the rows of its transpose. */
template <class T> static __global__ void product_kernel(const T *a, const T *b, const T *bt, float *c) {
  T *shared = (T *)kava_dynamic_shared(), *sa = shared, *sb = sa + 16 * 24, *st = sb + 16 * 24;
  int lane = threadIdx.x;
  kava_copy_async16(sa + lane / 2 * 24 + lane % 2 * 8, a + lane / 2 * 16 + lane % 2 * 8, true);
  kava_copy_commit();
  kava_copy_async16(sb + lane / 2 * 24 + lane % 2 * 8, b + lane / 2 * 8, lane % 2 == 0);
  kava_copy_async16(st + lane / 2 * 24 + lane % 2 * 8, bt + lane * 8, lane < 16);
  kava_copy_commit();
  kava_copy_wait<0>();
  __syncwarp();
  uint32_t fa[4], fb[4], ft[4];
  kava_ldmatrix(fa, sa + lane % 16 * 24 + lane / 16 * 8);
  kava_ldmatrix_transposed(fb, sb + lane % 16 * 24 + lane / 16 * 8);
  kava_ldmatrix(ft, st + (lane % 8 + lane / 16 * 8) * 24 + lane / 8 % 2 * 8);
  float one[4] = {1, 2, 3, 4}, two[4] = {0, 0, 0, 0};
  kava_mma<T>(one, fa, fb[0], fb[1]);
  kava_mma<T>(two, fa, ft[0], ft[1]);
  for (int i = 0; i < 4; i++) {
    int at = (lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2;
    c[at] = one[i] - (float)(i + 1);
    c[128 + at] = two[i];
  }
}
template <class T> static void check_product(kava_dtype dtype) {
  array a(dtype, 256), b(dtype, 128), bt(dtype, 128), c(KAVA_F32, 256);
  a.random();
  b.random();
  std::vector<double> turned(128), want(256, 0);
  for (size_t k = 0; k < 16; k++)
    for (size_t j = 0; j < 8; j++) turned[j * 16 + k] = b.values[k * 8 + j];
  bt.set(turned);
  for (size_t i = 0; i < 16; i++)
    for (size_t j = 0; j < 8; j++) {
      for (size_t k = 0; k < 16; k++) want[i * 8 + j] += a.values[i * 16 + k] * b.values[k * 8 + j];
      want[128 + i * 8 + j] = want[i * 8 + j];
    }
  kava_launch("product", product_kernel<T>, 1, 32, 3 * 16 * 24 * sizeof(T), (const T *)a.at(), (const T *)b.at(),
              (const T *)bt.at(), (float *)c.at());
  compare("mma of ldmatrix'ed tiles", c, want, 2e-6);
}

static __global__ void shuffles_kernel(int *out) {
  int lane = threadIdx.x, *y = out + lane * 6;
  y[0] = __shfl_sync(0xffffffffu, lane, 5);
  y[1] = __shfl_xor_sync(0xffffffffu, lane, 3);
  y[2] = __shfl_down_sync(0xffffffffu, lane, 4);
  y[3] = __shfl_up_sync(0xffffffffu, lane, 4);
  y[4] = __shfl_sync(0xffffffffu, lane, 1, 8);
  y[5] = (int)__ballot_sync(0xffffffffu, lane % 3 == 0);
}

static __global__ void repeated_kernel(int *x) { x[threadIdx.x]++; }

void check_machine() {
  check_sums<1>("sums over a warp");
  check_sums<4>("sums over 4 warps");
  check_sums<32>("sums over 32 warps");
  check_product<kava_bf16>(KAVA_BF16);
  check_product<kava_f16>(KAVA_F16);

  list<int> out(std::vector<int>(32 * 6, -1));
  kava_launch("shuffles", shuffles_kernel, 1, 32, 0, out.device);
  std::vector<int> is = out.download();
  bool right = true;
  for (int l = 0; l < 32; l++) {
    const int *y = &is[(size_t)l * 6];
    right = right && y[0] == 5 && y[1] == (l ^ 3) && y[2] == (l + 4 < 32 ? l + 4 : l) && y[3] == (l >= 4 ? l - 4 : l) &&
            y[4] == l / 8 * 8 + 1 && y[5] == 0x49249249;
  }
  expect("shuffles and votes", right);

  list<int> counter(std::vector<int>(32, 0));
  cudaGraph_t graph;
  cudaGraphExec_t exec;
  cudaStreamBeginCapture(kava_cuda_stream(), cudaStreamCaptureModeRelaxed);
  kava_launch("repeated", repeated_kernel, 1, 32, 0, counter.device);
  kava_launch("repeated", repeated_kernel, 1, 32, 0, counter.device);
  expect("capture", cudaStreamEndCapture(kava_cuda_stream(), &graph) == cudaSuccess &&
                        cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
  expect("captured work has not run", counter.download()[7] == 0);
  for (int i = 0; i < 3; i++) cudaGraphLaunch(exec, kava_cuda_stream());
  expect("a graph runs as often as it is launched", counter.download()[7] == 6);
  cudaGraphExecDestroy(exec);
  cudaGraphDestroy(graph);
}

static __global__ void read_kernel(const float *x, float *y) { y[threadIdx.x] = x[threadIdx.x]; }
static __global__ void part_kernel(float *y) {
  if (threadIdx.x < 40) __syncthreads();
  y[threadIdx.x] = 0;
}
static __global__ void lanes_kernel(float *y) {
  float v = 1;
  if (threadIdx.x < 7) v = __shfl_xor_sync(0xffffffffu, v, 1);
  y[threadIdx.x] = v;
}
void die_host_reads() {
  list<float> x(std::vector<float>(8, 1.0f));
  printf("%g\n", (double)x.device[3]);
}
void die_host_pointer() {
  list<float> y(std::vector<float>(32, 1.0f));
  std::vector<float> x(32, 1.0f);
  kava_launch("read", read_kernel, 1, 32, 0, (const float *)x.data(), y.device);
}
void die_reads_behind() {
  list<float> x(std::vector<float>(28, 1.0f)), y(std::vector<float>(32, 1.0f));
  kava_launch("read", read_kernel, 1, 32, 0, (const float *)x.device, y.device);
}
void die_writes_behind() {
  list<float> x(std::vector<float>(32, 1.0f));
  list<char> y(std::vector<char>(127, 0));
  kava_launch("read", read_kernel, 1, 32, 0, (const float *)x.device, (float *)(void *)y.device);
}
void die_barrier() {
  list<float> y(std::vector<float>(64, 1.0f));
  kava_launch("part", part_kernel, 1, 64, 0, y.device);
}
void die_shuffle() {
  list<float> y(std::vector<float>(32, 1.0f));
  kava_launch("lanes", lanes_kernel, 1, 32, 0, y.device);
}
static __global__ void unwaited_kernel(const float *x, float *y) {
  float *room = (float *)kava_dynamic_shared();
  kava_copy_async16(room + 4 * threadIdx.x, x + 4 * threadIdx.x, true);
  kava_copy_commit();
  y[threadIdx.x] = room[4 * threadIdx.x];
}
void die_unwaited() {
  list<float> x(std::vector<float>(128, 1.0f)), y(std::vector<float>(32, 1.0f));
  kava_launch("unwaited", unwaited_kernel, 1, 32, 512, (const float *)x.device, y.device);
}
void die_streams() { /* the second lane reads what the first was given to write */
  list<float> x(std::vector<float>(32, 1.0f)), y(std::vector<float>(32, 0.0f));
  std::vector<float> here(32);
  kava_launch("read", read_kernel, 1, 32, 0, (const float *)x.device, y.device);
  cudaMemcpyAsync(here.data(), y.device, 128, cudaMemcpyDeviceToHost, kava_cuda_stream_of(1));
}

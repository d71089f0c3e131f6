/* spec/cuda/timing.cu: kernels_check time: each kernel at the shapes of the main job (Qwen2.5-1.5B's teacher, 0.5B's
 * student, 8 rows of 512 tokens, bf16), its time beside the one predicted from the bytes it has to move at the speed a
 * large copy reaches here, or from the products it has to do at RATE. Medians of rounds, over buffers in turn that
 * together do not fit the L2. kernels_check time PART: those alone whose names have PART in them. The family `timing`
 * runs it at tiny shapes: whether it works at all. */
#include "check.h"
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/element.cuh"
#include "kernels/cuda/fp8.cuh"
#include "kernels/cuda/gemm.cuh"
#include <algorithm>
#include <cmath>
#include <functional>

static bool quick;
static double copy_speed;                                   /* bytes a second */
static const double RATE = 600e12;                          /* of mma.sync, dense: what attention is held against */
static const double BF16_RATE = 700e12, FP8_RATE = 1280e12; /* of cuBLASLt's products on an H100 */
enum { TURNS = 3 };

static double milliseconds(const std::function<void(int)> &launch) {
  cudaEvent_t from, to;
  cudaEventCreate(&from);
  cudaEventCreate(&to);
  std::vector<float> times;
  int rounds = quick ? 1 : 21, each = quick ? 1 : TURNS * 4;
  for (int i = 0; i < (quick ? 1 : TURNS); i++) launch(i % TURNS);
  for (int round = 0; round < rounds; round++) {
    cudaEventRecord(from, kava_cuda_stream());
    for (int i = 0; i < each; i++) launch(i % TURNS);
    cudaEventRecord(to, kava_cuda_stream());
    cudaEventSynchronize(to);
    float time;
    cudaEventElapsedTime(&time, from, to);
    times.push_back(time / (float)each);
  }
  cudaEventDestroy(from);
  cudaEventDestroy(to);
  std::sort(times.begin(), times.end());
  return (double)times[times.size() / 2];
}

static void report(const char *name, double bytes, double products, const std::function<void(int)> &launch) {
  if (!wanted(name)) return;
  double time = milliseconds(launch), predicted = 1e3 * std::max(bytes / copy_speed, 2 * products / RATE);
  cudaError_t error;
  const char *failed = kava_cuda_failure(&error);
  expect(std::string(name) + (failed ? std::string(": ") + cudaGetErrorString(error) : ""), !failed);
  if (!quick)
    printf("ok   %-44s %9.4f ms, predicted %9.4f, %5.2f x   %7.1f GB/s %7.1f TFLOP/s\n", name, time, predicted,
           time / predicted, bytes / time / 1e6, 2 * products / time / 1e9);
}

/* TURNS buffers of random values, the same ones again and again: made on the device, by doubling. */
struct buffers {
  char *each[TURNS] = {};
  buffers(kava_dtype dtype, int64_t count) {
    array some(dtype, std::min<int64_t>(count, 4099));
    some.random();
    size_t size = dtype == KAVA_F64 ? 8 : dtype == KAVA_F32 ? 4 : 2, all = (size_t)count * size;
    size_t block = std::min<size_t>(all, 4099 * size);
    for (char *&at : each) {
      cudaMalloc(&at, all);
      cudaMemcpy(at, some.at(), block, cudaMemcpyDeviceToDevice);
      for (size_t done = block; done < all; done *= 2)
        cudaMemcpy(at + done, at, std::min(done, all - done), cudaMemcpyDeviceToDevice);
    }
    cudaDeviceSynchronize();
  }
  buffers(const buffers &) = delete;
  ~buffers() {
    for (char *at : each) cudaFree(at);
  }
  void *at(int i) const { return each[i]; }
};

/* layers: whose keys, and gradients of keys, lie side by side, as the decoder has them */
static void time_attention(const std::string &name, int64_t batch, int64_t length, int64_t heads, int64_t kv_heads,
                           int64_t dim, int64_t layers = 1) {
  buffers q(KAVA_BF16, batch * length * heads * dim), k(KAVA_BF16, batch * length * kv_heads * dim * layers),
      v(KAVA_BF16, batch * length * kv_heads * dim), o(KAVA_BF16, batch * length * heads * dim),
      g(KAVA_BF16, batch * length * heads * dim), dq(KAVA_BF16, batch * length * heads * dim),
      dk(KAVA_BF16, batch * length * kv_heads * dim * layers), dv(KAVA_BF16, batch * length * kv_heads * dim),
      lse(KAVA_F32, batch * heads * length);
  kava_attention_args a = {};
  a.dtype = KAVA_BF16, a.batch = batch, a.length = length, a.heads = heads, a.kv_heads = kv_heads, a.head_dim = dim;
  a.scale = 1 / sqrt((double)dim);
  if (layers > 1) a.k_row = a.dk_row = kv_heads * dim * layers, a.add_k = true;
  auto at = [&](int i) {
    a.q = q.at(i), a.k = k.at(i), a.v = v.at(i), a.o = o.at(i), a.lse = lse.at(i), a.grad_o = g.at(i);
    a.dq = dq.at(i), a.dk = dk.at(i), a.dv = dv.at(i);
  };
  double tile = (double)(batch * heads * length * length * dim) / 2; /* a product over the causal half */
  double rows = (double)(batch * length * heads * dim) * 2, keys = (double)(batch * length * kv_heads * dim) * 2;
  for (bool old : {false, true}) {
    if ((length > 512 || batch > 8 || layers > 1) && old) continue;
    kava_attention_old = old;
    std::string which = name + (old ? ", mma.sync" : std::string());
    report(("attention " + which).c_str(), 2 * rows + 2 * keys, 2 * tile, [&](int i) { at(i), gpu->attention(&a); });
    for (int i = 0; i < TURNS; i++) at(i), gpu->attention(&a);
    /* five products are needed; seven are done */
    report(("attention_grad " + which).c_str(), 4 * rows + 4 * keys, 5 * tile,
           [&](int i) { at(i), gpu->attention_grad(&a); });
    report(("attention_grad, dq alone, " + which).c_str(), 3 * rows + 2 * keys, 3 * tile,
           [&](int i) { at(i), a.dk = a.dv = nullptr, gpu->attention_grad(&a); });
  }
  kava_attention_old = false;
}

/* A frozen MLP in fp8 with its norm, in one, beside what it takes without that, and in parts. */
static void time_mlp(int64_t tokens) {
  int64_t in = quick ? 1024 : 1536, out = quick ? 128 : 8960, n = tokens * out;
  buffers x(KAVA_BF16, tokens * in), g(KAVA_BF16, in), w(KAVA_BF16, in * out), scales(KAVA_F32, 2 * out + in),
      x_scales(KAVA_F32, tokens), row_scales(KAVA_F32, tokens);
  buffers gate(KAVA_BF16, n), up(KAVA_BF16, n), y(KAVA_BF16, tokens * in), x_codes(KAVA_F32, tokens * in / 4);
  std::vector<list<uint8_t> *> codes;
  kava_scaling s[3] = {};
  kava_linear_args a[3] = {};
  for (int i = 0; i < TURNS; i++) codes.push_back(new list<uint8_t>(std::vector<uint8_t>((size_t)(3 * in * out))));
  for (int i = 0; i < TURNS; i++)
    for (int k = 0; k < 3; k++)
      kava_cuda_fp8_rows(KAVA_BF16, w.at(i), k == 2 ? in : out, k == 2 ? out : in, codes[i]->device + k * in * out,
                         (float *)scales.at(i) + k * out);
  kava_norm_args norm = {};
  norm.dtype = KAVA_BF16, norm.rows = tokens, norm.width = in, norm.eps = 1e-6;
  auto at = [&](int i) {
    norm.x = x.at(i), norm.w = g.at(i);
    for (int k = 0; k < 3; k++) {
      s[k].columns = s[k].group = k == 2 ? out : in, s[k].rows = 1, s[k].across = 1;
      s[k].type = s[k].round = KAVA_F32, s[k].scales = (float *)scales.at(i) + k * out;
      a[k].dtype = KAVA_BF16, a[k].rows = tokens, a[k].in = k == 2 ? out : in, a[k].out = k == 2 ? in : out;
      a[k].wtype = KAVA_FP8, a[k].w = codes[i]->device + k * in * out, a[k].scaling = &s[k];
    }
    a[2].residual = x.at(i);
  };
  std::string name = std::to_string(tokens) + " rows";
  double products = (double)(tokens * in * out) * RATE / FP8_RATE;
  const void *none[2] = {NULL, NULL};
  report(("fp8 MLP: norm, gate, up, " + name).c_str(), 0, 2 * products, [&](int i) {
    at(i);
    void *both[2] = {gate.at(i), up.at(i)};
    gpu->linear_normed(&norm, 2, a, none, both);
  });
  report(("fp8 MLP: silu(gate) up and down, " + name).c_str(), 0, products,
         [&](int i) { at(i), gpu->linear_gated(&a[2], KAVA_SILU, gate.at(i), up.at(i), NULL, y.at(i)); });
  if (quick) kava_cuda_gate_up_enough(1);
  for (int i = 0; i < TURNS; i++)
    at(i), kava_cuda_fp8_norm_rows(&norm, (uint8_t *)x_codes.at(i), (float *)x_scales.at(i));
  kava_status st = KAVA_OK;
  auto powers = [&](int i) { return (int8_t *)gate.at(i) + n; };
  report(("fp8 MLP: silu(gate) up as codes, " + name).c_str(), 0, 2 * products, [&](int i) {
    at(i), st = kava_cuda_gate_up_fp8((uint8_t *)x_codes.at(i), (float *)x_scales.at(i), &a[0], &a[1],
                                      (uint8_t *)gate.at(i), powers(i));
  });
  report(("fp8 MLP: one scale a row (half of it touched), " + name).c_str(), (double)n, 0, [&](int i) {
    kava_cuda_fp8_one_scale((uint8_t *)gate.at(i), powers(i), tokens, out, (float *)row_scales.at(i));
  });
  report(("fp8 MLP in four, " + name).c_str(), 0, 3 * products, [&](int i) {
    at(i);
    void *both[2] = {gate.at(i), up.at(i)};
    gpu->linear_normed(&norm, 2, a, none, both);
    gpu->linear_gated(&a[2], KAVA_SILU, gate.at(i), up.at(i), NULL, y.at(i));
  });
  report(("fp8 MLP in one, " + name).c_str(), 0, 3 * products,
         [&](int i) { at(i), st = gpu->gated_mlp(&norm, KAVA_SILU, a, NULL, gate.at(i), y.at(i)); });
  if (st != KAVA_OK) printf("ok   (gated_mlp is not for this GPU)\n");
  kava_cuda_gate_up_enough(0);
  for (list<uint8_t> *c : codes) delete c;
}

/* gate, up and what is made of them: a teacher's; a student's, all kept */
static void time_gate_up(int64_t tokens, bool keeps) {
  int64_t in = quick ? 512 : keeps ? 896 : 1536, out = quick ? 128 : keeps ? 4864 : 8960, n = tokens * out;
  buffers x(KAVA_BF16, tokens * in), w(KAVA_BF16, in * 2 * out);
  buffers y(KAVA_BF16, 2 * n), act(KAVA_BF16, n);
  kava_linear_args a = {};
  a.dtype = a.wtype = KAVA_BF16, a.rows = tokens, a.in = in, a.out = 2 * out;
  kava_gated_args g = {};
  g.kind = KAVA_SILU, g.dtype = KAVA_BF16, g.count = n, g.width = out, g.row = 2 * out;
  double products = (double)(2 * n * in) * RATE / BF16_RATE;
  std::string whose = std::string(keeps ? ", student, " : ", teacher, ") + std::to_string(tokens) + " rows";
  if (quick) kava_cuda_gate_up_enough(1);
  report(("gate and up and gated in two" + whose).c_str(), 0, products, [&](int i) {
    a.w = w.at(i), g.gate = y.at(i), g.up = (char *)y.at(i) + out * 2, g.y = act.at(i);
    gpu->linear_forward(&a, x.at(i), NULL, y.at(i));
    gpu->gated(&g);
  });
  bool took = false;
  report(("linear_gate_up" + whose).c_str(), 0, products, [&](int i) {
    a.w = w.at(i);
    took = gpu->linear_gate_up(&a, KAVA_SILU, x.at(i), keeps ? y.at(i) : NULL, act.at(i)) == KAVA_OK;
  });
  if (!took) printf("ok   (linear_gate_up is not for this GPU)\n");
  kava_cuda_gate_up_enough(0);
}

/* The maps and the loss of 24 layers' keys (kava.loss's layer_matched), 2 heads of 64 towards 2 of 128. */
static void time_each(int64_t tokens) {
  int count = quick ? 2 : 24;
  int64_t in = quick ? 16 : 128, out = 2 * in, n = count * tokens;
  buffers x(KAVA_BF16, n * in), y(KAVA_BF16, n * out), t(KAVA_BF16, n * out), dy(KAVA_BF16, n * out),
      w(KAVA_BF16, count * in * out), dw(KAVA_F32, count * in * out), slopes(KAVA_F32, 2 * n), one(KAVA_F32, 8),
      counted(KAVA_F64, 8);
  kava_gemm_args g = {};
  g.dtype = KAVA_BF16, g.alpha = 1, g.batch = count;
  kava_gemm_args dx = g, weights = g;
  double bytes = 2.0 * (double)(n * (in + out)), products = (double)(n * in * out) * RATE / BF16_RATE;
  g.trans_b = true, g.m = tokens, g.n = g.stride_c = out, g.k = g.stride_a = g.ldb = in;
  g.lda = count * in, g.ldc = count * out, g.stride_b = in * out;
  report("linear_each", bytes, products, [&](int i) { g.a = x.at(i), g.b = w.at(i), g.c = y.at(i), gpu->gemm(&g); });
  dx.m = tokens, dx.n = dx.ldb = dx.stride_c = in, dx.k = dx.stride_a = out;
  dx.lda = count * out, dx.ldc = count * in, dx.stride_b = in * out;
  report("linear_each, dx", bytes, products,
         [&](int i) { dx.a = y.at(i), dx.b = w.at(i), dx.c = x.at(i), gpu->gemm(&dx); });
  weights.trans_a = weights.wide = true, weights.beta = 1, weights.m = weights.stride_a = out;
  weights.n = weights.ldc = weights.stride_b = in, weights.k = tokens, weights.stride_c = in * out;
  weights.lda = count * out, weights.ldb = count * in;
  report("linear_each, dw", bytes, products,
         [&](int i) { weights.a = y.at(i), weights.b = x.at(i), weights.c = dw.at(i), gpu->gemm(&weights); });
  kava_cosines_args a = {};
  a.dtype = KAVA_BF16, a.count = count, a.rows = tokens, a.width = out;
  auto at = [&](int i) {
    for (int k = 0; k < count; k++) {
      a.s[k] = (kava_bf16 *)y.at(i) + k * out, a.t[k] = (kava_bf16 *)t.at(i) + k * out;
      a.ds[k] = (kava_bf16 *)dy.at(i) + k * out;
      a.s_row[k] = a.t_row[k] = a.ds_row[k] = count * out;
    }
    a.slopes = slopes.at(i), a.loss = one.at(i), a.grad = one.at(i), a.counted = (double *)counted.at(i);
  };
  report("cosines", 4.0 * (double)(n * out), 0, [&](int i) { at(i), gpu->cosines(&a); });
  report("cosines_grad", 6.0 * (double)(n * out), 0, [&](int i) { at(i), gpu->cosines_grad(&a); });
  kava_join_args j = {};
  j.from = j.to = KAVA_BF16, j.count = count, j.rows = tokens, j.y_row = count * in;
  report("join", 4.0 * (double)(n * in), 0, [&](int i) {
    for (int k = 0; k < count; k++) j.x[k] = (kava_bf16 *)x.at(i) + k * tokens * in, j.x_row[k] = j.width[k] = in;
    j.y = dy.at(i), gpu->join(&j);
  });
}

void time_kernels(bool tiny) {
  quick = tiny;
  setvbuf(stdout, nullptr, _IOLBF, BUFSIZ);
  int64_t tokens = quick ? 16 : 4096, batch = quick ? 1 : 8, length = quick ? 40 : 512;
  int64_t big = quick ? 1000 : (int64_t)1 << 28, mlp = quick ? 64 : 8960, width = quick ? 64 : 1536,
          keys = quick ? 64 : 3072;
  {
    buffers x(KAVA_F32, big / 4), y(KAVA_F32, big / 4);
    double time = milliseconds([&](int i) { gpu->convert(KAVA_F32, x.at(i), KAVA_F32, y.at(i), big / 4); });
    copy_speed = 2 * (double)big / time * 1e3;
    if (!quick)
      printf("ok   a copy of %.0f MiB: %.0f GB/s, reads and writes\n", (double)big / 1048576, copy_speed / 1e9);
  }
  time_mlp(tokens);
  if (!quick) time_mlp(4 * tokens);
  {
    int64_t n = tokens * mlp;
    buffers gate(KAVA_BF16, n), up(KAVA_BF16, n), y(KAVA_BF16, n), dgate(KAVA_BF16, n), dup(KAVA_BF16, n);
    report("gated silu, teacher", 6.0 * (double)n, 0, [&](int i) {
      kava_gated_args a = {};
      a.kind = KAVA_SILU, a.dtype = KAVA_BF16, a.count = n, a.gate = gate.at(i), a.up = up.at(i);
      a.y = y.at(i);
      gpu->gated(&a);
    });
    report("gated_grad silu, at the teacher's width", 10.0 * (double)n, 0, [&](int i) {
      kava_gated_args a = {};
      a.kind = KAVA_SILU, a.dtype = KAVA_BF16, a.count = n, a.gate = gate.at(i), a.up = up.at(i), a.grad = y.at(i);
      a.dgate = dgate.at(i), a.dup = dup.at(i);
      gpu->gated_grad(&a);
    });
    report("gated_grad silu, with its y, in place", 12.0 * (double)n, 0, [&](int i) {
      kava_gated_args a = {};
      a.kind = KAVA_SILU, a.dtype = KAVA_BF16, a.count = n, a.gate = gate.at(i), a.up = up.at(i), a.grad = y.at(i);
      a.dgate = gate.at(i), a.dup = up.at(i), a.y = y.at(i);
      gpu->gated_grad(&a);
    });
    report("accumulate", 6.0 * (double)n, 0, [&](int i) { gpu->accumulate(KAVA_BF16, gate.at(i), y.at(i), n); });
  }
  { /* the projector's, of 32 rows of 512 */
    int64_t n = quick ? 5000 : 4 * tokens * 7168;
    buffers x(KAVA_BF16, n), y(KAVA_BF16, n), g(KAVA_BF16, n);
    kava_dropout_mask mask = {1, 2, NULL, 0.1};
    auto args = [&](int i, bool gradient, bool again) {
      kava_activation_args a = {};
      a.kind = KAVA_SILU, a.dtype = KAVA_BF16, a.count = n, a.x = x.at(i), a.mask = mask;
      a.y = gradient ? again ? g.at(i) : NULL : y.at(i);
      if (gradient) a.grad = g.at(i), a.dx = again ? x.at(i) : g.at(i);
      return a;
    };
    report("dropout", 4.0 * (double)n, 0, [&](int i) {
      kava_dropout_args a = {KAVA_BF16, n, mask, x.at(i), y.at(i), false};
      gpu->dropout(&a);
    });
    report("activation silu, projector", 4.0 * (double)n, 0, [&](int i) {
      kava_activation_args a = args(i, false, false);
      a.mask.p = 0, gpu->activation(&a);
    });
    report("activation silu, dropped", 4.0 * (double)n, 0, [&](int i) {
      kava_activation_args a = args(i, false, false);
      gpu->activation(&a);
    });
    report("activation_grad silu, dropped, in place", 6.0 * (double)n, 0, [&](int i) {
      kava_activation_args a = args(i, true, false);
      gpu->activation_grad(&a);
    });
    report("activation_grad silu, dropped, with its y", 8.0 * (double)n, 0, [&](int i) {
      kava_activation_args a = args(i, true, true);
      gpu->activation_grad(&a);
    });
  }
  {
    int64_t n = tokens * width;
    buffers x(KAVA_BF16, n), y(KAVA_BF16, n), g(KAVA_BF16, n), w(KAVA_BF16, width), dw(KAVA_F32, width);
    kava_norm_args a = {};
    a.dtype = KAVA_BF16, a.rows = tokens, a.width = width, a.eps = 1e-6;
    report("rms norm, teacher", 4.0 * (double)n, 0,
           [&](int i) { a.x = x.at(i), a.w = w.at(i), a.y = y.at(i), gpu->norm(&a); });
    report("norm_grad", 6.0 * (double)n, 0, [&](int i) {
      a.x = x.at(i), a.w = w.at(i), a.grad = g.at(i), a.dx = y.at(i), a.dw = dw.at(i);
      gpu->norm_grad(&a);
    });
    a.width = quick ? width : 896, a.add_x = true;
    report("norm_grad, student, added, y in grad's place", 10.0 * (double)(tokens * a.width), 0, [&](int i) {
      a.x = x.at(i), a.w = w.at(i), a.grad = a.y = g.at(i), a.dx = y.at(i), a.dw = dw.at(i);
      gpu->norm_grad(&a);
    });
    a.y = nullptr;
    report("norm_grad, student, added to the stream's", 8.0 * (double)(tokens * a.width), 0, [&](int i) {
      a.x = x.at(i), a.w = w.at(i), a.grad = g.at(i), a.dx = y.at(i), a.dw = dw.at(i);
      gpu->norm_grad(&a);
    });
  }
  {
    int64_t heads = quick ? 2 : 14, dim = 64, n = tokens * heads * dim;
    buffers x(KAVA_BF16, n), c(KAVA_F32, length * dim / 2);
    report("rope, student's queries", 4.0 * (double)n, 0, [&](int i) {
      kava_rope_args a = {KAVA_BF16, tokens,  length,  heads, dim,   dim, x.at(i),
                          c.at(i),   c.at(i), x.at(i), false, false, 0,   0};
      gpu->rope(&a);
    });
  }
  time_attention("12/2 x 128", batch, length, quick ? 2 : 12, quick ? 1 : 2, 128);
  time_attention("14/2 x 64", batch, length, quick ? 2 : 14, quick ? 1 : 2, 64);
  time_attention("14/2 x 64, keys side by side", batch, length, quick ? 2 : 14, quick ? 1 : 2, 64, quick ? 3 : 24);
  if (!quick) {
    time_attention("32 rows, 12/2 x 128", 32, length, 12, 2, 128);
    time_attention("32 rows, 14/2 x 64", 32, length, 14, 2, 64);
    time_attention("1 x 16384, 14/2 x 64", 1, 16384, 14, 2, 64);
    time_attention("2 x 4096, 12/2 x 128", 2, 4096, 12, 2, 128);
  }
  {
    int64_t n = tokens * keys;
    buffers s(KAVA_BF16, n), t(KAVA_BF16, n), ds(KAVA_BF16, n), sums(KAVA_F64, 3 * tokens), one(KAVA_F32, 8),
        metrics(KAVA_F64, 8);
    kava_pair_loss_args a = {};
    a.dtype = KAVA_BF16, a.rows = tokens, a.width = keys, a.alpha = 1, a.beta = 0.01, a.eps = 1e-8;
    auto at = [&](int i) {
      a.s = s.at(i), a.t = t.at(i), a.sums = (double *)sums.at(i), a.loss = one.at(i), a.grad = one.at(i),
      a.ds = ds.at(i);
      a.metrics = (double *)metrics.at(i), a.counted = (double *)metrics.at(i) + 4;
    };
    report("mercator", 4.0 * (double)n, 0, [&](int i) { at(i), gpu->mercator(&a); });
    report("mercator_grad", 6.0 * (double)n, 0, [&](int i) { at(i), gpu->mercator_grad(&a); });
  }
  time_each(tokens);
  {
    int64_t n = quick ? width : 1152; /* the student's queries, keys and values */
    buffers dy(KAVA_BF16, tokens * n);
    array db(KAVA_F32, n);
    db.fill(0);
    kava_linear_args a = {};
    a.dtype = a.wtype = KAVA_BF16, a.rows = tokens, a.in = width, a.out = n;
    report("linear_dw, db alone, added", 2.0 * (double)(tokens * n), 0,
           [&](int i) { gpu->linear_dw(&a, NULL, dy.at(i), NULL, false, db.at(), true); });
  }
  {
    int64_t rows = quick ? 3 : 512, vocabulary = quick ? 100 : 151936, n = rows * vocabulary;
    buffers s(KAVA_BF16, n), stats(KAVA_F64, 3 * rows);
    std::vector<int64_t> ids((size_t)rows, 7);
    list<int64_t> targets(ids);
    kava_logits_args a = {};
    a.dtype = KAVA_BF16, a.rows = rows, a.width = vocabulary, a.temperature = 1, a.ce_scale = 1e-3,
    a.targets = targets.device;
    report("logits_rows, cross entropy, in place", 4.0 * (double)n, 0,
           [&](int i) { a.s = a.ds = s.at(i), a.stats = (double *)stats.at(i), gpu->logits_rows(&a); });
  }
  {
    int64_t rows = quick ? 50 : 151936, wide = quick ? 32 : 896;
    buffers x(KAVA_BF16, rows * wide), y(KAVA_BF16, tokens * wide);
    buffers dx(KAVA_F32, rows * wide);
    std::vector<int64_t> numbers((size_t)tokens);
    for (int64_t &id : numbers)
      id = (int64_t)(pow((uniform() + 1) / 2, 3) * (double)(rows - 1)); /* some often, most once */
    list<int64_t> ids(numbers);
    kava_gather_args a = {};
    a.dtype = a.from = KAVA_BF16, a.outer = 1, a.rows = rows, a.inner = wide, a.count = tokens, a.pad = -1,
    a.ids = ids.device;
    report("gather", 4.0 * (double)(tokens * wide), 0, [&](int i) { a.x = x.at(i), a.y = y.at(i), gpu->gather(&a); });
    report("gather_grad", 10.0 * (double)(tokens * wide), 0,
           [&](int i) { a.grad = y.at(i), a.dx = dx.at(i), gpu->gather_grad(&a); });
  }
  for (int64_t rows = tokens; rows <= (quick ? tokens : 4 * tokens); rows *= 4)
    for (int keeps = 0; keeps < 2; keeps++) time_gate_up(rows, keeps);
  for (int64_t rows : {tokens, 4 * tokens}) { /* back over a student's down projection and gate */
    int64_t in = quick ? 128 : 4864, out = quick ? 512 : 896, n = rows * in;
    buffers dy(KAVA_BF16, rows * out), w(KAVA_BF16, in * out), y(KAVA_BF16, 2 * n), act(KAVA_BF16, n);
    kava_linear_args a = {};
    a.dtype = a.wtype = KAVA_BF16, a.rows = rows, a.in = in, a.out = out;
    kava_gated_args g = {};
    g.kind = KAVA_SILU, g.dtype = KAVA_BF16, g.count = n, g.width = in, g.row = g.grad_row = 2 * in;
    auto at = [&](int i) {
      a.w = w.at(i), g.gate = g.dgate = y.at(i), g.up = g.dup = (char *)y.at(i) + in * 2, g.grad = g.y = act.at(i);
    };
    double products = (double)(n * out) * RATE / BF16_RATE;
    std::string name = ", " + std::to_string(rows) + " rows";
    report(("dx of down and gated_grad in two" + name).c_str(), 0, products, [&](int i) {
      at(i);
      gpu->linear_dx(&a, dy.at(i), act.at(i), false);
      gpu->gated_grad(&g);
    });
    report(("dx of down alone" + name).c_str(), 0, products,
           [&](int i) { at(i), gpu->linear_dx(&a, dy.at(i), act.at(i), false); });
    if (quick) kava_cuda_gated_back_enough(1);
    bool took = false;
    report(("linear_gated_back" + name).c_str(), 10.0 * (double)n, products,
           [&](int i) { at(i), took = gpu->linear_gated_back(&a, dy.at(i), &g) == KAVA_OK; });
    if (!took) printf("ok   (linear_gated_back is not for this GPU)\n");
    kava_cuda_gated_back_enough(0);
  }
  { /* fp8: the teacher's MLP as gate or up, and down; the rows quantised alone */
    const int64_t shapes[][2] = {{width, mlp}, {mlp, width}};
    for (const int64_t(&shape)[2] : shapes) {
      int64_t in = shape[0], out = shape[1];
      buffers x(KAVA_BF16, tokens * in), y(KAVA_BF16, tokens * out), w(KAVA_BF16, in * out),
          codes(KAVA_F32, in * out / 4), scales(KAVA_F32, out), rows(KAVA_F32, tokens * in / 4),
          of_rows(KAVA_F32, tokens);
      for (int i = 0; i < TURNS; i++)
        kava_cuda_fp8_rows(KAVA_BF16, w.at(i), out, in, (uint8_t *)codes.at(i), (float *)scales.at(i));
      kava_scaling s = {};
      s.columns = s.group = in, s.rows = 1, s.across = 1, s.type = s.round = KAVA_F32;
      kava_linear_args a = {};
      a.dtype = KAVA_BF16, a.rows = tokens, a.in = in, a.out = out;
      std::string name = std::to_string(in) + " to " + std::to_string(out);
      report(("fp8 rows of " + std::to_string(in)).c_str(), 3.0 * (double)(tokens * in), 0, [&](int i) {
        kava_cuda_fp8_rows(KAVA_BF16, x.at(i), tokens, in, (uint8_t *)rows.at(i), (float *)of_rows.at(i));
      });
      if (in <= 8192)
        report(("fp8 rows of a norm of " + std::to_string(in)).c_str(), 3.0 * (double)(tokens * in), 0, [&](int i) {
          kava_norm_args n = {};
          n.dtype = KAVA_BF16, n.rows = tokens, n.width = in, n.eps = 1e-6, n.x = x.at(i), n.w = w.at(i);
          kava_cuda_fp8_norm_rows(&n, (uint8_t *)rows.at(i), (float *)of_rows.at(i));
        });
      report(("linear_forward fp8, rows quantised, " + name).c_str(), 0, (double)(tokens * in * out) * RATE / FP8_RATE,
             [&](int i) {
               s.scales = scales.at(i);
               a.w = codes.at(i), a.wtype = KAVA_FP8, a.scaling = &s;
               kava_cuda_linear_fp8(&a, x.at(i), NULL, y.at(i));
             });
      report(("linear_forward bf16, " + name).c_str(), 0, (double)(tokens * in * out) * RATE / BF16_RATE, [&](int i) {
        a.w = w.at(i), a.wtype = KAVA_BF16, a.scaling = NULL;
        gpu->linear_forward(&a, x.at(i), NULL, y.at(i));
      });
      /* the sum in the product's epilogue: no more than y's bytes once again */
      buffers stream(KAVA_BF16, tokens * out);
      report(("linear_forward fp8, rows quantised, added, " + name).c_str(), 0,
             (double)(tokens * in * out) * RATE / FP8_RATE, [&](int i) {
               s.scales = scales.at(i);
               a.w = codes.at(i), a.wtype = KAVA_FP8, a.scaling = &s, a.residual = stream.at(i);
               kava_cuda_linear_fp8(&a, x.at(i), NULL, y.at(i));
             });
      report(("linear_forward bf16, added, " + name).c_str(), 0, (double)(tokens * in * out) * RATE / BF16_RATE,
             [&](int i) {
               a.w = w.at(i), a.wtype = KAVA_BF16, a.scaling = NULL, a.residual = stream.at(i);
               gpu->linear_forward(&a, x.at(i), NULL, y.at(i));
             });
      a.residual = NULL;
    }
  }
  {
    int64_t n = quick ? 4096 : mlp * width;
    buffers x(KAVA_BF16, n), codes(KAVA_F32, n / 4), scales(KAVA_F32, n / 64 + 1), flag(KAVA_F32, 4);
    for (kava_dtype type : {KAVA_NF4, KAVA_INT8, KAVA_FP8}) {
      bool nf4 = type == KAVA_NF4;
      kava_encode_args a = {};
      a.type = type, a.from = KAVA_BF16, a.rows = nf4 ? 1 : n / width, a.columns = nf4 ? n : width;
      a.group = nf4 ? 64 : width, a.group_rows = 1, a.most = nf4 ? 1.0f : 127.0f;
      a.across = a.columns / a.group;
      report((std::string("encode ") + kava_dtype_name(type)).c_str(), (nf4 ? 2.5 : 3.0) * (double)n, 0, [&](int i) {
        a.x = x.at(i), a.codes = (uint8_t *)codes.at(i), a.scales = (float *)scales.at(i);
        a.bad = (int32_t *)flag.at(i);
        gpu->encode(&a, 0, a.rows * a.across);
      });
    }
  }
  {
    int64_t n = quick ? 4096 : 1 << 26;
    buffers codes(KAVA_F32, n / 8), y(KAVA_BF16, n), scales(KAVA_F32, n / 64);
    kava_scaling s = {};
    s.columns = 2048, s.group = 64, s.type = KAVA_F32, s.round = KAVA_F32, s.rows = 1;
    report("widen nf4 to bf16", 2.5 * (double)n + (double)n / 16, 0, [&](int i) {
      s.scales = scales.at(i);
      kava_cuda_widen_matrix(KAVA_NF4, codes.at(i), &s, 0, 0, 2048, n, KAVA_BF16, y.at(i));
    });
  }
  {
    int64_t n = quick ? 5000 : 1 << 25;
    buffers p(KAVA_BF16, n), m(KAVA_F32, n), v(KAVA_F32, n), g(KAVA_F32, n), low(KAVA_BF16, n), most(KAVA_F32, n / 64);
    array lr(KAVA_F64, 1), norm(KAVA_F64, 2);
    lr.fill(1e-5);
    list<int64_t> step({0});
    const struct {
      const char *name;
      kava_dtype state, grad;
      double bytes;
    } kinds[] = {{"adamw, bf16 + 16 bits, f32 states and gradients", KAVA_F32, KAVA_F32, 28},
                 {"adamw, bf16 + 16 bits, f32 states, bf16 gradients", KAVA_F32, KAVA_BF16, 26},
                 {"adamw, bf16 + 16 bits, bf16 states and gradients", KAVA_BF16, KAVA_BF16, 18},
                 {"adamw, bf16 + 16 bits, coded states, bf16 gradients", KAVA_U8, KAVA_BF16, 14}};
    for (auto &kind : kinds)
      report(kind.name, kind.bytes * (double)n, 0, [&](int i) {
        kava_adamw_span span = {};
        span.count = n, span.dtype = KAVA_BF16, span.state_dtype = kind.state, span.grad_dtype = kind.grad;
        span.p = p.at(i), span.m = m.at(i), span.v = v.at(i), span.g = g.at(i), span.master = low.at(i);
        span.most = (float *)most.at(i), span.step = step.device, span.decay = 0.01;
        kava_adamw_args a = {&span, 1, (double *)lr.at(), nullptr, 0.9, 0.999, 1e-8};
        gpu->adamw(&a);
      });
    report("gradient_norm", 4.0 * (double)n, 0, [&](int i) {
      kava_array one = {KAVA_F32, n, g.at(i)};
      gpu->gradient_norm(&one, 1, 1, NULL, (double *)norm.at());
    });
    report("gradient_norm of bf16", 2.0 * (double)n, 0, [&](int i) {
      kava_array one = {KAVA_BF16, n, g.at(i)};
      gpu->gradient_norm(&one, 1, 1, NULL, (double *)norm.at());
    });
  }
}
void check_timing() { time_kernels(true); }

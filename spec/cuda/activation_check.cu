/* spec/cuda/activation_check.cu: activation.cu against the reference. */
#include "check.h"

void check_activation() {
  static const kava_dtype types[] = {KAVA_F32, KAVA_BF16, KAVA_F16, KAVA_F64};
  static const int64_t counts[] = {1, 7, 64, 1003, 20011};
  for (kava_dtype dtype : types)
    for (int64_t n : counts)
      for (int odd = 0; odd < 2; odd++)
        for (int k = 0; k < KAVA_ACTIVATIONS; k++) {
          if (n > 10000 && (odd || k)) continue;
          kava_activation kind = (kava_activation)k;
          std::string name = "kind " + std::to_string(k) + (odd ? ", odd," : "");
          double tolerance = 2 * unit(dtype) + (dtype == KAVA_F64 ? 0 : 1e-6);
          bool add = (k + odd) % 2;
          array x(dtype, n, odd), up(dtype, n), grad(dtype, n), y(dtype, n, odd), dx(dtype, n), dup(dtype, n, odd);
          x.random(4);
          up.random();
          grad.random();
          std::vector<double> want((size_t)n), want_up((size_t)n);
          gpu->activation(kind, dtype, x.at(), y.at(), n);
          cpu->activation(kind, KAVA_F64, x.f64(), want.data(), n);
          compare("activation " + name, y, want, tolerance);

          dx.random();
          want = dx.values;
          gpu->activation_grad(kind, dtype, x.at(), grad.at(), dx.at(), n, add);
          cpu->activation_grad(kind, KAVA_F64, x.f64(), grad.f64(), want.data(), n, add);
          compare("activation_grad " + name, dx, want, tolerance);

          gpu->gated(kind, dtype, x.at(), up.at(), y.at(), n);
          cpu->gated(kind, KAVA_F64, x.f64(), up.f64(), want.data(), n);
          compare("gated " + name, y, want, tolerance);

          dx.random();
          dup.random();
          want = dx.values;
          want_up = dup.values;
          kava_gated_args a = {kind, dtype, n, x.at(), up.at(), grad.at(), dx.at(), dup.at(), add, !add};
          gpu->gated_grad(&a);
          a = {kind, KAVA_F64, n, x.f64(), up.f64(), grad.f64(), want.data(), want_up.data(), add, !add};
          cpu->gated_grad(&a);
          compare("gated_grad " + name, dx, want, tolerance);
          compare("gated_grad, up, " + name, dup, want_up, tolerance);

          if (k) continue;
          gpu->softcap(dtype, 2.5, x.at(), y.at(), n);
          cpu->softcap(KAVA_F64, 2.5, x.f64(), want.data(), n);
          compare("softcap" + name, y, want, tolerance);
          y.set(want); /* rounded alike on both sides */
          dx.random();
          want = dx.values;
          gpu->softcap_grad(dtype, 2.5, y.at(), grad.at(), dx.at(), n, !add);
          cpu->softcap_grad(KAVA_F64, 2.5, y.f64(), grad.f64(), want.data(), n, !add);
          compare("softcap_grad" + name, dx, want, tolerance);
        }
}

/* kernels/cpu/simd/amx.h: the bf16 micro-kernel on Intel's matrix tiles (AMX), for panels.h.
 * 2 x 2 tiles of C (32 rows, a panel of 32 columns) stay in tile registers; a tile step is 16 panel steps: 32 of k.
 * A tile row holds 64 bytes: of A 32 bf16 of a row, of B 16 columns' pairs, of C 16 floats. */
#ifndef KAVA_SIMD_AMX_H
#define KAVA_SIMD_AMX_H
#include <cpuid.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define AMX_CODE __attribute__((target("amx-tile,amx-bf16")))
#define AMX_ROWS 32

/* Whether the processor has AMX with bf16 and the kernel lets this process use it (Linux gives tile registers only on
 * request: ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA). */
__attribute__((unused)) static bool amx_usable(void) {
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & 1u << 22) == 0 || (d & 1u << 24) == 0) return false;
  return syscall(SYS_arch_prctl, 0x1023, 18L) == 0;
}

typedef struct __attribute__((aligned(64))) amx_config {
  uint8_t palette, start_row, reserved[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} amx_config;

/* Tiles 0-3: C, 4-5: A, 6-7: B, all 16 rows of 64 bytes. Per thread; ended at once, for tile state burdens task
 * switches. */
AMX_CODE static void amx_begin(void) {
  /* Constant, for GCC's _tile_loadconfig says that it reads 8 bytes: stores to the rest would be dropped. */
  static const amx_config config = {
      .palette = 1, .bytes = {64, 64, 64, 64, 64, 64, 64, 64}, .rows = {16, 16, 16, 16, 16, 16, 16, 16}};
  _tile_loadconfig(&config);
}
AMX_CODE static void amx_end(void) { _tile_release(); }

/* c (32 x 32, row stride ldc floats) = start + A B; start: rows at `from` with a stride of from_bytes (0: one row for
 * all), NULL: zero. */
AMX_CODE static void amx_micro(const char *a, int64_t lda, const char *b, int64_t steps, float *c, int64_t ldc,
                               const float *from, int64_t from_bytes) {
  /* nor do GCC's tile loads say which memory they read: what was written to the operands must be there */
  __asm__ volatile("" : : "r"(a), "r"(b), "r"(from) : "memory");
  if (from) {
    const char *row = (const char *)from;
    _tile_loadd(0, row, from_bytes);
    _tile_loadd(1, row + 64, from_bytes);
    _tile_loadd(2, row + 16 * from_bytes, from_bytes);
    _tile_loadd(3, row + 16 * from_bytes + 64, from_bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int64_t s = 0; s < steps; s += 16, a += 64, b += (int64_t)16 * 128) {
    _tile_loadd(6, b, 128);
    _tile_loadd(4, a, lda);
    _tile_loadd(7, b + 64, 128);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, a + 16 * lda, lda);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, ldc * 4);
  _tile_stored(1, c + 16, ldc * 4);
  _tile_stored(2, c + 16 * ldc, ldc * 4);
  _tile_stored(3, c + 16 * ldc + 16, ldc * 4);
}

/* One panel of B times m rows of A: as panel_rows; a block of C that is not whole is made beside it and copied. */
static void amx_panel_rows(const char *a, int64_t lda, int64_t m, const char *b, int64_t steps, float *c, int64_t ldc,
                           int64_t cols, const float *bias, bool add) {
  float edge[AMX_ROWS * 32], wide_bias[32] = {0};
  if (bias) memcpy(wide_bias, bias, (size_t)cols * sizeof *bias);
  for (int64_t i = 0; i < m; i += AMX_ROWS, a += AMX_ROWS * lda, c += AMX_ROWS * ldc) {
    int64_t rows = m - i < AMX_ROWS ? m - i : AMX_ROWS;
    if (rows == AMX_ROWS && cols == 32 && !(bias && add)) {
      const float *from = add ? c : bias ? wide_bias : NULL;
      amx_micro(a, lda, b, steps, c, ldc, from, add ? ldc * 4 : 0);
      continue;
    }
    memset(edge, 0, sizeof edge);
    for (int64_t r = 0; r < rows; r++)
      for (int64_t j = 0; j < cols; j++) edge[r * 32 + j] = wide_bias[j] + (add ? c[r * ldc + j] : 0.0f);
    amx_micro(a, lda, b, steps, edge, 32, edge, 128);
    for (int64_t r = 0; r < rows; r++) memcpy(c + r * ldc, edge + r * 32, (size_t)cols * sizeof *c);
  }
}
#endif

/* kernels/cuda/emulated/bulk.cuh: what native/bulk.cuh gives, in plain C++. A copy that was handed to the engine
 * happens as late as it may: one into shared memory when no thread can go on without it, one out of it when its thread
 * waits. Blocks run one after another, so there are no clusters. */
#ifndef KAVA_BULK_CUH
#define KAVA_BULK_CUH
#include <machine.cuh>

#define KAVA_CLUSTERS 0
#define KAVA_CLUSTER(blocks)

struct kava_box {
  const unsigned char *base;
  int64_t columns, rows, parts, row, part; /* row, part: bytes */
  int64_t box_rows;
};
static inline bool kava_box_make(kava_box *box, const void *base, int64_t columns, int64_t rows, int64_t parts,
                                 int64_t row, int64_t part, int box_rows) {
  if (reinterpret_cast<uintptr_t>(base) % 16 || row * 2 % 16 || part * 2 % 16 || row < 0 || part < 0) return false;
  *box = {static_cast<const unsigned char *>(base), columns, rows, parts, row * 2, part * 2, box_rows};
  return true;
}

struct kava_emulated_mbarrier {
  uint8_t phase, count; /* phase: the parity of the one that has not ended */
  uint16_t left;        /* threads that have not come yet */
  int32_t bytes;        /* announced, less those that came */
};
static_assert(sizeof(kava_emulated_mbarrier) == 8, "a barrier is 8 bytes");
static inline void kava_emulated_arrive(uint64_t *b, int threads, int bytes) {
  kava_emulated_mbarrier *m = reinterpret_cast<kava_emulated_mbarrier *>(b);
  if (threads > m->left) kava_emulated::die("more threads arrive at a barrier than it counts");
  m->left = (uint16_t)(m->left - threads);
  m->bytes += bytes;
  if (m->left || m->bytes) return;
  m->phase ^= 1;
  m->left = m->count;
}
static inline void kava_mbarrier_init(uint64_t *b, int count) {
  kava_emulated_mbarrier m = {0, (uint8_t)count, (uint16_t)count, 0};
  std::memcpy(b, &m, sizeof m);
}
static inline void kava_mbarrier_made() {}
static inline void kava_mbarrier_arrive(uint64_t *b) { kava_emulated_arrive(b, 1, 0); }
static inline void kava_mbarrier_arrive_at(uint64_t *, int) { kava_emulated::die("no clusters here"); }
static inline void kava_mbarrier_expect(uint64_t *b, int bytes) { kava_emulated_arrive(b, 1, bytes); }
static inline void kava_mbarrier_wait(uint64_t *b, int parity) {
  kava_emulated::watch(&reinterpret_cast<kava_emulated_mbarrier *>(b)->phase, (uint8_t)parity);
}

static inline void kava_bulk_load(void *to, const void *from, int bytes, uint64_t *barrier) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from) | (uintptr_t)bytes) % 16)
    kava_emulated::die("a bulk copy is not of whole 16 bytes");
  std::memset(to, 0xff, (size_t)bytes);
  kava_emulated::bulk_load([=] {
    std::memcpy(to, from, (size_t)bytes);
    kava_emulated_arrive(barrier, 0, -bytes);
  });
}
static inline void kava_box_prefetch(const kava_box &) {}
/* Calls body(in shared memory, in memory or NULL) for each 16 bytes of a box. */
template <class Body>
void kava_emulated_box(const kava_box &box, int column, int row, int part, void *tile, Body body) {
  unsigned char *at = static_cast<unsigned char *>(tile);
  if (reinterpret_cast<uintptr_t>(tile) % 1024) kava_emulated::die("a box's tile is not at a multiple of 1024 bytes");
  for (int64_t r = 0; r < box.box_rows; r++)
    for (int64_t c = 0; c < 64; c += 8) {
      int64_t x = column + c, y = row + r;
      bool inside = x >= 0 && x < box.columns && y >= 0 && y < box.rows && part >= 0 && part < box.parts;
      int64_t count = box.columns - x < 8 ? box.columns - x : 8;
      const unsigned char *there = box.base + part * box.part + y * box.row + x * 2;
      body(at + r * 128 + ((c / 8 ^ r) & 7) * 16, inside ? const_cast<unsigned char *>(there) : nullptr,
           inside ? (size_t)count * 2 : 0);
    }
}
static inline void kava_box_load(void *tile, const kava_box &box, int column, int row, int part, uint64_t *barrier) {
  kava_box own = box;
  std::memset(tile, 0xff, (size_t)own.box_rows * 128);
  kava_emulated::bulk_load([=] {
    kava_emulated_box(own, column, row, part, tile, [](unsigned char *to, const unsigned char *from, size_t bytes) {
      std::memset(to, 0, 16);
      if (from) std::memcpy(to, from, bytes);
    });
    kava_emulated_arrive(barrier, 0, -(int)own.box_rows * 128);
  });
}
static inline void kava_box_load_to(void *, const kava_box &, int, int, int, uint64_t *, int) {
  kava_emulated::die("no clusters here");
}
static inline void kava_box_store(const kava_box &box, int column, int row, int part, const void *tile) {
  kava_box own = box;
  void *from = const_cast<void *>(tile);
  kava_emulated::bulk_store([=] {
    kava_emulated_box(own, column, row, part, from, [](unsigned char *tile_at, unsigned char *to, size_t bytes) {
      if (to) std::memcpy(to, tile_at, bytes);
    });
  });
}
static inline void kava_box_commit() { kava_emulated::bulk_commit(); }
template <int N> static inline void kava_box_wait() { kava_emulated::bulk_wait(N); }

static inline void kava_named_barrier(int number, int threads) {
  kava_emulated::named_barrier((unsigned)number, (unsigned)threads);
}
template <int N> static inline void kava_registers_more() {}
template <int N> static inline void kava_registers_less() {}
static inline void kava_cluster_barrier() { kava_emulated::die("no clusters here"); }
static inline void kava_stmatrix(void *row, const uint32_t (&in)[4]) {
  struct {
    void *row;
    uint32_t words[4];
  } mine = {row, {in[0], in[1], in[2], in[3]}};
  const unsigned char *slots = kava_emulated::meet(kava_emulated::LDMATRIX, 0xffffffffu, &mine, sizeof mine);
  unsigned lane = kava_emulated::lane();
  for (unsigned m = 0; m < 4; m++) {
    unsigned char *to;
    std::memcpy(&to, slots + (8 * m + lane / 4) * kava_emulated::SLOT, sizeof to);
    if (reinterpret_cast<uintptr_t>(to) % 16) kava_emulated::die("stmatrix: a row is not at a multiple of 16 bytes");
    std::memcpy(to + lane % 4 * 4, &in[m], 4);
  }
}
template <class T> void kava_wgmma_wide_first(float (&d)[32][4], kava_operand a, kava_operand b) {
  kava_emulated_wgmma_of<T>(d, a, b, false);
}
template <class T> void kava_wgmma_wide(float (&d)[32][4], kava_operand a, kava_operand b) {
  kava_emulated_wgmma_of<T>(d, a, b, true);
}
struct kava_operands {
  kava_operand first;
  unsigned apart;
};
static inline kava_operands kava_operands_at(const void *rows, int apart) {
  return {kava_operand_at(rows), (unsigned)apart};
}
static inline void kava_emulated_wgmma_rows(float (&d)[32][4], kava_operand a, kava_operands b, bool add) {
  typedef __nv_bfloat16 T;
  kava_emulated::meet(kava_emulated::MMA, 0xffffffffu, nullptr, 0);
  float left[2][16];
  for (unsigned i = 0; i < 2; i++)
    for (unsigned k = 0; k < 16; k++)
      left[i][k] = kava_emulated_element<T>(a, threadIdx.x / 32 % 4 * 16 + kava_emulated::lane() / 4 + 8 * i, k);
  auto right = [&](unsigned k, unsigned n) {
    kava_operand tile = b.first;
    tile.at += n / 64 * b.apart;
    return kava_emulated_element<T>(tile, k, n % 64);
  };
  kava_emulated_wgmma(d, left, right, add);
}
static inline void kava_wgmma_wide_rows_first(float (&d)[32][4], kava_operand a, kava_operands b) {
  kava_emulated_wgmma_rows(d, a, b, false);
}
static inline void kava_wgmma_wide_rows(float (&d)[32][4], kava_operand a, kava_operands b) {
  kava_emulated_wgmma_rows(d, a, b, true);
}
static inline void kava_wgmma_wide_done(float (&)[32][4]) {}
#endif

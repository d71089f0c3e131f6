#include "base/rng.h"
#include "base/threads.h"
#include <math.h>
#include <stddef.h>
#include <pthread.h>

void kava_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]) {
  uint32_t c0 = (uint32_t)index, c1 = (uint32_t)(index >> 32), c2 = (uint32_t)stream, c3 = (uint32_t)(stream >> 32);
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++) {
    uint64_t p0 = (uint64_t)0xD2511F53u * c0, p1 = (uint64_t)0xCD9E8D57u * c2;
    uint32_t n0 = (uint32_t)(p1 >> 32) ^ c1 ^ k0, n2 = (uint32_t)(p0 >> 32) ^ c3 ^ k1;
    c1 = (uint32_t)p1;
    c3 = (uint32_t)p0;
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  out[0] = c0, out[1] = c1, out[2] = c2, out[3] = c3;
}

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t global_seed, global_position;

void kava_rng_set(uint64_t seed, uint64_t position) {
  pthread_mutex_lock(&lock);
  global_seed = seed;
  global_position = position;
  pthread_mutex_unlock(&lock);
}
void kava_rng_seed(uint64_t seed) { kava_rng_set(seed, 0); }
void kava_rng_get(uint64_t *seed, uint64_t *position) {
  pthread_mutex_lock(&lock);
  *seed = global_seed;
  *position = global_position;
  pthread_mutex_unlock(&lock);
}
uint64_t kava_rng_take(uint64_t *seed) {
  pthread_mutex_lock(&lock);
  uint64_t stream = global_position++;
  *seed = global_seed;
  pthread_mutex_unlock(&lock);
  return stream;
}

typedef struct fill {
  uint64_t seed, stream;
  float *out;
  int64_t count;
} fill;

static void fill_uniform(void *ctx, int64_t begin, int64_t end) {
  fill *f = ctx;
  for (int64_t i = begin; i < end; i++) {
    uint32_t bits[4];
    kava_philox(f->seed, f->stream, (uint64_t)i, bits);
    for (int j = 0; j < 4 && i * 4 + j < f->count; j++) f->out[i * 4 + j] = kava_unit_float(bits[j]);
  }
}

static void fill_normal(void *ctx, int64_t begin, int64_t end) {
  fill *f = ctx;
  for (int64_t i = begin; i < end; i++) {
    uint32_t bits[4];
    kava_philox(f->seed, f->stream, (uint64_t)i, bits);
    for (int j = 0; j < 4; j += 2) {
      /* 1 - u lies in (0,1], so the logarithm is finite */
      double radius = sqrt(-2.0 * log(1.0 - (double)kava_unit_float(bits[j])));
      double angle = 6.283185307179586 * (double)kava_unit_float(bits[j + 1]);
      if (i * 4 + j < f->count) f->out[i * 4 + j] = (float)(radius * cos(angle));
      if (i * 4 + j + 1 < f->count) f->out[i * 4 + j + 1] = (float)(radius * sin(angle));
    }
  }
}

void kava_rng_uniform(uint64_t seed, uint64_t stream, float *out, int64_t count) {
  fill f = {seed, stream, out, count};
  kava_parallel((count + 3) / 4, 4096, fill_uniform, &f);
}
void kava_rng_normal(uint64_t seed, uint64_t stream, float *out, int64_t count) {
  fill f = {seed, stream, out, count};
  kava_parallel((count + 3) / 4, 1024, fill_normal, &f);
}

uint64_t kava_permute_index(uint64_t seed, uint64_t count, uint64_t index) {
  /* A four-round Feistel network over the next even power of two permutes it; walking the cycle until the value falls
   * below `count` permutes [0, count) itself. No state: any row of any epoch is found in O(1). */
  int half = 1;
  while (half < 32 && ((uint64_t)1 << (2 * half)) < count) half++;
  uint64_t mask = ((uint64_t)1 << half) - 1;
  do {
    uint64_t left = index >> half, right = index & mask;
    for (uint32_t round = 0; round < 4; round++) {
      uint32_t bits[4];
      kava_philox(seed, round, right, bits);
      uint64_t next = left ^ (bits[0] & mask);
      left = right;
      right = next;
    }
    index = left << half | right;
  } while (index >= count);
  return index;
}

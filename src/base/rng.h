/* base/rng: counter-based random numbers (Philox 4x32-10, Salmon et al. 2011): a number is a pure function of
 * (seed, stream, index), so a dropout mask is made again in the backward pass and a resumed run draws what it would
 * have. */
#ifndef KAVA_BASE_RNG_H
#define KAVA_BASE_RNG_H
#include <stdint.h>

void kava_philox(uint64_t seed, uint64_t stream, uint64_t index, uint32_t out[4]);
static inline float kava_unit_float(uint32_t bits) { return (float)(bits >> 8) * 0x1p-24f; } /* [0,1) */

/* The process-wide generator behind kava.seed: each draw takes a fresh stream. Seed and position are checkpointed. */
void kava_rng_seed(uint64_t seed);
uint64_t kava_rng_take(uint64_t *seed); /* the next stream number; *seed gets the seed */
void kava_rng_get(uint64_t *seed, uint64_t *position);
void kava_rng_set(uint64_t seed, uint64_t position);
void kava_rng_uniform(uint64_t seed, uint64_t stream, float *out, int64_t count); /* [0,1) */
void kava_rng_normal(uint64_t seed, uint64_t stream, float *out, int64_t count);  /* N(0,1), Box-Muller */
/* a seekable shuffle: Feistel + cycle walking */
uint64_t kava_permute_index(uint64_t seed, uint64_t count, uint64_t index);
#endif

/* tensor/peak: what lay in a GPU's memory when it was fullest, by what made it. Between _begin and _end every block
 * that is given out is noted; it is named after the kernel that runs next, which writes into it. Off, it costs a test
 * of a flag. */
#ifndef KAVA_TENSOR_PEAK_H
#define KAVA_TENSOR_PEAK_H
#include "base/status.h"
#include <stddef.h>
#include <stdint.h>

typedef struct kava_peak_row {
  const char *name; /* NULL: what lay there before */
  size_t size;      /* bytes of one block */
  int64_t count;
} kava_peak_row;

kava_status kava_peak_begin(void); /* KAVA_MISUSE: it has begun already */
/* The rows of the moment when most lay there, those that take most first; good until the next begin. */
kava_status kava_peak_end(const kava_peak_row **rows, size_t *count);

/* What tensor/device tells it. `number` grows by 1 from block to block; `used`: bytes given out before this. */
extern bool kava_peak_watched;
void kava_peak_given(uint64_t number, size_t size, size_t used);
void kava_peak_freed(uint64_t number, size_t size, uint64_t last_number);
void kava_peak_named(const char *name); /* a literal */
#endif

#include "formats/parquet_runs.h"
#include "formats/thrift.h"
#include <string.h>

/* ---- runs */

void kava_hybrid_begin(kava_hybrid *h, const uint8_t *p, const uint8_t *end, uint32_t width) {
  *h = (kava_hybrid){.p = p, .end = end, .width = width};
}

/* The next run; false where there is none. A packed one may claim more groups than there are bytes: only whole values
 * count. */
static bool hybrid_run(kava_hybrid *h) {
  kava_thrift t = {h->p, h->end, false};
  uint64_t head = kava_thrift_varint(&t);
  if (t.broken) return false;
  size_t bytes = (size_t)(t.end - t.p);
  if (head & 1) {
    uint64_t groups = head >> 1;
    if (groups == 0 || groups > (uint64_t)INT32_MAX) return false;
    uint64_t need = groups * h->width;
    h->packed = groups * 8;
    if (need > bytes) {
      need = bytes;
      h->packed = bytes * 8 / h->width;
      if (h->packed == 0) return false;
    }
    h->bits = t.p;
    h->bit = 0;
    h->p = t.p + need;
  } else {
    size_t size = (h->width + 7) / 8;
    h->repeat = head >> 1;
    if (h->repeat == 0 || bytes < size) return false;
    h->value = 0;
    for (size_t i = 0; i < size; i++) h->value |= (uint32_t)t.p[i] << 8 * i;
    h->p = t.p + size;
  }
  return true;
}

static inline uint64_t load64(const uint8_t *p) {
  uint64_t v;
  memcpy(&v, p, 8);
  return v;
}

/* `count` levels, at most 8 bits each; rooms have slack for the words that are loaded beyond the end. */
bool kava_hybrid_levels(kava_hybrid *h, uint8_t *out, int64_t count) {
  while (count > 0) {
    if (h->repeat > 0) {
      int64_t n = (uint64_t)count < h->repeat ? count : (int64_t)h->repeat;
      memset(out, (int)h->value, (size_t)n);
      h->repeat -= (uint64_t)n;
      out += n;
      count -= n;
    } else if (h->packed > 0) {
      int64_t n = (uint64_t)count < h->packed ? count : (int64_t)h->packed;
      uint32_t width = h->width, mask = (1u << width) - 1;
      uint64_t bit = h->bit;
      for (int64_t i = 0; i < n; i++, bit += width)
        out[i] = (uint8_t)(load64(h->bits + (bit >> 3)) >> (bit & 7) & mask);
      h->bit = bit;
      h->packed -= (uint64_t)n;
      out += n;
      count -= n;
    } else if (!hybrid_run(h)) {
      return false;
    }
  }
  return true;
}

bool kava_hybrid_indices(kava_hybrid *h, uint32_t *out, int64_t count) {
  while (count > 0) {
    int64_t n;
    if (h->repeat > 0) {
      n = (uint64_t)count < h->repeat ? count : (int64_t)h->repeat;
      for (int64_t i = 0; i < n; i++) out[i] = h->value;
      h->repeat -= (uint64_t)n;
    } else if (h->packed > 0) {
      n = (uint64_t)count < h->packed ? count : (int64_t)h->packed;
      uint32_t width = h->width;
      uint64_t mask = ((uint64_t)1 << width) - 1, bit = h->bit;
      for (int64_t i = 0; i < n; i++, bit += width)
        out[i] = (uint32_t)(load64(h->bits + (bit >> 3)) >> (bit & 7) & mask);
      h->bit = bit;
      h->packed -= (uint64_t)n;
    } else if (h->width == 0) { /* nothing is written of indices that are all 0 */
      n = count;
      memset(out, 0, (size_t)n * sizeof *out);
    } else if (hybrid_run(h)) {
      continue;
    } else {
      return false;
    }
    out += n;
    count -= n;
  }
  return true;
}

/* ---- integers as packed differences */

bool kava_delta_begin(kava_delta *d, const uint8_t *p, const uint8_t *end, int64_t most) {
  kava_thrift t = {p, end, false};
  uint64_t block = kava_thrift_varint(&t), minis = kava_thrift_varint(&t), count = kava_thrift_varint(&t);
  int64_t value = kava_thrift_integer(&t);
  if (t.broken || minis == 0 || block % 128 != 0 || block == 0 || block > 1 << 20 || minis > block / 32 ||
      block % (minis * 32) != 0 || count > (uint64_t)most)
    return false;
  *d = (kava_delta){.p = t.p,
                    .end = end,
                    .per_mini = block / minis,
                    .minis = minis,
                    .left = count,
                    .mini_at = minis,
                    .value = value,
                    .first = true};
  return true;
}

bool kava_delta_next(kava_delta *d, int64_t *out) {
  if (d->left == 0) return false;
  d->left--;
  if (d->first) {
    d->first = false;
    *out = d->value;
    return true;
  }
  if (d->mini_left == 0) {
    if (d->mini_at == d->minis) { /* a block */
      kava_thrift t = {d->p, d->end, false};
      d->least = kava_thrift_integer(&t);
      if (t.broken || (uint64_t)(t.end - t.p) < d->minis) return false;
      d->widths = t.p;
      d->p = t.p + d->minis;
      d->mini_at = 0;
    }
    d->width = d->widths[d->mini_at++];
    uint64_t bytes = d->width * d->per_mini / 8;
    if (d->width > 64 || (uint64_t)(d->end - d->p) < bytes) return false;
    d->bits = d->p;
    d->bit = 0;
    d->p += bytes;
    d->mini_left = d->per_mini;
  }
  d->mini_left--;
  uint64_t difference = 0;
  if (d->width > 0) {
    const uint8_t *at = d->bits + (d->bit >> 3);
    uint32_t shift = d->bit & 7;
    difference = load64(at) >> shift;
    if (shift + d->width > 64) difference |= (uint64_t)at[8] << (64 - shift);
    if (d->width < 64) difference &= ((uint64_t)1 << d->width) - 1;
    d->bit += d->width;
  }
  d->value = (int64_t)((uint64_t)d->value + (uint64_t)d->least + difference);
  *out = d->value;
  return true;
}

/* Where the differences end and what they are lengths of begins. */
const uint8_t *kava_delta_end(kava_delta d) {
  int64_t value;
  while (d.left > 0)
    if (!kava_delta_next(&d, &value)) return NULL;
  return d.p;
}

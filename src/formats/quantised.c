#include "formats/quantised.h"
#include "base/threads.h"

static const int awq_order[8] = {0, 2, 4, 6, 1, 3, 5, 7};

static kava_status check_words(const char *what, const kava_tensor *words) {
  if (words->dtype == KAVA_I32 && words->dims == 2 && kava_tensor_is_contiguous(words)) return KAVA_OK;
  char shape[96];
  kava_shape_format(words->dims, words->shape, shape, sizeof shape);
  return kava_fail(KAVA_FORMAT, "%s: i32 with two dimensions expected, got %s %s", what, kava_dtype_name(words->dtype),
                   shape);
}

kava_status kava_unpack_words(const kava_tensor *words, int bits, int64_t count, int add, bool awq, kava_tensor **out) {
  kava_tensor *y = NULL;
  kava_status st = check_words("packed integers", words);
  if (st != KAVA_OK) return st;
  if ((bits != 2 && bits != 3 && bits != 4 && bits != 8) || (awq && bits != 4))
    return kava_fail(KAVA_UNSUPPORTED, "packed integers of %d bits", bits);
  int64_t rows = words->shape[0], n = words->shape[1];
  if (count < 1 || count > INT64_MAX / 32 || n != (count * bits + 31) / 32 || (awq && count % 8 != 0))
    return kava_fail(KAVA_FORMAT, "packed integers: %lld of %d bits expected in a row, got %lld words",
                     (long long)count, bits, (long long)n);
  if ((st = kava_tensor_new(KAVA_U8, 2, (int64_t[]){rows, count}, &y)) != KAVA_OK) return st;
  uint8_t *to = kava_tensor_data(y);
  for (int64_t r = 0; r < rows; r++) {
    const uint32_t *from = (const uint32_t *)kava_i32(words) + r * n;
    for (int64_t i = 0; i < count; i++) {
      int64_t bit = i * bits;
      uint64_t two = from[bit / 32];
      if (bit % 32 + bits > 32) two |= (uint64_t)from[bit / 32 + 1] << 32;
      int64_t at = awq ? i / 8 * 8 + awq_order[i % 8] : i;
      if (at < count) to[r * count + at] = (uint8_t)(((two >> bit % 32) + (uint64_t)add) & ((1u << bits) - 1));
    }
  }
  *out = y;
  return KAVA_OK;
}

typedef struct turning {
  const uint32_t *from;
  uint32_t *to;
  int64_t in, words; /* of a row of `from` */
} turning;

/* Columns of words [begin, end), eight rows at a time: a block of 8 x 8 half bytes is turned. */
static void turn(void *ctx, int64_t begin, int64_t end) {
  const turning *t = ctx;
  int64_t row = t->in / 8;
  for (int64_t i = 0; i < row; i++)
    for (int64_t w = begin; w < end; w++) {
      uint32_t eight[8] = {0};
      for (int k = 0; k < 8; k++) {
        uint32_t word = t->from[(8 * i + k) * t->words + w];
        for (int n = 0; n < 8; n++) eight[n] |= (word >> 4 * n & 15) << 4 * k;
      }
      for (int n = 0; n < 8; n++) t->to[(8 * w + awq_order[n]) * row + i] = eight[n];
    }
}

kava_status kava_awq_rows(const kava_tensor *words, kava_tensor **out) {
  kava_tensor *y = NULL;
  kava_status st = check_words("qweight", words);
  if (st != KAVA_OK) return st;
  int64_t in = words->shape[0], out_rows;
  if (in % 8 != 0) return kava_fail(KAVA_UNSUPPORTED, "qweight: %lld inputs; a multiple of 8 expected", (long long)in);
  if (__builtin_mul_overflow(words->shape[1], 8, &out_rows)) return kava_fail(KAVA_FORMAT, "qweight: too many columns");
  if ((st = kava_tensor_new(KAVA_I32, 2, (int64_t[]){out_rows, in / 8}, &y)) != KAVA_OK) return st;
  turning t = {(const uint32_t *)kava_i32(words), (uint32_t *)kava_i32(y), in, words->shape[1]};
  kava_parallel(t.words, 16, turn, &t);
  *out = y;
  return KAVA_OK;
}

#include "text/packer.h"
#include "base/rng.h"
#include <stdlib.h>

#define BUCKET_BATCHES 64
#define PACK_DOCUMENTS 1024
#define IGNORED (-100) /* a target that no loss counts */

/* A stretch of a dataset row; the stretches of one batch row follow each other from its beginning. */
typedef struct stretch {
  int64_t row, begin, length;
  int64_t place; /* pack: the row of the window it lies in; otherwise its place in shuffled order */
} stretch;

/* A window of the shuffled order, made into batch rows. */
typedef struct window {
  int64_t index; /* -1: none */
  stretch *items;
  int64_t count, room;
  int64_t bins; /* pack: rows that are filled */
} window;

struct kava_sampler {
  kava_dataset *data;
  kava_sampler_options options;
  int64_t position; /* batches given */
  window window;
  int64_t next_window, next_bin, next_item; /* pack: where the next batch begins */
};

void kava_batch_free(kava_batch *batch) {
  kava_tensor_release(&batch->input_ids);
  kava_tensor_release(&batch->start);
  kava_tensor_release(&batch->positions);
  kava_tensor_release(&batch->mask);
  kava_tensor_release(&batch->targets);
  kava_free(batch->pieces);
  *batch = (kava_batch){0};
}

kava_status kava_sampler_new(kava_dataset *data, const kava_sampler_options *options, kava_sampler **out) {
  if (options->batch < 1 || options->batch > 1 << 20)
    return kava_fail(KAVA_MISUSE, "batches: batch: from 1 to %d rows expected, got %lld", 1 << 20,
                     (long long)options->batch);
  if (options->length < 1 || options->length > INT32_MAX / 2)
    return kava_fail(KAVA_MISUSE, "batches: length: 1 token or more expected, got %lld", (long long)options->length);
  kava_sampler *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  s->data = kava_dataset_retain(data);
  s->options = *options;
  s->window.index = -1;
  *out = s;
  return KAVA_OK;
}

void kava_sampler_release(kava_sampler **at) {
  kava_sampler *s = *at;
  *at = NULL;
  if (!s) return;
  kava_dataset_release(&s->data);
  kava_free(s->window.items);
  kava_free(s);
}

const kava_sampler_options *kava_sampler_options_of(const kava_sampler *s) { return &s->options; }
const kava_dataset *kava_sampler_data(const kava_sampler *s) { return s->data; }
int64_t kava_sampler_position(const kava_sampler *s) { return s->position; }

static int64_t row_count(const kava_sampler *s) { return kava_dataset_stats_of(s->data)->rows; }
static int64_t batch_count(const kava_sampler *s) { return (row_count(s) + s->options.batch - 1) / s->options.batch; }
static int64_t window_size(const kava_sampler *s) {
  return s->options.mode == KAVA_BATCH_PACK
             ? PACK_DOCUMENTS
             : s->options.batch * (s->options.mode == KAVA_BATCH_BUCKET ? BUCKET_BATCHES : 1);
}
static int64_t window_count(const kava_sampler *s) { return (row_count(s) + window_size(s) - 1) / window_size(s); }

static int by_length(const void *a, const void *b) {
  const stretch *x = a, *y = b;
  if (x->length != y->length) return x->length < y->length ? -1 : 1;
  return (x->place > y->place) - (x->place < y->place);
}

static kava_status add_item(window *w, stretch item) {
  if (w->count == w->room) {
    int64_t room = w->room * 2 + 256;
    stretch *items = kava_realloc(w->items, (size_t)room * sizeof *items);
    if (!items) return KAVA_MEMORY;
    w->items = items;
    w->room = room;
  }
  w->items[w->count++] = item;
  return KAVA_OK;
}

/* First fit: each stretch goes to the first row with room for it. Rows with room are few, beside those that a document
 * longer than a row fills. */
static kava_status pack(window *w, int64_t length) {
  int64_t *space = kava_alloc((size_t)(w->count + 1) * 2 * sizeof *space), *open, open_count = 0, *fill = NULL;
  if (!space) return KAVA_MEMORY;
  open = space + w->count + 1;
  w->bins = 0;
  for (int64_t i = 0; i < w->count; i++) {
    int64_t size = w->items[i].length, at = size == length ? open_count : 0;
    while (at < open_count && space[open[at]] < size) at++;
    if (at == open_count) {
      space[w->bins] = length;
      open[open_count++] = w->bins++;
    }
    int64_t bin = open[at];
    w->items[i].place = bin;
    space[bin] -= size;
    if (space[bin] == 0) memmove(open + at, open + at + 1, (size_t)(--open_count - at) * sizeof *open);
  }
  /* by row, stable: counted, then placed */
  stretch *sorted = kava_alloc((size_t)(w->count + 1) * sizeof *sorted);
  fill = kava_calloc((size_t)w->bins + 1, sizeof *fill);
  if (!sorted || !fill) {
    kava_free(sorted);
    kava_free(fill);
    kava_free(space);
    return KAVA_MEMORY;
  }
  for (int64_t i = 0; i < w->count; i++) fill[w->items[i].place + 1]++;
  for (int64_t b = 0; b < w->bins; b++) fill[b + 1] += fill[b];
  for (int64_t i = 0; i < w->count; i++) sorted[fill[w->items[i].place]++] = w->items[i];
  kava_free(w->items);
  w->items = sorted;
  w->room = w->count + 1;
  kava_free(fill);
  kava_free(space);
  return KAVA_OK;
}

static kava_status load_window(kava_sampler *s, int64_t index) {
  window *w = &s->window;
  if (w->index == index) return KAVA_OK;
  w->index = -1;
  w->count = 0;
  int64_t total = row_count(s), first = index * window_size(s), last = first + window_size(s);
  if (last > total) last = total;
  kava_status st = KAVA_OK;
  for (int64_t i = first; i < last; i++) {
    int64_t row =
                (int64_t)kava_permute_index(s->options.seed + (uint64_t)s->options.epoch, (uint64_t)total, (uint64_t)i),
            length;
    kava_dataset_row(s->data, row, &length);
    if (s->options.mode == KAVA_BATCH_PACK) {
      for (int64_t begin = 0; begin < length && st == KAVA_OK; begin += s->options.length) {
        int64_t part = length - begin < s->options.length ? length - begin : s->options.length;
        st = add_item(w, (stretch){row, begin, part, 0});
      }
    } else {
      st = add_item(w, (stretch){row, 0, length < s->options.length ? length : s->options.length, i});
    }
    if (st != KAVA_OK) return st;
  }
  if (s->options.mode == KAVA_BATCH_BUCKET) /* what fills no batch stays in shuffled order: the epoch's last batch */
    qsort(w->items, (size_t)(w->count - w->count % s->options.batch), sizeof *w->items, by_length);
  if (s->options.mode == KAVA_BATCH_PACK && (st = pack(w, s->options.length)) != KAVA_OK) return st;
  w->index = index;
  return KAVA_OK;
}

/* Goes on by `bins` packed rows; *left gets those that were not there any more. */
static kava_status skip_bins(kava_sampler *s, int64_t bins, int64_t *left) {
  while (bins > 0 && s->next_window < window_count(s)) {
    kava_status st = load_window(s, s->next_window);
    if (st != KAVA_OK) return st;
    int64_t here = s->window.bins - s->next_bin;
    if (bins < here) {
      while (s->next_item < s->window.count && s->window.items[s->next_item].place < s->next_bin + bins) s->next_item++;
      s->next_bin += bins;
      bins = 0;
    } else {
      bins -= here;
      s->next_window++;
      s->next_bin = s->next_item = 0;
    }
  }
  *left = bins;
  return KAVA_OK;
}

kava_status kava_sampler_seek(kava_sampler *s, int64_t epoch, int64_t position) {
  if (position < 0) return kava_fail(KAVA_MISUSE, "seek: position: 0 or more expected, got %lld", (long long)position);
  kava_sampler before = *s;
  if (epoch != s->options.epoch) s->window.index = -1;
  s->options.epoch = epoch;
  s->next_window = s->next_bin = s->next_item = 0;
  kava_status st = KAVA_OK;
  int64_t left = 0;
  if (s->options.mode != KAVA_BATCH_PACK) {
    left = position > batch_count(s);
  } else if (position > 0) { /* the last batch may be short of rows, so that its end is no multiple */
    if (position - 1 > INT64_MAX / s->options.batch)
      left = 1;
    else if ((st = skip_bins(s, (position - 1) * s->options.batch, &left)) == KAVA_OK && left == 0) {
      if (s->next_window >= window_count(s))
        left = 1;
      else {
        int64_t rest;
        st = skip_bins(s, s->options.batch, &rest);
      }
    }
  }
  if (st == KAVA_OK && left == 0) {
    s->position = position;
    return KAVA_OK;
  }
  s->options.epoch = before.options.epoch;
  s->window.index = -1;
  s->next_window = before.next_window;
  s->next_bin = before.next_bin;
  s->next_item = before.next_item;
  return st != KAVA_OK ? st
                       : kava_fail(KAVA_MISUSE, "seek: position %lld is beyond the epoch's end", (long long)position);
}

kava_status kava_sampler_count(const kava_sampler *s, int64_t *out) {
  if (s->options.mode != KAVA_BATCH_PACK) {
    *out = batch_count(s);
    return KAVA_OK;
  }
  kava_sampler *walk = NULL;
  kava_status st = kava_sampler_new(s->data, &s->options, &walk);
  if (st != KAVA_OK) return st;
  int64_t bins = 0;
  for (int64_t i = 0; i < window_count(walk) && st == KAVA_OK; i++) {
    st = load_window(walk, i);
    bins += walk->window.bins;
  }
  kava_sampler_release(&walk);
  if (st == KAVA_OK) *out = (bins + s->options.batch - 1) / s->options.batch;
  return st;
}

/* ---- batches */

/* Writes one stretch into row `at` of the tensors, from column `column`. */
static void write_stretch(const kava_sampler *s, const kava_batch *b, const stretch *item, int64_t at, int64_t column) {
  int64_t width = b->input_ids->shape[1], length, base = at * width + column;
  const int32_t *ids = kava_dataset_row(s->data, item->row, &length) + item->begin;
  int64_t *input = kava_i64(b->input_ids) + base, *targets = kava_i64(b->targets) + base;
  int32_t *start = kava_i32(b->start) + base, *positions = kava_i32(b->positions) + base;
  memset((uint8_t *)b->mask->storage->data + base, 1, (size_t)item->length);
  for (int64_t t = 0; t < item->length; t++) {
    input[t] = ids[t];
    targets[t] = t + 1 < item->length ? ids[t + 1] : IGNORED;
    start[t] = (int32_t)column;
    positions[t] = (int32_t)t;
  }
}

static void write_padding(const kava_sampler *s, const kava_batch *b, int64_t at, int64_t column) {
  int64_t width = b->input_ids->shape[1], base = at * width;
  for (int64_t t = column; t < width; t++) {
    kava_i64(b->input_ids)[base + t] = kava_dataset_pad(s->data);
    kava_i64(b->targets)[base + t] = IGNORED;
    kava_i32(b->start)[base + t] = (int32_t)t;
    kava_i32(b->positions)[base + t] = 0;
    ((uint8_t *)b->mask->storage->data)[base + t] = 0;
  }
}

static kava_status make_tensors(kava_batch *b, int64_t rows, int64_t width) {
  kava_status st = KAVA_OK;
  const int64_t shape[2] = {rows, width};
  KAVA_TRY(kava_tensor_new(KAVA_I64, 2, shape, &b->input_ids));
  KAVA_TRY(kava_tensor_new(KAVA_I64, 2, shape, &b->targets));
  KAVA_TRY(kava_tensor_new(KAVA_I32, 2, shape, &b->start));
  KAVA_TRY(kava_tensor_new(KAVA_I32, 2, shape, &b->positions));
  KAVA_TRY(kava_tensor_new(KAVA_U8, 2, shape, &b->mask));
out:
  return st;
}

/* `count` stretches, their `place` being the batch row each lies in. */
static kava_status write_batch(const kava_sampler *s, const stretch *items, int64_t count, int64_t rows, int64_t width,
                               kava_batch *b) {
  kava_status st = make_tensors(b, rows, width);
  if (st != KAVA_OK) return st;
  b->pieces = kava_alloc((size_t)count * sizeof *b->pieces);
  if (!b->pieces) return KAVA_MEMORY;
  int64_t column = 0;
  for (int64_t i = 0; i < count; i++) {
    if (i > 0 && items[i].place != items[i - 1].place) {
      write_padding(s, b, items[i - 1].place, column);
      column = 0;
    }
    write_stretch(s, b, &items[i], items[i].place, column);
    b->pieces[b->piece_count++] = (kava_piece){items[i].row, items[i].begin, items[i].length, items[i].place, column};
    column += items[i].length;
    b->tokens += items[i].length;
  }
  write_padding(s, b, items[count - 1].place, column);
  return KAVA_OK;
}

static kava_status next_padded(kava_sampler *s, kava_batch *b, bool *more) {
  int64_t size = s->options.batch, per_window = s->options.mode == KAVA_BATCH_BUCKET ? BUCKET_BATCHES : 1;
  if (s->position >= batch_count(s)) return KAVA_OK;
  int64_t index = s->position / per_window;
  kava_status st = load_window(s, index);
  if (st != KAVA_OK) return st;
  int64_t full = s->window.count / size, at = s->position % per_window;
  uint64_t seed = s->options.seed + (uint64_t)s->options.epoch + 0x62756b74u * (uint64_t)(index + 1);
  if (at < full) at = (int64_t)kava_permute_index(seed, (uint64_t)full, (uint64_t)at);
  int64_t first = at * size, rows = s->window.count - first < size ? s->window.count - first : size, width = 0;
  stretch *items = kava_alloc((size_t)rows * sizeof *items);
  if (!items) return KAVA_MEMORY;
  for (int64_t i = 0; i < rows; i++) {
    items[i] = s->window.items[first + i];
    items[i].place = i;
    if (items[i].length > width) width = items[i].length;
  }
  st = write_batch(s, items, rows, rows, width, b);
  kava_free(items);
  *more = st == KAVA_OK;
  return st;
}

static kava_status next_packed(kava_sampler *s, kava_batch *b, bool *more) {
  kava_status st = KAVA_OK;
  window batch = {0}; /* its rows may come from two windows, or more */
  int64_t at_window = s->next_window, at_bin = s->next_bin, at_item = s->next_item, rows = 0;
  while (rows < s->options.batch && at_window < window_count(s)) {
    KAVA_TRY(load_window(s, at_window));
    while (at_bin < s->window.bins && rows < s->options.batch) {
      for (; at_item < s->window.count && s->window.items[at_item].place == at_bin; at_item++) {
        stretch item = s->window.items[at_item];
        item.place = rows;
        KAVA_TRY(add_item(&batch, item));
      }
      at_bin++;
      rows++;
    }
    if (at_bin == s->window.bins) {
      at_window++;
      at_bin = at_item = 0;
    }
  }
  if (rows > 0) {
    KAVA_TRY(write_batch(s, batch.items, batch.count, rows, s->options.length, b));
    s->next_window = at_window;
    s->next_bin = at_bin;
    s->next_item = at_item;
    *more = true;
  }
out:
  kava_free(batch.items);
  return st;
}

kava_status kava_sampler_next(kava_sampler *s, kava_batch *out, bool *more) {
  kava_batch batch = {0};
  *more = false;
  kava_status st = s->options.mode == KAVA_BATCH_PACK ? next_packed(s, &batch, more) : next_padded(s, &batch, more);
  if (st != KAVA_OK || !*more) {
    kava_batch_free(&batch);
    *more = false;
    return st;
  }
  s->position++;
  *out = batch;
  return KAVA_OK;
}

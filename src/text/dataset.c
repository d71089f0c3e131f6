#include "text/dataset.h"
#include "base/crc32c.h"
#include "base/threads.h"
#include "formats/writer.h"
#include <stdio.h>
#include <sys/stat.h>

#define MAGIC "KAVATOK\1"
#define LAYOUT 2 /* raised when ids or the file would come out otherwise */

typedef struct header {
  char magic[8];
  uint32_t layout, header_crc; /* of the header with this field 0 */
  uint32_t crc, reserved;      /* of all behind the header */
  char key[40];
  kava_dataset_stats stats;
  uint8_t rest[256 - 8 - 16 - 40 - sizeof(kava_dataset_stats)];
} header;
_Static_assert(sizeof(header) == 256, "the header's size is part of the format");

struct kava_dataset {
  int refs; /* atomic */
  char *path, *cache_path;
  bool cached;
  int32_t pad;
  int64_t max_length;
  kava_map *map;    /* the cache file, or */
  int32_t *own_ids; /* the ids in memory */
  uint64_t *own_offsets;
  const int32_t *ids;
  const uint64_t *offsets;
  kava_dataset_stats stats;
};

kava_dataset *kava_dataset_retain(kava_dataset *data) {
  __atomic_fetch_add(&data->refs, 1, __ATOMIC_RELAXED);
  return data;
}

void kava_dataset_release(kava_dataset **at) {
  kava_dataset *data = *at;
  *at = NULL;
  if (!data || __atomic_sub_fetch(&data->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  kava_map_release(&data->map);
  kava_free(data->own_ids);
  kava_free(data->own_offsets);
  kava_free(data->cache_path);
  kava_free(data->path);
  kava_free(data);
  kava_live_add(-1);
}

const kava_dataset_stats *kava_dataset_stats_of(const kava_dataset *data) { return &data->stats; }
int64_t kava_dataset_max_length(const kava_dataset *data) { return data->max_length; }
int32_t kava_dataset_pad(const kava_dataset *data) { return data->pad; }
bool kava_dataset_cached(const kava_dataset *data) { return data->cached; }
const char *kava_dataset_cache_path(const kava_dataset *data) { return data->cache_path; }
const char *kava_dataset_path(const kava_dataset *data) { return data->path; }

const int32_t *kava_dataset_row(const kava_dataset *data, int64_t row, int64_t *length) {
  *length = (int64_t)(data->offsets[row + 1] - data->offsets[row]);
  return data->ids + data->offsets[row];
}

/* ---- the cache's key and its reading */

static uint64_t fold(uint64_t h, const void *bytes, size_t size) { /* four lanes, 32 bytes a turn */
  const uint8_t *p = bytes;
  uint64_t lane[4] = {h ^ size, h + 0x9e3779b97f4a7c15u, h ^ 0xbf58476d1ce4e5b9u, h + 0x94d049bb133111ebu};
  for (; size >= 32; p += 32, size -= 32)
    for (int i = 0; i < 4; i++) {
      uint64_t word;
      memcpy(&word, p + 8 * i, 8);
      lane[i] = (lane[i] ^ word) * 0x9fb21c651e98df25u;
      lane[i] ^= lane[i] >> 32;
    }
  for (size_t i = 0; i < size; i++) lane[i % 4] = (lane[i % 4] ^ p[i]) * 0xd6e8feb86659fd93u;
  for (int i = 0; i < 4; i++) {
    h = (h ^ lane[i]) * 0x9fb21c651e98df25u;
    h ^= h >> 29;
  }
  return h;
}

static void fold_both(void *context, const void *bytes, size_t size) {
  uint64_t *h = context;
  for (int i = 0; i < 2; i++) h[i] = fold(h[i], bytes, size);
}

static kava_status make_key(const kava_source *source, const kava_tokenizer *tok, const kava_dataset_options *o,
                            char key[40]) {
  uint64_t h[2] = {1, 2};
  int64_t numbers[6] = {LAYOUT, o->max_length, o->longer, o->eos, o->skip, kava_tokenizer_eos(tok)};
  fold_both(h, numbers, sizeof numbers);
  fold_both(h, o->text_template, strlen(o->text_template));
  fold_both(h, kava_tokenizer_fingerprint(tok), 32);
  kava_status st = kava_source_scan(source, fold_both, h);
  if (st == KAVA_OK) snprintf(key, 40, "%016llx%016llx", (unsigned long long)h[0], (unsigned long long)h[1]);
  return st;
}

static uint32_t header_crc(const header *h) {
  header copy = *h;
  copy.header_crc = 0;
  return kava_crc32c(0, &copy, sizeof copy);
}

/* Takes the cache file when it is there and sound; *taken is false, with nothing changed, otherwise. KAVA_MEMORY. */
static kava_status read_cache(kava_dataset *data, const char *key, bool *taken) {
  struct stat info;
  kava_map *map = NULL;
  *taken = false;
  if (stat(data->cache_path, &info) != 0) return KAVA_OK;
  kava_status st = kava_map_open(data->cache_path, &map);
  if (st != KAVA_OK) return st == KAVA_MEMORY ? st : KAVA_OK;
  const header *h = (const header *)map->data;
  bool good = map->size >= sizeof *h && memcmp(h->magic, MAGIC, 8) == 0 && h->layout == LAYOUT &&
              h->header_crc == header_crc(h) && memcmp(h->key, key, 40) == 0 && h->stats.rows >= 0 &&
              h->stats.tokens >= 0;
  if (good) {
    uint64_t room = map->size - sizeof *h, rows = (uint64_t)h->stats.rows, tokens = (uint64_t)h->stats.tokens;
    good = rows < room / 8 && tokens <= room / 4 && ((tokens * 4 + 7) & ~(uint64_t)7) + (rows + 1) * 8 == room &&
           kava_crc32c(0, map->data + sizeof *h, room) == h->crc;
    const uint64_t *offsets =
        (const uint64_t *)(const void *)(map->data + sizeof *h + ((tokens * 4 + 7) & ~(uint64_t)7));
    good = good && offsets[0] == 0 && offsets[rows] == tokens;
    for (uint64_t i = 0; good && i < rows; i++) good = offsets[i] < offsets[i + 1];
    if (good) {
      data->stats = h->stats;
      data->map = map;
      data->ids = (const int32_t *)(const void *)(map->data + sizeof *h);
      data->offsets = offsets;
      *taken = true;
      return KAVA_OK;
    }
  }
  kava_map_release(&map);
  return KAVA_OK;
}

/* ---- tokenising */

/* What one piece of a block gives, in the rows' order. */
typedef struct piece {
  kava_ids ids;
  kava_ids lengths; /* of the rows kept */
  int64_t truncated, too_long, empty, broken;
  char *message; /* the first broken row's, with its place */
  bool fatal;    /* the message ends the job, however many broken rows may be skipped */
  kava_status st;
} piece;

typedef struct job {
  const kava_dataset_options *options;
  const char *path;
  kava_tokenizer *tok;
  kava_source *source;
  int64_t row_count; /* of the block */
  piece *pieces;
  int64_t piece_count;
  struct worker {
    kava_encoder *encoder;
    kava_row_tools tools;
    kava_buffer text;
  } * workers;        /* by thread */
  char *first_broken; /* message */
  /* where ids go */
  kava_writer writer;
  bool writing;
  kava_dataset *data;
  size_t own_room;
  uint64_t *offsets;
  size_t offset_room;
} job;

static void note(const job *j, piece *p, int64_t row, kava_status st, bool fatal) {
  if (fatal && !p->fatal) {
    kava_free(p->message);
    p->message = NULL;
    p->fatal = true;
    p->st = st;
  }
  if (p->message) return;
  char *why = kava_strdup(kava_message()), *place = kava_source_place(j->source, row);
  if (why && place) p->message = kava_format("%s: %s", place, why);
  kava_free(why);
  kava_free(place);
}

static kava_status encode_row(const job *j, struct worker *w, piece *p, int64_t row) {
  const kava_dataset_options *o = j->options;
  w->text.size = 0;
  switch (kava_source_text(j->source, row, &w->tools, &w->text)) {
  case KAVA_ROW_GOOD: break;
  case KAVA_ROW_BROKEN:
    note(j, p, row, KAVA_FORMAT, false);
    p->broken++;
    return KAVA_OK;
  case KAVA_ROW_MISSING: note(j, p, row, KAVA_FORMAT, true); return KAVA_FORMAT;
  case KAVA_ROW_FAILED: note(j, p, row, KAVA_MEMORY, true); return KAVA_MEMORY;
  }
  size_t before = p->ids.size;
  int32_t eos = kava_tokenizer_eos(j->tok);
  kava_status st = kava_encode(w->encoder, w->text.size ? (const char *)w->text.data : "", w->text.size,
                               KAVA_ENCODE_SPECIAL, &p->ids);
  if (st == KAVA_OK && o->eos && (p->ids.size == before || p->ids.data[p->ids.size - 1] != eos))
    st = kava_ids_add(&p->ids, eos);
  if (st != KAVA_OK) {
    note(j, p, row, st, true);
    return st;
  }
  int64_t length = (int64_t)(p->ids.size - before);
  if (length == 0) {
    p->empty++;
    return KAVA_OK;
  }
  if (length > o->max_length) {
    if (o->longer == KAVA_LONG_ERROR) {
      st = kava_fail(KAVA_FORMAT, "the row has %lld tokens; max_length is %lld", (long long)length,
                     (long long)o->max_length);
      note(j, p, row, st, true);
      return st;
    }
    if (o->longer == KAVA_LONG_SKIP) {
      p->ids.size = before;
      p->too_long++;
      return KAVA_OK;
    }
    length = o->max_length;
    p->ids.size = before + (size_t)length;
    p->truncated++;
  }
  st = kava_ids_add(&p->lengths, (int32_t)length);
  if (st != KAVA_OK) note(j, p, row, st, true);
  return st;
}

static void encode_pieces(void *ctx, int64_t begin, int64_t end) {
  job *j = ctx;
  struct worker *w = &j->workers[kava_thread_index()];
  for (int64_t at = begin; at < end; at++) {
    piece *p = &j->pieces[at];
    int64_t first = j->row_count * at / j->piece_count, last = j->row_count * (at + 1) / j->piece_count;
    for (int64_t i = first; i < last; i++)
      if (encode_row(j, w, p, i) != KAVA_OK) break;
  }
}

static kava_status keep_ids(job *j, const piece *p) {
  kava_dataset *data = j->data;
  kava_status st;
  size_t rows = p->lengths.size;
  if (j->offset_room < (size_t)data->stats.rows + rows + 1) {
    size_t room = j->offset_room * 2 + rows + 1024;
    uint64_t *offsets = kava_realloc(j->offsets, room * sizeof *offsets);
    if (!offsets) return KAVA_MEMORY;
    if (j->offset_room == 0) offsets[0] = 0;
    j->offsets = offsets;
    j->offset_room = room;
  }
  if (j->writing) {
    if ((st = kava_writer_put(&j->writer, p->ids.data, p->ids.size * 4)) != KAVA_OK) return st;
  } else if (p->ids.size) {
    size_t need = (size_t)data->stats.tokens + p->ids.size;
    if (j->own_room < need) {
      size_t room = j->own_room * 2 > need ? j->own_room * 2 : need;
      int32_t *ids = kava_realloc(data->own_ids, room * sizeof *ids);
      if (!ids) return KAVA_MEMORY;
      data->own_ids = ids;
      j->own_room = room;
    }
    memcpy(data->own_ids + data->stats.tokens, p->ids.data, p->ids.size * 4);
  }
  for (size_t i = 0; i < rows; i++) {
    int32_t length = p->lengths.data[i];
    data->stats.tokens += length;
    data->stats.rows++;
    if (length > data->stats.longest) data->stats.longest = length;
    j->offsets[data->stats.rows] = (uint64_t)data->stats.tokens;
  }
  return KAVA_OK;
}

/* Gathers what the pieces gave, in order; the first failure in the file's order is the one told. */
static kava_status gather(job *j) {
  kava_dataset_stats *stats = &j->data->stats;
  for (int64_t at = 0; at < j->piece_count; at++) {
    piece *p = &j->pieces[at];
    if (p->broken > 0 && stats->broken == 0 && !p->fatal) {
      j->first_broken = p->message;
      p->message = NULL;
    }
    stats->broken += p->broken;
    if (p->fatal) return kava_fail(p->st, "%s", p->message ? p->message : "out of memory");
    if (stats->broken > j->options->skip) {
      const char *first = j->first_broken ? j->first_broken : j->path;
      if (j->options->skip == 0) return kava_fail(KAVA_FORMAT, "%s", first);
      return kava_fail(KAVA_FORMAT, "%s (the first of more than %lld broken rows, which is what skip allows)", first,
                       (long long)j->options->skip);
    }
    kava_status st = keep_ids(j, p);
    if (st != KAVA_OK) return st;
    stats->truncated += p->truncated;
    stats->too_long += p->too_long;
    stats->empty += p->empty;
    kava_free(p->message);
    *p = (piece){.ids = {p->ids.data, 0, p->ids.capacity}, .lengths = {p->lengths.data, 0, p->lengths.capacity}};
  }
  return KAVA_OK;
}

static kava_status tokenize(job *j) {
  for (;;) {
    kava_status st = kava_source_next(j->source, &j->row_count);
    if (st != KAVA_OK) return st;
    if (j->row_count == 0) return kava_source_unchanged(j->source);
    kava_parallel(j->piece_count, 1, encode_pieces, j);
    if ((st = gather(j)) != KAVA_OK) return st;
  }
}

static kava_status finish(job *j, const char *key) {
  kava_dataset *data = j->data;
  kava_status st;
  if (!j->writing) {
    data->own_offsets = j->offsets;
    j->offsets = NULL;
    data->offsets = data->own_offsets;
    data->ids = data->own_ids;
    return KAVA_OK;
  }
  header h = {.layout = LAYOUT, .stats = data->stats};
  memcpy(h.magic, MAGIC, 8);
  memcpy(h.key, key, 40);
  if ((st = kava_writer_pad(&j->writer, 8)) != KAVA_OK) return st;
  if ((st = kava_writer_put(&j->writer, j->offsets, ((size_t)data->stats.rows + 1) * 8)) != KAVA_OK) return st;
  h.crc = j->writer.crc;
  h.header_crc = header_crc(&h);
  if ((st = kava_writer_patch(&j->writer, 0, &h, sizeof h)) != KAVA_OK) return st;
  st = kava_writer_commit(&j->writer);
  j->writing = false;
  if (st != KAVA_OK) return st;
  bool good;
  if ((st = read_cache(data, key, &good)) != KAVA_OK || good) return st;
  return kava_fail(KAVA_IO, "%s: does not read back as it was written", data->cache_path);
}

static kava_status build(kava_dataset *data, kava_source *source, kava_tokenizer *tok,
                         const kava_dataset_options *options, const char *key) {
  kava_status st = KAVA_OK;
  int threads = kava_threads();
  job j = {.options = options, .path = data->path, .tok = tok, .source = source, .data = data};
  j.piece_count = options->workers > 0 ? options->workers : threads * 4;
  j.pieces = kava_calloc((size_t)j.piece_count, sizeof *j.pieces);
  j.workers = kava_calloc((size_t)threads, sizeof *j.workers);
  if (!j.pieces || !j.workers) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (int i = 0; i < threads; i++) KAVA_TRY(kava_encoder_new(tok, &j.workers[i].encoder));
  if (data->cache_path) {
    kava_writer_sweep(data->cache_path);
    KAVA_TRY(kava_writer_open(&j.writer, data->cache_path));
    j.writing = true;
    KAVA_TRY(kava_writer_put(&j.writer, &(header){0}, sizeof(header)));
    j.writer.crc = 0;
  }
  KAVA_TRY(tokenize(&j));
  if (data->stats.rows == 0)
    KAVA_FAIL(KAVA_FORMAT, "%s: no rows to learn from (%lld broken, %lld empty, %lld too long)", data->path,
              (long long)data->stats.broken, (long long)data->stats.empty, (long long)data->stats.too_long);
  st = finish(&j, key);
out:
  if (j.writing) kava_writer_abort(&j.writer);
  for (int64_t i = 0; j.pieces && i < j.piece_count; i++) {
    kava_ids_free(&j.pieces[i].ids);
    kava_ids_free(&j.pieces[i].lengths);
    kava_free(j.pieces[i].message);
  }
  for (int i = 0; j.workers && i < threads; i++) {
    kava_encoder_release(&j.workers[i].encoder);
    kava_row_tools_free(&j.workers[i].tools);
    kava_buffer_free(&j.workers[i].text);
  }
  kava_free(j.pieces);
  kava_free(j.workers);
  kava_free(j.first_broken);
  kava_free(j.offsets);
  return st;
}

/* CACHE/NAME-KEY.tokens, where NAME is the path's last part without what a pattern has in it. */
static char *cache_path(const char *cache, const char *path, const char *key) {
  char name[101];
  size_t end = strlen(path), begin, length = 0;
  while (end > 1 && path[end - 1] == '/') end--;
  for (begin = end; begin > 0 && path[begin - 1] != '/';) begin--;
  for (size_t i = begin; i < end && length < sizeof name - 1; i++)
    name[length++] = strchr("*?[]", path[i]) ? '-' : path[i];
  name[length] = 0;
  return kava_format("%s/%s-%.16s.tokens", cache, name, key);
}

kava_status kava_dataset_open(const char *path, kava_tokenizer *tok, const kava_dataset_options *options,
                              kava_dataset **out) {
  kava_status st = KAVA_OK;
  kava_dataset *data = NULL;
  kava_source *source = NULL;
  char key[40] = "";
  if (options->max_length < 1 || options->max_length > INT32_MAX)
    return kava_fail(KAVA_MISUSE, "max_length: 1 or more expected, got %lld", (long long)options->max_length);
  if (options->skip < 0) return kava_fail(KAVA_MISUSE, "skip: 0 or more expected, got %lld", (long long)options->skip);
  if (options->eos && kava_tokenizer_eos(tok) < 0)
    return kava_fail(KAVA_MISUSE, "eos: the tokenizer %s names no end-of-text token; give eos = false",
                     kava_tokenizer_path(tok));
  KAVA_TRY(kava_source_open(path, options->text_template, &source));
  data = kava_calloc(1, sizeof *data);
  if (!data) {
    st = KAVA_MEMORY;
    goto out;
  }
  data->refs = 1;
  kava_live_add(1);
  data->max_length = options->max_length;
  data->pad = kava_tokenizer_pad(tok) >= 0   ? kava_tokenizer_pad(tok)
              : kava_tokenizer_eos(tok) >= 0 ? kava_tokenizer_eos(tok)
                                             : 0;
  if (!(data->path = kava_strdup(path))) {
    st = KAVA_MEMORY;
    goto out;
  }
  if (options->cache) {
    KAVA_TRY(make_key(source, tok, options, key));
    data->cache_path = cache_path(options->cache, path, key);
    if (!data->cache_path) {
      st = KAVA_MEMORY;
      goto out;
    }
    KAVA_TRY(read_cache(data, key, &data->cached));
  }
  if (!data->cached) KAVA_TRY(build(data, source, tok, options, key));
  *out = data;
  data = NULL;
out:
  kava_dataset_release(&data);
  kava_source_close(&source);
  return st;
}

#include "formats/codec.h"
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#define INPUT_BYTES ((size_t)256 << 10)
#define SNAPPY_MOST 32 /* bytes that one of snappy's can become, at most: 64 of 3, rounded up */

/* ---- one decompressor behind both uses */

typedef struct inflater {
  kava_codec codec;
  z_stream z;
  bool z_open;
  ZSTD_DStream *zstd;
  bool between; /* where one member has ended and another may begin */
} inflater;

static kava_status start(inflater *f, kava_codec codec) {
  *f = (inflater){.codec = codec, .between = true};
  if (codec == KAVA_CODEC_GZIP) {
    if (inflateInit2(&f->z, 15 + 32) != Z_OK) return kava_fail(KAVA_MEMORY, "out of memory: gzip");
    f->z_open = true;
  } else if (codec == KAVA_CODEC_ZSTD) {
    f->zstd = ZSTD_createDStream();
    if (!f->zstd) return kava_fail(KAVA_MEMORY, "out of memory: zstd");
  }
  return KAVA_OK;
}

static void stop(inflater *f) {
  if (f->z_open) inflateEnd(&f->z);
  ZSTD_freeDStream(f->zstd);
  *f = (inflater){0};
}

/* Takes from [*in, end), gives into [*out, stop_at): moves both on. */
static kava_status step(inflater *f, const uint8_t **in, const uint8_t *end, uint8_t **out, uint8_t *stop_at) {
  if (f->codec == KAVA_CODEC_GZIP) {
    if (f->between && *in < end) {
      inflateReset2(&f->z, 15 + 32);
      f->between = false;
    }
    size_t most = (size_t)1 << 30, give = (size_t)(end - *in), room = (size_t)(stop_at - *out);
    f->z.next_in = (Bytef *)(uintptr_t)*in;
    f->z.avail_in = (uInt)(give < most ? give : most);
    f->z.next_out = *out;
    f->z.avail_out = (uInt)(room < most ? room : most);
    int result = inflate(&f->z, Z_NO_FLUSH);
    *in = f->z.next_in;
    *out = f->z.next_out;
    if (result == Z_MEM_ERROR) return kava_fail(KAVA_MEMORY, "out of memory: gzip");
    if (result == Z_STREAM_END)
      f->between = true;
    else if (result != Z_OK && result != Z_BUF_ERROR)
      return kava_fail(KAVA_FORMAT, "gzip: %s", f->z.msg ? f->z.msg : "damaged data");
    return KAVA_OK;
  }
  ZSTD_inBuffer from = {*in, (size_t)(end - *in), 0};
  ZSTD_outBuffer to = {*out, (size_t)(stop_at - *out), 0};
  size_t result = ZSTD_decompressStream(f->zstd, &to, &from);
  if (ZSTD_isError(result)) return kava_fail(KAVA_FORMAT, "zstd: %s", ZSTD_getErrorName(result));
  f->between = result == 0;
  *in += from.pos;
  *out += to.pos;
  return KAVA_OK;
}

/* ---- blocks */

kava_status kava_unpack(kava_codec codec, const void *from, size_t size, size_t expected, kava_room *to) {
  kava_status st = KAVA_OK;
  const uint8_t *in = from, *end = in + size;
  if (codec == KAVA_CODEC_NONE) {
    if (size != expected) return kava_fail(KAVA_FORMAT, "%zu bytes where %zu are expected", size, expected);
    if (!kava_room_take(to, size)) return KAVA_MEMORY;
    memcpy(to->data, from, size);
    to->size = expected;
    return KAVA_OK;
  }
  if (codec == KAVA_CODEC_SNAPPY) {
    if (expected / SNAPPY_MOST > size)
      return kava_fail(KAVA_FORMAT, "snappy: %zu bytes cannot become %zu", size, expected);
    if (!kava_room_take(to, expected)) return KAVA_MEMORY;
    st = kava_snappy(from, size, to->data, expected);
    to->size = expected;
    return st;
  }
  inflater f;
  size_t done = 0, room = size * 8 + 4096;
  if (room > expected) room = expected;
  if (to->size > room) room = to->size < expected ? to->size : expected;
  if ((st = start(&f, codec)) != KAVA_OK) goto out;
  if (!kava_room_take(to, room)) {
    st = KAVA_MEMORY;
    goto out;
  }
  for (;;) {
    uint8_t *out = to->data + done;
    const uint8_t *before = in;
    KAVA_TRY(step(&f, &in, end, &out, to->data + room));
    size_t came = (size_t)(out - (to->data + done));
    done += came;
    if (f.between && in == end) break;
    if (done == room && room < expected) {
      room = room > expected / 2 ? expected : room * 2;
      uint8_t *grown = kava_realloc(to->data, room + KAVA_ROOM_SLACK);
      if (!grown) {
        st = KAVA_MEMORY;
        goto out;
      }
      to->data = grown;
      to->size = room;
    } else if (came == 0 && in == before) {
      KAVA_FAIL(KAVA_FORMAT, in == end ? "compressed data that is cut off" : "compressed data of more than %zu bytes",
                expected);
    }
  }
  if (done != expected) KAVA_FAIL(KAVA_FORMAT, "compressed data of %zu bytes where %zu are expected", done, expected);
  to->size = expected;
out:
  stop(&f);
  return st;
}

/* ---- streams */

struct kava_stream {
  const kava_file *file;
  uint64_t at; /* of the file */
  inflater inflater;
  uint8_t *input;
  size_t filled, used;
};

kava_status kava_stream_open(const kava_file *file, kava_stream **out) {
  kava_status st = KAVA_OK;
  uint8_t mark[4] = {0};
  kava_stream *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  s->file = file;
  if (file->size >= 4) KAVA_TRY(kava_file_read(file, 0, mark, 4));
  bool gzip = mark[0] == 0x1f && mark[1] == 0x8b,
       zstd = (memcmp(mark, "\x28\xb5\x2f\xfd", 4) == 0) ||
              ((mark[0] & 0xf0) == 0x50 && memcmp(mark + 1, "\x2a\x4d\x18", 3) == 0);
  if (gzip || zstd) {
    KAVA_TRY(start(&s->inflater, gzip ? KAVA_CODEC_GZIP : KAVA_CODEC_ZSTD));
    if (!(s->input = kava_alloc(INPUT_BYTES))) {
      st = KAVA_MEMORY;
      goto out;
    }
  }
  *out = s;
  s = NULL;
out:
  kava_stream_close(&s);
  return st;
}

bool kava_stream_packed(const kava_stream *s) { return s->inflater.codec != KAVA_CODEC_NONE; }

void kava_stream_close(kava_stream **at) {
  kava_stream *s = *at;
  *at = NULL;
  if (!s) return;
  stop(&s->inflater);
  kava_free(s->input);
  kava_free(s);
}

kava_status kava_stream_seek(kava_stream *s, uint64_t at) {
  s->at = at;
  s->filled = s->used = 0;
  if (!kava_stream_packed(s)) return KAVA_OK;
  kava_codec codec = s->inflater.codec;
  stop(&s->inflater);
  return start(&s->inflater, codec);
}

kava_status kava_stream_read(kava_stream *s, void *to, size_t room, size_t *got) {
  *got = 0;
  if (!kava_stream_packed(s)) {
    uint64_t left = s->file->size - s->at;
    size_t size = left < room ? (size_t)left : room;
    kava_status st = kava_file_read(s->file, s->at, to, size);
    if (st != KAVA_OK) return st;
    s->at += size;
    *got = size;
    return KAVA_OK;
  }
  uint8_t *out = to, *stop_at = out + room;
  while (out < stop_at) {
    kava_status st;
    if (s->used == s->filled) {
      uint64_t left = s->file->size - s->at;
      size_t size = left < INPUT_BYTES ? (size_t)left : INPUT_BYTES;
      if ((st = kava_file_read(s->file, s->at, s->input, size)) != KAVA_OK) return st;
      s->at += size;
      s->filled = size;
      s->used = 0;
    }
    if (s->used == s->filled && s->inflater.between) break; /* the end, where it should be */
    const uint8_t *in = s->input + s->used, *before = in;
    uint8_t *out_before = out;
    st = step(&s->inflater, &in, s->input + s->filled, &out, stop_at);
    s->used += (size_t)(in - before);
    if (st == KAVA_OK && in == before && out == out_before)
      st = kava_fail(KAVA_FORMAT, "the compressed data is cut off");
    if (st != KAVA_OK)
      return kava_fail_in(st, "%s: near byte %llu", s->file->path, (unsigned long long)(s->at - (s->filled - s->used)));
  }
  *got = (size_t)(out - (uint8_t *)to);
  return KAVA_OK;
}

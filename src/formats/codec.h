/* formats/codec: what data files are compressed with: whole blocks (Parquet's pages, Arrow's buffers) and streams (JSON
 * Lines). Memory grows with what really comes out, not with what a file says will. */
#ifndef KAVA_FORMATS_CODEC_H
#define KAVA_FORMATS_CODEC_H
#include "formats/table.h"

typedef enum kava_codec { KAVA_CODEC_NONE, KAVA_CODEC_SNAPPY, KAVA_CODEC_GZIP, KAVA_CODEC_ZSTD } kava_codec;

/* `size` bytes at `from` into `to`, which must become `expected` bytes (and is set to that size). KAVA_FORMAT. */
kava_status kava_unpack(kava_codec codec, const void *from, size_t size, size_t expected, kava_room *to);
/* Snappy's block format; `to` has room for `expected` + KAVA_ROOM_SLACK bytes. */
kava_status kava_snappy(const uint8_t *from, size_t size, uint8_t *to, size_t expected);

/* The bytes of a file from front to back, decompressed where it begins as gzip or zstd do. */
typedef struct kava_stream kava_stream;
kava_status kava_stream_open(const kava_file *file, kava_stream **out); /* `file` stays open as long */
/* Fills `to` as far as there is something; *got is less than `room` only at the end. KAVA_FORMAT, KAVA_IO name the
 * file. */
kava_status kava_stream_read(kava_stream *stream, void *to, size_t room, size_t *got);
bool kava_stream_packed(const kava_stream *stream);
kava_status kava_stream_seek(kava_stream *stream, uint64_t at); /* packed: to 0 only */
void kava_stream_close(kava_stream **stream);                   /* accepts NULL, nulls the pointer */
#endif

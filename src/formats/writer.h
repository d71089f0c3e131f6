/* formats/writer: a file that comes into being whole or not at all: a temporary file beside it, fsync, rename, fsync of
 * the folder. Nothing at `path` changes before kava_writer_commit succeeds. A full disk, or a file size limit, is an
 * error (KAVA_IO) and not a signal. */
#ifndef KAVA_FORMATS_WRITER_H
#define KAVA_FORMATS_WRITER_H
#include "tensor/tensor.h"

typedef struct kava_writer {
  int file, folder;
  char *path, *temporary;
  uint64_t size; /* bytes written so far */
  uint32_t crc;  /* CRC-32C of what was put since it was last set to 0; patches do not count */
  char *buffer;  /* gathers small pieces */
  size_t filled;
  /* Pinned memory of KAVA_DEVICE_PIECE bytes: tensors on a GPU are read beside its work. NULL: as usual. */
  void *beside;
} kava_writer;
kava_status kava_writer_open(kava_writer *w, const char *path);
kava_status kava_writer_put(kava_writer *w, const void *data, size_t size);
kava_status kava_writer_patch(kava_writer *w, uint64_t at, const void *data, size_t size); /* over bytes already put */
kava_status kava_writer_pad(kava_writer *w, size_t alignment); /* zero bytes up to a multiple of it, at most 4096 */
kava_status kava_writer_tensor(kava_writer *w,
                               const kava_tensor *t); /* its elements, row-major, whatever its strides and device */
kava_status
kava_writer_commit(kava_writer *w);     /* afterwards, and after a failure, w is empty: nothing is left to close */
void kava_writer_abort(kava_writer *w); /* removes the temporary file; harmless on an empty or committed writer */

/* Removes the temporary files that dead processes left beside `path`; best effort. A live writer's is locked and stays.
 */
void kava_writer_sweep(const char *path);

/* `size` bytes of `data` as a file, in the same way. */
kava_status kava_writer_file(const char *path, const void *data, size_t size);
#endif

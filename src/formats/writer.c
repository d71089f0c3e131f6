#include "formats/writer.h"
#include "base/crc32c.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define ROOM ((size_t)1 << 16) /* of the buffer */

static kava_status fail(const kava_writer *w) {
  return kava_fail(KAVA_IO, "%s: cannot be written: %s", w->path, strerror(errno));
}

/* A number for a temporary file that no writer beside has: on a shared file system processes of several hosts, or
 * containers, have the same pid. */
static unsigned long long own_number(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return ((unsigned long long)now.tv_sec * 1000000000 + (unsigned long long)now.tv_nsec) ^ (unsigned long long)getpid()
                                                                                               << 40;
}

kava_status kava_writer_open(kava_writer *w, const char *path) {
  *w = (kava_writer){.file = -1, .folder = -1};
  if (!(w->path = kava_strdup(path)) || !(w->temporary = kava_format("%s.tmp%llu", path, own_number())) ||
      !(w->buffer = kava_alloc(ROOM))) {
    kava_writer_abort(w);
    return KAVA_MEMORY;
  }
  char *slash = strrchr(w->path, '/'), first = slash ? slash[1] : 0;
  if (slash) slash[1] = 0;
  w->folder =
      open(slash ? w->path : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* one that may not be read is not synced */
  if (slash) slash[1] = first;
  w->file = open(w->temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (w->file >= 0) {
    flock(w->file, LOCK_EX | LOCK_NB); /* held until the file is closed: kava_writer_sweep lets it be */
    return KAVA_OK;
  }
  kava_status st = fail(w);
  kava_writer_abort(w);
  return st;
}

/* A write beyond RLIMIT_FSIZE sends SIGXFSZ, which ends the program: held back here, so that write answers EFBIG. */
static kava_status write_all(kava_writer *w, const char *data, size_t size) {
  sigset_t limit, before, waiting;
  kava_status st = KAVA_OK;
  int got;
  sigemptyset(&limit);
  sigaddset(&limit, SIGXFSZ);
  pthread_sigmask(SIG_BLOCK, &limit, &before);
  while (size && st == KAVA_OK) {
    ssize_t n = write(w->file, data, size < ((size_t)1 << 30) ? size : (size_t)1 << 30);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) {
      st = fail(w);
      if (!sigismember(&before, SIGXFSZ) && sigpending(&waiting) == 0 && sigismember(&waiting, SIGXFSZ))
        sigwait(&limit, &got);
    } else {
      data += n;
      size -= (size_t)n;
    }
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return st;
}

static kava_status flush(kava_writer *w) {
  size_t size = w->filled;
  w->filled = 0;
  return size ? write_all(w, w->buffer, size) : KAVA_OK;
}

kava_status kava_writer_put(kava_writer *w, const void *data, size_t size) {
  kava_status st = KAVA_OK;
  if (size == 0) return KAVA_OK;
  w->crc = kava_crc32c(w->crc, data, size);
  w->size += size;
  if (size > ROOM - w->filled) st = flush(w);
  if (st != KAVA_OK || size > ROOM) return st == KAVA_OK ? write_all(w, data, size) : st;
  memcpy(w->buffer + w->filled, data, size);
  w->filled += size;
  return KAVA_OK;
}

kava_status kava_writer_patch(kava_writer *w, uint64_t at, const void *data, size_t size) {
  kava_status st = flush(w);
  for (size_t done = 0; st == KAVA_OK && done < size;) {
    ssize_t n = pwrite(w->file, (const char *)data + done, size - done, (off_t)(at + done));
    if (n >= 0)
      done += (size_t)n;
    else if (errno != EINTR)
      st = fail(w);
  }
  return st;
}

kava_status kava_writer_pad(kava_writer *w, size_t alignment) {
  static const char zeros[4096];
  size_t over = (size_t)(w->size % alignment);
  return over ? kava_writer_put(w, zeros, alignment - over) : KAVA_OK;
}

/* Element by element: the buffer gathers them. */
static kava_status put_strided(kava_writer *w, const kava_tensor *t, const char *data) {
  size_t bytes = (size_t)kava_dtype_block_bytes(t->dtype);
  int last = t->dims - 1;
  int64_t at[KAVA_MAX_DIMS] = {0}, step = t->stride[last] * (int64_t)bytes;
  for (bool more = true; more;) {
    const char *from = data;
    for (int d = 0; d < last; d++) from += at[d] * t->stride[d] * (int64_t)bytes;
    for (int64_t i = 0; i < t->shape[last]; i++) {
      kava_status st = kava_writer_put(w, from + i * step, bytes);
      if (st != KAVA_OK) return st;
    }
    int d = last - 1;
    while (d >= 0 && ++at[d] == t->shape[d]) at[d--] = 0;
    more = d >= 0;
  }
  return KAVA_OK;
}

/* Elements that lie together, a piece at a time. */
static kava_status put_pieces(kava_writer *w, const kava_tensor *t, size_t bytes) {
  const char *from = kava_tensor_data(t);
  kava_status st = KAVA_OK;
  char *here = w->beside ? w->beside : kava_alloc(bytes < KAVA_DEVICE_PIECE ? bytes : KAVA_DEVICE_PIECE);
  if (!here) return KAVA_MEMORY;
  for (size_t at = 0, size; at < bytes && st == KAVA_OK; at += size) {
    size = bytes - at < KAVA_DEVICE_PIECE ? bytes - at : KAVA_DEVICE_PIECE;
    st = w->beside ? kava_device_read_beside(here, from + at, size)
                   : kava_device_copy(KAVA_CPU, here, t->device, from + at, size);
    if (st == KAVA_OK) st = kava_writer_put(w, here, size);
  }
  if (here != w->beside) kava_free(here);
  return st;
}

/* By way of the host; where elements lie apart, the storage that they lie in. */
static kava_status put_from_device(kava_writer *w, const kava_tensor *t, size_t bytes) {
  if (kava_tensor_is_contiguous(t)) return put_pieces(w, t, bytes);
  const char *start = t->storage->data, *from = kava_tensor_data(t);
  char *here = kava_alloc(t->storage->bytes);
  if (!here) return KAVA_MEMORY;
  kava_status st = kava_device_copy(KAVA_CPU, here, t->device, start, t->storage->bytes);
  if (st == KAVA_OK) st = put_strided(w, t, here + (from - start));
  kava_free(here);
  return st;
}

kava_status kava_writer_tensor(kava_writer *w, const kava_tensor *t) {
  size_t bytes;
  kava_status st = kava_tensor_bytes_of(t, &bytes);
  if (st != KAVA_OK || bytes == 0) return st;
  if (t->device != KAVA_CPU) return put_from_device(w, t, bytes);
  const char *data = kava_tensor_data(t);
  return kava_tensor_is_contiguous(t) ? kava_writer_put(w, data, bytes) : put_strided(w, t, data);
}

kava_status kava_writer_commit(kava_writer *w) {
  kava_status st = flush(w);
  if (st == KAVA_OK && fsync(w->file) != 0) st = fail(w);
  if (close(w->file) != 0 && st == KAVA_OK) st = fail(w);
  w->file = -1;
  if (st == KAVA_OK && rename(w->temporary, w->path) != 0) st = fail(w);
  if (st == KAVA_OK) {
    kava_free(w->temporary); /* it is the file now */
    w->temporary = NULL;
    if (w->folder >= 0) fsync(w->folder); /* some file systems refuse; the file is in its place whatever this says */
  }
  kava_writer_abort(w);
  return st;
}

void kava_writer_abort(kava_writer *w) {
  if (w->path && w->file >= 0) close(w->file);
  if (w->path && w->folder >= 0) close(w->folder);
  if (w->temporary) unlink(w->temporary);
  kava_free(w->temporary);
  kava_free(w->path);
  kava_free(w->buffer);
  *w = (kava_writer){.file = -1, .folder = -1};
}

void kava_writer_sweep(const char *path) {
  const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
  char *folder = slash ? kava_format("%.*s", (int)(slash - path) + 1, path) : kava_strdup("./");
  DIR *list = folder ? opendir(folder) : NULL;
  size_t length = strlen(name);
  for (const struct dirent *entry; list && (entry = readdir(list));) {
    const char *rest = entry->d_name + length;
    if (strncmp(entry->d_name, name, length) != 0 || strncmp(rest, ".tmp", 4) != 0 ||
        strspn(rest + 4, "0123456789") != strlen(rest + 4))
      continue;
    char *full = kava_format("%s%s", folder, entry->d_name);
    int file = full ? open(full, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0 && flock(file, LOCK_EX | LOCK_NB) == 0) unlink(full);
    if (file >= 0) close(file);
    kava_free(full);
  }
  if (list) closedir(list);
  kava_free(folder);
}

kava_status kava_writer_file(const char *path, const void *data, size_t size) {
  kava_writer w;
  kava_status st = kava_writer_open(&w, path);
  if (st == KAVA_OK) st = kava_writer_put(&w, data, size);
  if (st == KAVA_OK) return kava_writer_commit(&w);
  kava_writer_abort(&w);
  return st;
}

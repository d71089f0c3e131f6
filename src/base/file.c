#include "base/file.h"
#include "base/memory.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void stamp_of(const struct stat *info, uint64_t stamp[4]) {
  stamp[0] = (uint64_t)info->st_size;
  stamp[1] = (uint64_t)info->st_ino;
  stamp[2] = (uint64_t)info->st_mtim.tv_sec;
  stamp[3] = (uint64_t)info->st_mtim.tv_nsec;
}

kava_status kava_file_open(const char *path, kava_file **out) {
  kava_status st = KAVA_OK;
  kava_file *file = NULL;
  struct stat info;
  int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe is refused, not waited for */
  if (descriptor < 0) KAVA_FAIL(KAVA_IO, "%s: %s", path, strerror(errno));
  if (fstat(descriptor, &info) != 0) KAVA_FAIL(KAVA_IO, "%s: %s", path, strerror(errno));
  if (!S_ISREG(info.st_mode)) KAVA_FAIL(KAVA_IO, "%s: not a regular file", path);
  file = kava_calloc(1, sizeof *file);
  if (!file || !(file->path = kava_strdup(path))) {
    st = KAVA_MEMORY;
    goto out;
  }
  file->descriptor = descriptor;
  file->size = (uint64_t)info.st_size;
  stamp_of(&info, file->stamp);
  *out = file;
  return KAVA_OK;
out:
  if (descriptor >= 0) close(descriptor);
  kava_free(file);
  return st;
}

void kava_file_close(kava_file **at) {
  kava_file *file = *at;
  *at = NULL;
  if (!file) return;
  close(file->descriptor);
  kava_free(file->path);
  kava_free(file);
}

kava_status kava_file_read(const kava_file *file, uint64_t offset, void *to, size_t size) {
  if (offset > file->size || size > file->size - offset)
    return kava_fail(KAVA_FORMAT, "%s: %zu bytes at byte %llu: the file ends at byte %llu", file->path, size,
                     (unsigned long long)offset, (unsigned long long)file->size);
  for (size_t done = 0; done < size;) {
    ssize_t n = pread(file->descriptor, (char *)to + done, size - done, (off_t)(offset + done));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return kava_fail(KAVA_IO, "%s: %s", file->path, strerror(errno));
    if (n == 0)
      return kava_fail(KAVA_IO, "%s: has become shorter while it was read: nothing at byte %llu of %llu", file->path,
                       (unsigned long long)(offset + done), (unsigned long long)file->size);
    done += (size_t)n;
  }
  return KAVA_OK;
}

kava_status kava_file_unchanged(const kava_file *file) {
  struct stat info;
  uint64_t stamp[4];
  if (fstat(file->descriptor, &info) != 0) return kava_fail(KAVA_IO, "%s: %s", file->path, strerror(errno));
  stamp_of(&info, stamp);
  if (memcmp(stamp, file->stamp, sizeof stamp) == 0) return KAVA_OK;
  return kava_fail(KAVA_IO, "%s: has changed while it was read", file->path);
}

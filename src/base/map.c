#include "base/map.h"
#include "base/memory.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* The maps there are, for a signal handler, which may take no lock: a slot is free where `begin` is 0, and of a map
 * once it is neither 0 nor CLAIMED. A map that finds no slot is guarded by none. */
#define SLOTS 1024
#define CLAIMED 1
static struct slot {
  uintptr_t begin; /* atomic */
  size_t size;
  const char *path;
} slots[SLOTS];

static void enter(const kava_map *map) {
  for (int i = 0; i < SLOTS; i++) {
    uintptr_t none = 0;
    if (!__atomic_compare_exchange_n(&slots[i].begin, &none, CLAIMED, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
      continue;
    slots[i].size = map->size;
    slots[i].path = map->path;
    __atomic_store_n(&slots[i].begin, (uintptr_t)map->data, __ATOMIC_RELEASE);
    return;
  }
}

static void leave(const kava_map *map) {
  for (int i = 0; i < SLOTS; i++)
    if (__atomic_load_n(&slots[i].begin, __ATOMIC_RELAXED) == (uintptr_t)map->data) {
      __atomic_store_n(&slots[i].begin, 0, __ATOMIC_RELEASE);
      return;
    }
}

static void on_bus_error(int number, siginfo_t *info, void *context) {
  static int told; /* several threads may find it out at once: one says it */
  static const char before[] = "kava: ", after[] = ": has become shorter while it was in use\n";
  for (int i = 0; i < SLOTS; i++) {
    uintptr_t begin = __atomic_load_n(&slots[i].begin, __ATOMIC_ACQUIRE);
    if (begin <= CLAIMED || (uintptr_t)info->si_addr - begin >= slots[i].size) continue;
    while (__atomic_exchange_n(&told, 1, __ATOMIC_ACQ_REL)) pause(); /* until the other ends the program */
    struct iovec text[] = {{(void *)(uintptr_t)before, sizeof before - 1},
                           {(void *)(uintptr_t)slots[i].path, strlen(slots[i].path)},
                           {(void *)(uintptr_t)after, sizeof after - 1}};
    ssize_t written = writev(STDERR_FILENO, text, 3);
    (void)written; /* there is nobody else to tell */
    _exit(1);
  }
  signal(SIGBUS, SIG_DFL); /* none of ours: it comes again, as if there were no handler */
}

void kava_map_guard(void) {
  struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, NULL);
}

kava_status kava_map_open(const char *path, kava_map **out) {
  kava_status st = KAVA_OK;
  kava_map *map = NULL;
  struct stat info;
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe without a writer is refused, not waited for */
  if (file < 0) KAVA_FAIL(KAVA_IO, "%s: %s", path, strerror(errno));
  if (fstat(file, &info) != 0) KAVA_FAIL(KAVA_IO, "%s: %s", path, strerror(errno));
  if (!S_ISREG(info.st_mode)) KAVA_FAIL(KAVA_IO, "%s: not a regular file", path);
  map = kava_calloc(1, sizeof *map);
  if (!map || !(map->path = kava_strdup(path))) {
    st = KAVA_MEMORY;
    goto out;
  }
  map->refs = 1;
  map->size = (size_t)info.st_size;
  if (map->size) {
    void *data = mmap(NULL, map->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, file, 0);
    if (data == MAP_FAILED) KAVA_FAIL(KAVA_IO, "%s: cannot map %zu bytes: %s", path, map->size, strerror(errno));
    map->data = data;
    enter(map);
  }
  *out = map;
  map = NULL;
out:
  if (file >= 0) close(file);
  if (map) {
    kava_free(map->path);
    kava_free(map);
  }
  return st;
}

void kava_map_retain(kava_map *map) { __atomic_fetch_add(&map->refs, 1, __ATOMIC_RELAXED); }

void kava_map_release(kava_map **at) {
  kava_map *map = *at;
  *at = NULL;
  if (!map || __atomic_sub_fetch(&map->refs, 1, __ATOMIC_ACQ_REL) > 0) return;
  if (map->size) {
    leave(map);
    munmap(map->data, map->size);
  }
  kava_free(map->path);
  kava_free(map);
}

void kava_map_forget(kava_map *map, const void *data, size_t size) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), begin = (size_t)((const uint8_t *)data - map->data), end = begin + size;
  begin = (begin + page - 1) / page * page; /* the map begins at a page */
  end = end == map->size ? end : end / page * page;
  if (begin < end) madvise(map->data + begin, end - begin, MADV_DONTNEED);
}

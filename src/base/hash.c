#include "base/hash.h"
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

uint64_t kava_hash_seeds[2];

__attribute__((constructor)) static void make_seeds(void) {
  if (getentropy(kava_hash_seeds, sizeof kava_hash_seeds) == 0) return;
  struct timespec now = {0};
  clock_gettime(CLOCK_REALTIME, &now);
  kava_hash_seeds[0] = (uint64_t)now.tv_nsec * 0x9e3779b97f4a7c15u ^ (uint64_t)now.tv_sec;
  kava_hash_seeds[1] = (uint64_t)(uintptr_t)&now * 0xbf58476d1ce4e5b9u ^ (uint64_t)getpid();
}

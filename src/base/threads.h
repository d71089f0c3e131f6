/* base/threads: the one pool of worker threads. */
#ifndef KAVA_BASE_THREADS_H
#define KAVA_BASE_THREADS_H
#include "base/status.h"
#include <stdint.h>

/* Runs fn(ctx, begin, end) over [0, count) in pieces of at least `grain`, on the pool and on the caller; returns when
 * all is done. Which thread takes which piece is not fixed, so fn must not depend on it: a result may not depend on the
 * number of threads either, unless the function that calls it says so. A nested call runs on the caller alone. */
typedef void (*kava_range_fn)(void *ctx, int64_t begin, int64_t end);
void kava_parallel(int64_t count, int64_t grain, kava_range_fn fn, void *ctx);

int kava_threads(void);           /* threads a parallel region uses, the caller included; >= 1 */
void kava_set_threads(int count); /* <= 0: the CPUs this process may use */
int kava_cpus_allowed(void);      /* CPUs in this process's affinity mask; >= 1 */
int kava_thread_index(void);      /* 0 for the caller, 1.. for workers, inside a region */
#endif

#include "base/threads.h"
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <immintrin.h>
#define RELAX() _mm_pause()
#else
#define RELAX() ((void)0)
#endif

#define MAX_THREADS 256
/* Workers spin this often before they sleep: regions of one training step follow each other within microseconds. */
#define SPINS 4000

static struct {
  pthread_mutex_t region; /* one region at a time */
  pthread_mutex_t lock;
  pthread_cond_t wake;
  pthread_t thread[MAX_THREADS];
  int workers; /* started */
  int wanted;  /* threads incl. the caller; 0: not chosen yet */
  atomic_bool quit;
  atomic_uint epoch; /* a new value announces a region */
  atomic_int busy;   /* workers that have not finished it */
  atomic_int sleepers;
  kava_range_fn fn;
  void *ctx;
  int64_t count, piece;
  int active; /* workers that take part */
  atomic_llong next;
} pool = {.region = PTHREAD_MUTEX_INITIALIZER, .lock = PTHREAD_MUTEX_INITIALIZER, .wake = PTHREAD_COND_INITIALIZER};

static _Thread_local int my_index;
static _Thread_local bool inside;

/* The kernel refuses a mask that is smaller than its own, so the mask grows until it is taken. */
int kava_cpus_allowed(void) {
  for (int size = 1024; size <= 1 << 20; size *= 4) {
    cpu_set_t *set = CPU_ALLOC(size);
    if (!set) break;
    size_t bytes = CPU_ALLOC_SIZE(size);
    bool taken = sched_getaffinity(0, bytes, set) == 0;
    bool larger = !taken && errno == EINVAL;
    int count = taken ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
    if (!larger) break;
  }
  return 1;
}

static void take_pieces(void) {
  for (;;) {
    int64_t begin = atomic_fetch_add(&pool.next, pool.piece);
    if (begin >= pool.count) return;
    int64_t end = begin + pool.piece < pool.count ? begin + pool.piece : pool.count;
    pool.fn(pool.ctx, begin, end);
  }
}

static void *worker(void *arg) {
  my_index = (int)(intptr_t)arg;
  inside = true;
  unsigned seen = 0;
  for (;;) {
    int spins = 0;
    while (atomic_load_explicit(&pool.epoch, memory_order_acquire) == seen) {
      if (++spins < SPINS) {
        RELAX();
        continue;
      }
      pthread_mutex_lock(&pool.lock);
      atomic_fetch_add(&pool.sleepers, 1);
      while (atomic_load(&pool.epoch) == seen && !pool.quit) pthread_cond_wait(&pool.wake, &pool.lock);
      atomic_fetch_sub(&pool.sleepers, 1);
      pthread_mutex_unlock(&pool.lock);
      break;
    }
    if (pool.quit) return NULL;
    seen = atomic_load(&pool.epoch);
    if (my_index <= pool.active) take_pieces();
    atomic_fetch_sub_explicit(&pool.busy, 1, memory_order_release);
  }
}

/* The pool does not survive fork(): a child starts its own. */
static void forget_after_fork(void) {
  pool.workers = 0;
  atomic_store(&pool.epoch, 0);
  atomic_store(&pool.busy, 0);
  atomic_store(&pool.sleepers, 0);
  pthread_mutex_init(&pool.region, NULL);
  pthread_mutex_init(&pool.lock, NULL);
  pthread_cond_init(&pool.wake, NULL);
}

static void stop_workers(void) {
  pthread_mutex_lock(&pool.lock);
  pool.quit = true;
  atomic_fetch_add(&pool.epoch, 1);
  pthread_cond_broadcast(&pool.wake);
  pthread_mutex_unlock(&pool.lock);
  for (int i = 0; i < pool.workers; i++) pthread_join(pool.thread[i], NULL);
  pool.workers = 0;
  pool.quit = false;
  atomic_store(&pool.epoch, 0);
}

static void start_workers(void) {
  static bool registered;
  if (!registered) {
    pthread_atfork(NULL, NULL, forget_after_fork);
    registered = true;
  }
  /* What others send is for the caller's own threads; a fault of a worker's is its own. */
  static const int sent[] = {SIGINT, SIGTERM, SIGHUP, SIGUSR1, SIGUSR2};
  sigset_t theirs, before;
  sigemptyset(&theirs);
  for (size_t i = 0; i < sizeof sent / sizeof *sent; i++) sigaddset(&theirs, sent[i]);
  pthread_sigmask(SIG_BLOCK, &theirs, &before);
  atomic_store(&pool.epoch, 0);
  while (pool.workers < pool.wanted - 1) {
    intptr_t index = pool.workers + 1;
    /* fewer threads, same results */
    if (pthread_create(&pool.thread[pool.workers], NULL, worker, (void *)index) != 0) break;
    pool.workers++;
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}

int kava_threads(void) {
  int wanted = __atomic_load_n(&pool.wanted, __ATOMIC_RELAXED);
  if (wanted == 0) {
    kava_set_threads(0);
    wanted = __atomic_load_n(&pool.wanted, __ATOMIC_RELAXED);
  }
  return wanted;
}

void kava_set_threads(int count) {
  if (count <= 0) count = kava_cpus_allowed();
  if (count > MAX_THREADS) count = MAX_THREADS;
  pthread_mutex_lock(&pool.region);
  if (pool.workers > 0) stop_workers();
  __atomic_store_n(&pool.wanted, count, __ATOMIC_RELAXED);
  pthread_mutex_unlock(&pool.region);
}

int kava_thread_index(void) { return my_index; }

void kava_parallel(int64_t count, int64_t grain, kava_range_fn fn, void *ctx) {
  if (count <= 0) return;
  if (grain < 1) grain = 1;
  int threads = kava_threads();
  if (inside || threads == 1 || count <= grain || pthread_mutex_trylock(&pool.region) != 0) {
    fn(ctx, 0, count);
    return;
  }
  if (pool.workers == 0) start_workers();
  int64_t pieces = (count + grain - 1) / grain;
  int64_t most = (int64_t)threads * 4; /* a few pieces a thread even out uneven progress */
  if (pieces > most) pieces = most;
  pool.fn = fn;
  pool.ctx = ctx;
  pool.count = count;
  pool.piece = (count + pieces - 1) / pieces;
  pool.active = pieces - 1 < pool.workers ? (int)(pieces - 1) : pool.workers;
  atomic_store(&pool.next, 0);
  atomic_store(&pool.busy, pool.workers);
  atomic_fetch_add(&pool.epoch, 1); /* sequentially consistent: either we see the sleeper or it sees the new epoch */
  if (atomic_load(&pool.sleepers) > 0) {
    pthread_mutex_lock(&pool.lock);
    pthread_cond_broadcast(&pool.wake);
    pthread_mutex_unlock(&pool.lock);
  }
  inside = true;
  take_pieces();
  inside = false;
  for (int spins = 0; atomic_load_explicit(&pool.busy, memory_order_acquire) > 0;) {
    if (++spins < SPINS)
      RELAX();
    else
      sched_yield(); /* a worker may be waiting for this very processor */
  }
  pthread_mutex_unlock(&pool.region);
}

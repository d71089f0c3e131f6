#include "tensor/device.h"
#include "base/memory.h"
#include "base/rng.h"
#include "tensor/peak.h"
#include "tensor/pool.h"
#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HOST_CHUNK ((size_t)4 << 20) /* of pinned memory */

static const char *const names[KAVA_DEVICES] = {"cpu", "cuda"};

/* Work goes to one lane, but for what is done aside, in the second; each has memory of its own, in which things happen
 * in the lane's order. */
enum { MAIN, ASIDE, LANES, LASTING = LANES, POOLS };

/* The one GPU. Its pools are the default place for memory; a recorder has its own, for its recordings. */
static struct {
  const kava_device_table *table;
  kava_pool pools[POOLS], pinned; /* LASTING: in the main lane's order; pinned: of the host */
  kava_replay *recording;
  int lasting;              /* above 0: memory is asked for to stay */
  int lane;                 /* that work and memory go to now */
  bool unjoined;            /* the main lane has not waited for what was done aside */
  uint64_t numbers;         /* blocks given out, ever */
  uint64_t at_fork;         /* as the work aside began: what it reads is of these */
  kava_block *limbo;        /* the main lane's that were freed since, and which it may yet read; by `larger` */
  size_t used, peak, limit; /* a limit of 0: none */
  size_t reserved;          /* by all pools, the recorders' too */
  bool asked;
  char why[512]; /* it is not there */
} cuda;

/* Freed when nobody refers to it and the last of its blocks is gone. */
struct kava_recorder {
  kava_pool pools[LANES];
  int refs;
};

struct kava_replay {
  kava_graph *graph;
  kava_recorder *recorder;
  kava_block *held;               /* freed while it was recorded, which may have read them: kept, by `larger` */
  kava_block *later;              /* u64 on the device: replay's random position less the recording's */
  uint64_t seed, position, taken; /* random streams: where it began, and how many it takes */
};

const char *kava_device_name(kava_device device) { return names[device]; }

bool kava_device_parse(const char *name, kava_device *out) {
  for (int i = 0; i < KAVA_DEVICES; i++)
    if (strcmp(name, names[i]) == 0) {
      *out = (kava_device)i;
      return true;
    }
  return false;
}

/* ---- the module ---- */

/* Where the module may lie, seen from the file that this code is in: beside the program; two up, for the Lua module in
 * its build folder; and where both are installed. */
static void *open_module(const char *file) {
  static const char *const folders[] = {"", "../../", "../lib/kava/", "../../../kava/"};
  Dl_info self;
  char path[PATH_MAX];
  if (!dladdr((const void *)names, &self) || !self.dli_fname) return NULL;
  const char *slash = strrchr(self.dli_fname, '/');
  char own[PATH_MAX];
  int folder = slash ? (int)(slash - self.dli_fname + 1) : 0;
  snprintf(own, sizeof own, "%.*s", folder, self.dli_fname);
  if (!slash) { /* started by its bare name: the file that runs */
    ssize_t length = readlink("/proc/self/exe", own, sizeof own - 1);
    if (length <= 0) return NULL;
    own[length] = 0;
    *(strrchr(own, '/') + 1) = 0;
  }
  for (size_t i = 0; i < sizeof folders / sizeof *folders; i++) {
    if (snprintf(path, sizeof path, "%s%s%s", own, folders[i], file) >= (int)sizeof path) continue;
    if (access(path, R_OK) != 0) continue;
    void *module = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (module) return module;
    const char *why = dlerror();
    snprintf(cuda.why, sizeof cuda.why, "%s%s", why,
             strstr(why, "libcublasLt")
                 ? " (cuBLAS, of the CUDA toolkit or of pip's nvidia-cublas: LD_LIBRARY_PATH tells where it is)"
                 : "");
    return NULL;
  }
  snprintf(cuda.why, sizeof cuda.why, "this build has no %s (cmake --preset cuda makes it, with nvcc)", file);
  return NULL;
}

static kava_status reserve(size_t bytes, void **out) {
  kava_status st = cuda.table->reserve(bytes, out);
  if (st == KAVA_OK) cuda.reserved += bytes;
  return st;
}

static void give_back(void *memory, size_t bytes) {
  cuda.reserved -= bytes;
  cuda.table->give_back(memory, bytes);
}

static void open_pools(kava_pool *pools, int count, kava_recorder *owner) {
  const kava_device_table *t = cuda.table;
  for (int i = 0; i < count; i++) {
    pools[i] = (kava_pool){.chunk = t->chunk, .reserve = reserve, .give_back = give_back, .owner = owner};
    if (owner && !t->chunk) pools[i].chunk = KAVA_POOL_ALIGN; /* a recording keeps its addresses */
  }
}

static void find_cuda(void) {
  const char *wanted = getenv("KAVA_CUDA"), *why = NULL;
  bool emulated = wanted && strcmp(wanted, "emulated") == 0;
  if (wanted && strcmp(wanted, "off") == 0) {
    snprintf(cuda.why, sizeof cuda.why, "KAVA_CUDA=off");
    return;
  }
  void *module = open_module(emulated ? "libkava_cuda_emulated.so" : "libkava_cuda.so");
  if (!module) return;
  kava_device_open_function open;
  *(void **)&open = dlsym(module, "kava_cuda_open");
  const kava_device_table *table = open ? open(&why) : NULL;
  if (table && table->abi == KAVA_DEVICE_ABI) {
    cuda.table = table;
    open_pools(cuda.pools, POOLS, NULL);
    kava_traced = kava_traced || kava_device_watched();
    cuda.pinned = (kava_pool){.chunk = HOST_CHUNK, .reserve = table->host_reserve, .give_back = table->host_give_back};
    return;
  }
  if (table)
    snprintf(cuda.why, sizeof cuda.why, "the module was built from other sources (its interface is %d, not %d)",
             table->abi, KAVA_DEVICE_ABI);
  else
    snprintf(cuda.why, sizeof cuda.why, "%s", why ? why : "the module has no kava_cuda_open");
}

kava_status kava_device_open(kava_device device) {
  if (device == KAVA_CPU || cuda.table) return KAVA_OK;
  if (!cuda.asked) find_cuda();
  cuda.asked = true;
  return cuda.table ? KAVA_OK : kava_fail(KAVA_UNSUPPORTED, "device cuda: %s", cuda.why);
}

const kava_device_facts *kava_device_facts_of(kava_device device) {
  return device == KAVA_CUDA && cuda.table ? &cuda.table->facts : NULL;
}

const kava_kernels *kava_kernels_of(kava_device device) {
  return device == KAVA_CPU ? kava_kernels_cpu() : &cuda.table->kernels;
}

kava_status kava_device_lacks(kava_device device, const char *kernel) {
  return kava_fail(KAVA_UNSUPPORTED, "%s: not on device %s yet; move the tensors to the cpu (to{device = \"cpu\"})",
                   kernel, names[device]);
}

kava_status kava_device_check(kava_device device, const char *kernel) {
  char message[512];
  kava_status st = cuda.table->failure(message, sizeof message);
  if (kava_peak_watched) kava_peak_named(kernel);
  return st == KAVA_OK ? st : kava_fail(st, "%s: device %s: %s", kernel, names[device], message);
}

static kava_status told(kava_status st, const char *what) {
  char message[512] = "";
  if (st == KAVA_OK) return st;
  cuda.table->failure(message, sizeof message);
  return kava_fail(st, "device cuda: %s: %s", what, message);
}

/* ---- memory ---- */

static void count(kava_block *b, bool more) {
  cuda.used = more ? cuda.used + b->size : cuda.used - b->size;
  if (cuda.used > cuda.peak) cuda.peak = cuda.used;
}

kava_status kava_device_alloc(kava_device device, size_t bytes, kava_block **block, void **data) {
  if (cuda.limit && (cuda.used > cuda.limit || bytes > cuda.limit - cuda.used))
    return kava_fail(KAVA_MEMORY,
                     "device %s: out of memory: %zu bytes asked for, %zu in use, %zu may be (the limit that was set)",
                     names[device], bytes, cuda.used, cuda.limit);
  kava_pool *pool = (cuda.recording ? cuda.recording->recorder->pools : cuda.pools) + cuda.lane;
  if (pool == cuda.pools + MAIN && cuda.lasting > 0) pool = cuda.pools + LASTING;
  kava_status st = kava_pool_alloc(pool, bytes, block);
  if (st == KAVA_MEMORY && !kava_device_recording()) { /* what lies in pieces may be had as a whole */
    kava_device_trim(device);
    st = kava_pool_alloc(pool, bytes, block);
  }
  if (st != KAVA_OK && st != KAVA_MEMORY) return told(st, "memory");
  if (st != KAVA_OK) {
    kava_device_stats s;
    kava_device_memory(device, &s);
    double others = (double)s.total - (double)s.free - (double)s.reserved;
    return kava_fail(KAVA_MEMORY,
                     "device %s: out of memory: %.1f MiB asked; of %.1f MiB %.1f are free, %.1f are KAVA's, %.1f of "
                     "them in tensors; %.1f are the driver's and other processes'",
                     names[device], (double)bytes / 0x1p20, (double)s.total / 0x1p20, (double)s.free / 0x1p20,
                     (double)s.reserved / 0x1p20, (double)s.current / 0x1p20, others > 0 ? others / 0x1p20 : 0);
  }
  (*block)->number = ++cuda.numbers;
  if (kava_peak_watched) kava_peak_given(cuda.numbers, (*block)->size, cuda.used);
  count(*block, true);
  *data = (*block)->data;
  return KAVA_OK;
}

static void forget_recorder(kava_recorder *r) {
  if (!r || r->refs > 0 || r->pools[MAIN].blocks + r->pools[ASIDE].blocks > 0) return;
  for (int i = 0; i < LANES; i++) kava_pool_trim(&r->pools[i]);
  kava_free(r);
}

/* To whoever asks next. Work aside waits, when it begins, for all that the main lane has been given; so only what the
 * main lane gets back before it has waited in turn may still be read. */
static void put_back(kava_block *block) {
  kava_recorder *owner = block->pool->owner;
  bool main = block->pool == (owner ? owner->pools : cuda.pools) + MAIN || block->pool == cuda.pools + LASTING;
  if (main && cuda.unjoined && block->number <= cuda.at_fork) {
    block->larger = cuda.limbo;
    cuda.limbo = block;
    return;
  }
  kava_pool_free(block);
  forget_recorder(owner);
}

bool kava_device_hosted(const kava_block *block) { return block && block->pool == &cuda.pinned; }

/* What a recording may have read: the device may yet, and what comes next to such a place in host memory is no work of
 * its. */
static void let_go(kava_block *block) {
  if (kava_device_hosted(block)) cuda.table->wait();
  kava_pool_free(block);
}

void kava_device_free(kava_device device, kava_block *block) {
  if (!block) return;
  if (kava_device_hosted(block) && !cuda.recording) {
    let_go(block);
    return;
  }
  const kava_recorder *owner = block->pool->owner;
  if (!kava_device_hosted(block)) count(block, false);
  if (kava_peak_watched && !kava_device_hosted(block)) kava_peak_freed(block->number, block->size, cuda.numbers);
  if (cuda.recording && !owner) {
    block->larger = cuda.recording->held;
    cuda.recording->held = block;
    return;
  }
  put_back(block);
}

void kava_device_memory(kava_device device, kava_device_stats *s) {
  *s = (kava_device_stats){.current = cuda.used, .peak = cuda.peak, .reserved = cuda.reserved};
  if (cuda.table) cuda.table->memory(&s->free, &s->total);
}

void kava_device_reset_peak(kava_device device) { cuda.peak = cuda.used; }
size_t kava_device_used(kava_device device) { return cuda.used; }
void kava_device_limit(kava_device device, size_t bytes) { cuda.limit = bytes; }
size_t kava_device_limit_of(kava_device device) { return cuda.limit; }
void kava_device_lasting(int delta) { cuda.lasting += delta; }
void kava_device_trim(kava_device device) {
  for (int i = 0; i < POOLS && cuda.table && !kava_device_recording(); i++) kava_pool_trim(&cuda.pools[i]);
}

/* ---- copies ---- */

kava_status kava_device_copy(kava_device to_device, void *to, kava_device from_device, const void *from, size_t bytes) {
  if (bytes == 0) return KAVA_OK;
  if (to_device == KAVA_CPU && from_device == KAVA_CPU) {
    memcpy(to, from, bytes);
    return KAVA_OK;
  }
  if (kava_peak_watched) kava_peak_named("copy");
  if (to_device != KAVA_CPU && from_device != KAVA_CPU) return told(cuda.table->copy(to, from, bytes), "copy");
  if (to_device != KAVA_CPU) return told(cuda.table->upload(to, from, bytes), "upload");
  if (kava_device_recording())
    return kava_fail(KAVA_MISUSE,
                     "a value on device cuda is read while a step is being recorded; read it after the step");
  return told(cuda.table->download(to, from, bytes), "download");
}

kava_status kava_device_clear(kava_device device, void *to, size_t bytes) {
  if (device != KAVA_CPU && kava_peak_watched) kava_peak_named("clear");
  if (device != KAVA_CPU) return bytes ? told(cuda.table->clear(to, bytes), "clear") : KAVA_OK;
  if (bytes) memset(to, 0, bytes);
  return KAVA_OK;
}

kava_status kava_device_host_alloc(size_t bytes, kava_block **block, void **data) {
  kava_status st = kava_pool_alloc(&cuda.pinned, bytes, block);
  if (st != KAVA_OK) return kava_fail(KAVA_MEMORY, "out of memory: %zu bytes of pinned host memory asked for", bytes);
  *data = (*block)->data;
  return KAVA_OK;
}

void kava_device_host_free(kava_block *block) {
  if (block) kava_pool_free(block);
}

kava_status kava_device_fetch(void *to, const void *from, size_t bytes, uint64_t *ticket) {
  if (kava_device_recording())
    return kava_fail(KAVA_MISUSE,
                     "a value on device cuda is read while a step is being recorded; read it after the step");
  return told(cuda.table->fetch(to, from, bytes, ticket), "download");
}

kava_status kava_device_fetched(uint64_t ticket, bool wait, bool *done) {
  return told(cuda.table->fetched(ticket, wait, done), "download");
}

kava_status kava_device_beside(void) {
  if (kava_device_recording()) return kava_fail(KAVA_MISUSE, "values on device cuda are read while a step is recorded");
  kava_status st = kava_device_join(KAVA_CUDA);
  return st == KAVA_OK ? told(cuda.table->beside_mark(), "reading beside") : st;
}

kava_status kava_device_read_beside(void *to, const void *from, size_t bytes) {
  char message[256];
  kava_status st = cuda.table->beside_read(to, from, bytes, message, sizeof message);
  return st == KAVA_OK ? st : kava_fail(st, "device cuda: download: %s", message);
}

kava_status kava_device_wait(kava_device device) {
  return device == KAVA_CPU ? KAVA_OK : told(cuda.table->wait(), "wait");
}

kava_status kava_device_profile_begin(kava_device device) { return told(cuda.table->profile_begin(), "profiling"); }

kava_status kava_device_profile_end(kava_device device, const kava_timespan **spans, size_t *count,
                                    const char **source) {
  return told(cuda.table->profile_end(spans, count, source), "profiling");
}

void kava_device_range(const char *name) {
  if (cuda.table) cuda.table->range(name);
}

/* A profiler names a library here, before the program starts, which NVTX then loads. */
bool kava_device_watched(void) { return cuda.table && getenv("NVTX_INJECTION64_PATH"); }

kava_status kava_device_plans(kava_device device, const char *path, bool save) {
  if (device == KAVA_CPU) return KAVA_OK;
  kava_status st = save ? cuda.table->plans_save(path) : cuda.table->plans_load(path);
  return st == KAVA_OK ? st
                       : kava_fail(st, "%s: plans of matrix products cannot be %s", path, save ? "written" : "read");
}

/* ---- work aside ---- */

kava_status kava_device_fork(kava_device device) {
  kava_status st = KAVA_OK;
  if (device == KAVA_CPU || !cuda.table) return KAVA_OK;
  if (cuda.lane != MAIN) return kava_fail(KAVA_MISUSE, "work aside, begun by work that is done aside");
  KAVA_TRY(kava_device_join(device));
  KAVA_TRY(told(cuda.table->fork(), "work aside"));
  cuda.lane = ASIDE;
  cuda.unjoined = true;
  cuda.at_fork = cuda.numbers;
out:
  return st;
}

kava_status kava_device_aside_end(kava_device device) {
  if (device == KAVA_CPU || !cuda.table) return KAVA_OK;
  cuda.lane = MAIN;
  return told(cuda.table->aside_end(), "work aside");
}

kava_status kava_device_join(kava_device device) {
  if (device == KAVA_CPU || !cuda.unjoined) return KAVA_OK;
  kava_status st = told(cuda.table->join(), "work aside");
  cuda.unjoined = false;
  while (cuda.limbo) {
    kava_block *b = cuda.limbo;
    cuda.limbo = b->larger;
    b->larger = NULL;
    put_back(b);
  }
  return st;
}

/* ---- recordings ---- */

bool kava_device_recording(void) { return cuda.recording != NULL; }

kava_status kava_recorder_new(kava_recorder **out) {
  kava_recorder *r = kava_calloc(1, sizeof *r);
  if (!r) return KAVA_MEMORY;
  r->refs = 1;
  open_pools(r->pools, LANES, r);
  *out = r;
  return KAVA_OK;
}

void kava_recorder_release(kava_recorder **at) {
  kava_recorder *r = *at;
  *at = NULL;
  if (!r) return;
  r->refs--;
  forget_recorder(r);
}

kava_status kava_device_record(kava_device device, kava_recorder *recorder) {
  if (cuda.recording) return kava_fail(KAVA_MISUSE, "a step is being recorded already");
  if (cuda.lane != MAIN) return kava_fail(KAVA_MISUSE, "a step is recorded while work is done aside");
  kava_status st = kava_device_join(device); /* a recording waits for nothing that is not in it */
  if (st != KAVA_OK) return st;
  kava_replay *r = kava_calloc(1, sizeof *r);
  if (!r) return KAVA_MEMORY;
  if (recorder) {
    r->recorder = recorder;
    recorder->refs++;
  } else
    st = kava_recorder_new(&r->recorder);
  kava_device_trim(device); /* what is free from here on would stand unused beside what the recording takes */
  if (st == KAVA_OK) st = told(cuda.table->record_begin(), "recording");
  if (st != KAVA_OK) {
    kava_recorder_release(&r->recorder);
    kava_free(r);
    return st;
  }
  cuda.recording = r;
  kava_rng_get(&r->seed, &r->position);
  void *unused;
  st = kava_device_alloc(device, sizeof(uint64_t), &r->later, &unused);
  if (st != KAVA_OK) kava_device_recorded(device, false, &r);
  return st;
}

const uint64_t *kava_device_later(void) {
  return cuda.recording ? (const uint64_t *)(const void *)cuda.recording->later->data : NULL;
}

kava_status kava_device_recorded(kava_device device, bool keep, kava_replay **out) {
  kava_replay *r = cuda.recording;
  kava_status st = kava_device_join(device), ended;
  cuda.recording = NULL;
  ended = told(cuda.table->record_end(keep, &r->graph), "recording");
  if (st == KAVA_OK) st = ended;
  uint64_t seed, position;
  kava_rng_get(&seed, &position);
  r->taken = position - r->position;
  if (seed == r->seed) kava_rng_set(seed, r->position); /* nothing has been drawn yet */
  if (st == KAVA_OK && keep)
    *out = r;
  else
    kava_device_replay_release(&r);
  return st;
}

kava_status kava_device_replay(kava_replay *r) {
  /* A recording has the lanes' scratch memory to itself. */
  if (cuda.lane != MAIN) return kava_fail(KAVA_MISUSE, "replay: a recorded step is run by work that is done aside");
  kava_status st = kava_device_join(KAVA_CUDA);
  uint64_t seed, position;
  kava_rng_get(&seed, &position);
  if (st != KAVA_OK) return st;
  if (seed != r->seed) return kava_fail(KAVA_MISUSE, "replay: the seed was changed since the step was recorded");
  uint64_t later = position - r->position;
  if (r->taken) KAVA_TRY(told(cuda.table->upload(r->later->data, &later, sizeof later), "replay"));
  KAVA_TRY(told(cuda.table->replay(r->graph), "replay"));
  kava_rng_set(seed, position + r->taken);
out:
  return st;
}

void kava_device_replay_release(kava_replay **at) {
  kava_replay *r = *at;
  *at = NULL;
  if (!r) return;
  if (r->graph) cuda.table->graph_release(r->graph);
  kava_device_free(KAVA_CUDA, r->later);
  while (r->held) {
    kava_block *b = r->held;
    r->held = b->larger;
    b->larger = NULL;
    let_go(b);
  }
  kava_recorder_release(&r->recorder);
  kava_free(r);
}

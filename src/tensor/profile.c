#include "tensor/profile.h"
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { DEPTH = 64, NAMES = 1024 };

typedef struct list {
  kava_timespan *at;
  size_t count, room;
} list;

/* Not counted by base/memory: the figures of what is profiled stay what they are. */
static struct {
  bool on, gpu;
  pthread_t owner;
  struct timespec since;
  list ops, ranges;
  struct { /* what is open */
    int id;
    list *in;
    size_t place;
  } open[DEPTH];
  int depth, last_id;
  char *names[NAMES]; /* of ranges; never given back, so that spans may point at them */
} profile;

bool kava_traced;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return 1e6 * (double)(t.tv_sec - profile.since.tv_sec) + 1e-3 * (double)(t.tv_nsec - profile.since.tv_nsec);
}

static const char *lasting(const char *name) {
  for (int i = 0; i < NAMES; i++) {
    if (!profile.names[i]) profile.names[i] = strdup(name);
    if (!profile.names[i]) break;
    if (strcmp(profile.names[i], name) == 0) return profile.names[i];
  }
  return "(other ranges)";
}

static int open_span(list *in, const char *name) {
  if (profile.depth == DEPTH || !name) return 0;
  if (in->count == in->room) {
    size_t room = in->room ? 2 * in->room : 4096;
    kava_timespan *grown = realloc(in->at, room * sizeof *grown);
    if (!grown) return 0;
    in->at = grown;
    in->room = room;
  }
  in->at[in->count] = (kava_timespan){name, now(), -1};
  profile.open[profile.depth].id = ++profile.last_id;
  profile.open[profile.depth].in = in;
  profile.open[profile.depth++].place = in->count++;
  return profile.last_id;
}

/* Ends the innermost one. */
static void close_span(void) {
  list *in = profile.open[--profile.depth].in;
  kava_timespan *s = &in->at[profile.open[profile.depth].place];
  s->length = now() - s->start;
}

static bool mine(void) { return profile.on && pthread_equal(profile.owner, pthread_self()); }

static int begin(list *in, const char *name) {
  kava_device_range(name);
  int id = mine() ? open_span(in, in == &profile.ranges ? lasting(name) : name) : 0;
  return id ? id : -1; /* for NVTX alone */
}

int kava_span_op(const char *name) { return begin(&profile.ops, name); }
int kava_range_begin(const char *name) { return kava_traced ? begin(&profile.ranges, name) : 0; }

void kava_span_end(int span) {
  int at = profile.depth;
  if (span == 0) return;
  kava_device_range(NULL);
  if (!mine()) return;
  while (at > 0 && profile.open[at - 1].id != span) at--;
  while (at > 0 && profile.depth >= at) close_span(); /* not found: it is of another profile */
}

kava_status kava_profile_begin(void) {
  if (profile.on) return kava_fail(KAVA_MISUSE, "profile: one is being taken already");
  if (kava_device_recording()) return kava_fail(KAVA_MISUSE, "profile: a step is being recorded");
  profile.gpu = kava_device_facts_of(KAVA_CUDA) != NULL;
  if (profile.gpu) {
    kava_status st = kava_device_profile_begin(KAVA_CUDA);
    if (st != KAVA_OK) return st;
  }
  profile.ops.count = profile.ranges.count = 0;
  profile.depth = 0;
  profile.owner = pthread_self();
  clock_gettime(CLOCK_MONOTONIC, &profile.since);
  profile.on = kava_traced = true;
  return KAVA_OK;
}

bool kava_profiling(void) { return profile.on; }

kava_status kava_profile_end(kava_profile *out) {
  kava_status st = KAVA_OK;
  *out = (kava_profile){0};
  if (!profile.on) return kava_fail(KAVA_MISUSE, "profile: none is being taken");
  if (profile.gpu) st = kava_device_profile_end(KAVA_CUDA, &out->kernels, &out->kernel_count, &out->source);
  out->length = now();
  while (profile.depth > 0) close_span();
  profile.on = false;
  kava_traced = kava_device_watched();
  out->ops = profile.ops.at;
  out->op_count = profile.ops.count;
  out->ranges = profile.ranges.at;
  out->range_count = profile.ranges.count;
  return st;
}

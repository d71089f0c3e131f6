/* kernels/device.h: what a device other than the CPU gives: a table of kernels, and memory, copies and recordings
 * beside them. It comes from a module that is opened with dlopen (src/tensor/device.c) and exports one C function,
 * kava_<device>_open. All work of a device goes, in order, to one stream, but for what is done aside: a function
 * returns when its work is enqueued, not when it is done, unless it says so. What goes wrong later is told by
 * `failure`. One thread at a time, but for beside_read. */
#ifndef KAVA_KERNELS_DEVICE_H
#define KAVA_KERNELS_DEVICE_H
#include <stddef.h>

#include "kernels/kernels.h"

/* Of this header and of what it includes: a module built from other sources is refused. The first number is raised with
 * every change of a signature; what else may differ mostly shows in a size. */
#define KAVA_DEVICE_ABI                                                                                                \
  (8 * 65536 + (int)(sizeof(kava_device_table) + sizeof(kava_norm_args) + 3 * sizeof(kava_gather_args) +               \
                     5 * sizeof(kava_linear_args) + 7 * sizeof(kava_attention_args) + 11 * sizeof(kava_rows_args) +    \
                     13 * sizeof(kava_pair_loss_args) + 17 * sizeof(kava_logits_args) + 19 * sizeof(kava_adamw_args)))

typedef struct kava_device_facts {
  char name[96]; /* "NVIDIA H100 80GB HBM3"; "emulated" */
  int major, minor, processors;
  int driver, runtime; /* 12040: 12.4 */
  size_t memory;
} kava_device_facts;

typedef struct kava_graph kava_graph; /* a step that can run again: launches at fixed addresses */

/* Something that took time: from `start`, microseconds after profiling began, for `length` more of them. */
typedef struct kava_timespan {
  const char *name;
  double start, length;
} kava_timespan;

typedef struct kava_device_table {
  int abi;
  kava_kernels kernels; /* NULL where there is none */
  kava_device_facts facts;
  size_t chunk; /* memory is reserved so much at a time and cut up by the caller; 0: a block at a time */
  /* KAVA_MEMORY: there is not as much. give_back waits until the memory is no longer used. */
  kava_status (*reserve)(size_t bytes, void **out);
  void (*give_back)(void *memory, size_t bytes);
  void (*memory)(size_t *free, size_t *total);
  /* to the device: `from` may be changed on return. While recording: what it holds now is part of the recording. */
  kava_status (*upload)(void *to, const void *from, size_t bytes);
  kava_status (*download)(void *to, const void *from, size_t bytes); /* waits; KAVA_MISUSE while recording */
  kava_status (*copy)(void *to, const void *from, size_t bytes);
  /* Host memory that copies need no detour for; given back once no copy uses it. */
  kava_status (*host_reserve)(size_t bytes, void **out);
  void (*host_give_back)(void *memory, size_t bytes);
  /* A download into such memory that nobody waits for, and whether it is done (`wait`: when it is). KAVA_MISUSE while
   * recording. */
  kava_status (*fetch)(void *to, const void *from, size_t bytes, uint64_t *ticket);
  kava_status (*fetched)(uint64_t ticket, bool wait, bool *done);
  /* Downloads beside what the device does, by any thread: `read` waits for itself alone, and finds what was enqueued
   * before the last `mark` (KAVA_MISUSE while recording). Nothing may write there meanwhile. `read` keeps its failure
   * to itself: in `message`. */
  kava_status (*beside_mark)(void);
  kava_status (*beside_read)(void *to, const void *from, size_t bytes, char *message, size_t size);
  kava_status (*clear)(void *to, size_t bytes);
  kava_status (*wait)(void); /* until everything enqueued is done */
  /* The first failure since the last call, and its message: a type that a kernel does not have (KAVA_UNSUPPORTED, with
   * its name), a launch or an execution that failed (KAVA_IO). Does not wait. */
  kava_status (*failure)(char *message, size_t size);
  /* From begin to end nothing is executed. `end` with keep false throws away what was recorded. */
  kava_status (*record_begin)(void);
  kava_status (*record_end)(bool keep, kava_graph **out);
  kava_status (*replay)(kava_graph *graph);
  void (*graph_release)(kava_graph *graph);
  /* Between fork and aside_end work goes to a second stream, which begins where the first is at fork; from join on the
   * first waits for it. Joined before the next fork, and before a recording ends. */
  kava_status (*fork)(void);
  kava_status (*aside_end)(void);
  kava_status (*join)(void);
  /* Which of the library's kernels was found fastest for which product. A file that is not there, or is another GPU's
   * or library's, is passed over; KAVA_IO where it cannot be written. */
  kava_status (*plans_load)(const char *path);
  kava_status (*plans_save)(const char *path);
  /* Between the two every kernel and copy is timed. `end` waits for what was enqueued, and gives them in order of their
   * starts; they and their names last until the next begin. *source: who timed them, in a word. */
  kava_status (*profile_begin)(void);
  kava_status (*profile_end)(const kava_timespan **spans, size_t *count, const char **source);
  /* For a profiler that looks on from outside: what follows belongs to `name`, until NULL ends the innermost. */
  void (*range)(const char *name);
} kava_device_table;

/* NULL: not here, and *why says so in a sentence (static). The table lives as long as the program. */
typedef const kava_device_table *(*kava_device_open_function)(const char **why);
#endif

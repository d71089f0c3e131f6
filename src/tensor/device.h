/* tensor/device: where tensors live and kernels run. The CPU is always there; CUDA comes from a module that is opened
 * when somebody first asks for it (kernels/device.h). There is one GPU for a process: the first that
 * CUDA_VISIBLE_DEVICES shows. KAVA_CUDA in the environment: "off": there is none; "emulated": a GPU that is acted by
 * the CPU, for tests. */
#ifndef KAVA_TENSOR_DEVICE_H
#define KAVA_TENSOR_DEVICE_H
#include "base/status.h"
#include "kernels/device.h"

typedef enum kava_device { KAVA_CPU, KAVA_CUDA, KAVA_DEVICES } kava_device;
const char *kava_device_name(kava_device device); /* "cpu", "cuda" */
bool kava_device_parse(const char *name, kava_device *out);

/* KAVA_UNSUPPORTED: it is not here, and why. Whoever has a tensor on a device need not ask. */
kava_status kava_device_open(kava_device device);
const kava_device_facts *kava_device_facts_of(kava_device device); /* NULL: not open, or the CPU */
const kava_kernels *kava_kernels_of(kava_device device);           /* of an open device */

/* Memory. *block is what _free wants back; 0 bytes are a block, too. KAVA_MEMORY says what was asked and what there is.
 * Freed memory may be handed out again at once: everything runs in the order in which it was enqueued. */
typedef struct kava_block kava_block;
kava_status kava_device_alloc(kava_device device, size_t bytes, kava_block **block, void **data);
void kava_device_free(kava_device device, kava_block *block);
typedef struct kava_device_stats {
  size_t current, peak; /* bytes in tensors, now and at most since the last reset */
  size_t reserved;      /* bytes taken from the device */
  size_t free, total;   /* the device's own figures */
} kava_device_stats;
void kava_device_memory(kava_device device, kava_device_stats *stats);
void kava_device_reset_peak(kava_device device);
size_t kava_device_used(kava_device device);              /* `current` of a GPU, without asking it for the rest */
void kava_device_limit(kava_device device, size_t bytes); /* of a GPU, as kava_memory_limit of the CPU; 0: no limit */
size_t kava_device_limit_of(kava_device device);
/* Between +1 and -1 what is asked for will stay long (weights, an optimizer's state): it lies apart from what steps
 * take and give back, so that all of that can be given to a recording, or to the device. */
void kava_device_lasting(int delta);
void kava_device_trim(kava_device device); /* gives what is not in use back to the device */

/* Between any two places. To the host it waits; else it is enqueued. */
kava_status kava_device_copy(kava_device to_device, void *to, kava_device from_device, const void *from, size_t bytes);
kava_status kava_device_clear(kava_device device, void *to, size_t bytes);
/* Pinned host memory, and downloads into it that nobody waits for: `ticket` tells when one is done. */
kava_status kava_device_host_alloc(size_t bytes, kava_block **block, void **data);
void kava_device_host_free(kava_block *block);
bool kava_device_hosted(const kava_block *block); /* is such; _free takes it, too, once the device reads it no more */
kava_status kava_device_fetch(void *to, const void *from, size_t bytes, uint64_t *ticket);
kava_status kava_device_fetched(uint64_t ticket, bool wait, bool *done);
kava_status kava_device_wait(kava_device device);
/* Downloads by any thread, beside what the device does: _read_beside finds what was enqueued before the last
 * _beside, and nobody may write there meanwhile. `to` is best pinned, and of so many bytes at once. */
#define KAVA_DEVICE_PIECE ((size_t)4 << 20)
kava_status kava_device_beside(void);
kava_status kava_device_read_beside(void *to, const void *from, size_t bytes);

/* Work aside: between fork and aside_end work goes to a second lane, beside what the main one gets until join, from
 * where on the main lane waits for it. What it gives is not to be read before join; a fork joins what went before. One
 * at a time: KAVA_MISUSE for a fork within. Nothing on the CPU, where all is done at once, or
 * where there is no GPU. */
kava_status kava_device_fork(kava_device device);
kava_status kava_device_aside_end(kava_device device);
kava_status kava_device_join(kava_device device);

/* What was measured of matrix products (kernels/device.h), read from a file or put there. KAVA_IO. */
kava_status kava_device_plans(kava_device device, const char *path, bool save);

/* Recordings: from begin to end nothing is executed, and memory comes from a recorder and stays until every recording
 * that used it is released and nothing lives there any more; what is freed meanwhile stays reserved, too. Recordings
 * that share one (NULL: an own one) overwrite each other's results. What is uploaded
 * meanwhile is a constant of the recording. Random numbers go on from replay to replay as they would have without one:
 * kava_device_later() is where on the device a kernel finds how far they are (NULL: nothing is being recorded). */
typedef struct kava_replay kava_replay;
typedef struct kava_recorder kava_recorder;
kava_status kava_recorder_new(kava_recorder **out);
void kava_recorder_release(kava_recorder **recorder); /* accepts NULL, nulls the pointer */
kava_status kava_device_record(kava_device device, kava_recorder *recorder);
kava_status kava_device_recorded(kava_device device, bool keep, kava_replay **out);
kava_status kava_device_replay(kava_replay *replay);
void kava_device_replay_release(kava_replay **replay); /* accepts NULL, nulls the pointer */
bool kava_device_recording(void);
const uint64_t *kava_device_later(void);

/* The device's half of a profile (tensor/profile.h). _range: for a profiler that looks on from outside. */
kava_status kava_device_profile_begin(kava_device device);
kava_status kava_device_profile_end(kava_device device, const kava_timespan **spans, size_t *count,
                                    const char **source);
void kava_device_range(const char *name); /* NULL ends the innermost; nothing where there is no GPU */
bool kava_device_watched(void);           /* there is one, and it is not this program's own */

/* Somebody wants to know what runs when (tensor/profile.h). */
extern bool kava_traced;
int kava_span_op(const char *name); /* a literal */
void kava_span_end(int span);       /* 0: there is nothing to end */

/* Runs a kernel of a device, in a function with `kava_status st` and an `out:` tail: KAVA_UNSUPPORTED names the kernel
 * that the device has not, or not for this type. KAVA_RUN_TRY: one that returns a status itself. */
#define KAVA_RUN(device, name, ...)                                                                                    \
  do {                                                                                                                 \
    const kava_device on_ = (device);                                                                                  \
    const kava_kernels *kernels_ = kava_kernels_of(on_);                                                               \
    if (!kernels_->name) KAVA_TRY(kava_device_lacks(on_, #name));                                                      \
    const int span_ = kava_traced ? kava_span_op(#name) : 0;                                                           \
    kernels_->name(__VA_ARGS__);                                                                                       \
    if (span_) kava_span_end(span_);                                                                                   \
    if (on_ != KAVA_CPU) KAVA_TRY(kava_device_check(on_, #name));                                                      \
  } while (0)
#define KAVA_RUN_TRY(device, name, ...)                                                                                \
  do {                                                                                                                 \
    const kava_device on_ = (device);                                                                                  \
    const kava_kernels *kernels_ = kava_kernels_of(on_);                                                               \
    if (!kernels_->name) KAVA_TRY(kava_device_lacks(on_, #name));                                                      \
    const int span_ = kava_traced ? kava_span_op(#name) : 0;                                                           \
    kava_status ran_ = kernels_->name(__VA_ARGS__);                                                                    \
    if (span_) kava_span_end(span_);                                                                                   \
    if (on_ != KAVA_CPU) KAVA_TRY(kava_device_check(on_, #name));                                                      \
    KAVA_TRY(ran_);                                                                                                    \
  } while (0)
kava_status kava_device_lacks(kava_device device, const char *kernel);
kava_status kava_device_check(kava_device device, const char *kernel);
#endif

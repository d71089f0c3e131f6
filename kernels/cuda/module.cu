/* kernels/cuda/module.cu: what the program finds when it opens the module (kernels/device.h): whether there is a GPU
 * that these kernels run on, memory, copies, and recordings. */
#include "kernels/cuda/gemm.cuh"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
extern "C" {
#include "kernels/device.h"
const char *kava_cuda_lacking(kava_dtype *dtype); /* stream.cu */
kava_status kava_cuda_profile_begin(void);        /* trace.cu */
kava_status kava_cuda_profile_end(const kava_timespan **spans, size_t *count, const char **source);
void kava_cuda_range(const char *name);
}

/* ---- failures ---- */

/* What leaves the GPU unusable for this process: every later call says the same again. Which launch it was, the error
 * does not tell, but where every launch is waited for. */
static bool fatal(cudaError_t error) {
  switch (error) {
  case cudaErrorECCUncorrectable:
  case cudaErrorIllegalAddress:
  case cudaErrorLaunchTimeout:
  case cudaErrorAssert:
  case cudaErrorHardwareStackError:
  case cudaErrorIllegalInstruction:
  case cudaErrorMisalignedAddress:
  case cudaErrorInvalidAddressSpace:
  case cudaErrorInvalidPc:
  case cudaErrorLaunchFailure: return true;
  default: return false;
  }
}

static kava_status failure(char *message, size_t size) {
  kava_dtype dtype;
  cudaError_t error;
  const char *kernel = kava_cuda_lacking(&dtype);
  if (kernel) {
    snprintf(message, size, "%s has no code for %s", kernel, kava_dtype_name(dtype));
    return KAVA_UNSUPPORTED;
  }
  kernel = kava_cuda_failure(&error);
  if (!kernel) return KAVA_OK;
  const char *blocking = getenv("CUDA_LAUNCH_BLOCKING");
  if (fatal(error) && !(blocking && strcmp(blocking, "1") == 0)) {
    char names[256];
    kava_cuda_launched(names, sizeof names);
    snprintf(message, size,
             "a kernel failed: %s (%s); the last ones begun were: %s; CUDA_LAUNCH_BLOCKING=1 in the environment tells "
             "which. The GPU is lost to this process; start it again",
             cudaGetErrorString(error), cudaGetErrorName(error), names);
    return KAVA_IO;
  }
  snprintf(message, size, "%s: %s (%s)", kernel, cudaGetErrorString(error), cudaGetErrorName(error));
  return error == cudaErrorMemoryAllocation ? KAVA_MEMORY : KAVA_IO;
}

/* Keeps a failure for whoever asks. */
static kava_status done(const char *what, cudaError_t error) {
  if (error == cudaSuccess) return KAVA_OK;
  cudaGetLastError(); /* is kept here: the next call is not to see it again */
  kava_cuda_failed(what, error);
  return error == cudaErrorMemoryAllocation ? KAVA_MEMORY : KAVA_IO;
}

/* ---- memory ---- */

static kava_status reserve(size_t bytes, void **out) {
  char *memory;
  cudaError_t error = cudaMalloc(&memory, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return KAVA_MEMORY;
  }
  if (error == cudaSuccess) *out = memory;
  return done("memory", error);
}

static void give_back(void *memory, size_t) { done("freeing memory", cudaFree(memory)); }

static void memory_now(size_t *free, size_t *total) {
  if (done("memory", cudaMemGetInfo(free, total)) != KAVA_OK) *free = *total = 0;
}

/* ---- recordings ---- */

/* What was uploaded while recording lies in host memory that the graph reads at every launch. */
typedef struct constant {
  struct constant *next;
  void *data;
} constant;
struct kava_graph {
  cudaGraphExec_t exec;
  constant *constants;
  cudaEvent_t ran; /* behind the last launch, where there are constants */
};
static kava_graph *recorded;

static void release(kava_graph *graph) {
  if (!graph) return;
  if (graph->ran) {
    done("a recording", cudaEventSynchronize(graph->ran)); /* which may still read its constants */
    cudaEventDestroy(graph->ran);
  }
  if (graph->exec) done("a recording", cudaGraphExecDestroy(graph->exec));
  for (constant *c = graph->constants, *next; c; c = next) {
    next = c->next;
    cudaFreeHost(c->data);
    free(c);
  }
  free(graph);
}

static kava_status record_begin(void) {
  recorded = (kava_graph *)calloc(1, sizeof *recorded);
  if (!recorded) return KAVA_MEMORY;
  /* relaxed: memory is reserved on the way */
  kava_status st = done("recording", cudaStreamBeginCapture(kava_cuda_stream(), cudaStreamCaptureModeRelaxed));
  if (st == KAVA_OK) kava_cuda_counters_begin(kava_cuda_stream()); /* a failure of the capture is told at its end */
  if (st != KAVA_OK) {
    free(recorded);
    recorded = NULL;
  }
  return st;
}

static kava_status record_end(bool keep, kava_graph **out) {
  cudaGraph_t graph = NULL;
  kava_graph *made = recorded;
  recorded = NULL;
  kava_status st = done("recording", cudaStreamEndCapture(kava_cuda_stream(), &graph));
  cudaError_t counters = kava_cuda_counters_end(st == KAVA_OK && keep ? graph : NULL);
  if (st == KAVA_OK && keep) st = done("a recording", counters);
  if (st == KAVA_OK && keep) st = done("a recording", cudaGraphInstantiate(&made->exec, graph, 0));
  if (graph) cudaGraphDestroy(graph);
  if (st == KAVA_OK && keep && made->constants)
    st = done("a recording", cudaEventCreateWithFlags(&made->ran, cudaEventDisableTiming));
  if (st == KAVA_OK && keep)
    *out = made;
  else
    release(made);
  return st;
}

static kava_status replay(kava_graph *graph) {
  kava_timed timed("a recorded step");
  kava_cuda_launching("a recorded step");
  kava_status st = done("replay", cudaGraphLaunch(graph->exec, kava_cuda_stream()));
  return st == KAVA_OK && graph->ran ? done("replay", cudaEventRecord(graph->ran, kava_cuda_stream())) : st;
}

/* ---- aside: the second lane begins when the first has come as far as `fork`; `join` makes the first wait for it ----
 */

static cudaEvent_t forked, finished;

static kava_status fork_aside(void) {
  kava_status st = KAVA_OK;
  if (!finished) {
    st = done("work aside", cudaEventCreateWithFlags(&forked, cudaEventDisableTiming));
    if (st == KAVA_OK) st = done("work aside", cudaEventCreateWithFlags(&finished, cudaEventDisableTiming));
  }
  if (st == KAVA_OK) st = done("work aside", cudaEventRecord(forked, kava_cuda_stream_of(0)));
  if (st == KAVA_OK) st = done("work aside", cudaStreamWaitEvent(kava_cuda_stream_of(1), forked, 0));
  if (st == KAVA_OK) kava_cuda_set_lane(1);
  return st;
}
static kava_status end_aside(void) {
  kava_cuda_set_lane(0);
  return done("work aside", cudaEventRecord(finished, kava_cuda_stream_of(1)));
}
static kava_status join_aside(void) {
  return done("work aside", cudaStreamWaitEvent(kava_cuda_stream_of(0), finished, 0));
}

/* ---- copies ----
 * What counts as the device's may lie in pinned memory (kava_tensor_offload), so the driver looks where it is. */

static kava_status upload_recorded(void *to, const void *from, size_t bytes) {
  constant *c = (constant *)calloc(1, sizeof *c);
  if (!c) return KAVA_MEMORY;
  kava_status st = done("upload", cudaMallocHost(&c->data, bytes));
  if (st != KAVA_OK) {
    free(c);
    return st;
  }
  memcpy(c->data, from, bytes);
  c->next = recorded->constants;
  recorded->constants = c;
  return done("upload", cudaMemcpyAsync(to, c->data, bytes, cudaMemcpyDefault, kava_cuda_stream()));
}

/* Small uploads go through pinned memory, so that nobody waits: two halves, filled in turn; a half is filled again when
 * the copies out of it are done. */
#define HALF ((size_t)1 << 20)
static struct {
  char *memory;
  cudaEvent_t done[2][KAVA_CUDA_LANES];
  size_t used;
  int half;
} ring;

static kava_status ring_room(size_t bytes, char **out) {
  kava_status st = KAVA_OK;
  if (!ring.memory) {
    void *memory = NULL;
    st = done("pinned memory", cudaMallocHost(&memory, 2 * HALF));
    for (int i = 0; i < 2 * KAVA_CUDA_LANES && st == KAVA_OK; i++)
      st = done("upload", cudaEventCreateWithFlags(&ring.done[0][i], cudaEventDisableTiming));
    if (st != KAVA_OK) return st;
    ring.memory = (char *)memory;
  }
  size_t room = (bytes + 255) / 256 * 256;
  if (ring.used + room > HALF) {
    for (int i = 0; i < KAVA_CUDA_LANES && st == KAVA_OK; i++)
      st = done("upload", cudaEventRecord(ring.done[ring.half][i], kava_cuda_stream_of(i)));
    ring.half = !ring.half;
    ring.used = 0;
    for (int i = 0; i < KAVA_CUDA_LANES && st == KAVA_OK; i++) /* done if never recorded */
      st = done("upload", cudaEventSynchronize(ring.done[ring.half][i]));
    if (st != KAVA_OK) return st;
  }
  *out = ring.memory + (size_t)ring.half * HALF + ring.used;
  ring.used += room;
  return KAVA_OK;
}

static kava_status upload(void *to, const void *from, size_t bytes) {
  if (recorded) return upload_recorded(to, from, bytes);
  if (bytes <= HALF / 4) {
    char *pinned;
    kava_status st = ring_room(bytes, &pinned);
    if (st != KAVA_OK) return st;
    memcpy(pinned, from, bytes);
    from = pinned;
  } /* else the driver has copied what it needs of pageable memory when it returns */
  kava_timed timed("memcpy, host to device");
  return done("upload", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, kava_cuda_stream()));
}

static kava_status wait_all(void) {
  kava_status st = KAVA_OK;
  for (int lane = 0; lane < KAVA_CUDA_LANES && st == KAVA_OK; lane++)
    st = done("waiting for the GPU", cudaStreamSynchronize(kava_cuda_stream_of(lane)));
  return st;
}

static kava_status download(void *to, const void *from, size_t bytes) {
  if (recorded) return KAVA_MISUSE;
  kava_status st;
  {
    kava_timed timed("memcpy, device to host");
    st = done("download", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, kava_cuda_stream()));
  }
  return st == KAVA_OK ? wait_all() : st;
}

/* Tickets are numbers of events, which are used again and again: an older one's event tells of a later copy, and what
 * came later is done later, in the same lane: each has events of its own. */
#define TICKETS 64
static cudaEvent_t landed[KAVA_CUDA_LANES * TICKETS];
static uint64_t tickets[KAVA_CUDA_LANES]; /* given to a lane: `lane`, `lane` + KAVA_CUDA_LANES, ... */

static kava_status host_reserve(size_t bytes, void **out) {
  cudaError_t error = cudaMallocHost(out, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return KAVA_MEMORY;
  }
  return done("pinned memory", error);
}

static void host_give_back(void *memory, size_t) { done("freeing pinned memory", cudaFreeHost(memory)); }

static kava_status fetch(void *to, const void *from, size_t bytes, uint64_t *ticket) {
  if (recorded) return KAVA_MISUSE;
  uint64_t lane = (uint64_t)kava_cuda_lane(), number = tickets[lane] * KAVA_CUDA_LANES + lane;
  cudaEvent_t *event = &landed[number % (KAVA_CUDA_LANES * TICKETS)];
  kava_status st = *event ? KAVA_OK : done("download", cudaEventCreateWithFlags(event, cudaEventDisableTiming));
  if (st == KAVA_OK) st = done("download", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, kava_cuda_stream()));
  if (st == KAVA_OK) st = done("download", cudaEventRecord(*event, kava_cuda_stream()));
  if (st == KAVA_OK) *ticket = number, tickets[lane]++;
  return st;
}

static kava_status fetched(uint64_t ticket, bool wait, bool *out) {
  cudaEvent_t event = landed[ticket % (KAVA_CUDA_LANES * TICKETS)];
  cudaError_t error = wait ? cudaEventSynchronize(event) : cudaEventQuery(event);
  *out = error == cudaSuccess;
  return error == cudaErrorNotReady ? KAVA_OK : done("download", error);
}

/* Its own stream, which a thread of its own gives work to: nothing here is shared with the others' but `marked`. */
static cudaStream_t beside_stream;
static cudaEvent_t marked;

static kava_status beside_mark(void) {
  kava_status st = KAVA_OK;
  if (recorded) return KAVA_MISUSE;
  if (!marked) {
    st = done("reading beside", cudaStreamCreateWithFlags(&beside_stream, cudaStreamNonBlocking));
    if (st == KAVA_OK) st = done("reading beside", cudaEventCreateWithFlags(&marked, cudaEventDisableTiming));
  }
  if (st == KAVA_OK) st = done("reading beside", cudaEventRecord(marked, kava_cuda_stream_of(0)));
  return st == KAVA_OK ? done("reading beside", cudaStreamWaitEvent(beside_stream, marked, 0)) : st;
}

static kava_status beside_read(void *to, const void *from, size_t bytes, char *message, size_t size) {
  cudaError_t error = cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, beside_stream);
  if (error == cudaSuccess) error = cudaStreamSynchronize(beside_stream);
  if (error == cudaSuccess) return KAVA_OK;
  cudaGetLastError();
  snprintf(message, size, "%s (%s)", cudaGetErrorString(error), cudaGetErrorName(error));
  return KAVA_IO;
}

static kava_status copy(void *to, const void *from, size_t bytes) {
  kava_timed timed("memcpy, device to device");
  return done("copy", cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, kava_cuda_stream()));
}

static kava_status clear(void *to, size_t bytes) {
  kava_timed timed("memset");
  return done("clear", cudaMemsetAsync(to, 0, bytes, kava_cuda_stream()));
}

/* ---- opening ---- */

static char reason[512];
static __global__ void __launch_bounds__(32) nothing_kernel() {}

/* Of a GPU that is there, but does not compute: why. */
static const char *unusable(cudaError_t error, const cudaDeviceProp *prop) {
  int mode = cudaComputeModeDefault;
  cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, 0);
  const char *more = "";
  if (error == cudaErrorDevicesUnavailable)
    more = mode == cudaComputeModeExclusiveProcess
               ? "; it is for one process at a time (its compute mode), and another has it"
           : mode == cudaComputeModeProhibited ? "; its compute mode forbids computing"
                                               : "; another process may hold it: nvidia-smi shows which";
  else if (error == cudaErrorMemoryAllocation)
    more = "; other processes have its memory: nvidia-smi shows which";
  else if (error == cudaErrorNoKernelImageForDevice)
    more = "; this build has no code for it: see KAVA_CUDA_TARGETS in kernels/cuda/native.cmake";
  snprintf(reason, sizeof reason, "%.100s cannot be used: %s (%s)%s", prop->name[0] ? prop->name : "the GPU",
           cudaGetErrorString(error), cudaGetErrorName(error), more);
  return reason;
}

static const char *problem(kava_device_facts *facts) {
  int count = 0, driver = 0, runtime = 0;
  cudaDeviceProp prop = {};
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&runtime);
  cudaError_t error = cudaGetDeviceCount(&count);
  if (driver == 0) return "there is no NVIDIA driver";
  /* before 12.1 a kernel's arguments were 4 KiB at most, and adamw's are more */
  if (error == cudaErrorInsufficientDriver || driver < 12010) {
    int needed = error == cudaErrorInsufficientDriver ? runtime : 12010;
    snprintf(reason, sizeof reason, "the driver is for CUDA %d.%d, this build needs %d.%d: bring the driver up to date",
             driver / 1000, driver % 1000 / 10, needed / 1000, needed % 1000 / 10);
    return reason;
  }
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    const char *mask = getenv("CUDA_VISIBLE_DEVICES");
    if (!mask) return "there is no GPU";
    snprintf(reason, sizeof reason, "CUDA_VISIBLE_DEVICES hides every GPU: it %s%.100s%s", *mask ? "is '" : "is empty",
             mask, *mask ? "', and none that is here comes first in it" : "");
    return reason;
  }
  if (error == cudaSuccess) error = cudaGetDeviceProperties(&prop, 0);
  if (error == cudaSuccess && prop.major < 8) {
    snprintf(reason, sizeof reason, "%.100s has compute capability %d.%d; 8.0 or more expected", prop.name, prop.major,
             prop.minor);
    return reason;
  }
  if (error == cudaSuccess) error = cudaSetDevice(0);
  size_t free, total;
  if (error == cudaSuccess) error = cudaMemGetInfo(&free, &total); /* makes the context: a busy GPU says no here */
  if (error != cudaSuccess) return unusable(error, &prop);
  kava_launch("nothing", nothing_kernel, 1, 32, 0); /* is there code for it? */
  if (!kava_cuda_failure(&error)) error = cudaStreamSynchronize(kava_cuda_stream());
  if (error != cudaSuccess) return unusable(error, &prop);
  snprintf(facts->name, sizeof facts->name, "%.95s", prop.name);
  facts->major = prop.major;
  facts->minor = prop.minor;
  facts->processors = prop.multiProcessorCount;
  facts->driver = driver;
  facts->runtime = runtime;
  facts->memory = prop.totalGlobalMem;
  return NULL;
}

extern "C" const kava_device_table *kava_cuda_open(const char **why) {
  static kava_device_table table;
  if (table.abi) return &table;
  kava_device_facts facts = {};
  *why = problem(&facts);
  if (*why) {
    cudaGetLastError();
    return NULL;
  }
  table.kernels = *kava_cuda_kernels();
  table.facts = facts;
  table.chunk = KAVA_MEMORY_CHUNK;
  table.reserve = reserve;
  table.give_back = give_back;
  table.memory = memory_now;
  table.upload = upload;
  table.download = download;
  table.copy = copy;
  table.host_reserve = host_reserve;
  table.host_give_back = host_give_back;
  table.fetch = fetch;
  table.fetched = fetched;
  table.beside_mark = beside_mark;
  table.beside_read = beside_read;
  table.clear = clear;
  table.wait = wait_all;
  table.failure = failure;
  table.record_begin = record_begin;
  table.record_end = record_end;
  table.replay = replay;
  table.fork = fork_aside;
  table.aside_end = end_aside;
  table.join = join_aside;
  table.graph_release = release;
  table.plans_load = kava_cuda_plans_load;
  table.plans_save = kava_cuda_plans_save;
  table.profile_begin = kava_cuda_profile_begin;
  table.profile_end = kava_cuda_profile_end;
  table.range = kava_cuda_range;
  table.abi = KAVA_DEVICE_ABI;
  return &table;
}

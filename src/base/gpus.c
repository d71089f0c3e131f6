#include "base/gpus.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CUDA_OK = 0, MAJOR = 75, MINOR = 76 }; /* CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_… */

static struct {
  int (*init)(unsigned);
  int (*version)(int *);
  int (*count)(int *);
  int (*get)(int *, int);
  int (*name)(char *, int, int);
  int (*uuid)(unsigned char *, int);
  int (*attribute)(int *, int, int);
  int (*memory)(size_t *, int);
  int (*message)(int, const char **);
} cuda;

typedef struct nvml_memory {
  unsigned long long total, free, used;
} nvml_memory;
static struct {
  int (*init)(void);
  int (*driver)(char *, unsigned);
  int (*count)(unsigned *);
  int (*by_uuid)(const char *, void **);
  int (*memory)(void *, nvml_memory *);
} nvml;

/* As in kernels/cpu/blas.c: dlsym's pointer to an object becomes one to a function. */
static bool find(void *library, const char *name, void *function) {
  void *symbol = dlsym(library, name);
  memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

static void cuda_problem(kava_gpu_list *list, const char *what, int code) {
  const char *said = NULL;
  if (!cuda.message || cuda.message(code, &said) != CUDA_OK || !said) said = "no further word";
  list->code = code;
  snprintf(list->problem, sizeof list->problem, "%s: error %d, %s", what, code, said);
}

static bool open_cuda(kava_gpu_list *list) {
  void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  if (!library) return false;
  list->library = true;
  find(library, "cuGetErrorString", &cuda.message); /* may be missing, as may the UUID, in drivers of 2016 */
  if (!find(library, "cuDeviceGetUuid_v2", &cuda.uuid)) find(library, "cuDeviceGetUuid", &cuda.uuid);
  const struct {
    const char *name;
    void *function;
  } all[] = {{"cuInit", &cuda.init},
             {"cuDriverGetVersion", &cuda.version},
             {"cuDeviceGetCount", &cuda.count},
             {"cuDeviceGet", &cuda.get},
             {"cuDeviceGetName", &cuda.name},
             {"cuDeviceGetAttribute", &cuda.attribute},
             {"cuDeviceTotalMem_v2", &cuda.memory}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++)
    if (!find(library, all[i].name, all[i].function)) {
      snprintf(list->problem, sizeof list->problem,
               "libcuda.so.1 has no %s: it is no driver's library, or a very old one", all[i].name);
      return false;
    }
  return true;
}

static void open_nvml(kava_gpu_list *list) {
  void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  unsigned count;
  if (!library || !find(library, "nvmlInit_v2", &nvml.init) || nvml.init() != 0) return;
  if (find(library, "nvmlSystemGetDriverVersion", &nvml.driver) && nvml.driver(list->driver, sizeof list->driver) != 0)
    list->driver[0] = 0;
  if (find(library, "nvmlDeviceGetCount_v2", &nvml.count) && nvml.count(&count) == 0) list->seen = (int)count;
  if (!find(library, "nvmlDeviceGetMemoryInfo", &nvml.memory)) return;
  find(library, "nvmlDeviceGetHandleByUUID", &nvml.by_uuid);
}

static void write_uuid(const char *kind, const unsigned char *id, char *into, size_t room) {
  int at = snprintf(into, room, "%s-", kind);
  for (int i = 0; i < 16; i++)
    at += snprintf(into + at, room - (size_t)at, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", id[i]);
}

static int ask_gpu(int ordinal, kava_gpu *gpu) {
  int device, code;
  size_t bytes;
  unsigned char id[16];
  gpu->memory = gpu->free = -1;
  if ((code = cuda.get(&device, ordinal)) != CUDA_OK) return code;
  if ((code = cuda.name(gpu->name, sizeof gpu->name, device)) != CUDA_OK) return code;
  gpu->name[sizeof gpu->name - 1] = 0;
  if ((code = cuda.attribute(&gpu->major, MAJOR, device)) != CUDA_OK) return code;
  if ((code = cuda.attribute(&gpu->minor, MINOR, device)) != CUDA_OK) return code;
  if (cuda.memory(&bytes, device) == CUDA_OK) gpu->memory = (int64_t)bytes;
  gpu->mig = strstr(gpu->name, " MIG ") != NULL;
  if (!cuda.uuid || cuda.uuid(id, device) != CUDA_OK) return CUDA_OK;
  void *handle = NULL;
  if (nvml.by_uuid) { /* which of the two it is, NVML knows best */
    for (int mig = 0; mig < 2 && !handle; mig++) {
      write_uuid(mig ? "MIG" : "GPU", id, gpu->uuid, sizeof gpu->uuid);
      if (nvml.by_uuid(gpu->uuid, &handle) != 0)
        handle = NULL;
      else
        gpu->mig = mig;
    }
    nvml_memory memory;
    if (handle && nvml.memory(handle, &memory) == 0) gpu->free = (int64_t)memory.free;
  }
  write_uuid(gpu->mig ? "MIG" : "GPU", id, gpu->uuid, sizeof gpu->uuid);
  return CUDA_OK;
}

static void ask_driver(kava_gpu_list *list) {
  int code, count = 0;
  if (!open_cuda(list)) return;
  open_nvml(list);
  if (cuda.version(&list->cuda) != CUDA_OK) list->cuda = 0;
  if ((code = cuda.init(0)) != CUDA_OK) {
    cuda_problem(list, "cuInit", code);
    return;
  }
  if ((code = cuda.count(&count)) != CUDA_OK) {
    cuda_problem(list, "cuDeviceGetCount", code);
    return;
  }
  for (int i = 0; i < count && list->count < KAVA_GPUS_MOST; i++) {
    if ((code = ask_gpu(i, &list->gpus[list->count])) != CUDA_OK) {
      memset(&list->gpus[list->count], 0, sizeof *list->gpus);
      cuda_problem(list, "a GPU that is there does not answer", code);
      return;
    }
    list->count++;
  }
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* In the child: nothing of the parent's is touched, and it ends without the parent's exit handlers. */
static _Noreturn void child(int to, double seconds) {
  static kava_gpu_list list;
  for (int i = 1; i < 32; i++) signal(i, SIG_DFL); /* the parent's handlers are not this process's */
  alarm((unsigned)seconds + 2);                    /* should the parent be gone */
  int null = open("/dev/null", O_RDWR);
  for (int i = 0; i < 3 && null >= 0; i++) dup2(null, i); /* drivers talk */
  list.seen = -1;
  ask_driver(&list);
  const char *from = (const char *)&list;
  for (size_t left = sizeof list; left > 0;) {
    ssize_t n = write(to, from, left);
    if (n < 0 && errno != EINTR) break;
    if (n > 0) {
      from += n;
      left -= (size_t)n;
    }
  }
  _exit(0);
}

/* Bytes that came before `until`. */
static size_t collect(int from, double until, char *into, size_t room) {
  size_t got = 0;
  while (got < room) {
    double left = until - now();
    struct pollfd ready = {.fd = from, .events = POLLIN};
    int found = left > 0 ? poll(&ready, 1, (int)(left * 1000) + 1) : 0;
    if (found == 0) break;
    ssize_t n = found > 0 ? read(from, into + got, room - got) : -1;
    if (n == 0 || (n < 0 && errno != EINTR)) break;
    if (n > 0) got += (size_t)n;
  }
  return got;
}

void kava_gpus_cuda(double seconds, kava_gpu_list *list) {
  int ends[2], status = 0;
  memset(list, 0, sizeof *list);
  list->seen = -1;
  if (pipe(ends) != 0) return;
  fcntl(ends[0], F_SETFD, FD_CLOEXEC);
  pid_t pid = fork();
  if (pid == 0) {
    close(ends[0]);
    child(ends[1], seconds);
  }
  close(ends[1]);
  double until = now() + seconds;
  size_t got = pid > 0 ? collect(ends[0], until, (char *)list, sizeof *list) : 0;
  close(ends[0]);
  bool late = got < sizeof *list && now() >= until;
  if (late && pid > 0) kill(pid, SIGKILL);
  /* A process that a driver holds in the kernel does not even die: it is not waited for then. */
  pid_t ended = 0;
  for (int i = 0; pid > 0 && i < 50 && ended == 0; i++) {
    ended = waitpid(pid, &status, WNOHANG);
    if (ended < 0 && errno == EINTR) ended = 0;
    if (ended == 0) nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
  }
  if (got == sizeof *list) return;
  memset(list, 0, sizeof *list);
  list->seen = -1;
  list->library = true;
  if (pid < 0)
    snprintf(list->problem, sizeof list->problem, "no process can be started to ask NVIDIA's driver: %s",
             strerror(errno));
  else if (late)
    snprintf(list->problem, sizeof list->problem, "NVIDIA's driver does not answer within %g s", seconds);
  else if (ended == pid && WIFSIGNALED(status))
    snprintf(list->problem, sizeof list->problem, "NVIDIA's driver ended the process that asked it, by signal %d",
             WTERMSIG(status));
  else
    snprintf(list->problem, sizeof list->problem, "NVIDIA's driver ended the process that asked it");
}

void kava_gpus_metal(kava_gpu_list *list) {
  memset(list, 0, sizeof *list);
  list->seen = -1;
  void *metal = dlopen("/System/Library/Frameworks/Metal.framework/Metal", RTLD_NOW | RTLD_LOCAL);
  void *objc = metal ? dlopen("/usr/lib/libobjc.A.dylib", RTLD_NOW | RTLD_LOCAL) : NULL;
  void *(*create)(void);
  void *(*selector)(const char *);
  void *(*send)(void *, void *);
  uint64_t (*send_number)(void *, void *);
  const char *(*send_text)(void *, void *);
  if (!objc || !find(metal, "MTLCreateSystemDefaultDevice", &create) || !find(objc, "sel_registerName", &selector) ||
      !find(objc, "objc_msgSend", &send))
    return;
  memcpy(&send_number, &send, sizeof send);
  memcpy(&send_text, &send, sizeof send);
  list->library = true;
  void *device = create();
  if (!device) {
    snprintf(list->problem, sizeof list->problem,
             "Metal gives no device: none is there, or this session has no access to it");
    return;
  }
  kava_gpu *gpu = &list->gpus[list->count++];
  void *name = send(device, selector("name"));
  const char *text = name ? send_text(name, selector("UTF8String")) : NULL;
  snprintf(gpu->name, sizeof gpu->name, "%s", text ? text : "Apple GPU");
  gpu->memory = (int64_t)send_number(device, selector("recommendedMaxWorkingSetSize"));
  gpu->free = -1;
  send(device, selector("release"));
}

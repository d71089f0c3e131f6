/* kernels/cuda/emulated/threads.cpp: the threads of a block as fibers on one thread of the host. A thread runs until it
 * has to wait for others (a barrier, a shuffle) or ends; the warps take turns, and within a warp its lanes. Blocks run
 * one after another. When nobody can go on and somebody still waits, a barrier was not reached by all. */
#include "kernels/cuda/emulated/emulated.h"
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace kava_emulated {
namespace {
const size_t STACK = 256 * 1024, SHARED = 227 * 1024;

struct fiber {
#if defined(__x86_64__)
  void *stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  char *stack = nullptr;
  bool started = false;
};

enum state { READY, WAITS_WARP, WAITS_BLOCK, WATCHES, ENDED };
struct copy {
  void *to;
  const void *from;
  int bytes;
  bool valid;
};
struct thread {
  state is;
  unsigned generation; /* of what it waits for */
  fiber *on;
  std::vector<copy> issued;
  std::vector<std::vector<copy>> groups;
  std::vector<std::function<void()>> stored; /* handed to the copy engine, and groups of that */
  std::vector<std::vector<std::function<void()>>> stores;
  const uint8_t *word; /* that it watches, until that is no longer `value` */
  uint8_t value;
};
struct warp {
  unsigned arrived, generation;
  meeting kind;
  unsigned char slots[2][32][SLOT];
};

const std::function<void()> *body;
const char *kernel_name = "";
std::vector<thread> threads;
std::vector<warp> warps;
std::vector<fiber *> idle;
unsigned current; /* the thread that runs, by its number in the block */
int barrier_arrived, barrier_line, reduced[2][3];
unsigned barrier_generation;
const char *barrier_file;
alignas(1024) unsigned char shared[SHARED + 4096];             /* room for the gaps */
size_t shared_used, shared_dynamic, shared_bytes, shared_most; /* used: with gaps; bytes: without */
std::map<const void *, std::pair<size_t, size_t>> shared_places;
std::deque<std::function<void()>> loads; /* handed to the copy engine */
struct {
  unsigned arrived;
  uint8_t generation;
} named[16];
bool running;

#if defined(__x86_64__)
/* Saves the callee's registers on this stack, its pointer in *save, and goes on where `load` was saved. */
extern "C" void kava_emulated_switch(void **save, void *load);
asm(".text\n"
    ".type kava_emulated_switch, @function\n"
    ".local kava_emulated_switch\n"
    "kava_emulated_switch:\n"
    "  pushq %rbp\n  pushq %rbx\n  pushq %r12\n  pushq %r13\n  pushq %r14\n  pushq %r15\n"
    "  movq %rsp, (%rdi)\n"
    "  movq %rsi, %rsp\n"
    "  popq %r15\n  popq %r14\n  popq %r13\n  popq %r12\n  popq %rbx\n  popq %rbp\n"
    "  ret\n"
    ".size kava_emulated_switch, .-kava_emulated_switch\n");
void *scheduler;
#else
ucontext_t scheduler;
#endif

void leave() { /* from a fiber to the scheduler */
#if defined(__x86_64__)
  kava_emulated_switch(&threads[current].on->stack_pointer, scheduler);
#else
  swapcontext(&threads[current].on->context, &scheduler);
#endif
}

void fiber_main() { /* one thread after another, as the scheduler hands them out */
  for (;;) {
    (*body)();
    threads[current].is = ENDED;
    leave();
  }
}

fiber *take_fiber() {
  if (!idle.empty()) {
    fiber *f = idle.back();
    idle.pop_back();
    return f;
  }
  fiber *f = new fiber;
  f->stack = static_cast<char *>(
      mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (f->stack == MAP_FAILED) die("no memory for a thread's stack");
  mprotect(f->stack, 4096, PROT_NONE);
#if defined(__x86_64__)
  void **top = reinterpret_cast<void **>(f->stack + STACK - 64); /* as if fiber_main had been called from there */
  *top = reinterpret_cast<void *>(fiber_main);
  f->stack_pointer = top - 6;
#else
  getcontext(&f->context);
  f->context.uc_stack.ss_sp = f->stack;
  f->context.uc_stack.ss_size = STACK;
  makecontext(&f->context, fiber_main, 0);
#endif
  return f;
}

void set_thread(unsigned index) {
  current = index;
  threadIdx = {index % blockDim.x, index / blockDim.x % blockDim.y, index / blockDim.x / blockDim.y};
}

bool can_go_on(const thread &t) {
  return t.is == READY || (t.is == WAITS_WARP && warps[(&t - &threads[0]) >> 5].generation != t.generation) ||
         (t.is == WAITS_BLOCK && barrier_generation != t.generation) || (t.is == WATCHES && *t.word != t.value);
}

void resume(unsigned index) {
  thread &t = threads[index];
  set_thread(index);
  if (!t.on) t.on = take_fiber();
  t.is = READY;
#if defined(__x86_64__)
  kava_emulated_switch(&scheduler, t.on->stack_pointer);
#else
  swapcontext(&scheduler, &t.on->context);
#endif
  if (t.is == ENDED) {
    if (!t.issued.empty() || !t.groups.empty() || !t.stored.empty() || !t.stores.empty())
      die("a thread ended with asynchronous copies that it never waited for");
    idle.push_back(t.on);
    t.on = nullptr;
  }
}

void run_block(bool backward) {
  unsigned count = blockDim.x * blockDim.y * blockDim.z;
  memset(shared, 0xff, sizeof shared);
  shared_used = shared_bytes = shared_dynamic;
  shared_places.clear();
  threads.assign(count, thread{READY, 0, nullptr, {}, {}, {}, {}, nullptr, 0});
  for (warp &w : warps) w.arrived = w.generation = 0;
  barrier_arrived = 0;
  memset(reduced, 0, sizeof reduced);
  memset(named, 0, sizeof named);
  unsigned ended = 0;
  while (ended < count) {
    bool moved = false;
    for (unsigned step = 0; step < count / 32; step++) {
      unsigned w = backward ? count / 32 - 1 - step : step;
      for (bool again = true; again;) {
        again = false;
        for (unsigned l = 0; l < 32; l++) {
          unsigned index = 32 * w + (backward ? 31 - l : l);
          if (threads[index].is == ENDED || !can_go_on(threads[index])) continue;
          resume(index);
          if (threads[index].is == ENDED) ended++;
          again = moved = true;
        }
      }
    }
    if (!moved && !loads.empty()) { /* the latest first, as nothing promises their order */
      loads.back()();
      loads.pop_back();
      continue;
    }
    if (!moved) {
      unsigned block = 0, shuffling = 0, watching = 0;
      for (const thread &t : threads) {
        block += t.is == WAITS_BLOCK;
        shuffling += t.is == WAITS_WARP;
        watching += t.is == WATCHES;
      }
      die("of %u threads %u wait at a barrier (%s:%d), %u at one in shared memory or of a part of the block, %u for "
          "their warp, %u have ended: not all came",
          count, block, barrier_file ? barrier_file : "-", barrier_line, watching, shuffling, ended);
    }
  }
  if (!loads.empty()) die("the block ended before its copies had come");
}

void do_copy(const copy &c) {
  if (c.valid)
    memcpy(c.to, c.from, (size_t)c.bytes);
  else
    memset(c.to, 0, (size_t)c.bytes);
}
} // namespace

void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "emulated CUDA: ");
  if (running)
    fprintf(stderr, "%s, block (%u,%u,%u), thread (%u,%u,%u): ", kernel_name, blockIdx.x, blockIdx.y, blockIdx.z,
            threadIdx.x, threadIdx.y, threadIdx.z);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  abort();
}

unsigned lane() { return current & 31; }
void *dynamic_shared() { return shared; }

void *static_shared(const void *key, size_t bytes) {
  auto found = shared_places.find(key);
  if (found != shared_places.end()) return shared + found->second.first;
  size_t at = (shared_used + 127) & ~(size_t)127;
  shared_bytes += bytes;
  if (shared_bytes > shared_most || at + bytes > sizeof shared)
    die("%zu bytes of shared memory: %zu at most", shared_bytes, shared_most);
  shared_places[key] = {at, bytes};
  shared_used = at + bytes;
  return shared + at;
}

const unsigned char *meet(meeting kind, unsigned mask, const void *mine, size_t bytes) {
  static const char *const names[] = {"", "a shuffle", "a vote", "__syncwarp", "ldmatrix", "mma"};
  if (mask != 0xffffffffu) die("%s of a part of the warp: mask %08x", names[kind], mask);
  warp &w = warps[current >> 5];
  unsigned generation = w.generation;
  if (w.arrived && w.kind != kind) die("comes to %s while others of its warp are at %s", names[kind], names[w.kind]);
  w.kind = kind;
  if (bytes) memcpy(w.slots[generation & 1][current & 31], mine, bytes);
  w.arrived |= 1u << (current & 31);
  if (w.arrived == 0xffffffffu) {
    w.arrived = 0;
    w.generation++;
  } else {
    threads[current].is = WAITS_WARP;
    threads[current].generation = generation;
    leave();
  }
  return &w.slots[generation & 1][0][0];
}

void barrier(const char *file, int line) {
  if (barrier_arrived && (line != barrier_line || strcmp(file, barrier_file) != 0))
    die("at the barrier of line %d while others are at that of line %d", line, barrier_line);
  barrier_file = file;
  barrier_line = line;
  unsigned generation = barrier_generation;
  if (++barrier_arrived == (int)threads.size()) {
    barrier_arrived = 0;
    barrier_generation++;
    memset(reduced[(generation + 1) & 1], 0, sizeof reduced[0]);
  } else {
    threads[current].is = WAITS_BLOCK;
    threads[current].generation = generation;
    leave();
  }
}

int barrier_reduce(const char *file, int line, int value, int kind) {
  int *votes = reduced[barrier_generation & 1];
  votes[0] += value != 0;
  barrier(file, line);
  int all = (int)threads.size();
  return kind == 0 ? votes[0] : kind == 1 ? votes[0] == all : votes[0] > 0;
}

void copy_async(void *to, const void *from, int bytes, bool valid) {
  unsigned char *at = static_cast<unsigned char *>(to);
  uintptr_t mask = (uintptr_t)bytes - 1;
  if (at < shared || at + bytes > shared + sizeof shared) die("an asynchronous copy to what is not shared memory");
  if ((reinterpret_cast<uintptr_t>(to) & mask) || (valid && (reinterpret_cast<uintptr_t>(from) & mask)))
    die("an asynchronous copy of %d bytes at an address that is no multiple of that", bytes);
  memset(to, 0xff, (size_t)bytes);
  threads[current].issued.push_back({to, from, bytes, valid});
}
void copy_commit() {
  thread &t = threads[current];
  t.groups.push_back({});
  t.groups.back().swap(t.issued);
}
void copy_wait(int pending) {
  thread &t = threads[current];
  while ((int)t.groups.size() > pending) {
    for (const copy &c : t.groups.front()) do_copy(c);
    t.groups.erase(t.groups.begin());
  }
}

void bulk_load(std::function<void()> copy) { loads.push_back(std::move(copy)); }
void bulk_store(std::function<void()> copy) { threads[current].stored.push_back(std::move(copy)); }
void bulk_commit() {
  thread &t = threads[current];
  t.stores.push_back({});
  t.stores.back().swap(t.stored);
}
void bulk_wait(int pending) {
  thread &t = threads[current];
  while ((int)t.stores.size() > pending) {
    for (const std::function<void()> &store : t.stores.front()) store();
    t.stores.erase(t.stores.begin());
  }
}

void watch(const uint8_t *word, uint8_t value) {
  thread &t = threads[current];
  while (*word == value) {
    t.is = WATCHES;
    t.word = word;
    t.value = value;
    leave();
  }
}
void named_barrier(unsigned number, unsigned count) {
  if (number >= 16 || count % 32) die("barrier %u of %u threads", number, count);
  uint8_t generation = named[number].generation;
  if (++named[number].arrived == count) {
    named[number].arrived = 0;
    named[number].generation++;
  } else {
    watch(&named[number].generation, generation);
  }
}

void run_grid(const char *name, dim3 grid, dim3 block, size_t bytes, size_t most,
              const std::function<void()> &function) {
  const char *order = getenv("KAVA_CUDA_ORDER");
  bool backward = order && strcmp(order, "backward") == 0;
  kernel_name = name;
  body = &function;
  blockDim = block;
  gridDim = grid;
  shared_dynamic = bytes;
  shared_most = most;
  warps.resize(block.x * block.y * block.z / 32);
  running = true;
  for (unsigned z = 0; z < grid.z; z++)
    for (unsigned y = 0; y < grid.y; y++)
      for (unsigned x = 0; x < grid.x; x++) {
        blockIdx = backward ? uint3{grid.x - 1 - x, grid.y - 1 - y, grid.z - 1 - z} : uint3{x, y, z};
        run_block(backward);
      }
  running = false;
}

cudaError_t check_grid(const char *name, dim3 grid, dim3 block, size_t bytes) {
  unsigned count = block.x * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535 || !count ||
      count > 1024 || bytes > SHARED) {
    fprintf(stderr, "emulated CUDA: %s: a launch of (%u,%u,%u) blocks of %u threads with %zu bytes is refused\n", name,
            grid.x, grid.y, grid.z, count, bytes);
    return cudaErrorInvalidConfiguration;
  }
  if (count % 32) die("%s: blocks of %u threads: whole warps expected", name, count);
  return cudaSuccess;
}
} // namespace kava_emulated

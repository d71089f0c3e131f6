/* bind/l_system.c: the runtime's own switches: seed, threads, memory, gradients, scopes. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "bind/bind.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/threads.h"
#include "kernels/kernels.h"
#include "tape/tape.h"
#include "tensor/device.h"
#include "tensor/peak.h"
#include <limits.h>
#include <pcre2.h>
#include <pwd.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>
#include <utf8proc.h>
#include <zlib.h>
#include <zstd.h>

extern char **environ; /* POSIX declares it nowhere */

#define SCOPE_TYPE "kava.Scope"

static int l_seed(lua_State *L) { /* [-0, +0, e] seed(n): every random number from here on is a function of n */
  kava_rng_seed((uint64_t)luaL_checkinteger(L, 1));
  return 0;
}

/* [-0, +2, e] rng_state() -> seed, position;  rng_state(seed, position) sets them */
static int l_rng_state(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) kava_rng_set((uint64_t)luaL_checkinteger(L, 1), (uint64_t)luaL_checkinteger(L, 2));
  uint64_t seed, position;
  kava_rng_get(&seed, &position);
  lua_pushinteger(L, (lua_Integer)seed);
  lua_pushinteger(L, (lua_Integer)position);
  return 2;
}

/* [-0, +1, e] permute(seed, count, index): element `index` (1-based) of a shuffle of 1..count */
static int l_permute(lua_State *L) {
  lua_Integer count = luaL_checkinteger(L, 2), index = luaL_checkinteger(L, 3);
  luaL_argcheck(L, count >= 1, 2, "at least 1 expected");
  luaL_argcheck(L, index >= 1 && index <= count, 3, "an index from 1 to count expected");
  lua_pushinteger(
      L, (lua_Integer)kava_permute_index((uint64_t)luaL_checkinteger(L, 1), (uint64_t)count, (uint64_t)index - 1) + 1);
  return 1;
}

/* [-0, +1, e] threads() -> n;  threads(n) sets it, 0: the CPUs this process may use */
static int l_threads(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) {
    lua_Integer count = luaL_checkinteger(L, 1);
    luaL_argcheck(L, count >= 0 && count <= INT_MAX, 1, "0 (all CPUs) or more expected");
    kava_set_threads((int)count);
  }
  lua_pushinteger(L, kava_threads());
  return 1;
}

static int l_cpus(lua_State *L) { /* [-0, +1, -] cpus() -> CPUs in this process's affinity mask */
  lua_pushinteger(L, kava_cpus_allowed());
  return 1;
}

static int l_host(lua_State *L) { /* [-0, +1, m] host() -> {name, system, release, machine} as uname has them */
  lua_createtable(L, 0, 4);
  struct utsname names;
  if (uname(&names) == 0) {
    lua_pushstring(L, names.nodename);
    lua_setfield(L, -2, "name");
    lua_pushstring(L, names.sysname);
    lua_setfield(L, -2, "system");
    lua_pushstring(L, names.release);
    lua_setfield(L, -2, "release");
    lua_pushstring(L, names.machine);
    lua_setfield(L, -2, "machine");
  }
  return 1;
}

/* [-0, +1, m] libraries() -> {name = version} of those that are always there, as they say themselves; Lua's as at build
 * time */
static int l_libraries(lua_State *L) {
  char pcre2[64] = "";
  if (pcre2_config(PCRE2_CONFIG_VERSION, NULL) < (int)sizeof pcre2) pcre2_config(PCRE2_CONFIG_VERSION, pcre2);
  pcre2[strcspn(pcre2, " ")] = 0; /* a date follows */
  lua_createtable(L, 0, 5);
  lua_pushliteral(L, LUA_VERSION_MAJOR "." LUA_VERSION_MINOR "." LUA_VERSION_RELEASE);
  lua_setfield(L, -2, "lua");
  lua_pushstring(L, pcre2);
  lua_setfield(L, -2, "pcre2");
  lua_pushstring(L, utf8proc_version());
  lua_setfield(L, -2, "utf8proc");
  lua_pushstring(L, zlibVersion());
  lua_setfield(L, -2, "zlib");
  lua_pushstring(L, ZSTD_versionString());
  lua_setfield(L, -2, "zstd");
  return 1;
}

/* [-0, +1, m] user() -> name | nil; a user database on the network takes its time */
static int l_user(lua_State *L) {
  const struct passwd *entry = getpwuid(geteuid());
  if (entry)
    lua_pushstring(L, entry->pw_name);
  else
    lua_pushnil(L);
  return 1;
}

/* [-0, +1, e] variables(prefix) -> names (never values) of the environment's variables that begin with it */
static int l_variables(lua_State *L) {
  size_t length;
  const char *prefix = luaL_checklstring(L, 1, &length);
  lua_newtable(L);
  lua_Integer count = 0;
  for (char **entry = environ; entry && *entry; entry++) {
    const char *end = strchr(*entry, '=');
    if (!end || strncmp(*entry, prefix, length) != 0) continue;
    lua_pushlstring(L, *entry, (size_t)(end - *entry));
    lua_rawseti(L, -2, ++count);
  }
  return 1;
}

static void set_bytes(lua_State *L, const char *name, size_t bytes) {
  lua_pushinteger(L, (lua_Integer)bytes);
  lua_setfield(L, -2, name);
}

/* [-0, +1, m] memory() -> {cpu = {current, peak, cached, blocks, limit}, cuda = {current, peak, reserved, free, total}
 * where a GPU is in use} in bytes */
static int l_memory(lua_State *L) {
  kava_memory_stats stats;
  kava_memory_get(&stats);
  lua_createtable(L, 0, 1);
  lua_createtable(L, 0, 5);
  set_bytes(L, "current", stats.current);
  set_bytes(L, "peak", stats.peak);
  set_bytes(L, "cached", stats.cached);
  lua_pushinteger(L, (lua_Integer)stats.blocks);
  lua_setfield(L, -2, "blocks");
  lua_pushinteger(L, (lua_Integer)stats.limit);
  lua_setfield(L, -2, "limit");
  lua_setfield(L, -2, "cpu");
  if (kava_device_facts_of(KAVA_CUDA)) {
    kava_device_stats there;
    kava_device_memory(KAVA_CUDA, &there);
    lua_createtable(L, 0, 6);
    set_bytes(L, "current", there.current);
    set_bytes(L, "peak", there.peak);
    set_bytes(L, "reserved", there.reserved);
    set_bytes(L, "free", there.free);
    set_bytes(L, "total", there.total);
    set_bytes(L, "limit", kava_device_limit_of(KAVA_CUDA));
    lua_setfield(L, -2, "cuda");
  }
  return 1;
}

static int l_memory_reset_peak(lua_State *L) { /* [-0, +0, -] */
  (void)L;
  kava_memory_reset_peak();
  kava_device_reset_peak(KAVA_CUDA);
  return 0;
}

/* [-n, +n, e] lasting(f, …) -> f's results, whose memory on a GPU lies apart from what steps take and give back */
static int l_lasting(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  kava_device_lasting(+1);
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  kava_device_lasting(-1);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* [-n, +n, e] memory_peak(f, …) -> {{name =, bytes =, count =}, …}, f's results */
static int l_memory_peak(lua_State *L) {
  const kava_peak_row *rows;
  size_t count;
  luaL_checktype(L, 1, LUA_TFUNCTION);
  kava_l_check(L, kava_peak_begin());
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  kava_status st = kava_peak_end(&rows, &count);
  if (status != LUA_OK) return lua_error(L);
  kava_l_check(L, st);
  lua_createtable(L, (int)count, 0);
  lua_insert(L, 1);
  for (size_t i = 0; i < count; i++) {
    lua_createtable(L, 0, 3);
    lua_pushstring(L, rows[i].name);
    lua_setfield(L, -2, "name");
    set_bytes(L, "bytes", rows[i].size);
    lua_pushinteger(L, rows[i].count);
    lua_setfield(L, -2, "count");
    lua_rawseti(L, 1, (lua_Integer)i + 1);
  }
  return lua_gettop(L);
}

static kava_device check_device(lua_State *L, int arg) {
  kava_device device;
  if (!kava_device_parse(luaL_checkstring(L, arg), &device))
    luaL_argerror(L, arg, lua_pushfstring(L, "cpu or cuda expected, got '%s'", lua_tostring(L, arg)));
  return device;
}

/* [-0, +1|3, e] device(name) -> {name, …} | nil, message, code: what computes there; it is opened by that */
static int l_device(lua_State *L) {
  kava_device device = check_device(L, 1);
  kava_status st = kava_device_open(device);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  const kava_device_facts *facts = kava_device_facts_of(device);
  lua_createtable(L, 0, 6);
  lua_pushstring(L, facts ? facts->name : kava_kernels_isa());
  lua_setfield(L, -2, "name");
  if (!facts) return 1;
  lua_pushfstring(L, "%d.%d", facts->major, facts->minor);
  lua_setfield(L, -2, "capability");
  lua_pushfstring(L, "%d.%d", facts->driver / 1000, facts->driver % 1000 / 10);
  lua_setfield(L, -2, "driver");
  lua_pushfstring(L, "%d.%d", facts->runtime / 1000, facts->runtime % 1000 / 10);
  lua_setfield(L, -2, "runtime");
  set_bytes(L, "memory", facts->memory);
  lua_pushinteger(L, facts->processors);
  lua_setfield(L, -2, "processors");
  return 1;
}

/* [-0, +1|3, e] plans(device, path [, save]) -> true | nil, message, code */
static int l_plans(lua_State *L) {
  kava_device device = check_device(L, 1);
  const char *path = luaL_checkstring(L, 2);
  kava_status st = kava_device_open(device);
  if (st == KAVA_OK) st = kava_device_plans(device, path, lua_toboolean(L, 3));
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_wait(lua_State *L) { /* [-0, +0, e] wait(device): until all that it was given is done */
  kava_device device = check_device(L, 1);
  kava_l_check(L, kava_device_open(device));
  kava_l_check(L, kava_device_wait(device));
  return 0;
}

/* [-0, +0, e] memory_limit(bytes, device): 0 is no limit */
static int l_memory_limit(lua_State *L) {
  lua_Integer bytes = luaL_checkinteger(L, 1);
  luaL_argcheck(L, bytes >= 0, 1, "bytes expected, or 0 for no limit");
  kava_device device = lua_isnoneornil(L, 2) ? KAVA_CPU : check_device(L, 2);
  if (device == KAVA_CPU)
    kava_memory_limit((size_t)bytes);
  else
    kava_device_limit(device, (size_t)bytes);
  return 0;
}

static int l_memory_fail_after(lua_State *L) { /* [-0, +0, e] tests: n allocations pass, the next fails, once */
  kava_memory_fail_after((int64_t)luaL_checkinteger(L, 1));
  return 0;
}

static int l_live(lua_State *L) { /* [-0, +1, -] live() -> number of live native objects */
  lua_pushinteger(L, (lua_Integer)kava_live());
  return 1;
}

static int l_isa(lua_State *L) { /* [-0, +2, -] isa() -> the CPU kernels' instruction set, how they multiply bf16 */
  lua_pushstring(L, kava_kernels_isa());
  lua_pushstring(L, kava_kernels_cpu()->linear_bf16());
  return 2;
}

static int l_no_grad(lua_State *L) { /* [-1, +n, e] no_grad(f, …) -> f's results, nothing recorded meanwhile */
  luaL_checktype(L, 1, LUA_TFUNCTION);
  kava_no_grad(+1);
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  kava_no_grad(-1);
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}

/* [-0, +1, e] train() -> mode;  train(mode) sets it: dropout is active only in training mode */
static int l_train(lua_State *L) {
  if (!lua_isnoneornil(L, 1)) {
    luaL_checktype(L, 1, LUA_TBOOLEAN);
    kava_set_training(lua_toboolean(L, 1));
  }
  lua_pushboolean(L, kava_training());
  return 1;
}

static int scope_close(lua_State *L) { /* [-0, +0, e] idempotent */
  uint64_t *scope = luaL_checkudata(L, 1, SCOPE_TYPE);
  if (*scope) kava_scope_close(*scope - 1);
  *scope = 0;
  return 0;
}

/* [-0, +1, m] scope() -> to be held in a <close> variable: its end frees the step's records */
static int l_scope(lua_State *L) {
  uint64_t *scope = lua_newuserdatauv(L, sizeof *scope, 0);
  *scope = kava_scope_open() + 1;
  luaL_setmetatable(L, SCOPE_TYPE);
  return 1;
}

void kava_l_open_system(lua_State *L) {
  static const luaL_Reg functions[] = {{"seed", l_seed},
                                       {"rng_state", l_rng_state},
                                       {"permute", l_permute},
                                       {"threads", l_threads},
                                       {"cpus", l_cpus},
                                       {"host", l_host},
                                       {"libraries", l_libraries},
                                       {"user", l_user},
                                       {"variables", l_variables},
                                       {"memory", l_memory},
                                       {"memory_reset_peak", l_memory_reset_peak},
                                       {"memory_peak", l_memory_peak},
                                       {"lasting", l_lasting},
                                       {"device", l_device},
                                       {"plans", l_plans},
                                       {"wait", l_wait},
                                       {"memory_limit", l_memory_limit},
                                       {"memory_fail_after", l_memory_fail_after},
                                       {"live", l_live},
                                       {"isa", l_isa},
                                       {"no_grad", l_no_grad},
                                       {"train", l_train},
                                       {"scope", l_scope},
                                       {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, SCOPE_TYPE, none, scope_close);
  luaL_getmetatable(L, SCOPE_TYPE); /* a forgotten scope ends nothing: the collector comes at no fixed moment */
  lua_pushnil(L);
  lua_setfield(L, -2, "__gc");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
  lua_pushstring(L, KAVA_VERSION);
  lua_setfield(L, -2, "version");
}

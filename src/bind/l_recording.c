/* bind/l_recording.c: what keeps a GPU busy: steps recorded once and run again, and values read without waiting for
 * them. Annotated in lua/kava/meta/system.lua. */
#include "bind/bind.h"
#include "tensor/device.h"
#include "tensor/snapshot.h"

#define REPLAY_TYPE "kava.Replay"
#define RECORDER_TYPE "kava.Recorder"
#define FETCH_TYPE "kava.Fetch"

/* ---- recordings */

static int replay_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  kava_device_replay_release(luaL_checkudata(L, 1, REPLAY_TYPE));
  return 0;
}

/* f, … from `first` on, recorded by a recorder (NULL: one of its own) -> replay, f's results. [-n, +n, e] */
static int record(lua_State *L, int first, kava_recorder *recorder) {
  luaL_checktype(L, first, LUA_TFUNCTION);
  kava_replay **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, REPLAY_TYPE);
  lua_insert(L, first);
  lua_gc(L, LUA_GCCOLLECT); /* what is freed while recording stays reserved */
  kava_l_check(L, kava_device_record(KAVA_CUDA, recorder));
  int status = lua_pcall(L, lua_gettop(L) - first - 1, LUA_MULTRET, 0);
  kava_status st = kava_device_recorded(KAVA_CUDA, status == LUA_OK, box);
  if (status != LUA_OK) return lua_error(L);
  kava_l_check(L, st);
  return lua_gettop(L) - first + 1;
}

/* [-1, +n, e] record(f, …) -> replay, f's results: f is run once, and what it gives the GPU to do is kept, not done */
static int l_record(lua_State *L) {
  kava_l_check(L, kava_device_open(KAVA_CUDA));
  return record(L, 1, NULL);
}

static int replay_run(lua_State *L) { /* [-0, +0, e] run(): the recorded step once more */
  kava_replay **box = luaL_checkudata(L, 1, REPLAY_TYPE);
  if (!*box) return luaL_argerror(L, 1, "the recording was released");
  kava_l_check(L, kava_device_replay(*box));
  return 0;
}

static int recorder_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  kava_recorder_release(luaL_checkudata(L, 1, RECORDER_TYPE));
  return 0;
}

static int l_recorder(lua_State *L) { /* [-0, +1, e] recorder(): recordings that share their memory */
  kava_l_check(L, kava_device_open(KAVA_CUDA));
  kava_recorder **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, RECORDER_TYPE);
  kava_l_check(L, kava_recorder_new(box));
  return 1;
}

static int recorder_record(lua_State *L) { /* [-1, +n, e] recorder:record(f, …) -> replay, f's results */
  kava_recorder **box = luaL_checkudata(L, 1, RECORDER_TYPE);
  if (!*box) return luaL_argerror(L, 1, "the recorder was released");
  return record(L, 2, *box);
}

/* ---- work aside */

/* [-0, +n, e] the function that aside gave: what f returned, which may be used from here on */
static int aside_results(lua_State *L) {
  if (lua_toboolean(L, lua_upvalueindex(2))) {
    kava_l_check(L, kava_device_join(KAVA_CUDA));
    lua_pushboolean(L, false);
    lua_replace(L, lua_upvalueindex(2));
  }
  int count = (int)lua_rawlen(L, lua_upvalueindex(1));
  luaL_checkstack(L, count, "too many results");
  for (int i = 1; i <= count; i++) {
    lua_rawgeti(L, lua_upvalueindex(1), i);
    lua_getiuservalue(L, -1, 1); /* boxed, since nil has no place in a table */
    lua_remove(L, -2);
  }
  return count;
}

/* [-1, +1, e] aside(f, …) -> function() -> f's results: what f gives the GPU to do is done beside what follows */
static int l_aside(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  kava_l_check(L, kava_device_fork(KAVA_CUDA));
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  kava_status st = kava_device_aside_end(KAVA_CUDA);
  if (status != LUA_OK || st != KAVA_OK) kava_device_join(KAVA_CUDA);
  if (status != LUA_OK) return lua_error(L);
  kava_l_check(L, st);
  int count = lua_gettop(L);
  lua_createtable(L, count, 0);
  for (int i = 1; i <= count; i++) {
    lua_newuserdatauv(L, 0, 1);
    lua_pushvalue(L, i);
    lua_setiuservalue(L, -2, 1);
    lua_rawseti(L, -2, i);
  }
  lua_pushboolean(L, true);
  lua_pushcclosure(L, aside_results, 2);
  return 1;
}

/* ---- values on their way */

typedef struct fetch_box {
  kava_tensor *tensor; /* on the host */
  bool done;
  uint64_t ticket;
} fetch_box;

static int fetch_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  kava_tensor_release(&((fetch_box *)luaL_checkudata(L, 1, FETCH_TYPE))->tensor);
  return 0;
}

static fetch_box *check_fetch(lua_State *L) {
  fetch_box *box = luaL_checkudata(L, 1, FETCH_TYPE);
  if (!box->tensor) luaL_argerror(L, 1, "the fetched value was released");
  return box;
}

static int l_fetch(lua_State *L) { /* [-0, +1, e] fetch(tensor): its values on their way to the host */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (!kava_tensor_is_contiguous(t)) return luaL_argerror(L, 1, "a contiguous tensor expected");
  fetch_box *box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = (fetch_box){.done = t->device == KAVA_CPU};
  luaL_setmetatable(L, FETCH_TYPE);
  kava_l_check(L, kava_tensor_fetch(t, &box->tensor, &box->ticket));
  return 1;
}

static int fetch_ready(lua_State *L) { /* [-0, +1, e] ready() -> whether read() would not wait */
  fetch_box *box = check_fetch(L);
  if (!box->done) kava_l_check(L, kava_device_fetched(box->ticket, false, &box->done));
  lua_pushboolean(L, box->done);
  return 1;
}

static int fetch_read(lua_State *L) { /* [-0, +1, e] read() -> the tensor on the CPU; waits for it */
  fetch_box *box = check_fetch(L);
  if (!box->done) kava_l_check(L, kava_device_fetched(box->ticket, true, &box->done));
  kava_l_push_tensor(L, box->tensor);
  return 1;
}

/* [-0, +2, e] snapshot({name = tensor}, room) -> {name = copy}, room; the room given is used up */
static int l_snapshot(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  if (!lua_isnil(L, 2)) kava_l_check_tensor(L, 2);
  kava_tensor **given = lua_touserdata(L, 2);
  kava_l_check(L, kava_device_open(KAVA_CUDA));
  size_t count = 0;
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) count++;
  kava_tensor **tensors = lua_newuserdatauv(L, 2 * count * sizeof *tensors + 1, 0), **copies = tensors + count;
  lua_createtable(L, 0, (int)count); /* 4: with a box for each copy */
  kava_tensor **room = kava_l_new_tensor_box(L);
  size_t i = 0;
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    tensors[i++] = kava_l_check_tensor(L, -1);
    lua_pushvalue(L, -2);
    kava_l_new_tensor_box(L);
    lua_rawset(L, 4);
  }
  if (given) { /* its memory may have to go before a larger one can be had */
    *room = *given;
    *given = NULL;
  }
  kava_l_check(L, kava_snapshot((int64_t)count, tensors, room, copies));
  i = 0;
  for (lua_pushnil(L); lua_next(L, 1); lua_pop(L, 1)) {
    lua_pushvalue(L, -2);
    lua_rawget(L, 4);
    *(kava_tensor **)lua_touserdata(L, -1) = copies[i++];
    lua_pop(L, 1);
  }
  return 2; /* the copies' table and the room */
}

void kava_l_open_recording(lua_State *L) {
  static const luaL_Reg functions[] = {{"record", l_record}, {"recorder", l_recorder}, {"aside", l_aside},
                                       {"fetch", l_fetch},   {"snapshot", l_snapshot}, {NULL, NULL}};
  static const luaL_Reg replay[] = {{"run", replay_run}, {NULL, NULL}};
  static const luaL_Reg recorder[] = {{"record", recorder_record}, {NULL, NULL}};
  static const luaL_Reg fetch[] = {{"ready", fetch_ready}, {"read", fetch_read}, {NULL, NULL}};
  kava_l_class(L, REPLAY_TYPE, replay, replay_gc);
  kava_l_class(L, RECORDER_TYPE, recorder, recorder_gc);
  kava_l_class(L, FETCH_TYPE, fetch, fetch_gc);
  luaL_setfuncs(L, functions, 0);
}

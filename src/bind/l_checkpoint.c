/* bind/l_checkpoint: kava.checkpoint: tensors and a table of plain values (kept as JSON) in one file that is whole or
 * not there, with checksums. */
#include "bind/l_formats.h"
#include "formats/checkpoint.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define WRITING_TYPE "kava.Writing"
#define FILE_TYPE "kava.CheckpointFile"

static int file_gc(lua_State *L) {
  kava_safetensors_release((kava_safetensors **)luaL_checkudata(L, 1, FILE_TYPE));
  return 0;
}

/* [-1, +3, e] kava.json.encode or .decode (upvalues 1, 2) of the value at the top: a result, or nil, message, code */
static void through_json(lua_State *L, int upvalue) {
  lua_pushvalue(L, lua_upvalueindex(upvalue));
  lua_insert(L, -2);
  lua_call(L, 1, 3);
}

static int l_save(lua_State *L) { /* [-0, +1|3, e] save(path, {name = tensor}, state) -> true | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  kava_safetensors_item *items;
  kava_text(*pairs)[2], state;
  int64_t count, pair_count;
  lua_settop(L, 3);
  if (lua_isnil(L, 3)) {
    lua_newtable(L);
    lua_replace(L, 3);
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  through_json(L, 1);
  if (lua_isnil(L, 3)) return 3;
  state.data = lua_tolstring(L, 3, &state.length);
  kava_l_list_safetensors(L, 2, 0, &count, &items, &pair_count, &pairs);
  kava_status st = kava_checkpoint_save(path, count, items, state, NULL);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

/* A save by a thread of its own. What it reads is held by the user value, tensors by references of its own: a script
 * may release its own meanwhile. What lies on a GPU is read beside what that does. */
typedef struct writing {
  pthread_t thread;
  bool runs, threaded; /* not joined yet, and so the tensors are held; there is a thread */
  atomic_bool done;
  const char *path;
  int64_t count;
  kava_safetensors_item *items;
  kava_text state;
  kava_block *pinned; /* and its memory: what lies on a GPU comes through it; NULL where nothing does */
  void *beside;
  kava_status st;
  double seconds; /* it took */
  char message[512];
} writing;

static void *write_it(void *at) {
  writing *w = at;
  struct timespec begin, end;
  clock_gettime(CLOCK_MONOTONIC, &begin);
  w->st = kava_checkpoint_save(w->path, w->count, w->items, w->state, w->beside);
  clock_gettime(CLOCK_MONOTONIC, &end);
  w->seconds = (double)(end.tv_sec - begin.tv_sec) + 1e-9 * (double)(end.tv_nsec - begin.tv_nsec);
  if (w->st != KAVA_OK) snprintf(w->message, sizeof w->message, "%s", kava_message());
  atomic_store(&w->done, true);
  return NULL;
}

static void join(writing *w) {
  if (!w->runs) return;
  if (w->threaded) pthread_join(w->thread, NULL);
  for (int64_t i = 0; i < w->count; i++) {
    kava_tensor *t = (kava_tensor *)w->items[i].tensor;
    kava_tensor_release(&t);
  }
  kava_device_host_free(w->pinned);
  w->runs = false;
}

static int writing_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  join(luaL_checkudata(L, 1, WRITING_TYPE));
  return 0;
}

/* [-0, +1|3, e] save_behind(path, {name = tensor}, state) -> writing | nil, message, code */
static int l_save_behind(lua_State *L) {
  const char *path = luaL_checkstring(L, 1);
  kava_text(*pairs)[2];
  int64_t pair_count;
  lua_settop(L, 3);
  luaL_checktype(L, 2, LUA_TTABLE);
  luaL_checktype(L, 3, LUA_TTABLE);
  through_json(L, 1);
  if (lua_isnil(L, 3)) return 3;
  lua_settop(L, 3);
  writing *w = lua_newuserdatauv(L, sizeof *w, 1);
  memset(w, 0, sizeof *w);
  luaL_setmetatable(L, WRITING_TYPE);
  lua_createtable(L, 4, 0); /* path, tensors, state, items */
  lua_newtable(L);          /* the caller's table may change: names and tensors in one that nobody else has */
  for (lua_pushnil(L); lua_next(L, 2);) {
    lua_pushvalue(L, -2);
    lua_insert(L, -2);
    lua_rawset(L, 6);
  }
  lua_replace(L, 2);
  for (int i = 1; i <= 3; i++) {
    lua_pushvalue(L, i);
    lua_rawseti(L, 5, i);
  }
  w->path = path;
  w->state.data = lua_tolstring(L, 3, &w->state.length);
  kava_l_list_safetensors(L, 2, 0, &w->count, &w->items, &pair_count, &pairs);
  bool on_gpu = false;
  for (int64_t i = 0; i < w->count; i++) {
    const kava_tensor *t = w->items[i].tensor;
    on_gpu = on_gpu || t->device != KAVA_CPU;
    if (t->device != KAVA_CPU && !kava_tensor_is_contiguous(t))
      return luaL_error(L, "save_behind: '%s' is on a GPU and not contiguous", w->items[i].name.data);
  }
  lua_settop(L, 6); /* the items; what else the list left is of no use */
  lua_rawseti(L, 5, 4);
  lua_setiuservalue(L, 4, 1);
  if (on_gpu) {
    kava_l_check(L, kava_device_beside());
    kava_l_check(L, kava_device_host_alloc(KAVA_DEVICE_PIECE, &w->pinned, &w->beside));
  }
  for (int64_t i = 0; i < w->count; i++) kava_tensor_retain((kava_tensor *)w->items[i].tensor);
  w->runs = true;
  w->threaded = pthread_create(&w->thread, NULL, write_it, w) == 0;
  if (!w->threaded) write_it(w);
  return 1;
}

static int writing_done(lua_State *L) { /* [-0, +1, e] done() -> whether wait() would not wait */
  writing *w = luaL_checkudata(L, 1, WRITING_TYPE);
  lua_pushboolean(L, atomic_load(&w->done));
  return 1;
}

static int writing_wait(lua_State *L) { /* [-0, +2|3, e] wait() -> true, seconds | nil, message, code */
  writing *w = luaL_checkudata(L, 1, WRITING_TYPE);
  join(w);
  if (w->st != KAVA_OK) return kava_l_fail(L, kava_fail(w->st, "%s", w->message));
  lua_pushboolean(L, 1);
  lua_pushnumber(L, w->seconds);
  return 2;
}

static kava_safetensors **new_file_box(lua_State *L) {
  kava_safetensors **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, FILE_TYPE);
  return box;
}

static int l_load(lua_State *L) { /* [-0, +2|3, e] load(path) -> {name = tensor}, state | nil, message, code */
  kava_text state;
  const char *path = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  kava_safetensors **box = new_file_box(L);
  kava_status st = kava_checkpoint_load(path, box, &state);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  kava_l_push_safetensors(L, *box);
  lua_settop(L, 3); /* path, box, tensors */
  lua_pushlstring(L, state.data, state.length);
  kava_safetensors_release(box);
  through_json(L, 2);
  if (lua_isnil(L, 4)) return 3;
  lua_settop(L, 4);
  return 2;
}

static int l_valid(lua_State *L) { /* [-0, +1|2, e] valid(path) -> true | false, message */
  kava_text state;
  const char *path = luaL_checkstring(L, 1);
  kava_safetensors **box = new_file_box(L);
  kava_status st = kava_checkpoint_load(path, box, &state);
  kava_safetensors_release(box);
  lua_pushboolean(L, st == KAVA_OK);
  if (st == KAVA_OK) return 1;
  lua_pushstring(L, kava_message());
  return 2;
}

void kava_l_open_checkpoint(lua_State *L) { /* after json: takes its functions */
  static const luaL_Reg functions[] = {
      {"save", l_save}, {"save_behind", l_save_behind}, {"load", l_load}, {"valid", l_valid}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"done", writing_done}, {"wait", writing_wait}, {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, FILE_TYPE, none, file_gc);
  kava_l_class(L, WRITING_TYPE, methods, writing_gc);
  kava_l_subtable(L, "checkpoint");
  lua_getfield(L, -2, "json");
  lua_getfield(L, -1, "encode");
  lua_getfield(L, -2, "decode");
  lua_remove(L, -3);
  luaL_setfuncs(L, functions, 2);
  lua_pop(L, 1);
}

/* bind/l_gpus.c: kava.gpus: what the machine's drivers say of its GPUs. Annotated in lua/kava/meta/gpus.lua. */
#include "bind/bind.h"
#include "base/gpus.h"

static void set_text(lua_State *L, const char *key, const char *text) { /* [-0, +0, m] an empty one is absent */
  if (!*text) return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

static void set_integer(lua_State *L, const char *key, int64_t value) { /* [-0, +0, m] a negative one is absent */
  if (value < 0) return;
  lua_pushinteger(L, (lua_Integer)value);
  lua_setfield(L, -2, key);
}

static int push_list(lua_State *L, const kava_gpu_list *list, const char *kind) { /* [-0, +2, m] */
  lua_createtable(L, list->count, 0);
  for (int i = 0; i < list->count; i++) {
    const kava_gpu *gpu = &list->gpus[i];
    lua_createtable(L, 0, 8);
    set_text(L, "kind", kind);
    set_text(L, "name", gpu->name);
    set_text(L, "uuid", gpu->uuid);
    if (gpu->major > 0) {
      set_integer(L, "major", gpu->major);
      set_integer(L, "minor", gpu->minor);
    }
    set_integer(L, "memory", gpu->memory);
    set_integer(L, "memory_free", gpu->free);
    if (gpu->mig) {
      lua_pushboolean(L, 1);
      lua_setfield(L, -2, "mig");
    }
    lua_rawseti(L, -2, i + 1);
  }
  lua_createtable(L, 0, 6);
  lua_pushboolean(L, list->library);
  lua_setfield(L, -2, "library");
  set_text(L, "driver", list->driver);
  if (list->cuda > 0) {
    lua_pushfstring(L, "%d.%d", list->cuda / 1000, list->cuda % 1000 / 10);
    lua_setfield(L, -2, "cuda");
  }
  set_integer(L, "seen", list->seen);
  set_integer(L, "code", list->code ? list->code : -1);
  set_text(L, "problem", list->problem);
  return 2;
}

static int l_cuda(lua_State *L) { /* [-0, +2, e] gpus.cuda(seconds) -> list, about */
  lua_Number seconds = luaL_optnumber(L, 1, 10);
  luaL_argcheck(L, seconds > 0 && seconds <= 3600, 1, "more than 0 and at most 3600 seconds expected");
  kava_gpu_list *list = lua_newuserdatauv(L, sizeof *list, 0);
  kava_gpus_cuda(seconds, list);
  return push_list(L, list, "cuda");
}

static int l_metal(lua_State *L) { /* [-0, +2, m] gpus.metal() -> list, about */
  kava_gpu_list *list = lua_newuserdatauv(L, sizeof *list, 0);
  kava_gpus_metal(list);
  return push_list(L, list, "mps");
}

void kava_l_open_gpus(lua_State *L) {
  static const luaL_Reg functions[] = {{"cuda", l_cuda}, {"metal", l_metal}, {NULL, NULL}};
  kava_l_subtable(L, "gpus");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

/* bind/l_profile.c: profiles and named ranges. lua/kava/profile.lua makes tables and a trace of them. */
#include "bind/bind.h"
#include "tensor/profile.h"

#define RANGE_TYPE "kava.Range"

static int range_close(lua_State *L) { /* [-0, +0, e] idempotent */
  int *range = luaL_checkudata(L, 1, RANGE_TYPE);
  kava_range_end(*range);
  *range = 0;
  return 0;
}

/* [-0, +1, e] range(name) -> to be held in a <close> variable: what runs until its end belongs to `name`; nil where
 * nobody looks */
static int l_range(lua_State *L) {
  const char *name = luaL_checkstring(L, 1);
  if (!kava_traced) return lua_pushnil(L), 1;
  int *range = lua_newuserdatauv(L, sizeof *range, 0);
  *range = 0;
  luaL_setmetatable(L, RANGE_TYPE);
  *range = kava_range_begin(name);
  return 1;
}

static int l_profile_begin(lua_State *L) { /* [-0, +0, e] */
  kava_l_check(L, kava_profile_begin());
  return 0;
}

static void push_spans(lua_State *L, const char *name, const kava_timespan *spans, size_t count) {
  lua_createtable(L, (int)count, 0);
  for (size_t i = 0; i < count; i++) {
    lua_createtable(L, 0, 3);
    lua_pushstring(L, spans[i].name);
    lua_setfield(L, -2, "name");
    lua_pushnumber(L, spans[i].start);
    lua_setfield(L, -2, "start");
    lua_pushnumber(L, spans[i].length);
    lua_setfield(L, -2, "length");
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  lua_setfield(L, -2, name);
}

/* [-0, +1, e] profile_end() -> {ops, ranges, kernels = list of {name, start, length}, source, length}, microseconds */
static int l_profile_end(lua_State *L) {
  kava_profile p;
  kava_l_check(L, kava_profile_end(&p));
  lua_createtable(L, 0, 5);
  push_spans(L, "ops", p.ops, p.op_count);
  push_spans(L, "ranges", p.ranges, p.range_count);
  if (p.source) push_spans(L, "kernels", p.kernels, p.kernel_count);
  lua_pushstring(L, p.source);
  lua_setfield(L, -2, "source");
  lua_pushnumber(L, p.length);
  lua_setfield(L, -2, "length");
  return 1;
}

static int l_profiling(lua_State *L) { /* [-0, +1, -] profiling() -> whether a profile is being taken */
  lua_pushboolean(L, kava_profiling());
  return 1;
}

void kava_l_open_profile(lua_State *L) {
  static const luaL_Reg functions[] = {{"range", l_range},
                                       {"profile_begin", l_profile_begin},
                                       {"profile_end", l_profile_end},
                                       {"profiling", l_profiling},
                                       {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, RANGE_TYPE, none, range_close);
  luaL_setfuncs(L, functions, 0);
}

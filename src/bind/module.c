/* bind/module.c: luaopen_kava_core: the table that lua/kava/init.lua builds on. */
#include "bind/bind.h"

int luaopen_kava_core(lua_State *L) {
  luaL_checkversion(L);
  lua_newtable(L);
#define BIND(name) kava_l_open_##name(L);
#include "bind/bind.def"
#undef BIND
  return 1;
}

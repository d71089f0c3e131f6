/* bind/main.c: the program: finds lua/kava beside itself, then hands over to lua/kava/cli.lua. */
#include "base/map.h"
#include "bind/bind.h"
#include <lualib.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* KAVA_HOME, or the nearest folder above the executable that holds lua/kava/init.lua, or ../share/kava. */
static int find_home(char *home, size_t size) {
  const char *given = getenv("KAVA_HOME");
  char self[PATH_MAX];
  if (given && *given) {
    char probe[PATH_MAX + 32];
    snprintf(probe, sizeof probe, "%s/lua/kava/init.lua", given);
    return access(probe, R_OK) == 0 && snprintf(home, size, "%s", given) < (int)size;
  }
  ssize_t length = readlink("/proc/self/exe", self, sizeof self - 1);
  if (length <= 0) return 0;
  self[length] = 0;
  for (char *slash; (slash = strrchr(self, '/')) && slash != self;) {
    char probe[PATH_MAX + 32];
    *slash = 0;
    static const char *const below[] = {"", "/share/kava"};
    for (int i = 0; i < 2; i++) {
      snprintf(probe, sizeof probe, "%s%s/lua/kava/init.lua", self, below[i]);
      if (access(probe, R_OK) == 0) return snprintf(home, size, "%s%s", self, below[i]) < (int)size;
    }
  }
  return 0;
}

static int traceback(lua_State *L) {
  const char *message = lua_tostring(L, 1);
  if (!message) return 1; /* not a string: cli.lua's own error objects pass through */
  luaL_traceback(L, L, message, 1);
  return 1;
}

static int pmain(lua_State *L) {
  int argc = (int)lua_tointeger(L, 1);
  char **argv = lua_touserdata(L, 2);
  const char *home = lua_touserdata(L, 3);
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_kava_core);
  lua_setfield(L, -2, "kava.core");
  lua_pop(L, 1);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "path");
  lua_pushfstring(L, "%s/lua/?.lua;%s/lua/?/init.lua;%s", home, home, lua_tostring(L, -1));
  lua_setfield(L, -3, "path");
  lua_pop(L, 2);
  lua_createtable(L, argc, 0);
  for (int i = 0; i < argc; i++) {
    lua_pushstring(L, argv[i]);
    lua_rawseti(L, -2, i);
  }
  lua_setglobal(L, "arg");
  lua_getglobal(L, "require");
  lua_pushstring(L, "kava.cli");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "main");
  lua_pushstring(L, home);
  lua_call(L, 1, 1);
  lua_pushinteger(L, luaL_optinteger(L, -1, 0));
  return 1;
}

int main(int argc, char **argv) {
  char home[PATH_MAX];
  if (!find_home(home, sizeof home)) {
    const char *given = getenv("KAVA_HOME");
    if (given && *given)
      fprintf(stderr, "kava: KAVA_HOME=%s: lua/kava/init.lua is not there\n", given);
    else
      fprintf(stderr, "kava: lua/kava/init.lua is not beside or above the program; KAVA_HOME may name its folder\n");
    return 1;
  }
  kava_map_guard();
  lua_State *L = luaL_newstate();
  if (!L) {
    fprintf(stderr, "kava: out of memory\n");
    return 1;
  }
  lua_pushcfunction(L, traceback);
  lua_pushcfunction(L, pmain);
  lua_pushinteger(L, argc);
  lua_pushlightuserdata(L, argv);
  lua_pushlightuserdata(L, home);
  int status = lua_pcall(L, 3, 1, 1), code = 1;
  if (status == LUA_OK)
    code = (int)lua_tointeger(L, -1);
  else
    fprintf(stderr, "kava: %s\n", luaL_tolstring(L, -1, NULL));
  lua_close(L);
  return code;
}

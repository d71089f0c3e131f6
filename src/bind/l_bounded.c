/* bind/l_bounded.c: bounded(f, {instructions =, memory =, seconds =}): runs a function that comes from a file of data,
 * and ends it where it would not end by itself. Three bounds, since each alone leaves a way around: a count hook does
 * not fire inside C, and doubling a string forty times is eighty instructions of the machine and 2^40 bytes; memory is
 * therefore counted by the state's allocator; and comparing long strings takes time without taking either.
 * The function runs in a coroutine of its own, so that a hook that is already set stays where it is. */
#include "bind/bind.h"
#include <time.h>

enum { EVERY = 100 }; /* instructions between two looks at the bounds */

typedef struct bounds {
  lua_Alloc alloc; /* what the state had, and has again afterwards; every block is really its own */
  void *ud;
  size_t used, memory; /* bytes since the start, at least 0, and at most */
  lua_Integer left;    /* instructions */
  clock_t until;       /* of processor time */
} bounds;

static void *metered(void *ud, void *block, size_t before, size_t after) {
  bounds *b = ud;
  if (!block) before = 0; /* Lua passes the kind of object there */
  size_t more = after > before ? after - before : 0, less = before > after ? before - after : 0;
  if (more > b->memory - b->used) return NULL;
  void *result = b->alloc(b->ud, block, block ? before : 0, after);
  if (!result && after) return NULL;
  b->used = b->used + more - (less < b->used ? less : b->used);
  return result;
}

static void hook(lua_State *L, lua_Debug *where) {
  bounds *b = *(bounds **)lua_getextraspace(L);
  b->left -= EVERY;
  const char *what = b->left < 0 ? "executed too many instructions" : clock() > b->until ? "took too long" : NULL;
  if (!what) return;
  lua_sethook(L, hook, LUA_MASKCOUNT,
              1); /* every instruction fails from now on: who catches this error gets no further */
  lua_getinfo(L, "Sl", where);
  lua_pushfstring(L, "%s:%d: %s: this is data, not a program", where->short_src, where->currentline, what);
  lua_error(L);
}

/* [-0, +n, e] bounded(f, limits) -> true, f's results | false, message */
static int l_bounded(lua_State *L) {
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TTABLE);
  static const char *const known[] = {"instructions", "memory", "seconds", NULL};
  kava_l_check_keys(L, 2, "bounded", known);
  lua_Integer memory = kava_l_field_integer(L, 2, "memory", 64 << 20);
  lua_Number seconds = kava_l_field_number(L, 2, "seconds", 10);
  bounds b = {.left = kava_l_field_integer(L, 2, "instructions", 1000000)};
  luaL_argcheck(L, memory >= 0 && b.left >= 0 && seconds >= 0 && seconds < 1e6, 2, "bounds of at least 0 expected");
  b.memory = (size_t)memory;
  b.until = clock() + (clock_t)(seconds * CLOCKS_PER_SEC);
  lua_settop(L, 1);
  lua_State *thread = lua_newthread(L);
  *(bounds **)lua_getextraspace(thread) = &b;
  lua_sethook(thread, hook, LUA_MASKCOUNT, EVERY);
  lua_pushvalue(L, 1);
  lua_xmove(L, thread, 1);
  b.alloc = lua_getallocf(L, &b.ud);
  lua_setallocf(L, metered, &b);
  int count = 0, status = lua_resume(thread, L, 0, &count); /* protected: whatever happens, the next line is reached */
  lua_setallocf(L, b.alloc, b.ud);
  lua_sethook(thread, NULL, 0, 0);
  lua_pushboolean(L, status == LUA_OK);
  if (status == LUA_OK) {
    luaL_checkstack(L, count, "bounded: too many results");
    lua_xmove(thread, L, count);
    return 1 + count;
  }
  if (status == LUA_YIELD)
    lua_pushliteral(L, "yields: this is data, not a program");
  else if (status == LUA_ERRMEM)
    lua_pushfstring(L, "took more than %d MiB of memory: this is data, not a program", (int)(memory >> 20));
  else
    lua_xmove(thread, L, 1);
  return 2;
}

void kava_l_open_bounded(lua_State *L) {
  static const luaL_Reg functions[] = {{"bounded", l_bounded}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}

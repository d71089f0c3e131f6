/* bind/l_signal.c: what a long-running program must know of its process: the signals that ask it to stop, whether a
 * stream is a terminal, and the time.
 * A watched signal only sets a flag; the training loop asks for it between micro-steps, saves, and leaves in good
 * order. A second SIGINT ends the program at once, for the user who will not wait. */
#include "bind/bind.h"
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const struct {
  const char *name;
  int number;
} known[] = {{"INT", SIGINT}, {"TERM", SIGTERM}, {"USR1", SIGUSR1}, {"USR2", SIGUSR2}, {"HUP", SIGHUP}};
enum { KNOWN = sizeof known / sizeof *known };

/* The first watched signal that came; 0: none. Atomic, since the handler runs on whichever thread the system picks. */
static atomic_int received;
_Static_assert(ATOMIC_INT_LOCK_FREE == 2, "a signal handler may touch it");
static bool watched[KNOWN];

static void on_signal(int number) {
  if (number == SIGINT && received == SIGINT) {
    signal(SIGINT, SIG_DFL);
    raise(SIGINT); /* taken when the handler returns */
    return;
  }
  if (!received || number == SIGINT) received = number;
}

static void unwatch_all(void) {
  for (int i = 0; i < KNOWN; i++)
    if (watched[i]) signal(known[i].number, SIG_DFL);
  memset(watched, 0, sizeof watched);
  received = 0;
}

static int find(lua_State *L, const char *name) {
  for (int i = 0; i < KNOWN; i++)
    if (strcmp(known[i].name, name) == 0) return i;
  return luaL_error(L, "signals.watch: unknown signal '%s' (known: INT TERM USR1 USR2 HUP)", name);
}

static int
l_watch(lua_State *L) { /* [-0, +0, e] watch{"INT", …}: these and no others from now on; forgets what came before */
  luaL_checktype(L, 1, LUA_TTABLE);
  bool wanted[KNOWN] = {false};
  lua_Integer count = luaL_len(L, 1);
  for (lua_Integer i = 1; i <= count; i++) {
    if (lua_geti(L, 1, i) != LUA_TSTRING)
      return luaL_error(L, "signals.watch: signal names expected, got a %s", luaL_typename(L, -1));
    wanted[find(L, lua_tostring(L, -1))] = true;
    lua_pop(L, 1);
  }
  unwatch_all();
  for (int i = 0; i < KNOWN; i++) {
    if (!wanted[i]) continue;
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    if (sigaction(known[i].number, &action, NULL) != 0)
      return luaL_error(L, "signals.watch: %s: %s", known[i].name, strerror(errno));
    watched[i] = true;
  }
  return 0;
}

static int l_pending(lua_State *L) { /* [-0, +1, -] pending() -> name of the signal that came, or nil */
  int number = received;
  for (int i = 0; i < KNOWN; i++)
    if (number && known[i].number == number) {
      lua_pushstring(L, known[i].name);
      return 1;
    }
  lua_pushnil(L);
  return 1;
}

static int l_isatty(lua_State *L) { /* [-0, +1, e] isatty(fd) -> whether the descriptor is a terminal */
  lua_pushboolean(L, isatty((int)luaL_checkinteger(L, 1)));
  return 1;
}

static int l_clock(lua_State *L) { /* [-0, +1, -] clock() -> seconds since an arbitrary moment; never goes back */
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  lua_pushnumber(L, (lua_Number)now.tv_sec + 1e-9 * (lua_Number)now.tv_nsec);
  return 1;
}

void kava_l_open_signal(lua_State *L) {
  static const luaL_Reg signals[] = {{"watch", l_watch}, {"pending", l_pending}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"isatty", l_isatty}, {"clock", l_clock}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  kava_l_subtable(L, "signals");
  luaL_setfuncs(L, signals, 0);
  lua_pop(L, 1);
}

/* bind/l_signal.c: what a long-running program must know of its process: the signals that ask it to stop, whether a
 * stream is a terminal, and the time.
 * A watched signal only sets a flag; the training loop asks for it between micro-steps, saves, and leaves in good
 * order. A second SIGINT ends the program at once, for the user who will not wait.
 * A prompt has it otherwise: under interruptible(f) SIGINT raises an error in the Lua code that f runs. */
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
static struct sigaction before[KNOWN]; /* what a watched signal did before */

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
    if (watched[i]) sigaction(known[i].number, &before[i], NULL);
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
    if (sigaction(known[i].number, &action, &before[i]) != 0)
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

/* The state in which interruptible() runs its function. The handler gives it a hook, which raises at the next
 * instruction: a native operation ends first. lua_sethook is made for use in signal handlers. */
static lua_State *volatile interruptible;
static volatile sig_atomic_t interruptions;

static void raise_interrupted(lua_State *L, lua_Debug *where) {
  lua_sethook(L, NULL, 0, 0);
  interruptions = 0;
  lua_getinfo(L, "Sl", where);
  if (where->currentline > 0)
    lua_pushfstring(L, "%s:%d: interrupted", where->short_src, where->currentline);
  else
    lua_pushliteral(L, "interrupted");
  lua_error(L);
}

static void on_interrupt(int number) {
  static const char note[] = "\ninterrupted; waiting for a native operation to end (Ctrl-\\ ends the program)\n";
  lua_sethook(interruptible, raise_interrupted, LUA_MASKCALL | LUA_MASKRET | LUA_MASKLINE | LUA_MASKCOUNT, 1);
  if (++interruptions == 2 && write(STDERR_FILENO, note, sizeof note - 1) < 0) return; /* nobody to tell */
}

/* A coroutine has hooks of its own: these two, in the place of coroutine.resume and coroutine.wrap, say who runs. */
static int l_resume(lua_State *L) { /* [-n, +m, e] upvalue: the library's */
  luaL_checktype(L, 1, LUA_TTHREAD);
  lua_State *outer = interruptible;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  interruptible = lua_tothread(L, 2);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET); /* raises nothing: what the coroutine raises is returned */
  interruptible = outer;
  return lua_gettop(L);
}
static int l_wrapped(lua_State *L) { /* [-n, +m, e] upvalues: what the library's wrap gave, its coroutine */
  lua_State *outer = interruptible;
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  interruptible = lua_tothread(L, lua_upvalueindex(2));
  int status = lua_pcall(L, lua_gettop(L) - 1, LUA_MULTRET, 0);
  interruptible = outer;
  return status == LUA_OK ? lua_gettop(L) : lua_error(L);
}
static int l_wrap(lua_State *L) { /* [-1, +1, e] upvalue: the library's, whose function has the coroutine as upvalue */
  lua_pushvalue(L, lua_upvalueindex(1));
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, 1);
  if (!lua_getupvalue(L, -1, 1) || !lua_isthread(L, -1)) {
    lua_settop(L, 1); /* another Lua's: its own function, which a first Ctrl-C does not reach */
    return 1;
  }
  lua_pushcclosure(L, l_wrapped, 2);
  return 1;
}
static void follow_coroutines(lua_State *L) { /* [-0, +0, m] once a state */
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_LOADED_TABLE);
  if (lua_getfield(L, -1, "coroutine") == LUA_TTABLE && lua_getfield(L, -1, "resume") == LUA_TFUNCTION &&
      lua_tocfunction(L, -1) != l_resume) {
    lua_pushcclosure(L, l_resume, 1);
    lua_setfield(L, -2, "resume");
    lua_getfield(L, -1, "wrap");
    lua_pushcclosure(L, l_wrap, 1);
    lua_setfield(L, -2, "wrap");
  }
}

static int l_interruptible(lua_State *L) { /* [-0, +n, -] interruptible(f, handler) -> as xpcall(f, handler) */
  luaL_checktype(L, 1, LUA_TFUNCTION);
  luaL_checktype(L, 2, LUA_TFUNCTION);
  follow_coroutines(L);
  lua_settop(L, 2);
  lua_State *outer = interruptible;
  /* without SA_RESTART: a wait for input ends as well */
  struct sigaction action = {.sa_handler = on_interrupt}, was;
  sigemptyset(&action.sa_mask);
  lua_pushvalue(L, 2);
  lua_pushvalue(L, 1);
  interruptible = L;
  interruptions = 0;
  sigaction(SIGINT, &action, &was);
  int status = lua_pcall(L, 0, LUA_MULTRET, 3);
  sigaction(SIGINT, &was, NULL);
  lua_sethook(L, NULL, 0, 0);
  interruptible = outer;
  lua_pushboolean(L, status == LUA_OK);
  lua_replace(L, 3); /* the handler's place */
  return lua_gettop(L) - 2;
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
  static const luaL_Reg signals[] = {
      {"watch", l_watch}, {"pending", l_pending}, {"interruptible", l_interruptible}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"isatty", l_isatty}, {"clock", l_clock}, {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
  kava_l_subtable(L, "signals");
  luaL_setfuncs(L, signals, 0);
  lua_pop(L, 1);
}

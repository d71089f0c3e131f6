/* bind/l_line.c: reading lines from a terminal with libedit: history, editing, completion. kava.line.open() opens the
 * library; where it is not there, or input is no terminal, the prompt reads plain lines (lua/kava/repl.lua).
 *
 * libedit is opened at run time, when a prompt wants it: nothing else pays for it, and KAVA runs without it. What is
 * declared here of its interface is that of <histedit.h>, the same since its shared library has the number 2.
 *
 * Signals. While a line is read, INT drops the line, WINCH and CONT draw it anew, and HUP, TERM and QUIT put the
 * terminal back before they end the program. They are blocked but while input is waited for (pselect), so none is lost
 * between looking at a flag and waiting. libedit's own handlers are not used: they send signals on to the whole group.
 */
#include "bind/bind.h"
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/select.h>
#include <unistd.h>
#include <wchar.h>

typedef struct editline EditLine;
typedef struct history History;
typedef struct {
  int number;
  const char *text;
} HistoryEvent;
typedef struct {
  const char *start, *cursor, *end;
} LineInfo;
enum { EL_PROMPT = 0, EL_EDITOR = 2, EL_BIND = 4, EL_ADDFN = 9, EL_HIST = 10, EL_GETCFN = 13, EL_CLIENTDATA = 14 };
enum { EL_PREP_TERM = 16, EL_REFRESH = 20 };
enum { H_SETSIZE = 1, H_ENTER = 10, H_SETUNIQUE = 20 };
enum { CC_NORM = 0, CC_REFRESH = 4, CC_ERROR = 6, CC_REDISPLAY = 8 };
enum { HISTORY_LINES = 2000 };

static struct {
  bool tried;
  void *library;
  EditLine *(*init)(const char *, FILE *, FILE *, FILE *);
  void (*end)(EditLine *);
  const char *(*gets)(EditLine *, int *);
  int (*set)(EditLine *, int, ...);
  int (*set_wide)(EditLine *, int, ...);
  int (*get)(EditLine *, int, ...);
  int (*source)(EditLine *, const char *);
  void (*resize)(EditLine *);
  const LineInfo *(*line)(EditLine *);
  int (*insert)(EditLine *, const char *);
  History *(*history_init)(void);
  void (*history_end)(History *);
  int (*history)(History *, HistoryEvent *, int, ...);
} edit;

/* As in kernels/cpu/blas.c: dlsym's pointer to an object becomes one to a function. */
static bool find(const char *name, void *function) {
  void *symbol = dlsym(edit.library, name);
  if (symbol) memcpy(function, &symbol, sizeof symbol);
  return symbol != NULL;
}

static bool open_library(void) {
  if (edit.tried) return edit.library != NULL;
  edit.tried = true;
  static const char *const names[] = {"libedit.so.2", "libedit.so.0", "libedit.3.dylib"};
  for (size_t i = 0; i < sizeof names / sizeof *names && !edit.library; i++)
    edit.library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  if (!edit.library) return false;
  if (find("el_init", &edit.init) && find("el_end", &edit.end) && find("el_gets", &edit.gets) &&
      find("el_set", &edit.set) && find("el_wset", &edit.set_wide) && find("el_get", &edit.get) &&
      find("el_source", &edit.source) && find("el_resize", &edit.resize) && find("el_line", &edit.line) &&
      find("el_insertstr", &edit.insert) && find("history_init", &edit.history_init) &&
      find("history_end", &edit.history_end) && find("history", &edit.history))
    return true;
  dlclose(edit.library);
  edit.library = NULL;
  return false;
}

typedef struct {
  EditLine *el;
  History *history;
  locale_t locale;    /* UTF-8, in force while libedit runs: what it reads are characters, not bytes */
  const char *prompt; /* these three: while a line is read */
  lua_State *L;
  sigset_t outside; /* the signals that are blocked outside of read */
} line_editor;

#define LINE_TYPE "kava.Line"

/* ------------------------------------------------------------------------------------------------------- signals */

static const int caught[] = {SIGINT, SIGWINCH, SIGCONT, SIGHUP, SIGTERM, SIGQUIT};
enum { CAUGHT = sizeof caught / sizeof *caught };
static volatile sig_atomic_t interrupted, resized, continued, ending;

static void on_signal(int number) {
  if (number == SIGINT)
    interrupted = 1;
  else if (number == SIGWINCH)
    resized = 1;
  else if (number == SIGCONT)
    continued = 1;
  else
    ending = number;
}

/* ----------------------------------------------------------------------------------------------------- callbacks */

static line_editor *editor_of(EditLine *el) {
  void *self = NULL;
  edit.get(el, EL_CLIENTDATA, &self);
  return self;
}

static char *prompt_of(EditLine *el) { return (char *)editor_of(el)->prompt; }

/* libedit's source of characters. 1: one came; 0: the end; -1: a signal wants the line to end */
static int next_character(EditLine *el, wchar_t *out) {
  line_editor *self = editor_of(el);
  mbstate_t state = {0};
  for (;;) {
    if (interrupted || ending) return -1;
    if (continued) { /* the shell had the terminal meanwhile */
      edit.set(el, EL_PREP_TERM, 0);
      edit.set(el, EL_PREP_TERM, 1);
    }
    if (resized) edit.resize(el);
    if (resized || continued) edit.set(el, EL_REFRESH);
    resized = continued = 0;
    fd_set input;
    FD_ZERO(&input);
    FD_SET(STDIN_FILENO, &input);
    char byte;
    if (pselect(STDIN_FILENO + 1, &input, NULL, NULL, NULL, &self->outside) < 0) {
      if (errno == EINTR) continue;
      return -1;
    }
    ssize_t got = read(STDIN_FILENO, &byte, 1);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return 0;
    size_t length = mbrtowc(out, &byte, 1, &state);
    if (length == (size_t)-1)
      memset(&state, 0, sizeof state); /* no character: left out */
    else if (length != (size_t)-2)
      return 1;
  }
}

/* complete(text before the cursor) -> text to insert or nil, lines to show or nil. It may fail: then nothing is done.
 */
static unsigned char on_tab(EditLine *el, int key) {
  line_editor *self = editor_of(el);
  lua_State *L = self->L;
  const LineInfo *line = edit.line(el);
  if (!lua_isfunction(L, 3) || !lua_checkstack(L, 8)) return CC_ERROR;
  int top = lua_gettop(L);
  unsigned char result = CC_ERROR;
  lua_pushvalue(L, 3);
  lua_pushlstring(L, line->start, (size_t)(line->cursor - line->start));
  if (lua_pcall(L, 1, 2, 0) == LUA_OK) {
    const char *insert = lua_tostring(L, -2), *shown = lua_tostring(L, -1);
    if (insert && *insert && edit.insert(el, insert) == 0) result = CC_REFRESH;
    if (shown) {
      fprintf(stdout, "\n%s\n", shown);
      fflush(stdout);
      result = CC_REDISPLAY;
    }
  }
  lua_settop(L, top);
  return result;
}

/* -------------------------------------------------------------------------------------------------------- for Lua */

static int line_gc(lua_State *L) { /* [-0, +0, e] __gc, __close and release: idempotent */
  line_editor *self = luaL_checkudata(L, 1, LINE_TYPE);
  locale_t before = self->locale ? uselocale(self->locale) : (locale_t)0;
  if (self->el) edit.end(self->el);
  if (self->history) edit.history_end(self->history);
  if (self->locale) {
    uselocale(before);
    freelocale(self->locale);
  }
  memset(self, 0, sizeof *self);
  return 0;
}

static void bind_keys(EditLine *el) {
  edit.set(el, EL_EDITOR, "emacs");
  edit.set_wide(el, EL_ADDFN, L"kava-complete", L"completes a name",
                on_tab); /* el_set would copy them and lose the copies */
  static const char *const keys[][2] = {
      {"^I", "kava-complete"},      {"^R", "em-inc-search-prev"}, {"\\e[3~", "ed-delete-next-char"},
      {"\\e[1~", "ed-move-to-beg"}, {"\\e[4~", "ed-move-to-end"}, {"\\e[H", "ed-move-to-beg"},
      {"\\e[F", "ed-move-to-end"},  {"\\e[1;5C", "em-next-word"}, {"\\e[1;5D", "ed-prev-word"}};
  for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) edit.set(el, EL_BIND, keys[i][0], keys[i][1], (char *)NULL);
}

/* The user's locale where it is one of UTF-8, else the C one with UTF-8's characters. */
static locale_t choose_locale(void) {
  locale_t own = newlocale(LC_CTYPE_MASK, "", (locale_t)0);
  if (own && strcmp(nl_langinfo_l(CODESET, own), "UTF-8") == 0) return own;
  locale_t plain = newlocale(LC_CTYPE_MASK, "C.UTF-8", (locale_t)0);
  if (!plain) return own;
  if (own) freelocale(own);
  return plain;
}

static int l_open(lua_State *L) { /* [-0, +1|3, e] open() -> kava.Line, or nil, message, code */
  const char *terminal = getenv("TERM"), *problem = NULL;
  if (!isatty(STDIN_FILENO) || !isatty(STDOUT_FILENO))
    problem = "line editing: input and output are no terminal";
  else if (!terminal || !*terminal || strcmp(terminal, "dumb") == 0)
    problem = "line editing: TERM names no terminal that can be drawn on";
  else if (!open_library())
    problem = "line editing: libedit is not there (Debian's package libedit2)";
  if (!problem) {
    line_editor *self = lua_newuserdatauv(L, sizeof *self, 0);
    memset(self, 0, sizeof *self);
    luaL_setmetatable(L, LINE_TYPE);
    self->locale = choose_locale();
    locale_t before = self->locale ? uselocale(self->locale) : (locale_t)0;
    self->history = edit.history_init();
    self->el = self->history ? edit.init("kava", stdin, stdout, stderr) : NULL;
    if (self->el) {
      HistoryEvent event;
      edit.history(self->history, &event, H_SETSIZE, HISTORY_LINES);
      edit.history(self->history, &event, H_SETUNIQUE, 1);
      edit.set(self->el, EL_CLIENTDATA, self);
      edit.set(self->el, EL_HIST, edit.history, self->history);
      edit.set(self->el, EL_PROMPT, prompt_of);
      edit.set(self->el, EL_GETCFN, next_character);
      bind_keys(self->el);
      self->prompt = "";
      edit.source(self->el, NULL); /* ~/.editrc */
    }
    if (self->locale) uselocale(before);
    if (self->el) return 1;
    problem = "line editing: libedit does not know this terminal";
  }
  lua_pushnil(L);
  lua_pushstring(L, problem);
  lua_pushliteral(L, "unsupported");
  return 3;
}

static line_editor *check_editor(lua_State *L) {
  line_editor *self = luaL_checkudata(L, 1, LINE_TYPE);
  if (!self->el) luaL_error(L, "the line editor has been released");
  return self;
}

static int l_read(lua_State *L) { /* [-0, +1|2, e] line:read(prompt, complete|nil) -> text | nil | nil, "interrupted" */
  line_editor *self = check_editor(L);
  self->prompt = luaL_checkstring(L, 2); /* stays at its place until the end */
  lua_settop(L, 3);
  if (self->L) return luaL_error(L, "line:read: a line is being read already");
  self->L = L;
  struct sigaction before[CAUGHT], action = {.sa_handler = on_signal}; /* without SA_RESTART: they end a wait */
  sigset_t blocked;
  sigemptyset(&action.sa_mask);
  sigemptyset(&blocked);
  for (int i = 0; i < CAUGHT; i++) sigaddset(&blocked, caught[i]);
  interrupted = resized = continued = ending = 0;
  sigprocmask(SIG_BLOCK, &blocked, &self->outside);
  for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], &action, &before[i]);
  locale_t other = self->locale ? uselocale(self->locale) : (locale_t)0;
  int count = 0;
  edit.set(self->el, EL_PREP_TERM,
           1); /* before the prompt is shown: a Ctrl-D at once is a key, not the end of a line */
  const char *text = edit.gets(self->el, &count);
  if (self->locale) uselocale(other);
  for (int i = 0; i < CAUGHT; i++) sigaction(caught[i], &before[i], NULL);
  sigprocmask(SIG_SETMASK, &self->outside, NULL);
  self->L = NULL;
  self->prompt = "";
  if (ending) raise(ending); /* mostly this is the end; the terminal is as it was */
  if (text && count > 0) {
    lua_pushlstring(L, text, text[count - 1] == '\n' ? (size_t)count - 1 : (size_t)count);
    return 1;
  }
  lua_pushnil(L);
  if (!interrupted) return 1;
  lua_pushliteral(L, "interrupted");
  return 2;
}

static int l_remember(lua_State *L) { /* [-0, +0, e] line:remember(text): the newest of the history */
  line_editor *self = check_editor(L);
  const char *text = luaL_checkstring(L, 2);
  HistoryEvent event;
  locale_t before = self->locale ? uselocale(self->locale) : (locale_t)0;
  edit.history(self->history, &event, H_ENTER, text);
  if (self->locale) uselocale(before);
  return 0;
}

static int l_append(lua_State *L) { /* [-0, +1|3, e] append(path, text) -> true, or nil, message, "io" */
  const char *path = luaL_checkstring(L, 1);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  int file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600), problem = errno;
  if (file >= 0) {
    ssize_t written = write(file, text, length); /* one call: lines of two sessions do not mix */
    problem = written == (ssize_t)length ? 0 : written < 0 ? errno : ENOSPC;
    if (close(file) != 0 && !problem) problem = errno;
    if (!problem) {
      lua_pushboolean(L, true);
      return 1;
    }
  }
  lua_pushnil(L);
  lua_pushfstring(L, "%s: %s", path, strerror(problem));
  lua_pushliteral(L, "io");
  return 3;
}

void kava_l_open_line(lua_State *L) {
  static const luaL_Reg methods[] = {{"read", l_read}, {"remember", l_remember}, {NULL, NULL}};
  static const luaL_Reg functions[] = {{"open", l_open}, {"append", l_append}, {NULL, NULL}};
  kava_l_class(L, LINE_TYPE, methods, line_gc);
  kava_l_subtable(L, "line");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

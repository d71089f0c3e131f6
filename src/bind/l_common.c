#include "bind/bind.h"
#include "base/memory.h"
#include <limits.h>
#include <stdio.h>
#include <string.h>

int kava_l_raise(lua_State *L) {
  luaL_where(L, 1);
  lua_pushstring(L, kava_message());
  lua_concat(L, 2);
  return lua_error(L);
}

int kava_l_fail(lua_State *L, kava_status st) {
  if (st == KAVA_MISUSE) return kava_l_raise(L);
  lua_pushnil(L);
  lua_pushstring(L, kava_message());
  lua_pushstring(L, kava_status_name(st));
  return 3;
}

void kava_l_check(lua_State *L, kava_status st) {
  if (st != KAVA_OK) kava_l_raise(L);
}

kava_tensor **kava_l_new_tensor_box(lua_State *L) {
  kava_tensor **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, KAVA_TENSOR_TYPE);
  return box;
}

void kava_l_push_tensor(lua_State *L, kava_tensor *t) {
  kava_tensor **box = kava_l_new_tensor_box(L);
  *box = kava_tensor_retain(t);
}

kava_tensor *kava_l_check_tensor(lua_State *L, int arg) {
  kava_tensor **box = luaL_checkudata(L, arg, KAVA_TENSOR_TYPE);
  if (!*box) luaL_argerror(L, arg, "the tensor was released");
  return *box;
}

kava_tensor *kava_l_opt_tensor(lua_State *L, int arg) {
  return lua_isnoneornil(L, arg) ? NULL : kava_l_check_tensor(L, arg);
}

static int wrong_field(lua_State *L, const char *key, const char *expected) {
  const char *came = luaL_tolstring(L, -1, NULL);
  return luaL_error(L, "%s: %s expected, got %s (%s)", key, expected, luaL_typename(L, -2), came);
}

/* Raw, as kava_l_check_keys looks: what an __index function made nobody would keep alive. [-0, +1, m] */
static void push_field(lua_State *L, int arg, const char *key) {
  arg = lua_absindex(L, arg);
  lua_pushstring(L, key);
  lua_rawget(L, arg);
}

kava_tensor *kava_l_field_tensor(lua_State *L, int arg, const char *key, bool required) {
  push_field(L, arg, key);
  if (lua_isnil(L, -1)) {
    if (required) luaL_error(L, "%s: a tensor is required", key);
    lua_pop(L, 1);
    return NULL;
  }
  kava_tensor **box = luaL_testudata(L, -1, KAVA_TENSOR_TYPE);
  if (!box || !*box) wrong_field(L, key, "tensor");
  lua_pop(L, 1);
  return *box;
}

lua_Number kava_l_field_number(lua_State *L, int arg, const char *key, lua_Number fallback) {
  push_field(L, arg, key);
  if (!lua_isnil(L, -1)) {
    if (lua_type(L, -1) != LUA_TNUMBER) wrong_field(L, key, "number");
    fallback = lua_tonumber(L, -1);
  }
  lua_pop(L, 1);
  return fallback;
}

int kava_l_field_int(lua_State *L, int arg, const char *key, int fallback) {
  lua_Integer value = kava_l_field_integer(L, arg, key, fallback);
  if (value < INT_MIN || value > INT_MAX) luaL_error(L, "%s: %I is out of range", key, (LUAI_UACINT)value);
  return (int)value;
}

lua_Integer kava_l_field_integer(lua_State *L, int arg, const char *key, lua_Integer fallback) {
  push_field(L, arg, key);
  if (!lua_isnil(L, -1)) {
    int ok;
    fallback = lua_tointegerx(L, -1, &ok);
    if (!ok || lua_type(L, -1) != LUA_TNUMBER) wrong_field(L, key, "integer");
  }
  lua_pop(L, 1);
  return fallback;
}

bool kava_l_field_boolean(lua_State *L, int arg, const char *key, bool fallback) {
  push_field(L, arg, key);
  if (!lua_isnil(L, -1)) {
    if (!lua_isboolean(L, -1)) wrong_field(L, key, "boolean");
    fallback = lua_toboolean(L, -1);
  }
  lua_pop(L, 1);
  return fallback;
}

const char *kava_l_field_string(lua_State *L, int arg, const char *key, const char *fallback) {
  push_field(L, arg, key);
  if (!lua_isnil(L, -1)) {
    if (lua_type(L, -1) != LUA_TSTRING) wrong_field(L, key, "string");
    fallback = lua_tostring(L, -1);
  }
  lua_pop(L, 1);
  return fallback;
}

kava_dtype kava_l_field_dtype(lua_State *L, int arg, const char *key, kava_dtype fallback) {
  const char *name = kava_l_field_string(L, arg, key, NULL);
  kava_dtype dtype = fallback;
  if (name && !kava_dtype_parse(name, &dtype)) luaL_error(L, "%s: unknown dtype '%s'", key, name);
  return dtype;
}

kava_dtype kava_l_check_dtype(lua_State *L, int arg) {
  kava_dtype dtype;
  if (!kava_dtype_parse(luaL_checkstring(L, arg), &dtype))
    luaL_argerror(L, arg, lua_pushfstring(L, "unknown dtype '%s'", lua_tostring(L, arg)));
  return dtype;
}

/* Levenshtein distance of short names; anything longer than the rows counts as far. */
static int distance(const char *a, const char *b) {
  int row[64];
  int n = (int)strlen(b);
  if (n > 62 || strlen(a) > 62) return 99;
  for (int j = 0; j <= n; j++) row[j] = j;
  for (int i = 1; a[i - 1]; i++) {
    int corner = row[0];
    row[0] = i;
    for (int j = 1; j <= n; j++) {
      int best = corner + (a[i - 1] != b[j - 1]);
      if (row[j] + 1 < best) best = row[j] + 1;
      if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
      corner = row[j];
      row[j] = best;
    }
  }
  return row[n];
}

static void unknown_key(lua_State *L, const char *what, const char *key, const char *const *known) {
  luaL_Buffer list;
  luaL_buffinit(L, &list);
  for (int i = 0; known[i]; i++) {
    if (i) luaL_addstring(&list, ", ");
    luaL_addstring(&list, known[i]);
  }
  luaL_pushresult(&list);
  luaL_error(L, "%s: unknown key '%s'; known: %s", what, key, lua_tostring(L, -1));
}

void kava_l_check_keys(lua_State *L, int arg, const char *what, const char *const *known) {
  arg = lua_absindex(L, arg);
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_pushnil(L);
  while (lua_next(L, arg)) {
    lua_pop(L, 1);
    if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "%s: keys are names, got a %s", what, luaL_typename(L, -1));
    const char *key = lua_tostring(L, -1), *nearest = NULL;
    int best = 99, found = 0;
    for (int i = 0; known[i] && !found; i++) {
      int d = distance(key, known[i]);
      if (d == 0) found = 1;
      if (d < best) {
        best = d;
        nearest = known[i];
      }
    }
    int length = (int)strlen(key), near = length / 2 > 2 ? length / 2 : 2; /* more edits than that are no slip */
    if (!found && best <= near) luaL_error(L, "%s: unknown key '%s' (did you mean '%s'?)", what, key, nearest);
    if (!found) unknown_key(L, what, key, known);
  }
}

void kava_l_class(lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction gc) {
  luaL_newmetatable(L, type); /* sets __name */
  lua_newtable(L);
  luaL_setfuncs(L, methods, 0);
  if (gc) {
    lua_pushcfunction(L, gc);
    lua_setfield(L, -2, "release");
    lua_pushcfunction(L, gc);
    lua_setfield(L, -3, "__gc");
    lua_pushcfunction(L, gc);
    lua_setfield(L, -3, "__close");
  }
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
}

void kava_l_subtable(lua_State *L, const char *name) {
  if (lua_getfield(L, -1, name) == LUA_TTABLE) return;
  lua_pop(L, 1);
  lua_newtable(L);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, name);
}

/* bind/l_json: kava.json. JSON null is kava.json.null, a value that is true in conditions. Arrays are sequences whose
 * metatable marks them, so that an empty one is written as [] again; kava.json.array marks a table by hand. */
#include "bind/bind.h"
#include "base/json.h"
#include <string.h>

#define DOC_TYPE "kava.JsonDocument"
#define ARRAY_TYPE "kava.JsonArray"

static int doc_gc(lua_State *L) {
  kava_json_release((kava_json_doc **)luaL_checkudata(L, 1, DOC_TYPE));
  return 0;
}

static kava_json_doc **new_doc_box(lua_State *L) {
  kava_json_doc **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, DOC_TYPE);
  return box;
}

/* `ordered`: an object's metatable keeps its keys in the text's order, as __keys. */
static void push_value(lua_State *L, const kava_json *value, bool ordered) { /* [-0, +1, m] */
  luaL_checkstack(L, 4, "JSON nested too deeply");
  switch ((kava_json_kind)value->kind) {
  case KAVA_JSON_LEFT: /* of outlines only */
  case KAVA_JSON_NULL: lua_pushlightuserdata(L, NULL); break;
  case KAVA_JSON_BOOLEAN: lua_pushboolean(L, value->boolean); break;
  case KAVA_JSON_INTEGER: lua_pushinteger(L, value->integer); break;
  case KAVA_JSON_REAL: lua_pushnumber(L, value->real); break;
  case KAVA_JSON_STRING: lua_pushlstring(L, value->string, value->length); break;
  case KAVA_JSON_ARRAY:
    lua_createtable(L, value->length < INT32_MAX ? (int)value->length : 0, 0);
    for (uint32_t i = 0; i < value->length; i++) {
      push_value(L, &value->items[i], ordered);
      lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    luaL_setmetatable(L, ARRAY_TYPE);
    break;
  case KAVA_JSON_OBJECT:
    lua_createtable(L, 0, value->length < INT32_MAX ? (int)value->length : 0);
    for (uint32_t i = 0; i < value->length; i++) {
      lua_pushlstring(L, value->members[i].key, value->members[i].key_length);
      push_value(L, &value->members[i].value, ordered);
      lua_rawset(L, -3);
    }
    if (!ordered) break;
    lua_createtable(L, 0, 1);
    lua_createtable(L, value->length < INT32_MAX ? (int)value->length : 0, 0);
    for (uint32_t i = 0; i < value->length; i++) {
      lua_pushlstring(L, value->members[i].key, value->members[i].key_length);
      lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
    lua_setfield(L, -2, "__keys");
    lua_setmetatable(L, -2);
    break;
  }
}

static int give_doc(lua_State *L, kava_json_doc **box, kava_status st, bool ordered) {
  if (st != KAVA_OK) return kava_l_fail(L, st);
  push_value(L, kava_json_root(*box), ordered);
  kava_json_release(box);
  return 1;
}

static int l_decode(lua_State *L) { /* [-0, +1|3, e] decode(text, {ordered=}) -> value | nil, message, code */
  static const char *const keys[] = {"ordered", NULL};
  size_t size;
  bool ordered = false;
  const char *text = luaL_checklstring(L, 1, &size);
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, "decode", keys);
    ordered = kava_l_field_boolean(L, 2, "ordered", false);
  }
  kava_json_doc **box = new_doc_box(L);
  return give_doc(L, box, kava_json_parse(text, size, box), ordered);
}

static int l_load(lua_State *L) { /* [-0, +1|3, e] load(path) -> value | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  kava_json_doc **box = new_doc_box(L);
  return give_doc(L, box, kava_json_load(path, box), false);
}

/* The text under construction lives in a box: a key or a value of a wrong type raises on the way. */
#define WRITER_TYPE "kava.JsonWriter"
static int writer_gc(lua_State *L) {
  kava_json_writer *w = luaL_checkudata(L, 1, WRITER_TYPE);
  kava_free(w->data);
  w->data = NULL;
  return 0;
}

static void put_value(lua_State *L, kava_json_writer *w);

static void put_array(lua_State *L, kava_json_writer *w, lua_Integer count) {
  kava_json_open(w, '[');
  for (lua_Integer i = 1; i <= count && w->status == KAVA_OK; i++) {
    lua_rawgeti(L, -1, i);
    put_value(L, w);
    lua_pop(L, 1);
  }
  kava_json_close(w, ']');
}

/* Keys are written in sorted order, so that the same table always gives the same text. */
static void put_object(lua_State *L, kava_json_writer *w) {
  int table = lua_gettop(L);
  lua_Integer count = 0;
  kava_json_open(w, '{');
  if (w->status != KAVA_OK) return;
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, table); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "a JSON object's keys are strings, got a %s", luaL_typename(L, -2));
    lua_pushvalue(L, -2);
    lua_rawseti(L, table + 1, ++count);
  }
  lua_getfield(L, LUA_REGISTRYINDEX, "kava.json.sort");
  lua_pushvalue(L, table + 1);
  lua_call(L, 1, 0);
  for (lua_Integer i = 1; i <= count && w->status == KAVA_OK; i++) {
    size_t length;
    lua_rawgeti(L, table + 1, i);
    const char *key = lua_tolstring(L, -1, &length);
    kava_json_key(w, key, length);
    lua_rawget(L, table);
    put_value(L, w);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  kava_json_close(w, '}');
}

static bool is_array(lua_State *L) { /* of the table at the top; a sequence without its mark is one too, unless empty */
  bool marked = false;
  if (lua_getmetatable(L, -1)) {
    luaL_getmetatable(L, ARRAY_TYPE);
    marked = lua_rawequal(L, -1, -2);
    lua_pop(L, 2);
  }
  return marked || lua_rawlen(L, -1) > 0;
}

static void put_value(lua_State *L, kava_json_writer *w) { /* [-0, +0, e] the value at the top */
  size_t length;
  const char *text;
  luaL_checkstack(L, 8, "nested too deeply for JSON");
  if (w->status != KAVA_OK) return;
  switch (lua_type(L, -1)) {
  case LUA_TNIL: kava_json_null(w); break;
  case LUA_TBOOLEAN: kava_json_boolean(w, lua_toboolean(L, -1)); break;
  case LUA_TNUMBER:
    if (lua_isinteger(L, -1))
      kava_json_integer(w, lua_tointeger(L, -1));
    else
      kava_json_real(w, lua_tonumber(L, -1));
    break;
  case LUA_TSTRING:
    text = lua_tolstring(L, -1, &length);
    kava_json_string(w, text, length);
    break;
  case LUA_TTABLE:
    if (is_array(L)) {
      lua_Integer count = (lua_Integer)lua_rawlen(L, -1), keys = 0;
      for (lua_pushnil(L); lua_next(L, -2); lua_pop(L, 1)) keys++;
      if (keys < count) luaL_error(L, "an array for JSON has no holes; write kava.json.null where nothing stands");
      if (keys != count)
        luaL_error(L, "a table for JSON is an array or an object; this one has %d items and %d other keys", (int)count,
                   (int)(keys - count));
      put_array(L, w, count);
    } else {
      put_object(L, w);
    }
    break;
  case LUA_TLIGHTUSERDATA:
    if (lua_touserdata(L, -1) == NULL) {
      kava_json_null(w);
      break;
    }
    /* fall through */
  default: luaL_error(L, "a %s cannot be written as JSON", luaL_typename(L, -1));
  }
}

static int l_encode(lua_State *L) { /* [-0, +1|3, e] encode(value, {indent=}) -> text */
  static const char *const keys[] = {"indent", NULL};
  lua_Integer indent = 0;
  luaL_checkany(L, 1);
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, "json.encode", keys);
    indent = kava_l_field_integer(L, 2, "indent", 0);
    luaL_argcheck(L, indent >= 0 && indent <= 16, 2, "indent from 0 to 16 expected");
  }
  kava_json_writer *w = lua_newuserdatauv(L, sizeof *w, 0);
  *w = (kava_json_writer){.indent = (int)indent};
  luaL_setmetatable(L, WRITER_TYPE);
  lua_pushvalue(L, 1);
  put_value(L, w);
  if (w->status != KAVA_OK) return kava_l_fail(L, w->status);
  lua_pushlstring(L, w->data, w->size);
  kava_free(w->data);
  w->data = NULL;
  return 1;
}

static int l_array(lua_State *L) { /* [-0, +1, e] array(t) -> t, marked as an array also where it is empty */
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 1);
  luaL_setmetatable(L, ARRAY_TYPE);
  return 1;
}

void kava_l_open_json(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"decode", l_decode}, {"encode", l_encode}, {"load", l_load}, {"array", l_array}, {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, DOC_TYPE, none, doc_gc);
  kava_l_class(L, WRITER_TYPE, none, writer_gc);
  luaL_newmetatable(L, ARRAY_TYPE);
  lua_pop(L, 1);
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_setfield(L, LUA_REGISTRYINDEX, "kava.json.sort");
  lua_pop(L, 1);
  kava_l_subtable(L, "json");
  luaL_setfuncs(L, functions, 0);
  lua_pushlightuserdata(L, NULL);
  lua_setfield(L, -2, "null");
  lua_pop(L, 1);
}

/* bind/l_json: kava.json. JSON null is kava.json.null, a value that is true in conditions. Arrays are sequences whose
 * metatable marks them, so that an empty one is written as [] again; kava.json.array marks a table by hand. */
#include "bind/bind.h"
#include "base/hash.h"
#include "base/json.h"
#include "base/map.h"
#include "base/memory.h"
#include <stddef.h>
#include <string.h>

#define READING_TYPE "kava.JsonReading"
#define ARRAY_TYPE "kava.JsonArray"
#define KEYS 256

/* A long text is told twice: first its containers are counted and their tables' memory is reckoned, then the tables are
 * made, each of its size. So there is nothing beside the values that are asked for, and too many are refused before
 * any. Of a SHORT text there cannot be too many. */
#define SHORT ((size_t)1 << 20)
typedef struct reading {
  kava_map *map; /* of a file */
  kava_json_doc *scratch;
  lua_State *L;
  bool ordered;     /* an object's metatable keeps its keys in the text's order, as __keys */
  uint32_t *counts; /* the children of each container, in the order in which they open */
  size_t containers, room;
  size_t bytes, most;  /* of Lua's memory */
  uint32_t keys[KEYS]; /* hashes of keys that came before: Lua keeps equal ones once */
  int depth;
  struct {
    size_t number;
    uint32_t count;
    bool object;
  } open[KAVA_JSON_DEPTH];
} reading;

static void let_go(reading *r) {
  kava_map_release(&r->map);
  kava_json_release(&r->scratch);
  kava_free(r->counts);
  r->counts = NULL;
}
static int reading_gc(lua_State *L) {
  let_go(luaL_checkudata(L, 1, READING_TYPE));
  return 0;
}

static kava_status charge(reading *r, size_t bytes) {
  r->bytes += bytes;
  if (r->bytes <= r->most) return KAVA_OK;
  return kava_fail(KAVA_FORMAT, "more values than fit %zu bytes of memory (the option `memory` allows more)", r->most);
}

static size_t string_bytes(size_t length) { return (24 + length + 1 + 15) / 16 * 16; }

/* A child of the container that is open, if one is. */
static kava_status count_child(reading *r) {
  if (r->depth == 0) return KAVA_OK;
  uint32_t *count = &r->open[r->depth - 1].count;
  bool object = r->open[r->depth - 1].object;
  if (++*count >= INT32_MAX)
    return kava_fail(KAVA_UNSUPPORTED, "too many values in one %s", object ? "object" : "array");
  if (!object) return charge(r, 16);
  /* a table's places for keys are a power of two */
  return charge(r, ((*count & (*count - 1)) ? 0 : *count == 1 ? 40 : *count / 2 * 40) + (r->ordered ? 16 : 0));
}

static kava_status count_event(void *to, kava_json_event event, const kava_json *value) {
  reading *r = to;
  kava_status st;
  switch (event) {
  case KAVA_JSON_KEY: {
    uint32_t hash = (uint32_t)kava_hash(value->string, value->length), *known = &r->keys[hash % KEYS];
    if ((st = count_child(r)) != KAVA_OK || *known == hash) return st;
    *known = hash;
    return charge(r, string_bytes(value->length));
  }
  case KAVA_JSON_CLOSE:
    r->depth--;
    r->counts[r->open[r->depth].number] = r->open[r->depth].count;
    return KAVA_OK;
  default: break;
  }
  if (r->depth && !r->open[r->depth - 1].object && (st = count_child(r)) != KAVA_OK) return st;
  if (event == KAVA_JSON_VALUE)
    return value->kind == KAVA_JSON_STRING ? charge(r, string_bytes(value->length)) : KAVA_OK;
  if (r->containers == r->room) {
    size_t room = r->room ? 2 * r->room : 64;
    uint32_t *grown = kava_realloc(r->counts, room * sizeof *grown);
    if (!grown) return KAVA_MEMORY;
    r->counts = grown;
    r->room = room;
  }
  r->open[r->depth].number = r->containers++;
  r->open[r->depth].count = 0;
  r->open[r->depth++].object = value->kind == KAVA_JSON_OBJECT;
  return charge(r, r->ordered && value->kind == KAVA_JSON_OBJECT ? 3 * 64 + 40 : 64);
}

/* The value at the top goes where it belongs. [-1|0, +0, m] */
static void store(reading *r) {
  if (r->depth == 0) return;
  if (r->open[r->depth - 1].object)
    lua_rawset(r->L, r->ordered ? -4 : -3);
  else
    lua_rawseti(r->L, -2, (lua_Integer)++r->open[r->depth - 1].count);
}

static void open_table(reading *r, bool object) { /* [-0, +1|2, m] an ordered object has its list of keys above it */
  lua_State *L = r->L;
  int count = r->counts ? (int)r->counts[r->containers++] : 0;
  luaL_checkstack(L, 8, "JSON nested too deeply");
  lua_createtable(L, object ? 0 : count, object ? count : 0);
  r->open[r->depth].count = 0;
  r->open[r->depth++].object = object;
  if (!object || !r->ordered) return;
  lua_createtable(L, 0, 1);
  lua_createtable(L, count, 0);
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "__keys");
  lua_insert(L, -2);
  lua_setmetatable(L, -3);
}

static kava_status build_event(void *to, kava_json_event event, const kava_json *value) {
  reading *r = to;
  lua_State *L = r->L;
  switch (event) {
  case KAVA_JSON_OPEN: open_table(r, value->kind == KAVA_JSON_OBJECT); return KAVA_OK;
  case KAVA_JSON_KEY: {
    lua_pushlstring(L, value->string, value->length);
    lua_pushvalue(L, -1);
    bool twice = lua_rawget(L, r->ordered ? -4 : -3) != LUA_TNIL;
    lua_pop(L, 1);
    if (twice) return kava_fail(KAVA_FORMAT, "an object has the key '%.100s' twice", value->string);
    if (r->ordered) {
      lua_pushvalue(L, -1);
      lua_rawseti(L, -3, (lua_Integer)++r->open[r->depth - 1].count);
    }
    return KAVA_OK;
  }
  case KAVA_JSON_CLOSE:
    if (!r->open[--r->depth].object)
      luaL_setmetatable(L, ARRAY_TYPE);
    else if (r->ordered)
      lua_pop(L, 1);
    break;
  case KAVA_JSON_VALUE:
    switch ((kava_json_kind)value->kind) {
    case KAVA_JSON_BOOLEAN: lua_pushboolean(L, value->boolean); break;
    case KAVA_JSON_INTEGER: lua_pushinteger(L, value->integer); break;
    case KAVA_JSON_REAL: lua_pushnumber(L, value->real); break;
    case KAVA_JSON_STRING: lua_pushlstring(L, value->string, value->length); break;
    default: lua_pushlightuserdata(L, NULL);
    }
  }
  store(r);
  return KAVA_OK;
}

static reading *new_reading(lua_State *L) {
  reading *r = lua_newuserdatauv(L, sizeof *r, 0);
  memset(r, 0, offsetof(reading, open));
  r->L = L;
  luaL_setmetatable(L, READING_TYPE);
  return r;
}

static kava_status read_text(reading *r, const char *text, size_t size, lua_Integer memory) {
  r->most = memory < 0 ? kava_map_values(size) : (size_t)memory;
  kava_status st = KAVA_OK;
  if (size > SHORT || memory >= 0) st = kava_json_tell(text, size, count_event, r, NULL);
  r->containers = 0;
  return st == KAVA_OK ? kava_json_tell(text, size, build_event, r, &r->scratch) : st;
}

/* The value at the top, or the failure; what was needed on the way is not left to the collector. */
static int finish(lua_State *L, reading *r, kava_status st) {
  let_go(r);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static lua_Integer memory_option(lua_State *L) {
  lua_Integer memory = kava_l_field_integer(L, 2, "memory", -1);
  luaL_argcheck(L, memory >= -1, 2, "memory: a number of bytes expected");
  return memory;
}

static int l_decode(lua_State *L) { /* [-0, +1|3, e] decode(text, {ordered=, memory=}) -> value | nil, message, code */
  static const char *const keys[] = {"ordered", "memory", NULL};
  size_t size;
  bool ordered = false;
  lua_Integer memory = -1;
  const char *text = luaL_checklstring(L, 1, &size);
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, "decode", keys);
    ordered = kava_l_field_boolean(L, 2, "ordered", false);
    memory = memory_option(L);
  }
  reading *r = new_reading(L);
  r->ordered = ordered;
  return finish(L, r, read_text(r, text, size, memory));
}

static int l_load(lua_State *L) { /* [-0, +1|3, e] load(path, {memory=}) -> value | nil, message, code */
  static const char *const keys[] = {"memory", NULL};
  const char *path = luaL_checkstring(L, 1);
  lua_Integer memory = -1;
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, "load", keys);
    memory = memory_option(L);
  }
  reading *r = new_reading(L);
  kava_status st = kava_map_open(path, &r->map);
  if (st == KAVA_OK && (st = read_text(r, (const char *)r->map->data, r->map->size, memory)) != KAVA_OK)
    kava_fail_in(st, "%s", path);
  return finish(L, r, st);
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
  kava_l_class(L, READING_TYPE, none, reading_gc);
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

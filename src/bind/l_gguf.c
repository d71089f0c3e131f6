/* bind/l_gguf: kava.gguf: model files opened lazily (open), read whole (load), written (save), and the quantisers. */
#include "bind/bind.h"
#include "formats/gguf.h"
#include "ops/cast.h"
#include "ops/quantise.h"
#include <stdint.h>
#include <string.h>

#define FILE_TYPE "kava.GgufFile"

static int file_gc(lua_State *L) {
  kava_gguf_release((kava_gguf **)luaL_checkudata(L, 1, FILE_TYPE));
  return 0;
}

static kava_gguf *check_file(lua_State *L) {
  kava_gguf **box = luaL_checkudata(L, 1, FILE_TYPE);
  if (!*box) luaL_argerror(L, 1, "the file was released");
  return *box;
}

static kava_gguf **new_file_box(lua_State *L) {
  kava_gguf **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, FILE_TYPE);
  return box;
}

static void push_number(lua_State *L, const kava_gguf_value *v, uint64_t i) {
  int64_t whole;
  double number = 0;
  if (!kava_gguf_integer(v, i, &whole)) {
    kava_gguf_number(v, i, &number);
    lua_pushnumber(L, number);
  } else if (v->type == KAVA_GGUF_BOOL) {
    lua_pushboolean(L, whole != 0);
  } else {
    lua_pushinteger(L, whole);
  }
}

static void push_value(lua_State *L, const kava_gguf_value *v) { /* [-0, +1, m] */
  const char *text;
  size_t length, at = 0;
  if (!v->array && v->type == KAVA_GGUF_STRING) {
    kava_gguf_string(v, &text, &length);
    lua_pushlstring(L, text, length);
  } else if (!v->array) {
    push_number(L, v, 0);
  } else {
    lua_createtable(L, (int)v->count, 0); /* at most 2^30 */
    for (uint64_t i = 0; i < v->count; i++) {
      if (v->type == KAVA_GGUF_STRING && kava_gguf_next_string(v, &at, &text, &length))
        lua_pushlstring(L, text, length);
      else
        push_number(L, v, i);
      lua_rawseti(L, -2, (lua_Integer)i + 1);
    }
  }
}

static void push_metadata(lua_State *L, const kava_gguf *g) {
  lua_createtable(L, 0, (int)g->value_count);
  for (int64_t i = 0; i < g->value_count; i++) {
    push_value(L, &g->values[i]);
    lua_setfield(L, -2, g->values[i].key);
  }
}

static int l_open(lua_State *L) { /* [-0, +1|3, e] open(path) -> file | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  kava_gguf **box = new_file_box(L);
  kava_status st = kava_gguf_open(path, box);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int
file_metadata(lua_State *L) { /* [-0, +1, e] file:metadata(key) -> value or nil;  file:metadata() -> all of them */
  const kava_gguf *g = check_file(L);
  if (lua_isnoneornil(L, 2)) {
    push_metadata(L, g);
    return 1;
  }
  const kava_gguf_value *v = kava_gguf_find(g, luaL_checkstring(L, 2));
  if (v)
    push_value(L, v);
  else
    lua_pushnil(L);
  return 1;
}

static int
file_fields(lua_State *L) { /* [-0, +1, e] file:fields() -> {{key=, type=, element=, value=}, …} in order, for save */
  const kava_gguf *g = check_file(L);
  lua_createtable(L, (int)g->value_count, 0);
  for (int64_t i = 0; i < g->value_count; i++) {
    const kava_gguf_value *v = &g->values[i];
    lua_createtable(L, 0, 4);
    lua_pushstring(L, v->key);
    lua_setfield(L, -2, "key");
    lua_pushstring(L, v->array ? "array" : kava_gguf_type_name(v->type));
    lua_setfield(L, -2, "type");
    if (v->array) {
      lua_pushstring(L, kava_gguf_type_name(v->type));
      lua_setfield(L, -2, "element");
    }
    push_value(L, v);
    lua_setfield(L, -2, "value");
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int file_names(lua_State *L) { /* [-0, +1, e] file:names() -> the tensors' names, in order */
  const kava_gguf *g = check_file(L);
  lua_createtable(L, (int)g->tensor_count, 0);
  for (int64_t i = 0; i < g->tensor_count; i++) {
    lua_pushstring(L, g->tensors[i].name);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

/* The tensor, as the file has it or with its floats in f32. [-0, +1, m]; the box is left empty where it fails */
static kava_status push_tensor(lua_State *L, const kava_gguf *g, const kava_gguf_tensor *info, bool dequantize) {
  kava_tensor **box = kava_l_new_tensor_box(L), *stored = NULL;
  kava_status st = kava_gguf_tensor_load(g, info, &stored);
  if (st != KAVA_OK) return st;
  if (dequantize &&
      (kava_dtype_is_quantised(stored->dtype) || stored->dtype == KAVA_F16 || stored->dtype == KAVA_BF16)) {
    st = kava_contiguous_as(stored, KAVA_F32, box);
    kava_tensor_release(&stored);
  } else {
    *box = stored;
  }
  return st;
}

static int
file_tensor(lua_State *L) { /* [-0, +1|3, e] file:tensor(name, {dequantize=false}) -> tensor | nil, message, code */
  static const char *const keys[] = {"dequantize", NULL};
  const kava_gguf *g = check_file(L);
  const char *name = luaL_checkstring(L, 2);
  bool dequantize = false;
  if (!lua_isnoneornil(L, 3)) {
    kava_l_check_keys(L, 3, "gguf tensor", keys);
    dequantize = kava_l_field_boolean(L, 3, "dequantize", false);
  }
  const kava_gguf_tensor *info = kava_gguf_find_tensor(g, name);
  if (!info) return kava_l_fail(L, kava_fail(KAVA_FORMAT, "%s: there is no tensor '%s'", g->map->path, name));
  kava_status st = push_tensor(L, g, info, dequantize);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

/* Upvalue 1: {name = why}. A tensor whose type KAVA lacks is an error for whoever asks for it. */
static int unsupported_index(lua_State *L) {
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TSTRING)
    return luaL_error(L, "tensor '%s': its type %s is not supported", lua_tostring(L, 2), lua_tostring(L, -1));
  lua_pushnil(L);
  return 1;
}

static int l_load(
    lua_State *L) { /* [-0, +2|3, e] load(path, {dequantize=true}) -> {name = tensor}, metadata | nil, message, code */
  static const char *const keys[] = {"dequantize", NULL};
  const char *path = luaL_checkstring(L, 1);
  bool dequantize = true, without = false;
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, "gguf.load", keys);
    dequantize = kava_l_field_boolean(L, 2, "dequantize", true);
  }
  kava_gguf **box = new_file_box(L);
  kava_status st = kava_gguf_open(path, box);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  const kava_gguf *g = *box;
  lua_newtable(L);
  lua_createtable(L, 0, (int)g->tensor_count);
  int map = lua_gettop(L), why = map - 1;
  for (int64_t i = 0; i < g->tensor_count; i++) {
    const kava_gguf_tensor *info = &g->tensors[i];
    if (!info->supported) {
      lua_pushstring(L, info->type_name);
      lua_setfield(L, why, info->name);
      without = true;
      continue;
    }
    st = push_tensor(L, g, info, dequantize);
    if (st != KAVA_OK) return kava_l_fail(L, st);
    lua_setfield(L, map, info->name);
  }
  if (without) {
    lua_createtable(L, 0, 1);
    lua_pushvalue(L, why);
    lua_pushcclosure(L, unsupported_index, 1);
    lua_setfield(L, -2, "__index");
    lua_setmetatable(L, map);
  }
  push_metadata(L, g);
  kava_gguf_release(box);
  return 2;
}

/* ---- saving ---- */

static void add_bytes(luaL_Buffer *b, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; i++, value >>= 8) luaL_addchar(b, (char)(value & 0xff));
}

static int bytes_of(kava_gguf_type type) {
  switch (type) {
  case KAVA_GGUF_U8:
  case KAVA_GGUF_I8:
  case KAVA_GGUF_BOOL: return 1;
  case KAVA_GGUF_U16:
  case KAVA_GGUF_I16: return 2;
  case KAVA_GGUF_U64:
  case KAVA_GGUF_I64:
  case KAVA_GGUF_F64: return 8;
  default: return 4;
  }
}

/* Appends the value at the top and pops it. It stays alive where it came from. [-1, +0, e] */
static void add_element(lua_State *L, luaL_Buffer *b, const char *key, kava_gguf_type type) {
  int is_integer = 0, kind = lua_type(L, -1);
  lua_Integer whole = lua_tointegerx(L, -1, &is_integer);
  lua_Number number = lua_tonumber(L, -1);
  size_t length = 0;
  const char *text = kind == LUA_TSTRING ? lua_tolstring(L, -1, &length) : NULL;
  bool truth = lua_toboolean(L, -1);
  int bytes = bytes_of(type);
  const char *came = luaL_typename(L, -1);
  lua_pop(L, 1);
  switch (type) {
  case KAVA_GGUF_STRING:
    if (!text) luaL_error(L, "%s: a string expected, got a %s", key, came);
    add_bytes(b, length, 8);
    luaL_addlstring(b, text, length);
    return;
  case KAVA_GGUF_BOOL:
    if (kind != LUA_TBOOLEAN) luaL_error(L, "%s: a boolean expected, got a %s", key, came);
    add_bytes(b, truth, 1);
    return;
  case KAVA_GGUF_F32:
  case KAVA_GGUF_F64: {
    float single = (float)number;
    uint64_t bits = 0;
    if (kind != LUA_TNUMBER) luaL_error(L, "%s: a number expected, got a %s", key, came);
    if (type == KAVA_GGUF_F32) {
      uint32_t low;
      memcpy(&low, &single, sizeof low);
      bits = low;
    } else {
      memcpy(&bits, &number, sizeof bits);
    }
    add_bytes(b, bits, bytes);
    return;
  }
  default: {
    bool is_signed = type == KAVA_GGUF_I8 || type == KAVA_GGUF_I16 || type == KAVA_GGUF_I32 || type == KAVA_GGUF_I64;
    int64_t most = is_signed    ? (int64_t)(((uint64_t)1 << (8 * bytes - 1)) - 1)
                   : bytes == 8 ? INT64_MAX
                                : ((int64_t)1 << 8 * bytes) - 1;
    int64_t least = is_signed ? -most - 1 : 0;
    if (kind != LUA_TNUMBER || !is_integer || whole < least || whole > most)
      luaL_error(L, "%s: an integer that fits %s expected", key, kava_gguf_type_name(type));
    add_bytes(b, (uint64_t)whole, bytes);
  }
  }
}

/* The type a plain Lua value gets; integers u32, then i32, then i64; floats f32. */
static kava_gguf_type guess(lua_State *L, int index, const char *key) {
  switch (lua_type(L, index)) {
  case LUA_TSTRING: return KAVA_GGUF_STRING;
  case LUA_TBOOLEAN: return KAVA_GGUF_BOOL;
  case LUA_TNUMBER:
    if (!lua_isinteger(L, index)) return KAVA_GGUF_F32;
    if (lua_tointeger(L, index) >= 0 && lua_tointeger(L, index) <= UINT32_MAX) return KAVA_GGUF_U32;
    return lua_tointeger(L, index) < 0 && lua_tointeger(L, index) >= INT32_MIN ? KAVA_GGUF_I32 : KAVA_GGUF_I64;
  default:
    luaL_error(L, "%s: a value of type %s needs {type=, value=}", key, luaL_typename(L, index));
    return KAVA_GGUF_TYPES;
  }
}

/* An array's elements share a type: that of the first, widened to i64 or f32 where another needs it. */
static kava_gguf_type guess_elements(lua_State *L, int table, const char *key) {
  lua_Integer count = (lua_Integer)lua_rawlen(L, table);
  kava_gguf_type type = KAVA_GGUF_I32;
  for (lua_Integer i = 1; i <= count; i++) {
    lua_rawgeti(L, table, i);
    kava_gguf_type each = guess(L, -1, key);
    if (each == KAVA_GGUF_U32) each = lua_tointeger(L, -1) <= INT32_MAX ? KAVA_GGUF_I32 : KAVA_GGUF_I64;
    bool numbers =
        each != KAVA_GGUF_STRING && each != KAVA_GGUF_BOOL && type != KAVA_GGUF_STRING && type != KAVA_GGUF_BOOL;
    if (i == 1)
      type = each;
    else if (numbers && (each == KAVA_GGUF_F32 || type == KAVA_GGUF_F32))
      type = KAVA_GGUF_F32;
    else if (numbers && each == KAVA_GGUF_I64)
      type = KAVA_GGUF_I64;
    lua_pop(L, 1);
  }
  return type;
}

static kava_gguf_type named_type(lua_State *L, int table, const char *field, const char *key) {
  kava_gguf_type type = KAVA_GGUF_TYPES;
  lua_getfield(L, table, field);
  const char *name = lua_type(L, -1) == LUA_TSTRING ? lua_tostring(L, -1) : "";
  if (!kava_gguf_type_parse(name, &type)) luaL_error(L, "%s: unknown %s '%s'", key, field, name);
  lua_pop(L, 1);
  return type;
}

/* Encodes the value at the top, plain or {type=, element=, value=}; leaves the bytes, as a string, in its place. [-1,
 * +1, e] */
static void encode_value(lua_State *L, kava_gguf_value *v) {
  luaL_Buffer b;
  int value = lua_gettop(L);
  v->array = lua_istable(L, value);
  v->count = 1;
  if (v->array && lua_getfield(L, value, "type") != LUA_TNIL) {
    v->type = named_type(L, value, "type", v->key);
    v->array = v->type == KAVA_GGUF_ARRAY;
    if (v->array) v->type = named_type(L, value, "element", v->key);
    if (v->type == KAVA_GGUF_ARRAY) luaL_error(L, "%s: arrays of arrays do not exist", v->key);
    lua_settop(L, value);
    lua_getfield(L, value, "value");
    lua_replace(L, value);
    if (v->array && !lua_istable(L, value)) luaL_error(L, "%s: value: a table expected", v->key);
  } else {
    v->type = v->array ? guess_elements(L, value, v->key) : guess(L, value, v->key);
  }
  lua_settop(L, value);
  luaL_buffinit(L, &b);
  if (v->array) {
    v->count = lua_rawlen(L, value);
    for (uint64_t i = 1; i <= v->count; i++) {
      lua_rawgeti(L, value, (lua_Integer)i);
      add_element(L, &b, v->key, v->type);
    }
  } else {
    lua_pushvalue(L, value);
    add_element(L, &b, v->key, v->type);
  }
  luaL_pushresult(&b);
  lua_replace(L, value);
  v->data = (const uint8_t *)lua_tolstring(L, value, &v->bytes);
}

static void sort_list(lua_State *L) { /* [-0, +0, e] the list at the top */
  lua_getglobal(L, "table");
  lua_getfield(L, -1, "sort");
  lua_pushvalue(L, -3);
  lua_call(L, 1, 0);
  lua_pop(L, 1);
}

/* The keys of the map at `index`, sorted; strings only. [-0, +1, e] */
static void push_sorted_keys(lua_State *L, int index, const char *what) {
  lua_Integer count = 0;
  lua_newtable(L);
  for (lua_pushnil(L); lua_next(L, index); lua_pop(L, 1)) {
    if (lua_type(L, -2) != LUA_TSTRING) luaL_error(L, "%s: strings expected, got a %s", what, luaL_typename(L, -2));
    lua_pushvalue(L, -2);
    lua_rawseti(L, -4, ++count);
  }
  sort_list(L);
}

static const char *check_name(lua_State *L, const char *what, size_t *length) { /* of the value at the top */
  if (lua_type(L, -1) != LUA_TSTRING) luaL_error(L, "%s: a string expected, got a %s", what, luaL_typename(L, -1));
  return lua_tolstring(L, -1, length);
}

/* A list of {key=, type=, element=, value=} in the order of the file, or a map of plain and {type=, value=} values.
 * Leaves the array and a table that holds what it points to. [-0, +2, e] */
static kava_gguf_value *list_values(lua_State *L, int metadata, int64_t *count) {
  bool listed = lua_rawlen(L, metadata) > 0;
  if (listed)
    lua_pushvalue(L, metadata);
  else
    push_sorted_keys(L, metadata, "metadata keys");
  int list = lua_gettop(L);
  *count = (int64_t)lua_rawlen(L, list);
  kava_gguf_value *values = lua_newuserdatauv(L, (size_t)*count * sizeof *values + 1, 0);
  lua_newtable(L);
  int anchors = lua_gettop(L);
  for (int64_t i = 0; i < *count; i++) {
    kava_gguf_value *v = &values[i];
    lua_rawgeti(L, list, i + 1);
    if (listed) {
      luaL_checktype(L, -1, LUA_TTABLE);
      if (lua_getfield(L, -1, "type") == LUA_TNIL) luaL_error(L, "metadata field %d: type: missing", (int)i + 1);
      lua_pop(L, 1);
      lua_getfield(L, -1, "key");
      lua_insert(L, -2);
      lua_pushvalue(L, -2);
    } else {
      lua_pushvalue(L, -1);
      lua_pushvalue(L, -1);
      lua_rawget(L, metadata);
      lua_insert(L, -2);
    } /* key, value, key */
    v->key = check_name(L, "a metadata key", &v->key_length);
    lua_pop(L, 1);
    encode_value(L, v);
    lua_rawseti(L, anchors, 2 * i + 1);
    lua_rawseti(L, anchors, 2 * i + 2);
  }
  lua_remove(L, list);
  return values;
}

/* A list of {name=, tensor=} in the order of the file, or a map. Borrowed from the tables. [-0, +2, e] */
static kava_gguf_item *list_items(lua_State *L, int tensors, int64_t *count) {
  bool listed = lua_rawlen(L, tensors) > 0;
  if (listed)
    lua_pushvalue(L, tensors);
  else
    push_sorted_keys(L, tensors, "names of tensors");
  int list = lua_gettop(L);
  *count = (int64_t)lua_rawlen(L, list);
  kava_gguf_item *items = lua_newuserdatauv(L, (size_t)*count * sizeof *items + 1, 0);
  for (int64_t i = 0; i < *count; i++) {
    size_t length;
    lua_rawgeti(L, list, i + 1);
    if (listed) {
      luaL_checktype(L, -1, LUA_TTABLE);
      lua_pushliteral(L, "tensor"); /* raw: the tables alone keep them alive */
      lua_rawget(L, -2);
      lua_pushliteral(L, "name");
      lua_rawget(L, -3);
    } else {
      lua_pushvalue(L, -1);
      lua_rawget(L, tensors);
      lua_rawgeti(L, list, i + 1);
    } /* …, tensor, name */
    items[i].name = check_name(L, "a tensor's name", &length);
    kava_tensor **box = luaL_testudata(L, -2, KAVA_TENSOR_TYPE);
    if (strlen(items[i].name) != length || !box || !*box)
      luaL_error(L, "'%s': a tensor expected, got a %s", items[i].name, luaL_typename(L, -2));
    items[i].tensor = *box;
    lua_settop(L, list + 1);
  }
  return items;
}

static int l_save(lua_State *L) { /* [-0, +1|3, e] save(path, tensors, metadata) -> true | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  int64_t value_count, tensor_count;
  luaL_checktype(L, 2, LUA_TTABLE);
  if (lua_isnoneornil(L, 3)) {
    lua_settop(L, 2);
    lua_newtable(L);
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  lua_settop(L, 3);
  const kava_gguf_item *items = list_items(L, 2, &tensor_count);
  const kava_gguf_value *values = list_values(L, 3, &value_count);
  kava_status st = kava_gguf_save(path, value_count, values, tensor_count, items);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_quantize(lua_State *L) { /* [-0, +1, e] quantize(t, "q4_0"|"q4_1"|"q8_0") -> tensor of that dtype */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  kava_dtype dtype = kava_l_check_dtype(L, 2);
  kava_l_check(L, kava_op_quantise(t, dtype, kava_l_new_tensor_box(L)));
  return 1;
}

void kava_l_open_gguf(lua_State *L) {
  static const luaL_Reg methods[] = {{"metadata", file_metadata},
                                     {"fields", file_fields},
                                     {"names", file_names},
                                     {"tensor", file_tensor},
                                     {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"open", l_open}, {"load", l_load}, {"save", l_save}, {"quantize", l_quantize}, {NULL, NULL}};
  kava_l_class(L, FILE_TYPE, methods, file_gc);
  kava_l_subtable(L, "gguf");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

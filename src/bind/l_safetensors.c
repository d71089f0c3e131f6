/* bind/l_safetensors: kava.safetensors. */
#include "bind/l_formats.h"

#define FILE_TYPE "kava.SafetensorsFile"

static int file_gc(lua_State *L) {
  kava_safetensors_release((kava_safetensors **)luaL_checkudata(L, 1, FILE_TYPE));
  return 0;
}

/* Upvalue 1: {name = why}. A tensor the file has and KAVA cannot hold is an error for whoever asks for it. */
static int unsupported_index(lua_State *L) {
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) == LUA_TSTRING)
    return luaL_error(L, "tensor '%s': %s", lua_tostring(L, 2), lua_tostring(L, -1));
  lua_pushnil(L);
  return 1;
}

int kava_l_push_safetensors(lua_State *L, const kava_safetensors *s) {
  int64_t without = 0;
  lua_createtable(L, 0, s->count < INT32_MAX ? (int)s->count : 0);
  lua_newtable(L);
  lua_newtable(L);
  int why = lua_gettop(L), map = why - 2;
  for (int64_t i = 0; i < s->count; i++) {
    const kava_safetensors_entry *e = &s->entries[i];
    lua_pushlstring(L, e->name.data, e->name.length);
    if (e->tensor) {
      kava_l_push_tensor(L, e->tensor);
      lua_rawset(L, map);
    } else {
      lua_pushfstring(L, "its %s (%s) is not supported", e->why, e->dtype);
      lua_rawset(L, why);
      without++;
    }
  }
  for (int64_t i = 0; i < s->metadata_count; i++) {
    lua_pushlstring(L, s->metadata[i][0].data, s->metadata[i][0].length);
    lua_pushlstring(L, s->metadata[i][1].data, s->metadata[i][1].length);
    lua_rawset(L, why - 1);
  }
  if (without == 0) {
    lua_pop(L, 1);
    return 2;
  }
  lua_createtable(L, 0, 1);
  lua_pushvalue(L, why);
  lua_pushcclosure(L, unsupported_index, 1);
  lua_setfield(L, -2, "__index");
  lua_setmetatable(L, map);
  return 3;
}

static int
l_load(lua_State *L) { /* [-0, +2|3, e] load(path) -> {name = tensor}, metadata, {name = why} | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  kava_safetensors **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, FILE_TYPE);
  kava_status st = kava_safetensors_load(path, box);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  int results = kava_l_push_safetensors(L, *box);
  kava_safetensors_release(box);
  return results;
}

/* A key or value of a table that must be a string, without conversion: the text lives as long as the table. */
static kava_text text_at(lua_State *L, int index, const char *what) {
  kava_text text;
  if (lua_type(L, index) != LUA_TSTRING) luaL_error(L, "%s: strings expected, got a %s", what, luaL_typename(L, index));
  text.data = lua_tolstring(L, index, &text.length);
  return text;
}

void kava_l_list_safetensors(lua_State *L, int tensors, int metadata, int64_t *count, kava_safetensors_item **items,
                             int64_t *pair_count, kava_text (**pairs)[2]) {
  size_t n = 0, m = 0;
  luaL_checktype(L, tensors, LUA_TTABLE);
  for (lua_pushnil(L); lua_next(L, tensors); lua_pop(L, 1)) n++;
  *items = lua_newuserdatauv(L, n * sizeof **items + 1, 0);
  *count = 0;
  for (lua_pushnil(L); lua_next(L, tensors); lua_pop(L, 1)) {
    kava_tensor **box = luaL_testudata(L, -1, KAVA_TENSOR_TYPE);
    kava_text name = text_at(L, -2, "names of tensors");
    if (!box || !*box) luaL_error(L, "'%s': a tensor expected, got a %s", name.data, luaL_typename(L, -1));
    (*items)[(*count)++] = (kava_safetensors_item){name, *box};
  }
  if (metadata && lua_type(L, metadata) == LUA_TTABLE)
    for (lua_pushnil(L); lua_next(L, metadata); lua_pop(L, 1)) m++;
  *pairs = lua_newuserdatauv(L, m * sizeof **pairs + 1, 0);
  *pair_count = 0;
  for (lua_pushnil(L); m && lua_next(L, metadata); lua_pop(L, 1)) {
    (*pairs)[*pair_count][0] = text_at(L, -2, "metadata keys");
    (*pairs)[(*pair_count)++][1] = text_at(L, -1, "metadata values");
  }
}

static int l_save(lua_State *L) { /* [-0, +1|3, e] save(path, {name = tensor}, metadata) -> true | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  kava_safetensors_item *items;
  kava_text(*pairs)[2];
  int64_t count, pair_count;
  lua_settop(L, 3);
  if (!lua_isnil(L, 3)) luaL_checktype(L, 3, LUA_TTABLE);
  kava_l_list_safetensors(L, 2, 3, &count, &items, &pair_count, &pairs);
  kava_status st = kava_safetensors_save(path, count, items, pair_count, (const kava_text(*)[2])pairs);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

void kava_l_open_safetensors(lua_State *L) {
  static const luaL_Reg functions[] = {{"load", l_load}, {"save", l_save}, {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, FILE_TYPE, none, file_gc);
  kava_l_subtable(L, "safetensors");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

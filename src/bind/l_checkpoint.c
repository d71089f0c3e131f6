/* bind/l_checkpoint: kava.checkpoint: tensors and a table of plain values (kept as JSON) in one file that is whole or
 * not there, with checksums. */
#include "bind/l_formats.h"
#include "formats/checkpoint.h"

#define FILE_TYPE "kava.CheckpointFile"

static int file_gc(lua_State *L) {
  kava_safetensors_release((kava_safetensors **)luaL_checkudata(L, 1, FILE_TYPE));
  return 0;
}

/* [-1, +3, e] kava.json.encode or .decode (upvalues 1, 2) of the value at the top: a result, or nil, message, code */
static void through_json(lua_State *L, int upvalue) {
  lua_pushvalue(L, lua_upvalueindex(upvalue));
  lua_insert(L, -2);
  lua_call(L, 1, 3);
}

static int l_save(lua_State *L) { /* [-0, +1|3, e] save(path, {name = tensor}, state) -> true | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  kava_safetensors_item *items;
  kava_text(*pairs)[2], state;
  int64_t count, pair_count;
  lua_settop(L, 3);
  if (lua_isnil(L, 3)) {
    lua_newtable(L);
    lua_replace(L, 3);
  }
  luaL_checktype(L, 3, LUA_TTABLE);
  through_json(L, 1);
  if (lua_isnil(L, 3)) return 3;
  state.data = lua_tolstring(L, 3, &state.length);
  kava_l_list_safetensors(L, 2, 0, &count, &items, &pair_count, &pairs);
  kava_status st = kava_checkpoint_save(path, count, items, state);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

static kava_safetensors **new_file_box(lua_State *L) {
  kava_safetensors **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, FILE_TYPE);
  return box;
}

static int l_load(lua_State *L) { /* [-0, +2|3, e] load(path) -> {name = tensor}, state | nil, message, code */
  kava_text state;
  const char *path = luaL_checkstring(L, 1);
  lua_settop(L, 1);
  kava_safetensors **box = new_file_box(L);
  kava_status st = kava_checkpoint_load(path, box, &state);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  kava_l_push_safetensors(L, *box);
  lua_settop(L, 3); /* path, box, tensors */
  lua_pushlstring(L, state.data, state.length);
  kava_safetensors_release(box);
  through_json(L, 2);
  if (lua_isnil(L, 4)) return 3;
  lua_settop(L, 4);
  return 2;
}

static int l_valid(lua_State *L) { /* [-0, +1|2, e] valid(path) -> true | false, message */
  kava_text state;
  const char *path = luaL_checkstring(L, 1);
  kava_safetensors **box = new_file_box(L);
  kava_status st = kava_checkpoint_load(path, box, &state);
  kava_safetensors_release(box);
  lua_pushboolean(L, st == KAVA_OK);
  if (st == KAVA_OK) return 1;
  lua_pushstring(L, kava_message());
  return 2;
}

void kava_l_open_checkpoint(lua_State *L) { /* after json: takes its functions */
  static const luaL_Reg functions[] = {{"save", l_save}, {"load", l_load}, {"valid", l_valid}, {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, FILE_TYPE, none, file_gc);
  kava_l_subtable(L, "checkpoint");
  lua_getfield(L, -2, "json");
  lua_getfield(L, -1, "encode");
  lua_getfield(L, -2, "decode");
  lua_remove(L, -3);
  luaL_setfuncs(L, functions, 2);
  lua_pop(L, 1);
}

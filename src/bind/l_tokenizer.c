/* bind/l_tokenizer.c: kava.tokenizer: load, train; class kava.Tokenizer. */
#include "bind/bind.h"
#include "text/tokenizer.h"

#define TOKENIZER_TYPE "kava.Tokenizer"

typedef struct box {
  kava_tokenizer *tok;
  kava_encoder *encoder; /* made at the first encode */
  kava_ids ids;          /* scratch that outlives a raise */
  int64_t *input;
  size_t input_room;
  kava_buffer text;
} box;

static box *new_box(lua_State *L) { /* [-0, +1, m] */
  box *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (box){0};
  luaL_setmetatable(L, TOKENIZER_TYPE);
  return b;
}

static box *check_box(lua_State *L, int arg) {
  box *b = luaL_checkudata(L, arg, TOKENIZER_TYPE);
  if (!b->tok) luaL_argerror(L, arg, "the tokenizer was released");
  return b;
}

static int tokenizer_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  box *b = luaL_checkudata(L, 1, TOKENIZER_TYPE);
  kava_encoder_release(&b->encoder);
  kava_tokenizer_release(&b->tok);
  kava_ids_free(&b->ids);
  kava_buffer_free(&b->text);
  kava_free(b->input);
  b->input = NULL;
  b->input_room = 0;
  return 0;
}

static int l_load(lua_State *L) { /* [-0, +1, e] load(path) -> tokenizer | nil, message, code */
  const char *path = luaL_checkstring(L, 1);
  box *b = new_box(L);
  kava_status st = kava_tokenizer_load(path, &b->tok);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int l_encode(lua_State *L) { /* [-0, +1, e] tok:encode(text, {add_special_tokens=, errors=}) -> ids */
  static const char *const keys[] = {"add_special_tokens", "errors", NULL};
  box *b = check_box(L, 1);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  unsigned flags = KAVA_ENCODE_SPECIAL;
  if (!lua_isnoneornil(L, 3)) {
    kava_l_check_keys(L, 3, "encode", keys);
    if (!kava_l_field_boolean(L, 3, "add_special_tokens", true)) flags = 0;
    const char *errors = kava_l_field_string(L, 3, "errors", "strict");
    if (!strcmp(errors, "replace"))
      flags |= KAVA_ENCODE_REPLACE;
    else if (strcmp(errors, "strict") != 0)
      return luaL_error(L, "encode: errors: 'strict' or 'replace' expected, got '%s'", errors);
  }
  if (!b->encoder) kava_l_check(L, kava_encoder_new(b->tok, &b->encoder));
  b->ids.size = 0;
  kava_l_check(L, kava_encode(b->encoder, text, length, flags, &b->ids));
  lua_createtable(L, (int)b->ids.size, 0);
  for (size_t i = 0; i < b->ids.size; i++) {
    lua_pushinteger(L, b->ids.data[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 1;
}

static int l_decode(lua_State *L) { /* [-0, +1, e] tok:decode(ids, {skip_special_tokens=}) -> text */
  static const char *const keys[] = {"skip_special_tokens", NULL};
  box *b = check_box(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool skip = false;
  if (!lua_isnoneornil(L, 3)) {
    kava_l_check_keys(L, 3, "decode", keys);
    skip = kava_l_field_boolean(L, 3, "skip_special_tokens", false);
  }
  size_t count = (size_t)lua_rawlen(L, 2);
  if (count > b->input_room) {
    int64_t *input = kava_realloc(b->input, count * sizeof *input);
    if (!input) return kava_l_raise(L);
    b->input = input;
    b->input_room = count;
  }
  for (size_t i = 0; i < count; i++) {
    int ok;
    lua_rawgeti(L, 2, (lua_Integer)i + 1);
    b->input[i] = lua_tointegerx(L, -1, &ok); /* whole floats, as cjson gives them, are integers too */
    if (!ok) return luaL_error(L, "decode: position %d: a token id expected, got %s", (int)i + 1, luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  b->text.size = 0;
  kava_l_check(L, kava_tokenizer_decode(b->tok, b->input, count, skip, &b->text));
  lua_pushlstring(L, b->text.size ? (const char *)b->text.data : "", b->text.size);
  return 1;
}

static int l_id(lua_State *L) { /* [-0, +1, e] tok:id(token) -> id | nil */
  box *b = check_box(L, 1);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  int32_t id = kava_tokenizer_find(b->tok, text, length);
  if (id < 0)
    lua_pushnil(L);
  else
    lua_pushinteger(L, id);
  return 1;
}

static int l_token(lua_State *L) { /* [-0, +1, e] tok:token(id) -> token as the vocabulary spells it | nil */
  box *b = check_box(L, 1);
  lua_Integer id = luaL_checkinteger(L, 2);
  if (!kava_tokenizer_has(b->tok, id)) {
    lua_pushnil(L);
    return 1;
  }
  b->text.size = 0;
  kava_l_check(L, kava_tokenizer_spell(b->tok, (int32_t)id, &b->text));
  lua_pushlstring(L, b->text.size ? (const char *)b->text.data : "", b->text.size);
  return 1;
}

static int l_fingerprint(lua_State *L) { /* [-0, +1, e] tok:fingerprint() -> 32 hex digits */
  lua_pushstring(L, kava_tokenizer_fingerprint(check_box(L, 1)->tok));
  return 1;
}

static int tokenizer_index(lua_State *L) { /* [-0, +1, e] fields; methods are upvalue 1 */
  lua_pushvalue(L, 2);
  if (lua_gettable(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  box *b = check_box(L, 1);
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  int32_t id = -1;
  if (!strcmp(key, "vocab_size")) id = kava_tokenizer_size(b->tok);
  if (!strcmp(key, "eos_id")) id = kava_tokenizer_eos(b->tok);
  if (!strcmp(key, "bos_id")) id = kava_tokenizer_bos(b->tok);
  if (!strcmp(key, "pad_id")) id = kava_tokenizer_pad(b->tok);
  if (!strcmp(key, "path"))
    lua_pushstring(L, kava_tokenizer_path(b->tok));
  else if (id >= 0)
    lua_pushinteger(L, id);
  else
    lua_pushnil(L);
  return 1;
}

static int tokenizer_tostring(lua_State *L) { /* [-0, +1, e] */
  box *b = luaL_checkudata(L, 1, TOKENIZER_TYPE);
  if (!b->tok)
    lua_pushliteral(L, "kava.Tokenizer (released)");
  else
    lua_pushfstring(L, "kava.Tokenizer (%d tokens, %s)", (int)kava_tokenizer_size(b->tok), kava_tokenizer_path(b->tok));
  return 1;
}

void kava_l_open_tokenizer(lua_State *L) {
  static const luaL_Reg functions[] = {{"load", l_load}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"encode", l_encode}, {"decode", l_decode},           {"id", l_id},
                                     {"token", l_token},   {"fingerprint", l_fingerprint}, {NULL, NULL}};
  kava_l_class(L, TOKENIZER_TYPE, methods, tokenizer_gc);
  luaL_getmetatable(L, TOKENIZER_TYPE);
  lua_getfield(L, -1, "__index");
  lua_pushcclosure(L, tokenizer_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pushcfunction(L, tokenizer_tostring);
  lua_setfield(L, -2, "__tostring");
  lua_pop(L, 1);
  kava_l_subtable(L, "tokenizer");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

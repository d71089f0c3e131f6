/* bind/l_tokenizer.c: kava.tokenizer: load, train; class kava.Tokenizer. */
#include "bind/tokenizer.h"
#include "base/map.h"

typedef struct box {
  kava_tokenizer *tok;
  kava_encoder *encoder; /* made at the first encode */
  kava_ids ids;          /* scratch that outlives a raise */
  kava_spans spans;
  int64_t *input;
  size_t input_room;
  kava_buffer text;
} box;

static box *new_box(lua_State *L) { /* [-0, +1, m] */
  box *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (box){0};
  luaL_setmetatable(L, KAVA_TOKENIZER_TYPE);
  return b;
}

static box *check_box(lua_State *L, int arg) {
  box *b = luaL_checkudata(L, arg, KAVA_TOKENIZER_TYPE);
  if (!b->tok) luaL_argerror(L, arg, "the tokenizer was released");
  return b;
}

kava_tokenizer *kava_l_check_tokenizer(lua_State *L, int arg) { return check_box(L, arg)->tok; }

static int tokenizer_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  box *b = luaL_checkudata(L, 1, KAVA_TOKENIZER_TYPE);
  kava_encoder_release(&b->encoder);
  kava_tokenizer_release(&b->tok);
  kava_ids_free(&b->ids);
  kava_spans_free(&b->spans);
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

static bool wants_replace(lua_State *L, int arg, const char *what) { /* [-0, +0, e] errors = "strict" | "replace" */
  const char *errors = kava_l_field_string(L, arg, "errors", "strict");
  if (!strcmp(errors, "replace")) return true;
  if (strcmp(errors, "strict") != 0)
    luaL_error(L, "%s: errors: 'strict' or 'replace' expected, got '%s'", what, errors);
  return false;
}

/* [-0, +1|3, e] tok:encode(text, {add_special_tokens=, errors=, offsets=}) -> ids [, first, last] */
static int l_encode(lua_State *L) {
  static const char *const keys[] = {"add_special_tokens", "errors", "offsets", NULL};
  box *b = check_box(L, 1);
  size_t length;
  const char *text = luaL_checklstring(L, 2, &length);
  unsigned flags = KAVA_ENCODE_SPECIAL;
  bool offsets = false;
  if (!lua_isnoneornil(L, 3)) {
    kava_l_check_keys(L, 3, "encode", keys);
    if (!kava_l_field_boolean(L, 3, "add_special_tokens", true)) flags = 0;
    if (wants_replace(L, 3, "encode")) flags |= KAVA_ENCODE_REPLACE;
    offsets = kava_l_field_boolean(L, 3, "offsets", false);
  }
  if (!b->encoder) kava_l_check(L, kava_encoder_new(b->tok, &b->encoder));
  b->ids.size = b->spans.size = 0;
  kava_l_check(L, kava_encode_spans(b->encoder, text, length, flags, &b->ids, offsets ? &b->spans : NULL));
  lua_createtable(L, (int)b->ids.size, 0);
  for (size_t i = 0; i < b->ids.size; i++) {
    lua_pushinteger(L, b->ids.data[i]);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  if (!offsets) return 1;
  lua_createtable(L, (int)b->spans.size, 0);
  lua_createtable(L, (int)b->spans.size, 0);
  for (size_t i = 0; i < b->spans.size; i++) { /* as text:sub counts */
    lua_pushinteger(L, (lua_Integer)b->spans.data[i].begin + 1);
    lua_rawseti(L, -3, (lua_Integer)i + 1);
    lua_pushinteger(L, (lua_Integer)b->spans.data[i].end);
    lua_rawseti(L, -2, (lua_Integer)i + 1);
  }
  return 3;
}

static int l_decode(lua_State *L) { /* [-0, +1, e] tok:decode(ids, {skip_special_tokens=, errors=}) -> text */
  static const char *const keys[] = {"skip_special_tokens", "errors", NULL};
  box *b = check_box(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  bool skip = false, replace = false;
  if (!lua_isnoneornil(L, 3)) {
    kava_l_check_keys(L, 3, "decode", keys);
    skip = kava_l_field_boolean(L, 3, "skip_special_tokens", false);
    replace = wants_replace(L, 3, "decode");
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
  unsigned flags = (skip ? KAVA_DECODE_SKIP_SPECIAL : 0) | (replace ? KAVA_DECODE_REPLACE : 0);
  b->text.size = 0;
  kava_l_check(L, kava_tokenizer_decode(b->tok, b->input, count, flags, &b->text));
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

static int l_save(lua_State *L) { /* [-0, +1, e] tok:save(folder) -> true | nil, message, code */
  kava_status st = kava_tokenizer_save(check_box(L, 1)->tok, luaL_checkstring(L, 2));
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

/* [-0, +?, e] tok:apply_chat_template(messages, options) -> text | ids | nil, message, code: kava.chat's, in Lua */
static int l_apply_chat_template(lua_State *L) {
  check_box(L, 1);
  lua_getglobal(L, "require");
  lua_pushliteral(L, "kava.chat");
  lua_call(L, 1, 1);
  lua_getfield(L, -1, "apply");
  lua_remove(L, -2);
  lua_insert(L, 1);
  lua_call(L, lua_gettop(L) - 1, LUA_MULTRET);
  return lua_gettop(L);
}

/* A list of strings at the top of the stack as arrays kept in a userdata, which is pushed; strings live in the list.
 * [-0, +1, e] */
static size_t string_list(lua_State *L, const char *key, const char ***texts, size_t **lengths) {
  int list = lua_gettop(L);
  if (!lua_istable(L, list)) luaL_error(L, "%s: a list of strings expected, got %s", key, luaL_typename(L, list));
  size_t count = (size_t)lua_rawlen(L, list);
  *texts = lua_newuserdatauv(L, (count + 1) * (sizeof **texts + sizeof **lengths), 0);
  *lengths = (size_t *)(*texts + count + 1);
  for (size_t i = 0; i < count; i++) {
    if (lua_rawgeti(L, list, (lua_Integer)i + 1) != LUA_TSTRING)
      luaL_error(L, "%s: item %d: a string expected, got %s", key, (int)i + 1, luaL_typename(L, -1));
    (*texts)[i] = lua_tolstring(L, -1, &(*lengths)[i]);
    lua_pop(L, 1);
  }
  (*texts)[count] = NULL;
  return count;
}

static int l_train(lua_State *L) { /* [-0, +1, e] train{texts=|file=, vocab_size=, pattern=, special=} -> tokenizer |
                                      nil, message, code */
  static const char *const keys[] = {"texts", "file", "vocab_size", "pattern", "special", NULL};
  kava_l_check_keys(L, 1, "train", keys);
  lua_settop(L, 1);
  lua_Integer size = kava_l_field_integer(L, 1, "vocab_size", 512);
  if (size < 0 || size > INT32_MAX)
    return luaL_error(L, "train: vocab_size: a positive number expected, got %I", (LUAI_UACINT)size);
  kava_train_options options = {.vocab_size = (int32_t)size, .pattern = kava_l_field_string(L, 1, "pattern", "smollm")};
  const char *file = kava_l_field_string(L, 1, "file", NULL);
  bool has_texts = lua_getfield(L, 1, "texts") != LUA_TNIL;
  if (has_texts == (file != NULL)) return luaL_error(L, "train: one of texts and file expected");
  const char **texts = NULL, **special;
  size_t *lengths = NULL, *unused, count = 1;
  if (has_texts) count = string_list(L, "train: texts", &texts, &lengths);
  if (lua_getfield(L, 1, "special") == LUA_TNIL) {
    lua_newtable(L);
    lua_pushliteral(L, "<|endoftext|>");
    lua_rawseti(L, -2, 1);
  }
  string_list(L, "train: special", &special, &unused);
  options.special = special;
  box *b = new_box(L);
  kava_map *map = NULL;
  size_t length;
  kava_status st = KAVA_OK;
  if (file && (st = kava_map_open(file, &map)) == KAVA_OK) {
    length = map->size;
    st = kava_tokenizer_train(&(const char *){map->data ? (const char *)map->data : ""}, &length, 1, &options, &b->tok);
    kava_map_release(&map);
  } else if (!file) {
    st = kava_tokenizer_train(texts, lengths, count, &options, &b->tok);
  }
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
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
  if (!strcmp(key, "unk_id")) id = kava_tokenizer_unknown(b->tok);
  if (!strcmp(key, "path"))
    lua_pushstring(L, kava_tokenizer_path(b->tok));
  else if (!strcmp(key, "chat_template"))
    lua_pushstring(L, kava_tokenizer_chat_template(b->tok)); /* nil where there is none */
  else if (id >= 0)
    lua_pushinteger(L, id);
  else
    lua_pushnil(L);
  return 1;
}

static int tokenizer_tostring(lua_State *L) { /* [-0, +1, e] */
  box *b = luaL_checkudata(L, 1, KAVA_TOKENIZER_TYPE);
  if (!b->tok)
    lua_pushliteral(L, "kava.Tokenizer (released)");
  else
    lua_pushfstring(L, "kava.Tokenizer (%d tokens, %s)", (int)kava_tokenizer_size(b->tok), kava_tokenizer_path(b->tok));
  return 1;
}

void kava_l_open_tokenizer(lua_State *L) {
  static const luaL_Reg functions[] = {{"load", l_load}, {"train", l_train}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"encode", l_encode},
                                     {"decode", l_decode},
                                     {"id", l_id},
                                     {"token", l_token},
                                     {"fingerprint", l_fingerprint},
                                     {"save", l_save},
                                     {"apply_chat_template", l_apply_chat_template},
                                     {NULL, NULL}};
  kava_l_class(L, KAVA_TOKENIZER_TYPE, methods, tokenizer_gc);
  luaL_getmetatable(L, KAVA_TOKENIZER_TYPE);
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

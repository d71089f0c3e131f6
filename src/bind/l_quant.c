/* bind/l_quant.c: kava.quant: weights as codes with scales beside them: put together from a checkpoint's parts, made
 * from float matrices, taken apart again. */
#include "bind/bind.h"
#include "formats/quantised.h"
#include "ops/quantise.h"
#include "tensor/coded.h"

static int
l_coded(lua_State *L) { /* [-0, +1|3, e] coded{dtype=, rows=, columns=, codes=, …} -> tensor | nil, message, code */
  static const char *const keys[] = {"dtype",       "rows",   "columns", "codes",    "group", "group_rows",
                                     "flat",        "scales", "zeros",   "group_of", "map",   "outer",
                                     "outer_group", "offset", "zero",    "round",    NULL};
  kava_l_check_keys(L, 1, "coded", keys);
  kava_coded p = {.dtype = kava_l_field_dtype(L, 1, "dtype", KAVA_DTYPES),
                  .rows = kava_l_field_integer(L, 1, "rows", 0),
                  .columns = kava_l_field_integer(L, 1, "columns", 0),
                  .codes = kava_l_field_tensor(L, 1, "codes", true),
                  .group_rows = kava_l_field_integer(L, 1, "group_rows", 1),
                  .flat = kava_l_field_boolean(L, 1, "flat", false),
                  .scales = kava_l_field_tensor(L, 1, "scales", true),
                  .zeros = kava_l_field_tensor(L, 1, "zeros", false),
                  .group_of = kava_l_field_tensor(L, 1, "group_of", false),
                  .map = kava_l_field_tensor(L, 1, "map", false),
                  .outer = kava_l_field_tensor(L, 1, "outer", false),
                  .outer_group = kava_l_field_integer(L, 1, "outer_group", 0),
                  .offset = kava_l_field_number(L, 1, "offset", 0),
                  .zero = kava_l_field_number(L, 1, "zero", 0),
                  .round = kava_l_field_dtype(L, 1, "round", KAVA_F32)};
  p.group = kava_l_field_integer(L, 1, "group", p.columns);
  kava_tensor **y = kava_l_new_tensor_box(L);
  kava_status st = kava_coded_new(&p, y);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int
l_parts(lua_State *L) { /* [-0, +1, e] parts(t) -> {codes=, scales=, zeros=, group_of=, map=, outer=} | nil */
  static const char *const names[] = {"scales", "zeros", "group_of", "map", "outer"};
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (!t->scales || t->offset != 0) {
    lua_pushnil(L);
    return 1;
  }
  if (t->device != KAVA_CPU) return luaL_argerror(L, 1, "a tensor on the cpu expected (to{device = \"cpu\"})");
  size_t bytes;
  lua_createtable(L, 0, 8);
  kava_tensor **box = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_tensor_bytes_of(t, &bytes));
  kava_l_check(L, kava_tensor_from(KAVA_U8, 1, (int64_t[]){(int64_t)bytes}, kava_tensor_data(t), box));
  lua_setfield(L, -2, "codes");
  for (int i = 0; i < 5; i++)
    if (t->scales->held[i]) {
      kava_l_push_tensor(L, t->scales->held[i]);
      lua_setfield(L, -2, names[i]);
    }
  lua_pushinteger(L, t->scales->scaling.group);
  lua_setfield(L, -2, "group");
  lua_pushnumber(L, (lua_Number)t->scales->scaling.offset);
  lua_setfield(L, -2, "offset");
  lua_pushnumber(L, (lua_Number)t->scales->scaling.zero);
  lua_setfield(L, -2, "zero");
  return 1;
}

static int l_unpack(lua_State *L) { /* [-0, +1|3, e] unpack(words, bits, count [, add=0 [, awq]]) -> u8 [rows, count] |
                                       nil, message, code */
  kava_tensor *words = kava_l_check_tensor(L, 1);
  lua_Integer bits = luaL_checkinteger(L, 2), count = luaL_checkinteger(L, 3);
  lua_Integer add = luaL_optinteger(L, 4, 0);
  bool awq = lua_toboolean(L, 5);
  kava_tensor **y = kava_l_new_tensor_box(L);
  kava_status st = kava_unpack_words(words, bits < 0 || bits > 32 ? 0 : (int)bits, count, (int)(add & 255), awq, y);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int l_awq_rows(lua_State *L) { /* [-0, +1|3, e] awq_rows(qweight) -> i32 [out, in/8] | nil, message, code */
  kava_tensor *words = kava_l_check_tensor(L, 1), **y = kava_l_new_tensor_box(L);
  kava_status st = kava_awq_rows(words, y);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int l_encode(lua_State *L) { /* [-0, +1, e] encode(t, "nf4"|"nf4-dq"|"int8"|"fp8"|"fp8-rows") -> codes */
  kava_tensor *t = kava_l_check_tensor(L, 1), **y;
  const char *name = luaL_checkstring(L, 2);
  kava_encoding kind;
  if (!kava_encoding_parse(name, &kind)) return luaL_argerror(L, 2, "nf4, nf4-dq, int8, fp8 or fp8-rows expected");
  y = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_encode(t, kind, y));
  return 1;
}

void kava_l_open_quant(lua_State *L) {
  static const luaL_Reg functions[] = {{"coded", l_coded},       {"parts", l_parts},   {"unpack", l_unpack},
                                       {"awq_rows", l_awq_rows}, {"encode", l_encode}, {NULL, NULL}};
  kava_l_subtable(L, "quant");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

/* bind/l_linear.c: kava.linear, attention, attention_map, matmul_precision, blas. */
#include "bind/l_tensor.h"
#include "kernels/cpu/blas.h"
#include "kernels/kernels.h"
#include "ops/attention.h"
#include "ops/each.h"
#include "ops/linear.h"
#include "tape/tape.h"

static int l_linear(lua_State *L) { /* [-0, +1, e] linear(x, w [, bias [, residual]]) -> x w^T + bias + residual */
  kava_tensor *x = kava_l_check_tensor(L, 1), *w = kava_l_check_tensor(L, 2), *bias = kava_l_opt_tensor(L, 3);
  kava_tensor *residual = kava_l_opt_tensor(L, 4), **y = kava_l_new_tensor_box(L);
  kava_l_check(L, residual ? kava_op_linear_added(x, w, bias, residual, y) : kava_op_linear(x, w, bias, y));
  return 1;
}

/* [-0, +n, e] linear_joined(x, weights [, biases]) -> y of each */
static int l_linear_joined(lua_State *L) {
  int count, biases = 0;
  kava_tensor *x = kava_l_check_tensor(L, 1), *outs[KAVA_LINEAR_PARTS] = {NULL};
  lua_settop(L, 3);
  bool biased = !lua_isnil(L, 3);
  kava_tensor **w = kava_l_check_tensors(L, 2, &count), **b = biased ? kava_l_check_tensors(L, 3, &biases) : NULL;
  luaL_argcheck(L, count >= 1 && count <= KAVA_LINEAR_PARTS, 2, "1 to 4 weights expected");
  luaL_argcheck(L, !biased || biases == count, 3, "as many biases as weights expected");
  kava_part part[KAVA_LINEAR_PARTS];
  for (int i = 0; i < count; i++) part[i] = (kava_part){w[i]->dims > 0 ? w[i]->shape[0] : 0, 0};
  kava_tensor **box[KAVA_LINEAR_PARTS];
  for (int i = 0; i < count; i++) box[i] = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_linear_joined(x, count, w, b, count, part, outs));
  for (int i = 0; i < count; i++) *box[i] = outs[i];
  return count;
}

static int l_linear_each(lua_State *L) { /* [-0, +1, e] linear_each(xs, ws) -> list of x w^T */
  int count, weights;
  kava_tensor **x = kava_l_check_tensors(L, 1, &count), **w = kava_l_check_tensors(L, 2, &weights);
  if (count != weights) return luaL_argerror(L, 2, lua_pushfstring(L, "%d weights expected, got %d", count, weights));
  lua_createtable(L, count, 0);
  kava_tensor ***box = lua_newuserdatauv(L, (size_t)count * sizeof *box, 0);
  kava_tensor **outs = lua_newuserdatauv(L, (size_t)count * sizeof *outs, 0);
  for (int i = 0; i < count; i++) {
    box[i] = kava_l_new_tensor_box(L);
    lua_rawseti(L, -4, i + 1);
  }
  kava_l_check(L, kava_op_linear_each(count, x, w, outs));
  for (int i = 0; i < count; i++) *box[i] = outs[i];
  lua_pop(L, 2);
  return 1;
}

static int l_attention(lua_State *L) { /* [-0, +1, e] attention{q=, k=, v=, start=, scale=1/sqrt(D), softcap=0} -> o */
  static const char *const keys[] = {"q", "k", "v", "start", "window", "scale", "softcap", NULL};
  kava_l_check_keys(L, 1, "attention", keys);
  kava_tensor *q = kava_l_field_tensor(L, 1, "q", true), *k = kava_l_field_tensor(L, 1, "k", true);
  kava_tensor *v = kava_l_field_tensor(L, 1, "v", true), *start = kava_l_field_tensor(L, 1, "start", false);
  double scale = kava_l_field_number(L, 1, "scale", kava_attention_scale(q));
  double softcap = kava_l_field_number(L, 1, "softcap", 0);
  kava_tensor **o = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_attention(q, k, v, start, kava_l_field_integer(L, 1, "window", 0), scale, softcap, o));
  return 1;
}

static int
l_attention_map(lua_State *L) { /* [-0, +1, e] attention_map{q=, k=, start=, scale=, softcap=} -> p [B,T,T] */
  static const char *const keys[] = {"q", "k", "start", "window", "scale", "softcap", NULL};
  kava_l_check_keys(L, 1, "attention_map", keys);
  kava_tensor *q = kava_l_field_tensor(L, 1, "q", true), *k = kava_l_field_tensor(L, 1, "k", true);
  kava_tensor *start = kava_l_field_tensor(L, 1, "start", false);
  double scale = kava_l_field_number(L, 1, "scale", kava_attention_scale(q));
  double softcap = kava_l_field_number(L, 1, "softcap", 0);
  kava_tensor **p = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_attention_map(q, k, start, kava_l_field_integer(L, 1, "window", 0), scale, softcap, p));
  return 1;
}

static int l_gradient_dtype(lua_State *L) { /* [-0, +1, e] gradient_dtype([name]) -> "f32"|"bf16", after setting it */
  if (!lua_isnoneornil(L, 1)) kava_l_check(L, kava_set_parameter_grads(kava_l_check_dtype(L, 1)));
  lua_pushstring(L, kava_dtype_name(kava_parameter_grads()));
  return 1;
}

static int
l_matmul_precision(lua_State *L) { /* [-0, +1, e] matmul_precision([name]) -> "f32"|"bf16", after setting it */
  if (!lua_isnoneornil(L, 1)) kava_l_check(L, kava_set_matmul_precision(kava_l_check_dtype(L, 1)));
  lua_pushstring(L, kava_dtype_name(kava_matmul_precision()));
  return 1;
}

static void set_text(lua_State *L, const char *key, const char *text) {
  if (!text) return;
  lua_pushstring(L, text);
  lua_setfield(L, -2, key);
}

static int l_blas(lua_State *L) { /* [-0, +1, m] blas() -> {library=, core=, config=, bf16=}: opens the library */
  kava_blas_facts facts = kava_blas_info();
  lua_newtable(L);
  set_text(L, "library", facts.library);
  set_text(L, "core", facts.core);
  set_text(L, "config", facts.config);
  set_text(L, "bf16", kava_kernels_cpu()->linear_bf16());
  return 1;
}

void kava_l_open_linear(lua_State *L) {
  static const luaL_Reg functions[] = {{"linear", l_linear},
                                       {"linear_joined", l_linear_joined},
                                       {"linear_each", l_linear_each},
                                       {"attention", l_attention},
                                       {"attention_map", l_attention_map},
                                       {"matmul_precision", l_matmul_precision},
                                       {"gradient_dtype", l_gradient_dtype},
                                       {"blas", l_blas},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}

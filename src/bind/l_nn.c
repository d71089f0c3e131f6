/* bind/l_nn.c: the ops of neural networks as functions on tensors. Annotated in lua/kava/meta/nn.lua. */
#include "bind/l_tensor.h"
#include "ops/activation.h"
#include "ops/collapse.h"
#include "ops/dropout.h"
#include "ops/embedding.h"
#include "ops/norm.h"
#include "ops/rope.h"

static int l_rms_norm(lua_State *L) { /* [-0, +1, e] rms_norm(x, weight|nil, eps = 1e-6) */
  kava_tensor *x = kava_l_check_tensor(L, 1), *w = kava_l_opt_tensor(L, 2);
  double eps = luaL_optnumber(L, 3, 1e-6);
  kava_l_check(L, kava_op_rms_norm(x, w, eps, kava_l_result(L)));
  return 1;
}

static int l_layer_norm(lua_State *L) { /* [-0, +1, e] layer_norm(x, weight|nil, bias|nil, eps = 1e-5) */
  kava_tensor *x = kava_l_check_tensor(L, 1), *w = kava_l_opt_tensor(L, 2), *b = kava_l_opt_tensor(L, 3);
  double eps = luaL_optnumber(L, 4, 1e-5);
  kava_l_check(L, kava_op_layer_norm(x, w, b, eps, kava_l_result(L)));
  return 1;
}

static int l_rope(lua_State *L) { /* [-0, +1, e] rope(x, inv_freq, positions|nil, scale = 1) */
  kava_tensor *x = kava_l_check_tensor(L, 1), *inv_freq = kava_l_check_tensor(L, 2),
              *positions = kava_l_opt_tensor(L, 3);
  double scale = luaL_optnumber(L, 4, 1);
  kava_l_check(L, kava_op_rope(x, positions, inv_freq, scale, kava_l_result(L)));
  return 1;
}

static int activation(lua_State *L, const char *name, kava_activation kind) { /* [-0, +1, e] name(x [, options]) */
  static const char *const known[] = {"dropout", NULL};
  kava_tensor *x = kava_l_check_tensor(L, 1);
  double dropout = 0;
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, name, known);
    dropout = kava_l_field_number(L, 2, "dropout", 0);
  }
  kava_l_check(L, kava_activation_dropped(kind, x, dropout, kava_l_result(L)));
  return 1;
}

static int binary(lua_State *L, kava_status (*op)(kava_tensor *, kava_tensor *, kava_tensor **)) { /* [-0, +1, e] */
  kava_tensor *a = kava_l_check_tensor(L, 1), *b = kava_l_check_tensor(L, 2);
  kava_l_check(L, op(a, b, kava_l_result(L)));
  return 1;
}

static int l_silu(lua_State *L) { return activation(L, "silu", KAVA_SILU); }
static int l_gelu(lua_State *L) { return activation(L, "gelu", KAVA_GELU); }
static int l_gelu_tanh(lua_State *L) { return activation(L, "gelu_tanh", KAVA_GELU_TANH); }
static int l_relu(lua_State *L) { return activation(L, "relu", KAVA_RELU); }
static int l_swiglu(lua_State *L) { return binary(L, kava_op_swiglu); }
static int l_geglu(lua_State *L) { return binary(L, kava_op_geglu); }
static int l_geglu_tanh(lua_State *L) { return binary(L, kava_op_geglu_tanh); }

static int l_embedding(lua_State *L) { /* [-0, +1, e] embedding(ids, w, pad|nil) */
  kava_tensor *ids = kava_l_check_tensor(L, 1), *w = kava_l_check_tensor(L, 2);
  int64_t pad = luaL_optinteger(L, 3, -1);
  kava_l_check(L, kava_op_embedding(ids, w, pad, kava_l_result(L)));
  return 1;
}

static int l_softcap(lua_State *L) { /* [-0, +1, e] softcap(x, c) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  double c = luaL_checknumber(L, 2);
  kava_l_check(L, kava_op_softcap(x, c, kava_l_result(L)));
  return 1;
}

static int l_dropout(lua_State *L) { /* [-0, +1, e] dropout(x, p [, in_place]) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  double p = luaL_checknumber(L, 2);
  bool in_place = lua_toboolean(L, 3);
  kava_l_check(L, (in_place ? kava_dropout_in_place : kava_op_dropout)(x, p, kava_l_result(L)));
  return 1;
}

static int l_effective_rank(lua_State *L) { /* [-0, +1, e] effective_rank(x, mask|nil) */
  double rank;
  kava_l_check(L, kava_effective_rank(kava_l_check_tensor(L, 1), kava_l_opt_tensor(L, 2), &rank));
  lua_pushnumber(L, rank);
  return 1;
}

static int l_mean_direction_norm(lua_State *L) { /* [-0, +1, e] mean_direction_norm(x, mask|nil) */
  double norm;
  kava_l_check(L, kava_mean_direction_norm(kava_l_check_tensor(L, 1), kava_l_opt_tensor(L, 2), &norm));
  lua_pushnumber(L, norm);
  return 1;
}

void kava_l_open_nn(lua_State *L) {
  static const luaL_Reg functions[] = {{"rms_norm", l_rms_norm},
                                       {"layer_norm", l_layer_norm},
                                       {"rope", l_rope},
                                       {"silu", l_silu},
                                       {"gelu", l_gelu},
                                       {"gelu_tanh", l_gelu_tanh},
                                       {"relu", l_relu},
                                       {"softcap", l_softcap},
                                       {"swiglu", l_swiglu},
                                       {"geglu", l_geglu},
                                       {"geglu_tanh", l_geglu_tanh},
                                       {"embedding", l_embedding},
                                       {"dropout", l_dropout},
                                       {"effective_rank", l_effective_rank},
                                       {"mean_direction_norm", l_mean_direction_norm},
                                       {NULL, NULL}};
  luaL_setfuncs(L, functions, 0);
}

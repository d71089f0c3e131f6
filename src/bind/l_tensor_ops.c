/* bind/l_tensor_ops.c: arithmetic on tensors: operators, methods, joining. Every method leaves its tensor as it is. */
#include "bind/l_tensor.h"
#include "ops/activation.h"
#include "ops/elementwise.h"
#include "ops/cast.h"
#include "ops/index.h"
#include "ops/matmul.h"
#include "ops/norm.h"
#include "ops/reduce.h"
#include "ops/shape.h"
#include <math.h>

/* --- operands: tensors and numbers --- */

static bool holds(kava_dtype dtype, int64_t value) {
  switch (dtype) {
  case KAVA_I32: return value >= INT32_MIN && value <= INT32_MAX;
  case KAVA_I16: return value >= INT16_MIN && value <= INT16_MAX;
  case KAVA_I8: return value >= INT8_MIN && value <= INT8_MAX;
  case KAVA_U8: return value >= 0 && value <= UINT8_MAX;
  default: return true;
  }
}

/* A number beside a tensor: whole numbers stay integers beside integer tensors, in i64 where the tensor's type cannot
 * hold them; else it takes the tensor's float type. [-0, +1, e] its tensor of no dimensions */
static kava_tensor *scalar_beside(lua_State *L, int arg, const kava_tensor *other) {
  kava_dtype dtype = other->dtype == KAVA_F64 ? KAVA_F64 : KAVA_F32;
  int64_t integer = (int64_t)lua_tointeger(L, arg);
  if (kava_dtype_is_float(other->dtype) && other->device != KAVA_CPU) dtype = other->dtype;
  if (!kava_dtype_is_float(other->dtype) && lua_isinteger(L, arg))
    dtype = other->dtype == KAVA_BOOL || !holds(other->dtype, integer) ? KAVA_I64 : other->dtype;
  kava_tensor **y = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_tensor_full_on(other->device, dtype, 0, NULL, lua_tonumber(L, arg), integer, y));
  return *y;
}

/* The two operands of an operator, of which one at least is a tensor. Scalars made for numbers stay on the stack. */
static void operands(lua_State *L, kava_tensor **a, kava_tensor **b) {
  kava_tensor **left = luaL_testudata(L, 1, KAVA_TENSOR_TYPE), **right = luaL_testudata(L, 2, KAVA_TENSOR_TYPE);
  if (!left && lua_type(L, 1) != LUA_TNUMBER) luaL_typeerror(L, 1, "tensor or number");
  if (!right && lua_type(L, 2) != LUA_TNUMBER) luaL_typeerror(L, 2, "tensor or number");
  *a = left ? kava_l_check_tensor(L, 1) : NULL;
  *b = right ? kava_l_check_tensor(L, 2) : NULL;
  if (!*a) *a = scalar_beside(L, 1, *b);
  if (!*b) *b = scalar_beside(L, 2, *a);
}

static int binary(lua_State *L, kava_status (*op)(kava_tensor *, kava_tensor *, kava_tensor **)) {
  kava_tensor *a, *b;
  lua_settop(L, 2);
  operands(L, &a, &b);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, op(a, b, y));
  return 1;
}

/* scale*x + shift for a tensor and a number at `arg`; a fraction (or a float) beside integers gives f32. */
static int affine(lua_State *L, kava_tensor *x, int arg, double scale, double shift) {
  bool widen = !kava_dtype_is_float(x->dtype) && !lua_isinteger(L, arg);
  kava_tensor **wide = kava_l_new_tensor_box(L), **y = kava_l_result(L);
  kava_l_check(L, kava_op_cast(x, widen ? KAVA_F32 : x->dtype, wide));
  kava_l_check(L, kava_op_affine(*wide, scale, shift, y));
  return 1;
}

static int t_add(lua_State *L) { /* [-0, +1, e] */
  if (lua_type(L, 2) == LUA_TNUMBER) return affine(L, kava_l_check_tensor(L, 1), 2, 1, lua_tonumber(L, 2));
  if (lua_type(L, 1) == LUA_TNUMBER) return affine(L, kava_l_check_tensor(L, 2), 1, 1, lua_tonumber(L, 1));
  return binary(L, kava_op_add);
}
static int t_sub(lua_State *L) { /* [-0, +1, e] */
  if (lua_type(L, 2) == LUA_TNUMBER) return affine(L, kava_l_check_tensor(L, 1), 2, 1, -lua_tonumber(L, 2));
  if (lua_type(L, 1) == LUA_TNUMBER) return affine(L, kava_l_check_tensor(L, 2), 1, -1, lua_tonumber(L, 1));
  return binary(L, kava_op_sub);
}
static int t_mul(lua_State *L) { /* [-0, +1, e] */
  if (lua_type(L, 2) == LUA_TNUMBER) return affine(L, kava_l_check_tensor(L, 1), 2, lua_tonumber(L, 2), 0);
  if (lua_type(L, 1) == LUA_TNUMBER) return affine(L, kava_l_check_tensor(L, 2), 1, lua_tonumber(L, 1), 0);
  return binary(L, kava_op_mul);
}
static int t_div(lua_State *L) { /* [-0, +1, e] */
  if (lua_type(L, 1) == LUA_TNUMBER) {
    kava_tensor *x = kava_l_check_tensor(L, 2), **y = kava_l_result(L);
    kava_l_check(L, kava_op_reciprocal(x, lua_tonumber(L, 1), y));
    return 1;
  }
  return binary(L, kava_op_div);
}
static int t_neg(lua_State *L) { /* [-0, +1, e] */
  kava_tensor *x = kava_l_check_tensor(L, 1), **y = kava_l_result(L);
  kava_l_check(L, kava_op_neg(x, y));
  return 1;
}
static int t_pow(lua_State *L) { /* [-0, +1, e] x^number, number^x, x^y */
  if (lua_type(L, 2) == LUA_TNUMBER) {
    kava_tensor *x = kava_l_check_tensor(L, 1), **wide = kava_l_new_tensor_box(L), **y = kava_l_result(L);
    bool widen = !kava_dtype_is_float(x->dtype) && !(lua_isinteger(L, 2) && lua_tointeger(L, 2) >= 0);
    kava_l_check(L, kava_op_cast(x, widen ? KAVA_F32 : x->dtype, wide));
    kava_l_check(L, kava_op_pow(*wide, lua_tonumber(L, 2), y));
    return 1;
  }
  return binary(L, kava_op_power);
}

static int compare(lua_State *L, kava_binary op) { /* [-0, +1, e] a bool tensor */
  kava_tensor *a, *b;
  kava_l_check_tensor(L, 1);
  lua_settop(L, 2);
  operands(L, &a, &b);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_compare(op, a, b, y));
  return 1;
}
static int t_eq(lua_State *L) { return compare(L, KAVA_EQ); }
static int t_ne(lua_State *L) { return compare(L, KAVA_NE); }
static int t_lt(lua_State *L) { return compare(L, KAVA_LT); }
static int t_le(lua_State *L) { return compare(L, KAVA_LE); }
static int t_gt(lua_State *L) { return compare(L, KAVA_GT); }
static int t_ge(lua_State *L) { return compare(L, KAVA_GE); }

static int
l_where(lua_State *L) { /* [-0, +1, e] where(condition, a, b): a and b tensors or numbers, not both numbers */
  kava_tensor *condition = kava_l_check_tensor(L, 1), *a, *b;
  lua_settop(L, 3);
  bool numbers = lua_type(L, 2) == LUA_TNUMBER && lua_type(L, 3) == LUA_TNUMBER;
  luaL_argcheck(L, !numbers, 3, "a tensor expected where the other value is a number");
  lua_pushvalue(L, 1);
  lua_remove(L, 1); /* values at 1 and 2, the condition at 3 */
  operands(L, &a, &b);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_where(condition, a, b, y));
  return 1;
}

/* --- functions of one tensor --- */

#define UNARY(name, op)                                                                                                \
  static int t_##name(lua_State *L) { /* [-0, +1, e] */                                                                \
    kava_tensor *x = kava_l_check_tensor(L, 1), **y = kava_l_result(L);                                                \
    kava_l_check(L, op(x, y));                                                                                         \
    return 1;                                                                                                          \
  }
UNARY(abs, kava_op_abs)
UNARY(exp, kava_op_exp)
UNARY(log, kava_op_log)
UNARY(sqrt, kava_op_sqrt)
UNARY(tanh, kava_op_tanh)
UNARY(sigmoid, kava_op_sigmoid)
UNARY(silu, kava_op_silu)
UNARY(relu, kava_op_relu)

static int t_gelu(lua_State *L) { /* [-0, +1, e] gelu(["tanh"]) */
  static const char *const kinds[] = {"exact", "tanh", NULL};
  kava_tensor *x = kava_l_check_tensor(L, 1), **y;
  int kind = luaL_checkoption(L, 2, "exact", kinds);
  y = kava_l_result(L);
  kava_l_check(L, kind ? kava_op_gelu_tanh(x, y) : kava_op_gelu(x, y));
  return 1;
}

static int t_clamp(lua_State *L) { /* [-0, +1, e] clamp(low|nil, high|nil) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  double low = luaL_optnumber(L, 2, -INFINITY), high = luaL_optnumber(L, 3, INFINITY);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_clamp(x, low, high, y));
  return 1;
}

static int t_layer_norm(lua_State *L) { /* [-0, +1, e] layer_norm([weight, bias, eps=1e-5]) */
  kava_tensor *x = kava_l_check_tensor(L, 1), *w = kava_l_opt_tensor(L, 2), *b = kava_l_opt_tensor(L, 3);
  double eps = luaL_optnumber(L, 4, 1e-5);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_layer_norm(x, w, b, eps, y));
  return 1;
}

static int t_rms_norm(lua_State *L) { /* [-0, +1, e] rms_norm([weight, eps=1e-6]) */
  kava_tensor *x = kava_l_check_tensor(L, 1), *w = kava_l_opt_tensor(L, 2);
  double eps = luaL_optnumber(L, 3, 1e-6);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_rms_norm(x, w, eps, y));
  return 1;
}

static int t_softmax(lua_State *L) { /* [-0, +1, e] softmax([dim=-1]) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dim = lua_isnoneornil(L, 2) ? -1 : kava_l_check_dim(L, 2);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_softmax(x, dim, y));
  return 1;
}

static int t_log_softmax(lua_State *L) { /* [-0, +1, e] log_softmax([dim=-1]) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dim = lua_isnoneornil(L, 2) ? -1 : kava_l_check_dim(L, 2);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_log_softmax(x, dim, y));
  return 1;
}

/* --- reductions --- */

typedef kava_status (*reduction)(kava_tensor *, int, const int *, bool, kava_tensor **);

static bool keepdim_option(lua_State *L, int arg) {
  static const char *const known[] = {"keepdim", NULL};
  if (lua_isnoneornil(L, arg)) return false;
  if (lua_isboolean(L, arg)) return lua_toboolean(L, arg);
  luaL_checktype(L, arg, LUA_TTABLE);
  kava_l_check_keys(L, arg, "reduction", known);
  return kava_l_field_boolean(L, arg, "keepdim", false);
}

static int reduce(lua_State *L, reduction op) { /* [-0, +1, e] (): over all; (dim | {dims…} [, keepdim | {keepdim=}]) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int count = 0, dims[KAVA_MAX_DIMS];
  if (lua_istable(L, 2)) {
    lua_Integer n = luaL_len(L, 2);
    luaL_argcheck(L, n >= 1 && n <= KAVA_MAX_DIMS, 2, "a list of one or more dimensions expected");
    for (; count < n; count++) {
      lua_geti(L, 2, count + 1);
      dims[count] = kava_l_check_dim(L, -1);
      lua_pop(L, 1);
    }
  } else if (!lua_isnoneornil(L, 2))
    dims[count++] = kava_l_check_dim(L, 2);
  bool keepdim = keepdim_option(L, 3);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, op(x, count, dims, keepdim, y));
  return 1;
}
static int t_sum(lua_State *L) { return reduce(L, kava_op_sum); }
static int t_mean(lua_State *L) { return reduce(L, kava_op_mean); }
static int t_max(lua_State *L) { return reduce(L, kava_op_max); }
static int t_min(lua_State *L) { return reduce(L, kava_op_min); }
static int t_norm(lua_State *L) { return reduce(L, kava_op_norm); }

static int t_argmax(lua_State *L) { /* [-0, +1, e] argmax(dim [, keepdim]) -> i64 positions, counted from 1 */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dim = kava_l_check_dim(L, 2);
  bool keepdim = keepdim_option(L, 3);
  kava_tensor **from_zero = kava_l_new_tensor_box(L), **y = kava_l_result(L);
  kava_l_check(L, kava_op_argmax(x, dim, keepdim, from_zero));
  kava_l_check(L, kava_op_affine(*from_zero, 1, 1, y));
  return 1;
}

static int t_matmul(lua_State *L) { /* [-0, +1, e] */
  kava_tensor *a = kava_l_check_tensor(L, 1), *b = kava_l_check_tensor(L, 2), **y = kava_l_result(L);
  kava_l_check(L, kava_op_matmul(a, b, y));
  return 1;
}

/* --- shapes --- */

static int t_reshape(lua_State *L) { /* [-0, +1, e] reshape(sizes…): one may be -1 */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  kava_l_check_sizes(L, 2, "reshape", &dims, shape);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_reshape(x, dims, shape, y));
  return 1;
}

static int t_expand(lua_State *L) { /* [-0, +1, e] expand(sizes…): -1 keeps one */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  kava_l_check_sizes(L, 2, "expand", &dims, shape);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_expand(x, dims, shape, y));
  return 1;
}

static int t_permute(lua_State *L) { /* [-0, +1, e] permute(dims…): the result's i-th dimension is x's dims[i]-th */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int count, order[KAVA_MAX_DIMS];
  int64_t given[KAVA_MAX_DIMS];
  kava_l_check_sizes(L, 2, "permute", &count, given);
  if (count != x->dims) return luaL_error(L, "permute: %d dimensions named, the tensor has %d", count, x->dims);
  for (int d = 0; d < count; d++) {
    if (given[d] == 0 || given[d] > count || given[d] < -count)
      return luaL_error(L, "permute: dimension %I is not one of %d", (LUAI_UACINT)given[d], count);
    order[d] = (int)(given[d] > 0 ? given[d] - 1 : given[d] + count);
  }
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_permute(x, order, y));
  return 1;
}

static int t_transpose(lua_State *L) { /* [-0, +1, e] transpose(dim, other) */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int a = kava_l_check_dim(L, 2), b = kava_l_check_dim(L, 3);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_transpose(x, a, b, y));
  return 1;
}

static int t_narrow(lua_State *L) { /* [-0, +1, e] narrow(dim, start, length): a view */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dim = kava_l_check_dim(L, 2);
  lua_Integer start = luaL_checkinteger(L, 3), length = luaL_checkinteger(L, 4);
  luaL_argcheck(L, start >= 1, 3, "positions count from 1");
  luaL_argcheck(L, length >= 0, 4, "a length of 0 or more expected");
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_narrow(x, dim, start - 1, length, y));
  return 1;
}

static int t_select(lua_State *L) { /* [-0, +1, e] select(dim, index): a view without the dimension; -1 is the last */
  kava_tensor *x = kava_l_check_tensor(L, 1);
  int dim = kava_l_check_dim(L, 2);
  lua_Integer index = luaL_checkinteger(L, 3);
  luaL_argcheck(L, index != 0, 3, "positions count from 1, or from the end with negative numbers");
  int at = dim < 0 ? dim + x->dims : dim;
  if (index > 0)
    index--; /* from 0 */
  else if (at >= 0 && at < x->dims)
    index += x->shape[at];
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_op_select(x, dim, index, y));
  return 1;
}

static int
t_index_select(lua_State *L) { /* [-0, +1, e] index_select(dim, positions): an integer tensor or a table, from 1 */
  kava_tensor *x = kava_l_check_tensor(L, 1), *ids;
  int dim = kava_l_check_dim(L, 2);
  if (lua_istable(L, 3)) {
    int64_t count = (int64_t)luaL_len(L, 3);
    kava_tensor **list = kava_l_new_tensor_box(L);
    kava_l_check(L, kava_tensor_new(KAVA_I64, 1, &count, list));
    for (int64_t i = 0; i < count; i++) {
      int whole;
      lua_geti(L, 3, (lua_Integer)i + 1);
      kava_i64(*list)[i] = lua_tointegerx(L, -1, &whole);
      if (!whole)
        return luaL_error(L, "index_select: position %I is a %s, an integer is expected", (LUAI_UACINT)i + 1,
                          luaL_typename(L, -1));
      lua_pop(L, 1);
    }
    ids = *list;
  } else
    ids = kava_l_check_tensor(L, 3);
  if (ids->dtype != KAVA_I64 && ids->dtype != KAVA_I32)
    return luaL_error(L, "index_select: the positions are %s, i64 or i32 is expected", kava_dtype_name(ids->dtype));
  kava_tensor **from_zero = kava_l_new_tensor_box(L), **y = kava_l_result(L);
  kava_l_check(L, kava_op_affine(ids, 1, -1, from_zero));
  kava_l_check(L, kava_op_index_select(x, dim, *from_zero, y));
  return 1;
}

static int join(lua_State *L, kava_status (*op)(int, kava_tensor *const *, int64_t, kava_tensor **)) {
  int count, dim = lua_isnoneornil(L, 2) ? 0 : kava_l_check_dim(L, 2);
  kava_tensor **list = kava_l_check_tensors(L, 1, &count), **y = kava_l_result(L);
  kava_l_check(L, op(count, list, dim, y));
  return 1;
}
static int l_cat(lua_State *L) { return join(L, kava_op_cat); }     /* [-0, +1, e] cat(tensors [, dim=1]) */
static int l_stack(lua_State *L) { return join(L, kava_op_stack); } /* [-0, +1, e] stack(tensors [, dim=1]) */

void kava_l_open_tensor_ops(lua_State *L) {
  static const luaL_Reg functions[] = {{"cat", l_cat}, {"stack", l_stack}, {"where", l_where}, {NULL, NULL}};
  static const luaL_Reg operators[] = {{"__add", t_add}, {"__sub", t_sub}, {"__mul", t_mul}, {"__div", t_div},
                                       {"__unm", t_neg}, {"__pow", t_pow}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"abs", t_abs},
                                     {"argmax", t_argmax},
                                     {"clamp", t_clamp},
                                     {"eq", t_eq},
                                     {"exp", t_exp},
                                     {"expand", t_expand},
                                     {"ge", t_ge},
                                     {"gelu", t_gelu},
                                     {"gt", t_gt},
                                     {"index_select", t_index_select},
                                     {"layer_norm", t_layer_norm},
                                     {"le", t_le},
                                     {"log", t_log},
                                     {"log_softmax", t_log_softmax},
                                     {"lt", t_lt},
                                     {"matmul", t_matmul},
                                     {"max", t_max},
                                     {"mean", t_mean},
                                     {"min", t_min},
                                     {"narrow", t_narrow},
                                     {"ne", t_ne},
                                     {"norm", t_norm},
                                     {"permute", t_permute},
                                     {"pow", t_pow},
                                     {"relu", t_relu},
                                     {"reshape", t_reshape},
                                     {"rms_norm", t_rms_norm},
                                     {"select", t_select},
                                     {"sigmoid", t_sigmoid},
                                     {"silu", t_silu},
                                     {"softmax", t_softmax},
                                     {"sqrt", t_sqrt},
                                     {"sum", t_sum},
                                     {"tanh", t_tanh},
                                     {"transpose", t_transpose},
                                     {NULL, NULL}};
  luaL_getmetatable(L, KAVA_TENSOR_TYPE);
  luaL_setfuncs(L, operators, 0);
  lua_getfield(L, -1, "methods");
  luaL_setfuncs(L, methods, 0);
  lua_pop(L, 2);
  luaL_setfuncs(L, functions, 0);
}

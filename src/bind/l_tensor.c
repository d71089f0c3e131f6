/* bind/l_tensor.c: kava.tensor and its relatives; what a tensor tells about itself, conversions, gradients. */
#include "bind/l_tensor.h"
#include "base/rng.h"
#include "kernels/kernels.h"
#include "ops/cast.h"
#include "ops/compare.h"
#include "ops/shape.h"
#include "tape/tape.h"
#include "tensor/rows.h"
#include <math.h>
#include <string.h>

/* How much more than `left` may be in use before garbage is looked for. Small against what the job needs: a full
 * collection takes a millisecond or two; and against what is left below a limit, of which garbage may have no large
 * part. */
static size_t garbage_allowed(size_t left, size_t limit) {
  size_t allowed = left / 64 + ((size_t)64 << 20), least = (size_t)64 << 10;
  if (limit) {
    size_t share = limit > left ? (limit - left) / 8 : 0;
    if (share < allowed) allowed = share > least ? share : least;
  }
  return allowed;
}

kava_tensor **kava_l_result(lua_State *L) {
  static size_t left[KAVA_DEVICES]; /* bytes in use after the last collection made here */
  kava_memory_stats stats;
  bool due = false;
  kava_memory_get(&stats);
  const size_t limit[KAVA_DEVICES] = {stats.limit, kava_device_limit_of(KAVA_CUDA)};
  const size_t used[KAVA_DEVICES] = {stats.current, kava_device_used(KAVA_CUDA)};
  for (int i = 0; i < KAVA_DEVICES; i++) {
    due = due || used[i] > left[i] + garbage_allowed(left[i], limit[i]);
    if (used[i] < left[i]) left[i] = used[i];
  }
  if (due) {
    lua_gc(L, LUA_GCCOLLECT);
    kava_memory_get(&stats);
    left[KAVA_CPU] = stats.current;
    left[KAVA_CUDA] = kava_device_used(KAVA_CUDA);
  }
  return kava_l_new_tensor_box(L);
}

int kava_l_check_dim(lua_State *L, int arg) {
  lua_Integer dim = luaL_checkinteger(L, arg);
  luaL_argcheck(L, dim != 0, arg, "dimensions count from 1, or from the end with negative numbers");
  luaL_argcheck(L, dim >= -KAVA_MAX_DIMS && dim <= KAVA_MAX_DIMS, arg, "no tensor has that dimension");
  return (int)(dim > 0 ? dim - 1 : dim);
}

int kava_l_check_sizes(lua_State *L, int arg, const char *what, int *dims, int64_t *shape) {
  *dims = 0;
  if (lua_istable(L, arg)) {
    lua_Integer count = luaL_len(L, arg);
    if (count > KAVA_MAX_DIMS)
      luaL_error(L, "%s: a tensor has at most %d dimensions, got %d", what, KAVA_MAX_DIMS, (int)count);
    for (; *dims < count; (*dims)++) {
      int whole;
      lua_geti(L, arg, *dims + 1);
      shape[*dims] = lua_tointegerx(L, -1, &whole);
      if (!whole) luaL_error(L, "%s: size %d is a %s, an integer is expected", what, *dims + 1, luaL_typename(L, -1));
      lua_pop(L, 1);
    }
    return arg + 1;
  }
  for (; lua_type(L, arg) == LUA_TNUMBER; arg++) {
    if (*dims == KAVA_MAX_DIMS) luaL_error(L, "%s: a tensor has at most %d dimensions", what, KAVA_MAX_DIMS);
    shape[(*dims)++] = luaL_checkinteger(L, arg);
  }
  if (*dims == 0 && !lua_isnoneornil(L, arg)) luaL_typeerror(L, arg, "sizes as integers or as a table");
  return arg;
}

kava_tensor **kava_l_check_tensors(lua_State *L, int arg, int *count) {
  luaL_checktype(L, arg, LUA_TTABLE);
  lua_Integer n = (lua_Integer)lua_rawlen(L, arg); /* raw: the list alone keeps them alive */
  luaL_argcheck(L, n >= 1 && n <= 1 << 20, arg, "a list of one or more tensors expected");
  kava_tensor **list = lua_newuserdatauv(L, (size_t)n * sizeof *list, 0);
  for (lua_Integer i = 0; i < n; i++) {
    lua_rawgeti(L, arg, i + 1);
    kava_tensor **box = luaL_testudata(L, -1, KAVA_TENSOR_TYPE);
    if (!box || !*box)
      luaL_error(L, "element %d of the list is %s, a tensor is expected", (int)i + 1,
                 box ? "released" : luaL_typename(L, -1));
    list[i] = *box;
    lua_pop(L, 1);
  }
  *count = (int)n;
  return list;
}

/* The device that the table at `arg` names, open; the fallback where it names none. */
static kava_device check_device(lua_State *L, int arg, kava_device fallback) {
  const char *name = kava_l_field_string(L, arg, "device", NULL);
  kava_device device = fallback;
  if (name && !kava_device_parse(name, &device)) luaL_error(L, "device: cpu or cuda expected, got '%s'", name);
  kava_l_check(L, kava_device_open(device));
  return device;
}

/* The options of the functions that make tensors, when there are any at `arg`. */
static kava_dtype make_options(lua_State *L, int arg, const char *what, kava_dtype fallback, bool *requires_grad,
                               kava_device *device) {
  static const char *const known[] = {"dtype", "device", "shape", "requires_grad", NULL};
  *requires_grad = false;
  *device = KAVA_CPU;
  if (lua_isnoneornil(L, arg)) return fallback;
  luaL_checktype(L, arg, LUA_TTABLE);
  kava_l_check_keys(L, arg, what, known);
  *device = check_device(L, arg, KAVA_CPU);
  kava_dtype dtype = kava_l_field_dtype(L, arg, "dtype", fallback);
  *requires_grad = kava_l_field_boolean(L, arg, "requires_grad", false);
  if (kava_dtype_is_quantised(dtype))
    luaL_error(L, "%s: dtype %s is quantised, a plain type is expected", what, kava_dtype_name(dtype));
  if (*requires_grad && !kava_dtype_is_float(dtype))
    luaL_error(L, "%s: requires_grad needs a float dtype, not %s", what, kava_dtype_name(dtype));
  return dtype;
}

/* What was made on the host goes where it is wanted, and is a leaf there. `at`: its box. [-0, +0, e] */
static void settle(lua_State *L, kava_tensor **at, kava_device device, bool requires_grad) {
  kava_tensor *there = NULL;
  if (device != KAVA_CPU) {
    kava_l_check(L, kava_tensor_on(*at, device, &there));
    kava_tensor_release(at);
    *at = there;
  }
  (*at)->requires_grad = requires_grad;
}

/* One plain element as Lua sees it: booleans, integers, floats. [-0, +1, -] */
static void push_element(lua_State *L, kava_dtype dtype, const void *at) {
  double number;
  int64_t integer;
  if (dtype == KAVA_BOOL)
    lua_pushboolean(L, *(const uint8_t *)at != 0);
  else if (kava_dtype_is_float(dtype)) {
    kava_kernels_cpu()->convert(dtype, at, KAVA_F64, &number, 1);
    lua_pushnumber(L, number);
  } else {
    kava_kernels_cpu()->convert(dtype, at, KAVA_I64, &integer, 1);
    lua_pushinteger(L, (lua_Integer)integer);
  }
}

/* --- making --- */

/* Where kava.tensor's values go: doubles, or integers when the wanted type is one. */
typedef struct filling {
  kava_dtype dtype;
  double *numbers;
  int64_t *integers;
  int64_t count, room;
} filling;

static void fill_one(lua_State *L, filling *f) { /* [-0, +0, e] the value at the top */
  static const struct {
    int64_t low, high;
  } range[KAVA_DTYPES] = {[KAVA_I32] = {INT32_MIN, INT32_MAX},
                          [KAVA_I16] = {INT16_MIN, INT16_MAX},
                          [KAVA_I8] = {INT8_MIN, INT8_MAX},
                          [KAVA_U8] = {0, UINT8_MAX}};
  int type = lua_type(L, -1);
  if (type != LUA_TNUMBER && type != LUA_TBOOLEAN)
    luaL_error(L, "tensor: element %I is a %s, a number is expected", (LUAI_UACINT)f->count + 1, luaL_typename(L, -1));
  if (f->count >= f->room)
    luaL_error(L, "tensor: there are more values than the shape has elements (%I)", (LUAI_UACINT)f->room);
  if (f->numbers)
    f->numbers[f->count++] = type == LUA_TBOOLEAN ? lua_toboolean(L, -1) : lua_tonumber(L, -1);
  else {
    int whole = 1;
    lua_Integer value = type == LUA_TBOOLEAN ? lua_toboolean(L, -1) : lua_tointegerx(L, -1, &whole);
    if (f->dtype == KAVA_BOOL && !whole) value = whole = 1; /* 0.5 is true */
    if (!whole)
      luaL_error(L, "tensor: element %I is %f, %s takes whole numbers", (LUAI_UACINT)f->count + 1, lua_tonumber(L, -1),
                 kava_dtype_name(f->dtype));
    if (range[f->dtype].high && (value < range[f->dtype].low || value > range[f->dtype].high))
      luaL_error(L, "tensor: element %I is %I, which %s cannot hold", (LUAI_UACINT)f->count + 1, (LUAI_UACINT)value,
                 kava_dtype_name(f->dtype));
    f->integers[f->count++] = f->dtype == KAVA_BOOL ? value != 0 : value;
  }
}

static void fill_nested(lua_State *L, filling *f, int depth, int dims,
                        const int64_t *shape) { /* [-0, +0, e] the table at the top */
  if (depth == dims) {
    fill_one(L, f);
    return;
  }
  if (!lua_istable(L, -1))
    luaL_error(L, "tensor: a %s at depth %d, where a table of %I is expected", luaL_typename(L, -1), depth + 1,
               (LUAI_UACINT)shape[depth]);
  lua_Integer n = luaL_len(L, -1);
  if (n != shape[depth])
    luaL_error(L, "tensor: a table of %I values at depth %d, where others have %I", (LUAI_UACINT)n, depth + 1,
               (LUAI_UACINT)shape[depth]);
  luaL_checkstack(L, 4, "tensor");
  for (lua_Integer i = 1; i <= n; i++) {
    lua_geti(L, -1, i);
    fill_nested(L, f, depth + 1, dims, shape);
    lua_pop(L, 1);
  }
}

/* [-0, +1, e] tensor(values [, {shape=, dtype="f32", device="cpu", requires_grad=false}]): values are a number, or
 * tables nested to any depth, or with a shape a flat table */
static int l_tensor(lua_State *L) {
  int dims = 0;
  int64_t shape[KAVA_MAX_DIMS], flat;
  bool requires_grad, shaped = false;
  luaL_checkany(L, 1);
  lua_settop(L, 2);
  kava_device device;
  kava_dtype dtype = make_options(L, 2, "tensor", KAVA_F32, &requires_grad, &device);
  if (lua_istable(L, 2) && lua_getfield(L, 2, "shape") != LUA_TNIL) {
    luaL_argcheck(L, lua_istable(L, -1), 2, "shape: a table of sizes expected");
    kava_l_check_sizes(L, lua_gettop(L), "shape", &dims, shape);
    shaped = true;
  }
  lua_settop(L, 2);
  lua_pushvalue(L, 1);
  if (!shaped) { /* the first element of each level tells the shape */
    for (; lua_istable(L, -1); dims++) {
      if (dims == KAVA_MAX_DIMS) luaL_error(L, "tensor: nested deeper than %d dimensions", KAVA_MAX_DIMS);
      shape[dims] = (int64_t)luaL_len(L, -1);
      lua_geti(L, -1, 1);
    }
  }
  lua_settop(L, 2);
  bool real = kava_dtype_is_float(dtype);
  kava_tensor **staged = kava_l_result(L), **y = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_tensor_new(real ? KAVA_F64 : KAVA_I64, dims, shape, staged));
  filling f = {dtype, real ? kava_f64(*staged) : NULL, real ? NULL : kava_i64(*staged), 0, kava_tensor_numel(*staged)};
  lua_pushvalue(L, 1);
  bool nested = false; /* a flat table given with a shape? */
  if (lua_istable(L, 1)) {
    nested = lua_geti(L, 1, 1) == LUA_TTABLE;
    lua_pop(L, 1);
  }
  flat = f.room;
  if (shaped && dims != 1 && !nested)
    fill_nested(L, &f, 0, 1, &flat);
  else
    fill_nested(L, &f, 0, dims, shape);
  lua_pop(L, 1);
  kava_l_check(L, kava_contiguous_as(*staged, dtype, y));
  settle(L, y, device, requires_grad);
  return 1;
}

static kava_tensor *make(lua_State *L, int arg, const char *what, int dims, const int64_t *shape, kava_dtype fallback) {
  bool requires_grad;
  kava_device device;
  kava_dtype dtype = make_options(L, arg, what, fallback, &requires_grad, &device);
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_tensor_zeros_on(device, dtype, dims, shape, y));
  (*y)->requires_grad = requires_grad;
  return *y;
}

/* Every element becomes the number at `arg`: an integer as it is, not by way of a double. [-0, +0, e] */
static void fill(lua_State *L, kava_tensor *t, int arg) {
  lua_Number number = luaL_checknumber(L, arg);
  int64_t integer = (int64_t)lua_tointeger(L, arg);
  bool whole = lua_isinteger(L, arg);
  kava_tensor *single = NULL;
  kava_status st = kava_tensor_full_on(t->device, whole ? KAVA_I64 : KAVA_F64, 0, NULL, number, integer, &single);
  if (st == KAVA_OK) st = kava_copy_into(t, single);
  kava_tensor_release(&single);
  kava_l_check(L, st);
}

static int l_zeros(lua_State *L) { /* [-0, +1, e] zeros(sizes… [, options]) */
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  int next = kava_l_check_sizes(L, 1, "zeros", &dims, shape);
  make(L, next, "zeros", dims, shape, KAVA_F32);
  return 1;
}

static int l_ones(lua_State *L) { /* [-0, +1, e] ones(sizes… [, options]) */
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  int next = kava_l_check_sizes(L, 1, "ones", &dims, shape);
  kava_tensor *y = make(L, next, "ones", dims, shape, KAVA_F32);
  lua_pushinteger(L, 1);
  fill(L, y, lua_gettop(L));
  lua_pop(L, 1);
  return 1;
}

static int l_full(lua_State *L) { /* [-0, +1, e] full(sizes table, value [, options]) */
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checknumber(L, 2);
  kava_l_check_sizes(L, 1, "full", &dims, shape);
  fill(L, make(L, 3, "full", dims, shape, KAVA_F32), 2);
  return 1;
}

static int random_tensor(lua_State *L, const char *what, void (*draw)(uint64_t, uint64_t, float *, int64_t)) {
  if (kava_device_recording())
    return luaL_error(L, "%s: drawn while a step is being recorded, it would be the same at every run; draw it before",
                      what);
  int dims;
  int64_t shape[KAVA_MAX_DIMS];
  int next = kava_l_check_sizes(L, 1, what, &dims, shape);
  bool requires_grad;
  kava_device device;
  kava_dtype dtype = make_options(L, next, what, KAVA_F32, &requires_grad, &device);
  if (!kava_dtype_is_float(dtype))
    return luaL_error(L, "%s: dtype %s, a float type is expected", what, kava_dtype_name(dtype));
  uint64_t seed, stream = kava_rng_take(&seed);
  kava_tensor **drawn = kava_l_result(L), **y = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_tensor_new(KAVA_F32, dims, shape, drawn));
  draw(seed, stream, kava_f32(*drawn), kava_tensor_numel(*drawn));
  kava_l_check(L, kava_contiguous_as(*drawn, dtype, y));
  settle(L, y, device, requires_grad);
  return 1;
}
static int l_randn(lua_State *L) { return random_tensor(L, "randn", kava_rng_normal); } /* [-0, +1, e] N(0,1) */
static int l_rand(lua_State *L) { return random_tensor(L, "rand", kava_rng_uniform); }  /* [-0, +1, e] [0,1) */

static int
l_arange(lua_State *L) { /* [-0, +1, e] arange(stop) or arange(start, stop [, step] [, options]): stop is left out */
  int given = 0;
  bool whole = true;
  double at[3] = {0, 0, 1};
  while (given < 3 && lua_type(L, given + 1) == LUA_TNUMBER) {
    at[given] = lua_tonumber(L, given + 1);
    whole = whole && lua_isinteger(L, given + 1);
    given++;
  }
  if (given == 0) luaL_checknumber(L, 1);
  int64_t from = given > 1 ? (int64_t)lua_tointeger(L, 1) : 0, step = given > 2 ? (int64_t)lua_tointeger(L, 3) : 1;
  if (given == 1) at[1] = at[0], at[0] = 0;
  luaL_argcheck(L, at[2] != 0 && at[2] == at[2], 3, "a step other than 0 expected");
  double steps = ceil((at[1] - at[0]) / at[2]);
  if (whole) { /* counted exactly, beyond 2^53 too */
    int64_t stop = (int64_t)lua_tointeger(L, given > 1 ? 2 : 1);
    uint64_t span = step > 0 ? (uint64_t)stop - (uint64_t)from : (uint64_t)from - (uint64_t)stop;
    uint64_t stride = step > 0 ? (uint64_t)step : 0 - (uint64_t)step;
    steps = (step > 0 ? stop > from : stop < from) ? (double)(span / stride + (span % stride != 0)) : 0;
  }
  luaL_argcheck(L, steps < 0x1p48, 1, "a shorter range expected");
  int64_t count = steps > 0 ? (int64_t)steps : 0;
  bool requires_grad;
  kava_device device;
  kava_dtype dtype = make_options(L, given + 1, "arange", whole ? KAVA_I64 : KAVA_F32, &requires_grad, &device);
  kava_tensor **values = kava_l_result(L), **y = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_tensor_new(whole ? KAVA_I64 : KAVA_F64, 1, &count, values));
  if (whole)
    for (int64_t i = 0; i < count; i++) /* i * step alone may overflow, its sum with from does not */
      kava_i64(*values)[i] = (int64_t)((uint64_t)from + (uint64_t)i * (uint64_t)step);
  else
    for (int64_t i = 0; i < count; i++) kava_f64(*values)[i] = at[0] + (double)i * at[2];
  kava_l_check(L, kava_contiguous_as(*values, dtype, y));
  settle(L, y, device, requires_grad);
  return 1;
}

static int
l_allclose(lua_State *L) { /* [-0, +3, e] allclose(a, b [, {rtol=1e-5, atol=1e-8}]) -> ok, max |a-b|, {index…} */
  static const char *const known[] = {"rtol", "atol", NULL};
  kava_tensor *a = kava_l_check_tensor(L, 1), *b = kava_l_check_tensor(L, 2);
  double rtol = 1e-5, atol = 1e-8;
  if (!lua_isnoneornil(L, 3)) {
    kava_l_check_keys(L, 3, "allclose", known);
    rtol = kava_l_field_number(L, 3, "rtol", rtol);
    atol = kava_l_field_number(L, 3, "atol", atol);
  }
  kava_difference d;
  kava_l_check(L, kava_compare_close(a, b, rtol, atol, &d));
  lua_pushboolean(L, d.close);
  lua_pushnumber(L, d.most);
  lua_createtable(L, a->dims, 0);
  for (int i = a->dims - 1; i >= 0 && d.index >= 0; i--) {
    lua_pushinteger(L, (lua_Integer)(d.index % a->shape[i]) + 1);
    lua_seti(L, -2, i + 1);
    d.index /= a->shape[i];
  }
  return 3;
}

/* --- what a tensor tells --- */

static int t_numel(lua_State *L) { /* [-0, +1, e] */
  lua_pushinteger(L, (lua_Integer)kava_tensor_numel(kava_l_check_tensor(L, 1)));
  return 1;
}

static int t_is_contiguous(lua_State *L) { /* [-0, +1, e] */
  lua_pushboolean(L, kava_tensor_is_contiguous(kava_l_check_tensor(L, 1)));
  return 1;
}

static void check_plain(lua_State *L, const char *what, const kava_tensor *t) {
  if (kava_dtype_is_quantised(t->dtype))
    luaL_error(L, "%s: the tensor is %s; convert it first (to{dtype = \"f32\"})", what, kava_dtype_name(t->dtype));
}

static int t_item(lua_State *L) { /* [-0, +1, e] the one element as a number (a boolean for bool) */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  check_plain(L, "item", t);
  if (kava_tensor_numel(t) != 1) {
    char shape[96];
    kava_shape_format(t->dims, t->shape, shape, sizeof shape);
    return luaL_error(L, "item: a tensor of one element is expected, this one has shape %s", shape);
  }
  uint64_t element;
  kava_l_check(L, kava_device_copy(KAVA_CPU, &element, t->device, kava_tensor_data(t),
                                   (size_t)kava_dtype_block_bytes(t->dtype)));
  push_element(L, t->dtype, &element);
  return 1;
}

/* The tensor at the index `arg`, contiguous and on the host. [-0, +2, e] */
static kava_tensor *host_copy(lua_State *L, kava_tensor *t) {
  kava_tensor **whole = kava_l_result(L), **here = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_contiguous_as(t, t->dtype, whole));
  kava_l_check(L, kava_tensor_on(*whole, KAVA_CPU, here));
  return *here;
}

static void push_nested(lua_State *L, const kava_tensor *t, int dim, const char **at) { /* [-0, +1, m] */
  if (dim == t->dims) {
    push_element(L, t->dtype, *at);
    *at += kava_dtype_block_bytes(t->dtype);
    return;
  }
  luaL_checkstack(L, 4, "totable");
  lua_createtable(L, t->shape[dim] < 1 << 26 ? (int)t->shape[dim] : 0, 0);
  for (int64_t i = 1; i <= t->shape[dim]; i++) {
    push_nested(L, t, dim + 1, at);
    lua_seti(L, -2, (lua_Integer)i);
  }
}

static int
t_totable(lua_State *L) { /* [-0, +1, e] nested tables of numbers (booleans for bool); a number for 0 dimensions */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  check_plain(L, "totable", t);
  t = host_copy(L, t);
  const char *at = kava_tensor_data(t);
  push_nested(L, t, 0, &at);
  return 1;
}

static int t_tostring(lua_State *L) { /* [-0, +1, m] */
  kava_tensor **box = luaL_checkudata(L, 1, KAVA_TENSOR_TYPE), *t = *box;
  if (!t) {
    lua_pushliteral(L, "kava.Tensor (released)");
    return 1;
  }
  char shape[96];
  kava_shape_format(t->dims, t->shape, shape, sizeof shape);
  luaL_Buffer text;
  luaL_buffinit(L, &text);
  lua_pushfstring(L, "kava.Tensor %s %s %s", kava_dtype_name(t->dtype), shape, kava_device_name(t->device));
  luaL_addvalue(&text);
  int64_t count = kava_tensor_numel(t);
  if (!kava_dtype_is_quantised(t->dtype)) {
    luaL_addstring(&text, " {");
    for (int64_t i = 0; i < count; i++) {
      if (count > 8 && i == 4) { /* the first and the last four */
        luaL_addstring(&text, ", …");
        i = count - 4;
      }
      int64_t at = 0, left = i;
      for (int d = t->dims - 1; d >= 0; left /= t->shape[d--]) at += left % t->shape[d] * t->stride[d];
      if (i) luaL_addstring(&text, ", ");
      uint64_t element;
      size_t bytes = (size_t)kava_dtype_block_bytes(t->dtype);
      const char *from = (const char *)kava_tensor_data(t) + at * (int64_t)bytes;
      kava_l_check(L, kava_device_copy(KAVA_CPU, &element, t->device, from, bytes));
      push_element(L, t->dtype, &element);
      if (lua_type(L, -1) == LUA_TNUMBER && !lua_isinteger(L, -1)) {
        char number[32];
        snprintf(number, sizeof number, "%.5g", lua_tonumber(L, -1));
        lua_pop(L, 1);
        luaL_addstring(&text, number);
      } else {
        luaL_tolstring(L, -1, NULL);
        lua_remove(L, -2);
        luaL_addvalue(&text);
      }
    }
    luaL_addchar(&text, '}');
  }
  if (t->requires_grad)
    luaL_addstring(&text, " requires_grad");
  else if (t->node)
    luaL_addstring(&text, " recorded");
  luaL_pushresult(&text);
  return 1;
}

static int t_len(lua_State *L) { /* [-0, +1, e] the first dimension's size */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (t->dims == 0) return luaL_error(L, "#: a scalar tensor has no length");
  lua_pushinteger(L, (lua_Integer)t->shape[0]);
  return 1;
}

static int t_eq(lua_State *L) { /* [-0, +1, -] the same tensor, whatever handle names it */
  kava_tensor **a = luaL_testudata(L, 1, KAVA_TENSOR_TYPE), **b = luaL_testudata(L, 2, KAVA_TENSOR_TYPE);
  lua_pushboolean(L, a && b && *a == *b);
  return 1;
}

/* --- moving --- */

static int t_to(lua_State *L) { /* [-0, +1, e] to{device=, dtype=}: the tensor itself when it is that already */
  static const char *const known[] = {"device", "dtype", NULL};
  kava_tensor *t = kava_l_check_tensor(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  kava_l_check_keys(L, 2, "to", known);
  kava_device device = check_device(L, 2, t->device);
  kava_dtype dtype = kava_l_field_dtype(L, 2, "dtype", t->dtype);
  kava_tensor **first = kava_l_result(L), **y = kava_l_new_tensor_box(L);
  bool narrower = kava_dtype_block_bytes(dtype) < kava_dtype_block_bytes(t->dtype); /* fewer bytes move */
  if (narrower)
    kava_l_check(L, kava_op_cast(t, dtype, first));
  else
    kava_l_check(L, kava_op_move(t, device, first));
  kava_l_check(L, narrower ? kava_op_move(*first, device, y) : kava_op_cast(*first, dtype, y));
  return 1;
}

static int t_contiguous(lua_State *L) { /* [-0, +1, e] */
  kava_tensor *t = kava_l_check_tensor(L, 1), **y = kava_l_result(L);
  kava_l_check(L, kava_op_contiguous(t, y));
  return 1;
}

static int t_clone(lua_State *L) { /* [-0, +1, e] */
  kava_tensor *t = kava_l_check_tensor(L, 1), **y = kava_l_result(L);
  kava_l_check(L, kava_op_clone(t, y));
  return 1;
}

/* In-place writes are never recorded; what an op has produced may be needed by its backward pass. */
static kava_tensor *check_writable(lua_State *L, const char *what) {
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (t->node)
    luaL_error(L, "%s: the tensor is part of a recorded computation; write to a detached or cloned one", what);
  for (int d = 0; d < t->dims; d++)
    if (t->stride[d] == 0 && t->shape[d] > 1)
      luaL_error(L, "%s: the tensor is an expanded view, whose elements share their place; write to its clone()", what);
  check_plain(L, what, t);
  return t;
}

static int t_copy(lua_State *L) { /* [-1, +1, e] copy_(source): any type and strides, broadcast; returns the tensor */
  kava_tensor *t = check_writable(L, "copy_"), *source = kava_l_check_tensor(L, 2), **apart = kava_l_result(L);
  if (t->storage == source->storage) kava_l_check(L, kava_tensor_detach(source, apart)); /* they may overlap */
  if (*apart) {
    kava_tensor **copy = kava_l_new_tensor_box(L);
    kava_no_grad(+1);
    kava_status st = kava_op_clone(*apart, copy);
    kava_no_grad(-1);
    kava_l_check(L, st);
    source = *copy;
  }
  kava_l_check(L, kava_copy_into(t, source));
  lua_settop(L, 1);
  return 1;
}

static int t_fill(lua_State *L) { /* [-1, +1, e] fill_(value) */
  kava_tensor *t = check_writable(L, "fill_");
  fill(L, t, 2);
  lua_settop(L, 1);
  return 1;
}

static int t_zero(lua_State *L) { /* [-0, +1, e] */
  kava_tensor *t = check_writable(L, "zero_");
  lua_settop(L, 1);
  lua_pushinteger(L, 0);
  fill(L, t, 2);
  lua_settop(L, 1);
  return 1;
}

/* --- gradients --- */

static int
t_requires_grad(lua_State *L) { /* [-0, +1, e] requires_grad() -> boolean; requires_grad(flag) -> the tensor */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (lua_isnoneornil(L, 2)) {
    lua_pushboolean(L, kava_needs_grad(t));
    return 1;
  }
  luaL_checktype(L, 2, LUA_TBOOLEAN);
  bool wanted = lua_toboolean(L, 2);
  if (t->node)
    return luaL_error(
        L, "requires_grad: the tensor is the result of a recorded op; only leaves can be told (detach() it)");
  if (wanted && !kava_dtype_is_float(t->dtype))
    return luaL_error(L, "requires_grad: the tensor is %s, a float tensor is expected", kava_dtype_name(t->dtype));
  t->requires_grad = wanted;
  lua_settop(L, 1);
  return 1;
}

/* [-0, +0, e] backward([seed=1]): gradients are added to the leaves'. A step's memory is fullest when this begins: what
 * nobody can reach any more, such as keys that were aggregated, goes before. */
static int t_backward(lua_State *L) {
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (t->device != KAVA_CPU) lua_gc(L, LUA_GCCOLLECT);
  kava_l_check(L, kava_backward(t, luaL_optnumber(L, 2, 1.0)));
  return 0;
}

static int t_offload(lua_State *L) { /* [-0, +1, e] a copy in host memory that the GPU reads */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  kava_l_check(L, kava_device_open(KAVA_CUDA));
  if (!kava_tensor_is_contiguous(t)) return luaL_argerror(L, 1, "a contiguous tensor expected");
  kava_tensor **y = kava_l_result(L);
  kava_l_check(L, kava_tensor_offload(t, y));
  return 1;
}

static int t_offloaded(lua_State *L) { /* [-0, +1, e] whether it lies in host memory, for the GPU */
  lua_pushboolean(L, kava_tensor_offloaded(kava_l_check_tensor(L, 1)));
  return 1;
}

static int
t_forget(lua_State *L) { /* [-0, +0, e] a mapped tensor's pages go back to the system until they are touched */
  kava_tensor_forget(kava_l_check_tensor(L, 1));
  return 0;
}

static int t_detach(lua_State *L) { /* [-0, +1, e] the same values, no record */
  kava_tensor *t = kava_l_check_tensor(L, 1), **y = kava_l_result(L);
  kava_l_check(L, kava_tensor_detach(t, y));
  return 1;
}

static int t_index(lua_State *L) { /* [-0, +1, e] methods, and shape, dtype, device, grad */
  lua_settop(L, 2);
  lua_pushvalue(L, 2);
  if (lua_rawget(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (strcmp(key, "shape") == 0) {
    const kava_tensor *t = kava_l_check_tensor(L, 1);
    lua_createtable(L, t->dims, 0);
    for (int d = 0; d < t->dims; d++) {
      lua_pushinteger(L, (lua_Integer)t->shape[d]);
      lua_rawseti(L, -2, d + 1);
    }
  } else if (strcmp(key, "dtype") == 0)
    lua_pushstring(L, kava_dtype_name(kava_l_check_tensor(L, 1)->dtype));
  else if (strcmp(key, "device") == 0)
    lua_pushstring(L, kava_device_name(kava_l_check_tensor(L, 1)->device));
  else if (strcmp(key, "grad") == 0) {
    kava_tensor *t = kava_l_check_tensor(L, 1);
    if (t->grad_rows) kava_l_check(L, kava_rows_spread(t)); /* who looks at it sees all rows */
    if (t->grad)
      kava_l_push_tensor(L, t->grad);
    else
      lua_pushnil(L);
  } else
    return luaL_error(L, "a tensor has no field or method '%s'", luaL_tolstring(L, 2, NULL));
  return 1;
}

static int t_newindex(lua_State *L) { /* [-0, +0, e] only grad can be set: to nil, or to a tensor of the same shape */
  kava_tensor *t = kava_l_check_tensor(L, 1);
  if (lua_type(L, 2) != LUA_TSTRING || strcmp(lua_tostring(L, 2), "grad") != 0)
    return luaL_error(L, "a tensor's field '%s' cannot be set", luaL_tolstring(L, 2, NULL));
  if (lua_isnil(L, 3)) {
    kava_tensor_release(&t->grad);
    kava_rows_release(&t->grad_rows);
    return 0;
  }
  kava_tensor *grad = kava_l_check_tensor(L, 3), **own = kava_l_result(L);
  if (!kava_same_shape(t, grad)) return luaL_error(L, "grad: the gradient's shape must be the tensor's");
  check_plain(L, "grad", grad);
  kava_l_check(L, kava_tensor_new_on(t->device, kava_grad_dtype(t), grad->dims, grad->shape, own));
  kava_l_check(L, kava_copy_into(*own, grad));
  kava_tensor_release(&t->grad);
  kava_rows_release(&t->grad_rows);
  t->grad = kava_tensor_retain(*own);
  return 0;
}

static int t_gc(lua_State *L) { /* [-0, +0, e] __gc, __close and release: idempotent */
  kava_tensor_release(luaL_checkudata(L, 1, KAVA_TENSOR_TYPE));
  return 0;
}

void kava_l_open_tensor(lua_State *L) {
  static const luaL_Reg functions[] = {{"tensor", l_tensor}, {"zeros", l_zeros},       {"ones", l_ones},
                                       {"full", l_full},     {"randn", l_randn},       {"rand", l_rand},
                                       {"arange", l_arange}, {"allclose", l_allclose}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"numel", t_numel},
                                     {"is_contiguous", t_is_contiguous},
                                     {"item", t_item},
                                     {"totable", t_totable},
                                     {"to", t_to},
                                     {"contiguous", t_contiguous},
                                     {"clone", t_clone},
                                     {"copy_", t_copy},
                                     {"fill_", t_fill},
                                     {"zero_", t_zero},
                                     {"requires_grad", t_requires_grad},
                                     {"backward", t_backward},
                                     {"detach", t_detach},
                                     {"forget", t_forget},
                                     {"offload", t_offload},
                                     {"offloaded", t_offloaded},
                                     {NULL, NULL}};
  static const luaL_Reg meta[] = {
      {"__tostring", t_tostring}, {"__len", t_len}, {"__eq", t_eq}, {"__newindex", t_newindex}, {NULL, NULL}};
  kava_l_class(L, KAVA_TENSOR_TYPE, methods, t_gc);
  luaL_getmetatable(L, KAVA_TENSOR_TYPE);
  luaL_setfuncs(L, meta, 0);
  lua_getfield(L, -1, "__index");
  lua_pushvalue(L, -1);
  lua_setfield(L, -3, "methods"); /* where l_tensor_ops.c adds its own */
  lua_pushcclosure(L, t_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  luaL_setfuncs(L, functions, 0);
}

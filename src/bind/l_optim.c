/* bind/l_optim.c: kava.optim: AdamW and gradient clipping. Annotated in lua/kava/meta/optim.lua. */
#include "bind/bind.h"
#include "optim/adamw.h"
#include "optim/clip.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ADAMW_TYPE "kava.AdamW"

static kava_adamw *check_adamw(lua_State *L, int arg) {
  kava_adamw **box = luaL_checkudata(L, arg, ADAMW_TYPE);
  if (!*box) luaL_argerror(L, arg, "the optimizer was released");
  return *box;
}

static int adamw_gc(lua_State *L) {
  kava_adamw_release(luaL_checkudata(L, 1, ADAMW_TYPE));
  return 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* The names in the table at `arg` in an order that does not depend on how Lua walks tables: 1..n of a list, else the
 * sorted keys of a map. Pushes an array of borrowed strings (userdata; the strings of a list are kept alive by its user
 * value).
 * [-0, +1, e] */
static const char **push_names(lua_State *L, int arg, const char *what, lua_Integer *count) {
  lua_Integer length = (lua_Integer)lua_rawlen(L, arg), n = 0;
  for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) {
    if (length == 0 && lua_type(L, -2) != LUA_TSTRING)
      luaL_error(L, "%s: a list or a map by name expected, got a key that is a %s", what, luaL_typename(L, -2));
    n++;
  }
  if (length > 0 && n != length) luaL_error(L, "%s: a list or a map expected, got a mixture", what);
  const char **names = lua_newuserdatauv(L, (size_t)(n ? n : 1) * sizeof *names, 1);
  if (length > 0) {
    lua_createtable(L, (int)n, 0);
    for (lua_Integer i = 0; i < n; i++) {
      names[i] = lua_pushfstring(L, "%I", (LUAI_UACINT)(i + 1));
      lua_rawseti(L, -2, i + 1);
    }
    lua_setiuservalue(L, -2, 1);
  } else {
    lua_Integer next = 0;
    for (lua_pushnil(L); lua_next(L, arg); lua_pop(L, 1)) names[next++] = lua_tostring(L, -2);
    qsort(names, (size_t)n, sizeof *names, by_name);
  }
  *count = n;
  return names;
}

/* Pushes the value of the i-th name; raw, as the names were found. [-0, +1, m] */
static int push_named(lua_State *L, int arg, const char *const *names, lua_Integer i) {
  if (lua_rawlen(L, arg) > 0) return lua_rawgeti(L, arg, i + 1);
  lua_pushstring(L, names[i]);
  return lua_rawget(L, arg);
}

/* Adds the tensors of the list or map at `arg` to a group. [-0, +0, e] */
static void add_params(lua_State *L, kava_adamw *opt, int group, int arg) {
  lua_Integer count;
  const char **names = push_names(L, arg, "adamw: params", &count);
  for (lua_Integer i = 0; i < count; i++) {
    push_named(L, arg, names, i);
    if (!luaL_testudata(L, -1, KAVA_TENSOR_TYPE))
      luaL_error(L, "adamw: parameter '%s' of group %d is a %s; a tensor expected", names[i], group + 1,
                 luaL_typename(L, -1));
    kava_l_check(L, kava_adamw_add(opt, group, names[i], kava_l_check_tensor(L, -1)));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
}

static int l_adamw(lua_State *L) { /* [-0, +1, e] adamw({{params, lr, weight_decay}, …}, {lr, betas, eps, weight_decay,
                                      state_dtype}) */
  static const char *const known[] = {"lr", "betas", "eps", "weight_decay", "state_dtype", NULL};
  static const char *const group_keys[] = {"params", "lr", "weight_decay", NULL};
  kava_adamw_options options = {.beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .state_dtype = KAVA_F32};
  double lr = NAN, decay = 0.01; /* NAN: none given */
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_settop(L, 2);
  if (!lua_isnil(L, 2)) {
    kava_l_check_keys(L, 2, "kava.optim.adamw", known);
    lr = kava_l_field_number(L, 2, "lr", lr);
    decay = kava_l_field_number(L, 2, "weight_decay", decay);
    options.eps = kava_l_field_number(L, 2, "eps", options.eps);
    bool coded = lua_getfield(L, 2, "state_dtype") == LUA_TSTRING && strcmp(lua_tostring(L, -1), "8bit") == 0;
    lua_pop(L, 1);
    options.state_dtype = coded ? KAVA_U8 : kava_l_field_dtype(L, 2, "state_dtype", options.state_dtype);
    if (lua_getfield(L, 2, "betas") != LUA_TNIL) {
      luaL_argcheck(L, lua_istable(L, -1) && luaL_len(L, -1) == 2, 2, "betas: two numbers expected");
      double *into[2] = {&options.beta1, &options.beta2};
      for (int i = 0; i < 2; i++) {
        lua_geti(L, -1, i + 1);
        luaL_argcheck(L, lua_type(L, -1) == LUA_TNUMBER, 2, "betas: two numbers expected");
        *into[i] = lua_tonumber(L, -1);
        lua_pop(L, 1);
      }
    }
    lua_pop(L, 1);
  }
  kava_adamw **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, ADAMW_TYPE);
  kava_l_check(L, kava_adamw_new(&options, box));
  lua_Integer groups = luaL_len(L, 1);
  if (groups == 0) luaL_argerror(L, 1, "a list of groups {params =, lr =} expected, and it is empty");
  for (lua_Integer i = 1; i <= groups; i++) {
    lua_geti(L, 1, i);
    int at = lua_gettop(L), index;
    if (!lua_istable(L, at))
      luaL_error(L, "adamw: group %I is a %s; a table {params =, lr =} expected", i, luaL_typename(L, at));
    kava_l_check_keys(L, at, "adamw: a group", group_keys);
    double group_lr = kava_l_field_number(L, at, "lr", lr);
    if (isnan(group_lr)) luaL_error(L, "adamw: group %I has no lr, and the options give none", i);
    kava_l_check(L, kava_adamw_add_group(*box, group_lr, kava_l_field_number(L, at, "weight_decay", decay), &index));
    if (lua_getfield(L, at, "params") != LUA_TTABLE)
      luaL_error(L, "adamw: params of group %I is a %s; a list or map of tensors expected", i, luaL_typename(L, -1));
    add_params(L, *box, index, lua_gettop(L));
    lua_pop(L, 2);
  }
  return 1;
}

static int
l_step(lua_State *L) { /* [-0, +1 or 3, e] step(gate): nil, message, code when memory runs out, nothing changed then */
  kava_adamw *opt = check_adamw(L, 1);
  const kava_tensor *gate = kava_l_opt_tensor(L, 2);
  if (gate && (gate->dtype != KAVA_F64 || kava_tensor_numel(gate) < 1))
    luaL_argerror(L, 2, "the gate: an f64 tensor expected");
  kava_status st = kava_adamw_step(opt, gate);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_reserve(lua_State *L) { /* [-0, +1 or 3, e] reserve(): the state that step() would make now */
  kava_status st = kava_adamw_reserve(check_adamw(L, 1));
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

static int l_zero_grad(lua_State *L) { /* [-0, +0, e] */
  kava_adamw_zero_grad(check_adamw(L, 1));
  return 0;
}

static int check_group(lua_State *L, const kava_adamw *opt, int arg) {
  lua_Integer group = luaL_checkinteger(L, arg);
  if (group < 1 || group > kava_adamw_groups(opt))
    luaL_argerror(L, arg, lua_pushfstring(L, "group %I of %d", group, kava_adamw_groups(opt)));
  return (int)group - 1;
}

static int l_lr(lua_State *L) { /* [-0, +1, e] lr(group) */
  kava_adamw *opt = check_adamw(L, 1);
  lua_pushnumber(L, kava_adamw_lr(opt, check_group(L, opt, 2)));
  return 1;
}

static int l_set_lr(lua_State *L) { /* [-0, +0, e] set_lr(group, lr) */
  kava_adamw *opt = check_adamw(L, 1);
  int group = check_group(L, opt, 2);
  lua_Number lr = luaL_checknumber(L, 3);
  luaL_argcheck(L, lr >= 0, 3, "0 or more expected");
  kava_adamw_set_lr(opt, group, lr);
  kava_l_check(L, kava_adamw_refresh(opt));
  return 0;
}

static int l_state(lua_State *L) { /* [-0, +1, e] state() -> {name = tensor}, the live state */
  kava_adamw *opt = check_adamw(L, 1);
  lua_newtable(L);
  for (int64_t i = 0; i < kava_adamw_entries(opt); i++) {
    kava_adamw_entry entry = kava_adamw_entry_at(opt, i);
    if (!entry.tensor) continue;
    lua_pushfstring(L, "%d.%s.%s", entry.group + 1, entry.name, entry.part);
    kava_l_push_tensor(L, entry.tensor);
    lua_rawset(L, -3);
  }
  return 1;
}

static int l_load_state(lua_State *L) { /* [-0, +1 or 3, e] load_state(map) -> true; on failure nothing has changed */
  kava_adamw *opt = check_adamw(L, 1);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_Integer count;
  const char **names = push_names(L, 2, "load_state", &count);
  kava_tensor **values = lua_newuserdatauv(L, (size_t)(count ? count : 1) * sizeof *values, 0);
  for (lua_Integer i = 0; i < count; i++) {
    push_named(L, 2, names, i);
    kava_tensor **value = luaL_testudata(L, -1, KAVA_TENSOR_TYPE);
    if (!value || !*value) luaL_error(L, "load_state: '%s' is a %s; a tensor expected", names[i], luaL_typename(L, -1));
    values[i] = *value; /* the table keeps it */
    lua_pop(L, 1);
  }
  kava_status st = kava_adamw_load(opt, count, names, values);
  if (st != KAVA_OK) return kava_l_fail(L, st);
  lua_pushboolean(L, 1);
  return 1;
}

/* Counts (into NULL) or collects the tensors of the list or map at `arg`, or of a list of such. [-0, +0, e] */
static int64_t collect(lua_State *L, int arg, kava_tensor **into, int depth) {
  lua_Integer names_count;
  int64_t found = 0;
  const char **names = push_names(L, arg, "clip_grad_norm", &names_count);
  for (lua_Integer i = 0; i < names_count; i++) {
    push_named(L, arg, names, i);
    kava_tensor **t = luaL_testudata(L, -1, KAVA_TENSOR_TYPE);
    if (t && *t) {
      if (into) into[found] = *t;
      found++;
    } else if (lua_istable(L, -1) && depth == 0)
      found += collect(L, lua_gettop(L), into ? into + found : NULL, 1);
    else
      luaL_error(L, "clip_grad_norm: '%s' is a %s; a tensor, or a list or map of tensors expected", names[i],
                 luaL_typename(L, -1));
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return found;
}

/* [-0, +1, e] clip_gradients(params, max_norm, scale|nil) -> f64 [2]: the norm, what they were multiplied by */
static int l_clip_gradients(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  lua_Number most = luaL_checknumber(L, 2);
  const kava_tensor *scale = kava_l_opt_tensor(L, 3);
  int64_t count = collect(L, 1, NULL, 0);
  kava_tensor **params = lua_newuserdatauv(L, (size_t)(count ? count : 1) * sizeof *params, 0);
  collect(L, 1, params, 0);
  kava_tensor **norm = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_clip_grad_norm(params, count, most, scale, norm));
  return 1;
}

static int l_clip_grad_norm(lua_State *L) { /* [-0, +1, e] clip_grad_norm(params, max_norm) -> norm before clipping */
  double figures[2];
  lua_settop(L, 2);
  l_clip_gradients(L);
  kava_l_check(L, kava_tensor_read(kava_l_check_tensor(L, -1), figures));
  lua_pushnumber(L, figures[0]);
  return 1;
}

void kava_l_open_optim(lua_State *L) {
  static const luaL_Reg methods[] = {
      {"step", l_step},   {"zero_grad", l_zero_grad},   {"lr", l_lr},           {"set_lr", l_set_lr},
      {"state", l_state}, {"load_state", l_load_state}, {"reserve", l_reserve}, {NULL, NULL}};
  static const luaL_Reg functions[] = {
      {"adamw", l_adamw}, {"clip_grad_norm", l_clip_grad_norm}, {"clip_gradients", l_clip_gradients}, {NULL, NULL}};
  kava_l_class(L, ADAMW_TYPE, methods, adamw_gc);
  kava_l_subtable(L, "optim");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

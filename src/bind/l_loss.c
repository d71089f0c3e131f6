/* bind/l_loss.c: kava.loss, the losses computed in C. Annotated in lua/kava/meta/loss.lua. */
#include "bind/l_tensor.h"
#include "ops/each.h"
#include "ops/head.h"
#include "ops/loss.h"

/* The optional table of settings at `arg`; its keys are checked. False when there is none. */
static bool settings(lua_State *L, int arg, const char *what, const char *const *known) {
  if (lua_isnoneornil(L, arg)) return false;
  kava_l_check_keys(L, arg, what, known);
  return true;
}

/* Element `index` of the vector in `box` as the field `name` of the table at the top: a number; on a GPU a tensor of no
 * dimensions, so that nobody waits for it who does not read it. [-0, +0, e] */
static void set_metric(lua_State *L, kava_tensor *const *box, int index, const char *name) {
  const kava_tensor *t = *box;
  if (t->device == KAVA_CPU)
    lua_pushnumber(L, kava_f64(t)[index]);
  else
    kava_l_check(L, kava_tensor_view(t, 0, NULL, NULL, t->offset + index, kava_l_new_tensor_box(L)));
  lua_setfield(L, -2, name);
}

static int
l_mercator(lua_State *L) { /* [-0, +2, e] mercator(student, teacher, {mask, alpha, beta, eps}) -> loss, metrics */
  static const char *const known[] = {"mask", "alpha", "beta", "eps", NULL};
  kava_tensor *student = kava_l_check_tensor(L, 1), *teacher = kava_l_check_tensor(L, 2), *mask = NULL;
  double alpha = 1, beta = 0.01, eps = 1e-8;
  if (settings(L, 3, "kava.loss.mercator", known)) {
    mask = kava_l_field_tensor(L, 3, "mask", false);
    alpha = kava_l_field_number(L, 3, "alpha", alpha);
    beta = kava_l_field_number(L, 3, "beta", beta);
    eps = kava_l_field_number(L, 3, "eps", eps);
  }
  kava_tensor **loss = kava_l_result(L), **metrics = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_mercator(student, teacher, mask, alpha, beta, eps, loss, metrics));
  lua_createtable(L, 0, 2);
  set_metric(L, metrics, 0, "cos_sim");
  set_metric(L, metrics, 1, "mag_loss");
  lua_remove(L, -2);
  return 2;
}

/* cosine of two lists, by a mask or NULL. [-0, +1, e] */
static int cosine_each(lua_State *L, kava_tensor *mask) {
  int students, teachers;
  kava_tensor **s = kava_l_check_tensors(L, 1, &students), **t = kava_l_check_tensors(L, 2, &teachers);
  if (students != teachers)
    return luaL_argerror(L, 2, lua_pushfstring(L, "%d tensors expected, got %d", students, teachers));
  kava_l_check(L, kava_op_cosine_each(students, s, t, mask, kava_l_result(L)));
  return 1;
}

static int l_cosine(lua_State *L) { /* [-0, +1, e] cosine(student, teacher, {mask}), both may be lists */
  static const char *const known[] = {"mask", NULL};
  if (lua_istable(L, 1)) {
    kava_tensor *by = settings(L, 3, "kava.loss.cosine", known) ? kava_l_field_tensor(L, 3, "mask", false) : NULL;
    return cosine_each(L, by);
  }
  kava_tensor *student = kava_l_check_tensor(L, 1), *teacher = kava_l_check_tensor(L, 2), *mask = NULL;
  if (settings(L, 3, "kava.loss.cosine", known)) mask = kava_l_field_tensor(L, 3, "mask", false);
  kava_l_check(L, kava_op_cosine_loss(student, teacher, mask, kava_l_result(L)));
  return 1;
}

static int l_mse(lua_State *L) { /* [-0, +1, e] mse(student, teacher, {mask, relative}) */
  static const char *const known[] = {"mask", "relative", NULL};
  kava_tensor *student = kava_l_check_tensor(L, 1), *teacher = kava_l_check_tensor(L, 2), *mask = NULL;
  bool relative = false;
  if (settings(L, 3, "kava.loss.mse", known)) {
    mask = kava_l_field_tensor(L, 3, "mask", false);
    relative = kava_l_field_boolean(L, 3, "relative", relative);
  }
  kava_l_check(L, kava_op_mse_loss(student, teacher, mask, relative, kava_l_result(L)));
  return 1;
}

static int l_smooth_l1(lua_State *L) { /* [-0, +1, e] smooth_l1(student, teacher, {mask, beta}) */
  static const char *const known[] = {"mask", "beta", NULL};
  kava_tensor *student = kava_l_check_tensor(L, 1), *teacher = kava_l_check_tensor(L, 2), *mask = NULL;
  double beta = 1;
  if (settings(L, 3, "kava.loss.smooth_l1", known)) {
    mask = kava_l_field_tensor(L, 3, "mask", false);
    beta = kava_l_field_number(L, 3, "beta", beta);
  }
  kava_l_check(L, kava_op_smooth_l1_loss(student, teacher, mask, beta, kava_l_result(L)));
  return 1;
}

static int l_targets(lua_State *L) { /* [-0, +1, e] targets(ids, mask|nil) -> i64 [B,T] */
  kava_tensor *ids = kava_l_check_tensor(L, 1), *mask = kava_l_opt_tensor(L, 2);
  kava_l_check(L, kava_next_token_targets(ids, mask, kava_l_result(L)));
  return 1;
}

static int l_cross_entropy(lua_State *L) { /* [-0, +1, e] cross_entropy(logits [B,T,V], ids [B,T], mask|nil): shifts */
  kava_tensor *logits = kava_l_check_tensor(L, 1), *ids = kava_l_check_tensor(L, 2), *mask = kava_l_opt_tensor(L, 3);
  kava_tensor **targets = kava_l_result(L);
  kava_l_check(L, kava_next_token_targets(ids, mask, targets));
  kava_l_check(L, kava_op_cross_entropy(logits, *targets, kava_l_result(L)));
  return 1;
}

static int l_kl(lua_State *L) { /* [-0, +1, e] kl(student_logits, teacher_logits, {mask, temperature}) */
  static const char *const known[] = {"mask", "temperature", NULL};
  kava_tensor *student = kava_l_check_tensor(L, 1), *teacher = kava_l_check_tensor(L, 2), *mask = NULL;
  double temperature = 1;
  if (settings(L, 3, "kava.loss.kl", known)) {
    mask = kava_l_field_tensor(L, 3, "mask", false);
    temperature = kava_l_field_number(L, 3, "temperature", temperature);
  }
  kava_l_check(L, kava_op_kl_divergence(student, teacher, mask, temperature, kava_l_result(L)));
  return 1;
}

/* The field `key` of the table at 1: a number, or a tensor that multiplies 1. -> the tensor, borrowed. [-0, +0, e] */
static kava_tensor *weight_of(lua_State *L, const char *key, double fallback, double *number) {
  bool tensor = lua_getfield(L, 1, key) == LUA_TUSERDATA;
  lua_pop(L, 1);
  *number = tensor ? 1 : kava_l_field_number(L, 1, key, fallback);
  return tensor ? kava_l_field_tensor(L, 1, key, true) : NULL;
}

static int l_head(
    lua_State *L) { /* [-0, +2, e] head{hidden, weight, teacher_hidden, teacher_weight, targets, …} -> loss, metrics */
  static const char *const known[] = {"hidden",    "weight",    "teacher_hidden", "teacher_weight", "targets",
                                      "ce_weight", "kl_weight", "temperature",    "softcap",        "teacher_softcap",
                                      NULL};
  kava_l_check_keys(L, 1, "kava.loss.head", known);
  kava_tensor *hs = kava_l_field_tensor(L, 1, "hidden", true), *ws = kava_l_field_tensor(L, 1, "weight", true);
  kava_tensor *ht = kava_l_field_tensor(L, 1, "teacher_hidden", false),
              *wt = kava_l_field_tensor(L, 1, "teacher_weight", false);
  kava_tensor *targets = kava_l_field_tensor(L, 1, "targets", true);
  kava_head_options o = {.temperature = kava_l_field_number(L, 1, "temperature", 1),
                         .softcap = kava_l_field_number(L, 1, "softcap", 0),
                         .teacher_softcap = kava_l_field_number(L, 1, "teacher_softcap", 0)};
  o.ce_by = weight_of(L, "ce_weight", 1, &o.ce_weight);
  o.kl_by = weight_of(L, "kl_weight", ht ? 1 : 0, &o.kl_weight);
  if (!ht && o.kl_by) return luaL_error(L, "kava.loss.head: kl_weight is a tensor, but there is no teacher_hidden");
  if (!ht && o.kl_weight != 0)
    return luaL_error(L, "kava.loss.head: kl_weight is %f, but there is no teacher_hidden", o.kl_weight);
  kava_tensor **loss = kava_l_result(L), **metrics = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_head_loss(hs, ws, ht, wt, targets, &o, loss, metrics));
  static const char *const names[] = {"ce", "kl", "agreement", "count"};
  lua_createtable(L, 0, 4);
  for (int i = 0; i < 4; i++) {
    if (!ht && (i == 1 || i == 2)) continue;
    if (i == 3 && (*metrics)->device == KAVA_CPU) {
      lua_pushinteger(L, (lua_Integer)kava_f64(*metrics)[i]);
      lua_setfield(L, -2, names[i]);
    } else
      set_metric(L, metrics, i, names[i]);
  }
  lua_remove(L, -2);
  return 2;
}

void kava_l_open_loss(lua_State *L) {
  static const luaL_Reg functions[] = {{"mercator", l_mercator},
                                       {"cosine", l_cosine},
                                       {"mse", l_mse},
                                       {"smooth_l1", l_smooth_l1},
                                       {"targets", l_targets},
                                       {"cross_entropy", l_cross_entropy},
                                       {"kl", l_kl},
                                       {"head", l_head},
                                       {NULL, NULL}};
  kava_l_subtable(L, "loss");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

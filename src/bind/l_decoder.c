/* bind/l_decoder.c: the decoder as Lua sees it: built from a family's spec and a table of weights; lua/kava/model.lua
 * wraps it. */
#include "bind/bind.h"
#include "nn/decoder.h"
#include "nn/layout.h"
#include "tape/tape.h"
#include "ops/norm_linear.h"
#include <limits.h>
#include <string.h>

#define DECODER_TYPE "kava.Decoder"
#define FORWARD_TYPE "kava.Forward"

static kava_decoder *check_decoder(lua_State *L, int arg) {
  kava_decoder **box = luaL_checkudata(L, arg, DECODER_TYPE);
  if (!*box) luaL_argerror(L, arg, "the decoder was released");
  return *box;
}

static int decoder_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  kava_decoder_release(luaL_checkudata(L, 1, DECODER_TYPE));
  return 0;
}

static kava_tensor *weight(lua_State *L, int table, const char *name) {
  return kava_tensor_retain(kava_l_field_tensor(L, table, name, false));
}

/* table[name]: a tensor, or {tensor, first =, rows =, transposed =}: rows of it, counted from 1, stored as columns. */
static kava_weight part(lua_State *L, int table, const char *name) {
  kava_weight w = {0};
  if (lua_getfield(L, table, name) == LUA_TTABLE) {
    int at = lua_gettop(L);
    lua_rawgeti(L, at, 1);
    kava_tensor **box = luaL_testudata(L, -1, KAVA_TENSOR_TYPE);
    if (!box || !*box) luaL_error(L, "decoder: %s: {tensor, first =, rows =, transposed =} expected", name);
    w.first = kava_l_field_integer(L, at, "first", 1) - 1;
    w.rows = kava_l_field_integer(L, at, "rows", 0);
    w.transposed = kava_l_field_boolean(L, at, "transposed", false);
    w.tensor = kava_tensor_retain(*box);
    lua_settop(L, at - 1);
    return w;
  }
  lua_pop(L, 1);
  w.tensor = weight(L, table, name);
  return w;
}

/* The list of {inv_freq =, scale =} in table.rope -> count; retains nothing, and checks every entry. */
static int read_ropes(lua_State *L, int table, kava_rope *rope) {
  if (lua_getfield(L, table, "rope") == LUA_TNIL) {
    lua_pop(L, 1);
    return 0;
  }
  luaL_checktype(L, -1, LUA_TTABLE);
  int list = lua_gettop(L), count = (int)lua_rawlen(L, list);
  if (count > KAVA_ROPES) luaL_error(L, "rope: at most %d expected, got %d", KAVA_ROPES, count);
  for (int i = 0; i < count; i++) {
    if (lua_rawgeti(L, list, i + 1) != LUA_TTABLE) luaL_error(L, "rope[%d]: a table expected", i + 1);
    rope[i].inv_freq = kava_l_field_tensor(L, list + 1, "inv_freq", true);
    rope[i].scale = kava_l_field_number(L, list + 1, "scale", 1);
    if (rope[i].inv_freq->dims != 1) luaL_error(L, "rope[%d].inv_freq: a vector expected", i + 1);
    lua_pop(L, 1);
  }
  lua_pop(L, 1);
  return count;
}

static kava_activation check_activation(lua_State *L, const char *name) {
  static const char *const names[] = {"silu", "gelu", "gelu_tanh", "relu", NULL};
  for (int i = 0; names[i]; i++)
    if (strcmp(name, names[i]) == 0) return (kava_activation)i;
  return (kava_activation)luaL_error(L, "spec.activation: silu, gelu, gelu_tanh or relu expected, got '%s'", name);
}

static void read_layer(lua_State *L, kava_layer *layer, int number, int specs, int weights) {
  if (lua_rawgeti(L, specs, number) != LUA_TTABLE || lua_rawgeti(L, weights, number) != LUA_TTABLE)
    luaL_error(L, "decoder: spec.layer[%d] and weights.layer[%d] must be tables", number, number);
  int spec = lua_gettop(L) - 1, own = spec + 1;
  layer->heads = kava_l_field_int(L, spec, "heads", 0);
  layer->kv_heads = kava_l_field_int(L, spec, "kv_heads", 0);
  layer->head_dim = kava_l_field_int(L, spec, "head_dim", 0);
  layer->window = kava_l_field_int(L, spec, "window", 0);
  layer->rope = kava_l_field_int(L, spec, "rope", 0);
  layer->attention_scale = kava_l_field_number(L, spec, "attention_scale", 0);
  layer->softcap = kava_l_field_number(L, spec, "softcap", 0);
#define X(name) layer->name = part(L, own, #name);
  KAVA_LAYER_WEIGHTS(X)
#undef X
  lua_pop(L, 2);
}

/* [-0, +1, e] decoder(spec, weights): spec = {hidden, vocab, pad_id, norm = "rms"|"layer", norm_eps, norm_shift,
 * activation, embed_scale, residual_scale, head_scale, logit_softcap, rope = {{inv_freq, scale}, …}, layer = {{heads,
 * kv_heads, head_dim, window, rope = index, attention_scale, softcap}, …}}; weights = {embed, …, layer = {{q, …}, …}}
 */
static int l_decoder(lua_State *L) {
  luaL_checktype(L, 1, LUA_TTABLE);
  luaL_checktype(L, 2, LUA_TTABLE);
  lua_settop(L, 2);
  if (lua_getfield(L, 1, "layer") != LUA_TTABLE || lua_getfield(L, 2, "layer") != LUA_TTABLE)
    return luaL_error(L, "decoder: spec.layer and weights.layer must be lists");
  kava_decoder **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, DECODER_TYPE);
  kava_l_check(L, kava_decoder_new((int)lua_rawlen(L, 3), box));
  kava_decoder *d = *box;
  d->hidden = kava_l_field_int(L, 1, "hidden", 0);
  d->vocab = kava_l_field_int(L, 1, "vocab", 0);
  d->pad_id = kava_l_field_integer(L, 1, "pad_id", -1);
  d->layer_norm = strcmp(kava_l_field_string(L, 1, "norm", "rms"), "layer") == 0;
  d->norm_eps = kava_l_field_number(L, 1, "norm_eps", 1e-6);
  d->activation = check_activation(L, kava_l_field_string(L, 1, "activation", "silu"));
  d->embed_scale = kava_l_field_number(L, 1, "embed_scale", 1);
  d->norm_shift = kava_l_field_number(L, 1, "norm_shift", 0);
  d->residual_scale = kava_l_field_number(L, 1, "residual_scale", 1);
  d->head_scale = kava_l_field_number(L, 1, "head_scale", 1);
  d->logit_softcap = kava_l_field_number(L, 1, "logit_softcap", 0);
  kava_rope rope[KAVA_ROPES];
  d->ropes = read_ropes(L, 1, rope);
  for (int i = 0; i < d->ropes; i++) d->rope[i] = (kava_rope){kava_tensor_retain(rope[i].inv_freq), rope[i].scale};
#define X(name) d->name = weight(L, 2, #name);
  KAVA_MODEL_WEIGHTS(X)
#undef X
  for (int i = 0; i < d->layers; i++) read_layer(L, &d->layer[i], i + 1, 3, 4);
  kava_l_check(L, kava_decoder_check(d));
  return 1;
}

static int forward_gc(lua_State *L) {
  kava_forward_release(luaL_checkudata(L, 1, FORWARD_TYPE));
  return 0;
}

static void push_list(lua_State *L, kava_tensor **list, int count, const char *name) {
  lua_createtable(L, count, 0);
  for (int i = 0; i < count; i++) {
    if (!list[i]) continue;
    kava_l_push_tensor(L, list[i]);
    lua_rawseti(L, -2, i + 1);
  }
  lua_setfield(L, -2, name);
}

/* [-0, +1, e] decoder:forward{input_ids=, attention_mask=|start=, positions=, rope=, up_to=, logits=, hidden=, values=,
 * queries=}
 * -> {layers, logits, hidden, keys = {[B,T,Hkv,D], …}, keys_before, values, queries} */
static int decoder_forward(lua_State *L) {
  static const char *const known[] = {"input_ids", "attention_mask", "start",  "positions", "rope", "up_to",
                                      "logits",    "hidden",         "values", "queries",   NULL};
  kava_decoder *d = check_decoder(L, 1);
  kava_l_check_keys(L, 2, "forward", known);
  lua_settop(L, 2);
  kava_forward *f = lua_newuserdatauv(L, sizeof *f, 0);
  memset(f, 0, sizeof *f);
  luaL_setmetatable(L, FORWARD_TYPE);
  f->input_ids = kava_l_field_tensor(L, 2, "input_ids", true);
  f->positions = kava_l_field_tensor(L, 2, "positions", false);
  f->start = kava_l_field_tensor(L, 2, "start", false);
  kava_rope rope[KAVA_ROPES];
  int ropes = read_ropes(L, 2, rope);
  if (ropes && ropes != d->ropes) return luaL_error(L, "forward: rope: %d expected, got %d", d->ropes, ropes);
  for (int i = 0; i < ropes; i++)
    if (rope[i].inv_freq->shape[0] != d->rope[i].inv_freq->shape[0])
      return luaL_error(L, "forward: rope[%d].inv_freq: %d elements expected", i + 1,
                        (int)d->rope[i].inv_freq->shape[0]);
  if (ropes) f->rope = rope;
  kava_tensor *mask = kava_l_field_tensor(L, 2, "attention_mask", false);
  if (mask && f->start) return luaL_error(L, "forward: give attention_mask or start, not both");
  if (mask) {
    if (!kava_same_shape(mask, f->input_ids))
      return luaL_error(L, "forward: attention_mask and input_ids differ in shape");
    kava_tensor **start = kava_l_new_tensor_box(L);
    kava_l_check(L, kava_mask_to_start(mask, start));
    f->start = *start;
  }
  f->up_to = kava_l_field_int(L, 2, "up_to", 0);
  f->logits = kava_l_field_boolean(L, 2, "logits", false);
  f->hidden = kava_l_field_boolean(L, 2, "hidden", false);
  f->values = kava_l_field_boolean(L, 2, "values", true);
  f->queries = kava_l_field_boolean(L, 2, "queries", false);
  /* A pass that is recorded fills a GPU: what the teacher's left to be collected goes before. */
  if (d->embed->device != KAVA_CPU && kava_recording()) lua_gc(L, LUA_GCCOLLECT);
  kava_l_check(L, kava_decoder_forward(d, f));
  lua_createtable(L, 0, 7);
  lua_pushinteger(L, f->layers);
  lua_setfield(L, -2, "layers");
  if (f->out_logits) {
    kava_l_push_tensor(L, f->out_logits);
    lua_setfield(L, -2, "logits");
  }
  if (f->out_hidden) {
    kava_l_push_tensor(L, f->out_hidden);
    lua_setfield(L, -2, "hidden");
  }
  if (f->start) {
    kava_l_push_tensor(L, f->start);
    lua_setfield(L, -2, "start");
  }
  push_list(L, f->out_keys, f->layers, "keys");
  push_list(L, f->out_keys_before, f->layers, "keys_before");
  push_list(L, f->out_values, f->layers, "values");
  push_list(L, f->out_queries, f->layers, "queries");
  kava_forward_release(f);
  return 1;
}

/* [-0, +0, e] recompute(what, count): of the first `count` layers, and nothing of the others */
static int decoder_recompute(lua_State *L) {
  static const char *const names[] = {"none", "mlp", "layer", NULL};
  kava_decoder *d = check_decoder(L, 1);
  kava_recompute what = (kava_recompute)luaL_checkoption(L, 2, NULL, names);
  lua_Integer count = luaL_optinteger(L, 3, d->layers);
  luaL_argcheck(L, count >= 0, 3, "a number of layers expected");
  for (int i = 0; i < d->layers; i++) d->layer[i].recompute = i < count ? what : KAVA_KEEP;
  return 0;
}

static int l_rope_rows(lua_State *L) { /* [-0, +1, e] rope_rows(w, heads, inverse): see nn/layout.h */
  kava_tensor *w = kava_l_check_tensor(L, 1);
  lua_Integer heads = luaL_checkinteger(L, 2);
  luaL_argcheck(L, heads >= 1 && heads <= INT_MAX, 2, "a number of heads expected");
  bool inverse = lua_toboolean(L, 3);
  kava_tensor **box = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_rope_rows(w, (int)heads, inverse, box));
  return 1;
}

static int l_norm_linear(lua_State *L) { /* [-0, +1, e] norm_linear(x, gamma, beta, w, b, eps): see ops/norm_linear.h */
  kava_tensor *x = kava_l_check_tensor(L, 1), *gamma = kava_l_check_tensor(L, 2), *beta = kava_l_check_tensor(L, 3);
  kava_tensor *w = kava_l_check_tensor(L, 4), *b = kava_l_check_tensor(L, 5);
  double eps = luaL_optnumber(L, 6, 1e-5);
  kava_tensor **box = kava_l_new_tensor_box(L);
  kava_l_check(L, kava_op_norm_linear(x, gamma, beta, w, b, eps, box));
  return 1;
}

void kava_l_open_decoder(lua_State *L) {
  static const luaL_Reg functions[] = {
      {"decoder", l_decoder}, {"rope_rows", l_rope_rows}, {"norm_linear", l_norm_linear}, {NULL, NULL}};
  static const luaL_Reg methods[] = {{"forward", decoder_forward}, {"recompute", decoder_recompute}, {NULL, NULL}};
  static const luaL_Reg none[] = {{NULL, NULL}};
  kava_l_class(L, DECODER_TYPE, methods, decoder_gc);
  kava_l_class(L, FORWARD_TYPE, none, forward_gc);
  luaL_setfuncs(L, functions, 0);
}

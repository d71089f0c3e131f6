/* bind/bind.h: what the l_<class>.c files share. Only bind/ includes lua.h.
 * Misuse raises; failures of the world return nil, message, code. Userdata: the box first, then its content; __gc,
 * __close and :release() are one idempotent function. */
#ifndef KAVA_BIND_BIND_H
#define KAVA_BIND_BIND_H
#include <lua.h>
#include <lauxlib.h>
#include "tensor/tensor.h"

#define KAVA_TENSOR_TYPE "kava.Tensor"

/* Raises the current thread's message as a Lua error, with the caller's position. [-0, +0, e] */
int kava_l_raise(lua_State *L);
/* KAVA_MISUSE raises; any other failure pushes nil, message, code and returns 3. [-0, +3, e] */
int kava_l_fail(lua_State *L, kava_status st);
/* Raises unless st is KAVA_OK: for tensor arithmetic and other calls whose results are used in expressions. */
void kava_l_check(lua_State *L, kava_status st);

/* Tensors. A pushed tensor's box is made first (kava_l_new_tensor_box), filled afterwards: no leak when Lua raises. */
kava_tensor **kava_l_new_tensor_box(lua_State *L);       /* [-0, +1, m] box holding NULL; fill it */
void kava_l_push_tensor(lua_State *L, kava_tensor *t);   /* [-0, +1, m] pushes one more reference (retains t) */
kava_tensor *kava_l_check_tensor(lua_State *L, int arg); /* borrowed; raises naming the argument */
kava_tensor *kava_l_opt_tensor(lua_State *L, int arg);   /* NULL for nil/none */
/* Field `key` of the table at `arg`. The value may be absent (NULL) unless required; anything but a tensor raises. */
kava_tensor *kava_l_field_tensor(lua_State *L, int arg, const char *key, bool required); /* borrowed from the table */
lua_Number kava_l_field_number(lua_State *L, int arg, const char *key, lua_Number fallback);
lua_Integer kava_l_field_integer(lua_State *L, int arg, const char *key, lua_Integer fallback);
int kava_l_field_int(lua_State *L, int arg, const char *key, int fallback); /* raises where no int holds it */
bool kava_l_field_boolean(lua_State *L, int arg, const char *key, bool fallback);
const char *kava_l_field_string(lua_State *L, int arg, const char *key, const char *fallback); /* borrowed from it */
kava_dtype kava_l_field_dtype(lua_State *L, int arg, const char *key, kava_dtype fallback);
/* Raises when the table at `arg` has a key that is not in the NULL-terminated list; suggests the nearest one. */
void kava_l_check_keys(lua_State *L, int arg, const char *what, const char *const *known);
kava_dtype kava_l_check_dtype(lua_State *L, int arg);
/* A class: metatable `type` with methods, __index = methods, __gc/__close/release = gc, __name = type. [-0, +0, m] */
void kava_l_class(lua_State *L, const char *type, const luaL_Reg *methods, lua_CFunction gc);
/* The subtable kava.<name>, made when absent; core table at the top of the stack. [-0, +1, m] */
void kava_l_subtable(lua_State *L, const char *name);

/* Each l_<class>.c registers itself into the core table at the top of the stack: kava_l_open_<class>. [-0, +0, m] */
#define BIND(name) void kava_l_open_##name(lua_State *L);
#include "bind/bind.def"
#undef BIND
int luaopen_kava_core(lua_State *L);
#endif

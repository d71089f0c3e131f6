/* bind/l_tensor.h: what l_tensor.c (making, reading, moving tensors) and l_tensor_ops.c (arithmetic on them) share.
 * Lua counts dimensions and positions from 1, and dimensions from the end with negative numbers. */
#ifndef KAVA_BIND_TENSOR_H
#define KAVA_BIND_TENSOR_H
#include "bind/bind.h"

/* A box for an op's result. Lua's collector does not see the memory behind the boxes: when much more is in use than the
 * last collection left, this collects. [-0, +1, m] */
kava_tensor **kava_l_result(lua_State *L);
/* A dimension as the C side counts it (from 0; negative ones stay). Raises for 0 and for anything but an integer. */
int kava_l_check_dim(lua_State *L, int arg);
/* Sizes given as a table at `arg` or as integers from `arg` on. Returns the index of the argument after them. */
int kava_l_check_sizes(lua_State *L, int arg, const char *what, int *dims, int64_t *shape);
/* The list of tensors at `arg`, borrowed from the table; the array is a userdata left on the stack. [-0, +1, e] */
kava_tensor **kava_l_check_tensors(lua_State *L, int arg, int *count);
#endif

/* bind/l_formats.h: what the bindings of file formats share. */
#ifndef KAVA_BIND_L_FORMATS_H
#define KAVA_BIND_L_FORMATS_H
#include "bind/bind.h"
#include "formats/safetensors.h"

/* The tensors of a file: {name = tensor}, metadata, and, where KAVA lacks the type of some, {name = why}; these raise
 * when they are indexed. Returns how many it pushed. [-0, +2|3, m] */
int kava_l_push_safetensors(lua_State *L, const kava_safetensors *s);
/* Lists the map at `tensors` and the metadata at `metadata` (0, or nil there: none) in memory that Lua owns; texts and
 * tensors belong to the tables. [-0, +2, e] */
void kava_l_list_safetensors(lua_State *L, int tensors, int metadata, int64_t *count, kava_safetensors_item **items,
                             int64_t *pair_count, kava_text (**pairs)[2]);
#endif

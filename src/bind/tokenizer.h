/* bind/tokenizer.h: the box of class kava.Tokenizer, for bindings that take one. */
#ifndef KAVA_BIND_TOKENIZER_H
#define KAVA_BIND_TOKENIZER_H
#include "bind/bind.h"
#include "text/tokenizer.h"

#define KAVA_TOKENIZER_TYPE "kava.Tokenizer"

kava_tokenizer *kava_l_check_tokenizer(lua_State *L, int arg); /* borrowed; raises naming the argument. [-0, +0, e] */
#endif

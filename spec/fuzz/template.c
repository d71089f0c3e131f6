/* spec/fuzz/template: any bytes as a chat template. It is rendered, the same twice, or refused with its line; nothing
 * else may come out of it: no other error, no more steps and no more memory than it was given.
 * The interpreter is not instrumented: libFuzzer is shown which line of lua/kava/chat follows which instead. */
#include "bind/bind.h"
#include <lualib.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define MEMORY ((size_t)64 << 20)
#define PAIRS (1 << 15)
__attribute__((section("__libfuzzer_extra_counters"))) static uint8_t pairs[PAIRS];

static const char script[] =
    "local chat = require 'kava.chat'\n"
    "local kava = require 'kava'\n"
    "local messages = [[ [{\"role\":\"system\",\"content\":\"Be brief.\"},{\"role\":\"user\",\"content\":\" 2 + 2? "
    "\\n\"},\n"
    "  "
    "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":[{\"type\":\"function\",\"function\":{\"name\":\"add\",\n"
    "  \"arguments\":{\"a\":2,\"b\":2.5}}}]},{\"role\":\"tool\",\"content\":\"4\"},\n"
    "  {\"role\":\"assistant\",\"content\":\"<think>\\nh\\u00e9\\n</think>\\n4\"}] ]]\n"
    "local given = { messages = assert(kava.json.decode(messages, { ordered = true })), bos_token = '<s>', eos_token = "
    "'</s>',\n"
    "  add_generation_prompt = true, tools = kava.json.null }\n"
    "local options = { now = 1720242243, budget = 4000 }\n"
    "return function(text)\n"
    "  local made, message, code = chat.render(text, given, options)\n"
    "  if not made then return code == 'format' and message:find '^chat template, line %d+: .' ~= nil, message end\n"
    "  return chat.render(text, given, options) == made, 'another text'\n"
    "end\n";

/* The interpreter lives as long as the process; looking for leaks after each input would take all the time. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "detect_leaks=0:replace_str=0:replace_intrin=0"; }

#define PLAIN __attribute__((no_sanitize("coverage", "address", "undefined")))

/* Lua's memory: blocks of powers of two, from one piece, which bounds it. malloc is watched, and slow. */
static PLAIN int class_of(size_t size) { return size <= 16 ? 4 : 64 - __builtin_clzll(size - 1); }
static PLAIN void *bounded(void *ud, void *block, size_t before, size_t after) {
  static char memory[MEMORY] __attribute__((aligned(16)));
  static struct block { struct block *next; } * unused[64];
  static size_t used;
  (void)ud;
  int from = block ? class_of(before) : 0, to = after ? class_of(after) : 0;
  if (from == to) return block;
  struct block *fresh = NULL;
  if (after) {
    if ((fresh = unused[to])) {
      unused[to] = fresh->next;
    } else {
      if (after > MEMORY || ((size_t)1 << to) > MEMORY - used) return NULL;
      fresh = (struct block *)(void *)(memory + used);
      used += (size_t)1 << to;
    }
    for (size_t i = 0; block && i < before && i < after; i++) ((char *)fresh)[i] = ((char *)block)[i];
  }
  if (block) {
    struct block *old = block;
    old->next = unused[from];
    unused[from] = old;
  }
  return fresh;
}

/* A small number for a chunk, the same in every run. */
static PLAIN uint32_t chunk_of(const char *source) {
  static const char *known[32];
  static uint32_t number[32];
  for (int i = 0; i < 32; i++) {
    if (known[i] == source) return number[i];
    if (known[i]) continue;
    known[i] = source;
    const char *name = strrchr(source, '/');
    number[i] = 2166136261u;
    for (name = name ? name : source; *name; name++) number[i] = (number[i] ^ (uint8_t)*name) * 16777619u;
    return number[i];
  }
  return 0;
}

static PLAIN void on_line(lua_State *L, lua_Debug *at) {
  static uint32_t last;
  lua_getinfo(L, "S", at);
  uint32_t here = (chunk_of(at->source) + (uint32_t)at->currentline) * 2654435761u;
  uint8_t *pair = &pairs[(here ^ last) >> 17];
  *pair = *pair < 255 ? *pair + 1 : 255;
  last = here >> 1;
}

static lua_State *prepare(void) {
  lua_State *L = lua_newstate(bounded, NULL);
  if (!L) abort();
  luaL_openlibs(L);
  luaL_getsubtable(L, LUA_REGISTRYINDEX, LUA_PRELOAD_TABLE);
  lua_pushcfunction(L, luaopen_kava_core);
  lua_setfield(L, -2, "kava.core");
  lua_getglobal(L, "package");
  lua_pushstring(L, KAVA_SOURCE "/lua/?.lua;" KAVA_SOURCE "/lua/?/init.lua");
  lua_setfield(L, -2, "path");
  lua_settop(L, 0);
  if (luaL_loadstring(L, script) != LUA_OK || lua_pcall(L, 0, 1, 0) != LUA_OK) {
    fprintf(stderr, "%s\n", lua_tostring(L, -1));
    abort();
  }
  lua_sethook(L, on_line, LUA_MASKLINE, 0);
  return L;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static lua_State *L;
  if (!L) L = prepare();
  lua_pushvalue(L, 1);
  lua_pushlstring(L, (const char *)data, size);
  if (lua_pcall(L, 1, 2, 0) != LUA_OK || !lua_toboolean(L, -2)) {
    fprintf(stderr, "%s\n", luaL_tolstring(L, -1, NULL));
    abort();
  }
  lua_settop(L, 1);
  return 0;
}

/* spec/cuda/families.cu: the families that there are to check. */
#include "check.h"

#define FAMILY(name) void check_##name();
#define DEATH(name) void die_##name();
#include "families.def"
#undef FAMILY
#undef DEATH

const family families[] = {
#define FAMILY(name) {#name, check_##name},
#define DEATH(name) {"die-" #name, die_##name},
#include "families.def"
    {nullptr, nullptr}};

#include "formats/thrift.h"

#define DEPTH_MOST 16

static void skip_bytes(kava_thrift *t, size_t bytes) {
  if ((size_t)(t->end - t->p) < bytes) {
    t->broken = true;
    t->p = t->end;
    return;
  }
  t->p += bytes;
}

void kava_thrift_skip(kava_thrift *t, int type, int depth) {
  size_t length;
  int item, id = 0;
  if (depth > DEPTH_MOST) {
    t->broken = true;
    return;
  }
  switch (type) {
  case KAVA_THRIFT_TRUE:
  case KAVA_THRIFT_FALSE: /* in a struct they are their type; in a list a byte, see below */ break;
  case KAVA_THRIFT_BYTE: skip_bytes(t, 1); break;
  case KAVA_THRIFT_I16:
  case KAVA_THRIFT_I32:
  case KAVA_THRIFT_I64: kava_thrift_varint(t); break;
  case KAVA_THRIFT_DOUBLE: skip_bytes(t, 8); break;
  case KAVA_THRIFT_BINARY: kava_thrift_binary(t, &length); break;
  case KAVA_THRIFT_LIST:
  case KAVA_THRIFT_SET:
    length = kava_thrift_list(t, &item);
    if (item == KAVA_THRIFT_TRUE || item == KAVA_THRIFT_FALSE)
      skip_bytes(t, length);
    else
      for (size_t i = 0; i < length && !t->broken; i++) kava_thrift_skip(t, item, depth + 1);
    break;
  case KAVA_THRIFT_STRUCT:
    while (kava_thrift_field(t, &item, &id)) kava_thrift_skip(t, item, depth + 1);
    break;
  default: t->broken = true; /* maps: Parquet has none */
  }
}

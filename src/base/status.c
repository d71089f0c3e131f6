#include "base/status.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char message[1024];

kava_status kava_fail(kava_status code, const char *format, ...) {
  /* Through a second buffer: an argument may be the current message itself. */
  char fresh[sizeof message];
  va_list args;
  va_start(args, format);
  vsnprintf(fresh, sizeof fresh, format, args);
  va_end(args);
  memcpy(message, fresh, sizeof message);
  return code;
}

kava_status kava_fail_in(kava_status code, const char *format, ...) {
  char prefix[512];
  va_list args;
  va_start(args, format);
  vsnprintf(prefix, sizeof prefix, format, args);
  va_end(args);
  return kava_fail(code, "%s: %s", prefix, message);
}

const char *kava_message(void) { return message; }

const char *kava_status_name(kava_status code) {
  switch (code) {
  case KAVA_OK: return "ok";
  case KAVA_MISUSE: return "misuse";
  case KAVA_UNSUPPORTED: return "unsupported";
  case KAVA_IO: return "io";
  case KAVA_FORMAT: return "format";
  case KAVA_MEMORY: return "memory";
  case KAVA_INTERRUPTED: return "interrupted";
  }
  return "unknown";
}

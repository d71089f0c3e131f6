/* base/status: how a fallible function fails.
 * Every fallible function returns kava_status; the message is kept per thread until the next failure.
 * The core never exits, aborts on input, or longjmps. */
#ifndef KAVA_BASE_STATUS_H
#define KAVA_BASE_STATUS_H
#include "../kava.h"

/* Sets the calling thread's message (printf style) and returns `code`, so that `return kava_fail(...)` reads well. */
kava_status kava_fail(kava_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts "prefix: " before the current message and returns `code`; for callers that know the file or the key. */
kava_status kava_fail_in(kava_status code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Forwards a failure to the function's single `out:` tail; the function has a `kava_status st = KAVA_OK;`. */
#define KAVA_TRY(call)                                                                                                 \
  do {                                                                                                                 \
    st = (call);                                                                                                       \
    if (st != KAVA_OK) goto out;                                                                                       \
  } while (0)
#define KAVA_FAIL(...)                                                                                                 \
  do {                                                                                                                 \
    st = kava_fail(__VA_ARGS__);                                                                                       \
    goto out;                                                                                                          \
  } while (0)
#endif

/* base/json: a strict JSON reader (RFC 8259) into an immutable tree, and a writer.
 * The tree belongs to its document: strings are copied and terminated with a NUL that their length does not count, the
 * children of a container are contiguous. Strict: UTF-8 is validated, keys are unique, lone surrogates, control
 * characters in strings, leading zeros, trailing commas and comments are errors; messages start with "byte N: ". */
#ifndef KAVA_BASE_JSON_H
#define KAVA_BASE_JSON_H
#include "base/status.h"

#define KAVA_JSON_DEPTH 200 /* containers inside one another, at most; reader and writer */

typedef enum kava_json_kind {
  KAVA_JSON_NULL,
  KAVA_JSON_BOOLEAN,
  KAVA_JSON_INTEGER, /* no fraction, no exponent, fits int64: exact */
  KAVA_JSON_REAL,    /* every other number; never infinite */
  KAVA_JSON_STRING,
  KAVA_JSON_ARRAY,
  KAVA_JSON_OBJECT,
  KAVA_JSON_LEFT /* of an outline only: an array or an object that was not read */
} kava_json_kind;

typedef struct kava_json {
  uint32_t kind;   /* kava_json_kind */
  uint32_t length; /* bytes of a string, children of a container; of one left unread what its commas promise */
  union {
    bool boolean;
    int64_t integer;
    double real;
    const char *string;                     /* left unread: its place in the text */
    const struct kava_json *items;          /* array */
    const struct kava_json_member *members; /* object, in the text's order */
  };
} kava_json;

typedef struct kava_json_member {
  const char *key;
  uint32_t key_length, hash;
  kava_json value;
} kava_json_member;

typedef struct kava_json_doc kava_json_doc;
/* Into *doc, whose memory is used again where it is not NULL: for many texts, one after the other. `text` is not needed
 * afterwards. KAVA_FORMAT where it is not JSON, KAVA_MEMORY: then *doc holds null; it is released as ever. */
kava_status kava_json_again(const char *text, size_t size, kava_json_doc **doc);
/* The same of a file, which may hold as many values as kava_map_most says. Messages name it. */
kava_status kava_json_load(const char *path, kava_json_doc **out);

/* For texts much of which is two or three long lists, each gone through once: `left` names them by their keys from the
 * root on ("model.vocab"), up to a NULL. They become KAVA_JSON_LEFT, checked no further than to their end, and `text`
 * must stay. Walking one gives its items, and checks them: a tree is built of one item at a time. Keys may come twice
 * there: that is the walker's to find. `left` may be NULL. More than `most` values in the tree, or in an item's, are an
 * error; 0: any number. */
kava_status kava_json_outline(const char *text, size_t size, const char *const *left, size_t most, kava_json_doc **out);
#define KAVA_JSON_EACH 64 /* bytes of a value in a tree that is being built (kava_map_most) */

/* A text told in its order, for who builds something else of it than a tree; nothing is kept. A container is opened
 * (value->kind says which), its keys and values follow, it is closed. Strings are good during the call. What the
 * receiver returns ends the telling, with the place before its message. Keys may come twice: that is its to find.
 * *scratch, NULL at first, holds all memory of a telling, which a receiver may leave by a longjmp. Without a `scratch`
 * strings are told as they are written, escapes and all, and not checked. */
typedef enum kava_json_event { KAVA_JSON_OPEN, KAVA_JSON_KEY, KAVA_JSON_VALUE, KAVA_JSON_CLOSE } kava_json_event;
typedef kava_status (*kava_json_tell_fn)(void *to, kava_json_event event, const kava_json *value);
kava_status kava_json_tell(const char *text, size_t size, kava_json_tell_fn receive, void *to, kava_json_doc **scratch);
typedef struct kava_json_walk kava_json_walk;
kava_status kava_json_walk_open(const kava_json_doc *outline, const kava_json *part, kava_json_walk **out);
kava_status kava_json_walk_text(const char *text, size_t size, size_t most, kava_json_walk **out); /* of all of it */
/* *item: good until the next call, without a key where the part is an array; NULL once there are no more. */
kava_status kava_json_walk_next(kava_json_walk *walk, const kava_json_member **item);
void kava_json_walk_close(kava_json_walk **walk); /* accepts NULL, nulls the pointer */
const kava_json *kava_json_root(const kava_json_doc *doc);
void kava_json_release(kava_json_doc **doc);

/* The member `key` of an object; NULL when it is absent, or `object` is NULL or no object. Constant time. */
const kava_json *kava_json_get(const kava_json *object, const char *key);
const kava_json *kava_json_find(const kava_json *object, const char *key, size_t length);
static inline bool kava_json_is(const kava_json *value, kava_json_kind kind) {
  return value && value->kind == (uint32_t)kind;
}
bool kava_json_is_text(const kava_json *value, const char *text); /* a string equal to `text` */
const char *kava_json_kind_name(const kava_json *value);          /* "an object", ...; "nothing" for NULL */

/* Bytes of the UTF-8 sequence at `p` (1 to 4), 0 where it is none: overlong, a surrogate, beyond U+10FFFF, cut off at
 * `end`. */
int kava_utf8_length(const unsigned char *p, const unsigned char *end);

/* A text being written. Zero-initialise it (and set `indent`), write one value, read data and size, free data with
 * kava_free. The first failure sticks in `status`; what is written afterwards is dropped. Numbers read back as they
 * were. */
typedef struct kava_json_writer {
  int indent; /* spaces a level; 0: all on one line, without spaces */
  kava_status status;
  char *data; /* NUL-terminated once something was written */
  size_t size, room;
  int depth;
  bool filled, after_key;
} kava_json_writer;
void kava_json_open(kava_json_writer *w, char bracket);  /* '{' or '[' */
void kava_json_close(kava_json_writer *w, char bracket); /* '}' or ']' */
void kava_json_key(kava_json_writer *w, const char *key, size_t length);
void kava_json_string(kava_json_writer *w, const char *text, size_t length); /* KAVA_MISUSE where it is not UTF-8 */
void kava_json_integer(kava_json_writer *w, int64_t value);
void kava_json_natural(kava_json_writer *w, uint64_t value);
void kava_json_real(kava_json_writer *w, double value); /* KAVA_MISUSE where it is not finite; always with '.' or 'e' */
void kava_json_boolean(kava_json_writer *w, bool value);
void kava_json_null(kava_json_writer *w);
void kava_json_value(kava_json_writer *w, const kava_json *value); /* with all that is in it */

double kava_json_double(const char *text); /* strtod as in the C locale */
#endif

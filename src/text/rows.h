/* text/rows: JSON Lines rows and the templates that make text of them. */
#ifndef KAVA_TEXT_ROWS_H
#define KAVA_TEXT_ROWS_H
#include "base/json.h"
#include "base/map.h"
#include "text/buffer.h"

/* "{question}\n{answer}": a field's name in braces, "{a.b}" for a field inside another, "{{" and "}}" for braces. */
typedef struct kava_template {
  struct kava_template_part {
    char *text; /* a literal, or a field's name */
    size_t length;
    bool field;
  } * parts;
  int count;
} kava_template;
kava_status kava_template_parse(const char *text, kava_template *out); /* KAVA_MISUSE with the place */
void kava_template_free(kava_template *t);

/* How a row fared. A broken row may be skipped and counted; a missing field means that the template is not for this
 * file. */
typedef enum kava_row_result {
  KAVA_ROW_GOOD,
  KAVA_ROW_BROKEN,
  KAVA_ROW_MISSING,
  KAVA_ROW_FAILED /* out of memory */
} kava_row_result;
/* Appends the text of one row; on anything but KAVA_ROW_GOOD the message says why and `out` is as before. */
kava_row_result kava_template_apply(const kava_template *t, const char *row, size_t length, kava_buffer *out);

/* The lines of a mapped file that are not blank. */
typedef struct kava_lines {
  const uint8_t *at, *end;
  int64_t number; /* of the line given last, from 1 */
} kava_lines;
kava_lines kava_lines_of(const kava_map *map);
bool kava_lines_next(kava_lines *lines, const char **row, size_t *length);
#endif

/* text/rows: templates, and what they make of a row: a line of JSON or a row of columns. */
#ifndef KAVA_TEXT_ROWS_H
#define KAVA_TEXT_ROWS_H
#include "base/json.h"
#include "formats/table.h"
#include "text/buffer.h"

#define KAVA_TEMPLATE_STEPS 16

/* "{question}\n{answer}": a field's name in braces, "{a.b}" for a field inside another, "{a.1}" for a list's first
 * item,
 * "{{" and "}}" for braces. */
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

/* Where each part's field lies in a table: positions of children; in a list, of items (from 0). Marks the columns as
 * wanted; with no template, all of them. KAVA_FORMAT shows the fields there are. */
typedef struct kava_template_steps {
  int count;
  int64_t at[KAVA_TEMPLATE_STEPS];
} kava_template_steps;
kava_status kava_template_resolve(const kava_template *t, kava_field *record, kava_template_steps **out); /* by part */

/* How a row fared. A broken row may be skipped and counted; a missing field means that the template is not for this
 * file. */
typedef enum kava_row_result {
  KAVA_ROW_GOOD,
  KAVA_ROW_BROKEN,
  KAVA_ROW_MISSING,
  KAVA_ROW_FAILED /* out of memory */
} kava_row_result;

/* What one thread needs to make text of rows. */
typedef struct kava_row_tools {
  kava_json_doc *doc;
  kava_json_writer json;
} kava_row_tools;
void kava_row_tools_free(kava_row_tools *tools);

/* Appends the text of one row: strings as they are, numbers and booleans as JSON writes them (but 3.0 as 3), lists and
 * objects as JSON; null is no text, so that the row is broken. Without a template: the whole row as JSON. On anything
 * but KAVA_ROW_GOOD the message says why and `out` is as before. */
kava_row_result kava_row_of_json(const kava_template *t, const char *row, size_t length, kava_row_tools *tools,
                                 kava_buffer *out);
kava_row_result kava_row_of_columns(const kava_template *t, const kava_template_steps *steps,
                                    const kava_column *columns, int64_t row, kava_row_tools *tools, kava_buffer *out);
#endif

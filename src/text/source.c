#include "text/source.h"
#include "text/lines.h"
#include <glob.h>
#include <stdio.h>
#include <sys/stat.h>

#define SCAN_BYTES ((size_t)1 << 20)

typedef struct part {
  char *path;
  uint64_t stamp[4]; /* of the file when the source was opened */
  int64_t rows;      /* -1: not known yet */
} part;

struct kava_source {
  char *path;
  part *parts;
  int count;
  kava_template text_template;
  bool whole; /* no template: rows as JSON */
  /* the file at hand */
  int at;
  kava_file *file; /* NULL: none */
  kava_lines *lines;
  kava_table *table;
  kava_template_steps *steps;
  char fields[600];
  int64_t before; /* rows of the files before it */
  /* the block */
  const kava_line *rows;
  const kava_column *columns;
  int64_t first;    /* its first row in the file */
  int64_t next_row; /* table: the row in the file that the next block begins with */
};

/* ---- which files */

static kava_status add_part(kava_source *s, const char *path) {
  part *parts = kava_realloc(s->parts, (size_t)(s->count + 1) * sizeof *parts);
  if (!parts) return KAVA_MEMORY;
  s->parts = parts;
  kava_file *file;
  kava_status st = kava_file_open(path, &file);
  if (st != KAVA_OK) return st;
  part p = {.path = kava_strdup(path), .rows = -1};
  memcpy(p.stamp, file->stamp, sizeof p.stamp);
  kava_file_close(&file);
  if (!p.path) return KAVA_MEMORY;
  s->parts[s->count++] = p;
  return KAVA_OK;
}

static kava_status add_pattern(kava_source *s, const char *pattern) {
  glob_t found = {0};
  kava_status st = KAVA_OK;
  int result = glob(pattern, 0, NULL, &found); /* sorted */
  if (result == GLOB_NOSPACE)
    st = kava_fail(KAVA_MEMORY, "out of memory");
  else if (result != 0)
    st = kava_fail(KAVA_IO, "%s: no file matches", pattern);
  for (size_t i = 0; st == KAVA_OK && i < found.gl_pathc; i++) st = add_part(s, found.gl_pathv[i]);
  globfree(&found);
  return st;
}

static bool exists(const char *path) {
  struct stat info;
  return stat(path, &info) == 0;
}

static bool is_pattern(const char *path) { return strpbrk(path, "*?[") && !exists(path); }

bool kava_source_exists(const char *path) {
  if (!is_pattern(path)) return exists(path);
  glob_t found = {0};
  bool any = glob(path, 0, NULL, &found) == 0;
  globfree(&found);
  return any;
}

static bool is_folder(const char *path) {
  struct stat info;
  return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

/* The files that state.json of datasets.save_to_disk names, which lie beside it. */
static kava_status add_listed(kava_source *s, const char *folder, const char *list) {
  kava_json_doc *doc = NULL;
  kava_status st = kava_json_load(list, &doc);
  if (st != KAVA_OK) return st;
  const kava_json *root = kava_json_root(doc), *files = kava_json_get(root, "_data_files"),
                  *indices = kava_json_get(root, "_indices_data_files");
  if (!kava_json_is(files, KAVA_JSON_ARRAY) || files->length == 0)
    KAVA_FAIL(KAVA_FORMAT, "%s: _data_files: a list of files expected, got %s", list, kava_json_kind_name(files));
  if (kava_json_is(indices, KAVA_JSON_ARRAY) && indices->length > 0)
    KAVA_FAIL(KAVA_UNSUPPORTED, "%s: its rows are chosen by _indices_data_files: save it again after flatten_indices()",
              list);
  for (uint32_t i = 0; i < files->length; i++) {
    const kava_json *name = kava_json_get(&files->items[i], "filename");
    if (!kava_json_is(name, KAVA_JSON_STRING) || name->length == 0 || strlen(name->string) != name->length ||
        strchr(name->string, '/') || strcmp(name->string, "..") == 0)
      KAVA_FAIL(KAVA_FORMAT, "%s: _data_files: entry %u: a file's name without folders expected", list, i + 1);
    char *path = kava_format("%s/%s", folder, name->string);
    if (!path) {
      st = KAVA_MEMORY;
      goto out;
    }
    st = add_part(s, path);
    kava_free(path);
    if (st != KAVA_OK) goto out;
  }
out:
  kava_json_release(&doc);
  return st;
}

static kava_status name_splits(const char *folder, const char *list) {
  kava_json_doc *doc = NULL;
  kava_status st = kava_json_load(list, &doc);
  if (st != KAVA_OK) return st;
  const kava_json *splits = kava_json_get(kava_json_root(doc), "splits");
  char names[300] = "";
  size_t used = 0;
  for (uint32_t i = 0; kava_json_is(splits, KAVA_JSON_ARRAY) && i < splits->length && used < sizeof names - 80; i++)
    if (kava_json_is(&splits->items[i], KAVA_JSON_STRING))
      used += (size_t)snprintf(names + used, sizeof names - used, "%s%.60s", i ? ", " : "", splits->items[i].string);
  kava_json_release(&doc);
  return kava_fail(KAVA_FORMAT, "%s: holds the splits %s: name one of these folders", folder, names);
}

static kava_status add_folder(kava_source *s, const char *folder) {
  kava_status st;
  char *state = kava_format("%s/state.json", folder), *dict = kava_format("%s/dataset_dict.json", folder);
  if (!state || !dict)
    st = KAVA_MEMORY;
  else if (exists(state))
    st = add_listed(s, folder, state);
  else if (exists(dict))
    st = name_splits(folder, dict);
  else
    st = kava_fail(KAVA_FORMAT,
                   "%s: a folder that datasets.save_to_disk has not written (no state.json); name files in it by a "
                   "pattern, as in %s/*.parquet",
                   folder, folder);
  kava_free(state);
  kava_free(dict);
  return st;
}

/* ---- the file at hand */

static void close_part(kava_source *s) {
  kava_lines_close(&s->lines);
  kava_table_close(&s->table);
  kava_file_close(&s->file);
  kava_free(s->steps);
  s->steps = NULL;
}

static kava_status changed(const char *path) { return kava_fail(KAVA_IO, "%s: has changed while it was read", path); }

static kava_status open_part(kava_source *s) {
  const part *p = &s->parts[s->at];
  const kava_template *t = s->whole ? NULL : &s->text_template;
  char mark[8] = "";
  kava_status st = KAVA_OK;
  KAVA_TRY(kava_file_open(p->path, &s->file));
  if (memcmp(s->file->stamp, p->stamp, sizeof p->stamp) != 0) {
    st = changed(p->path);
    goto out;
  }
  s->first = s->next_row = 0;
  if (s->file->size >= 8) KAVA_TRY(kava_file_read(s->file, 0, mark, 8));
  if (memcmp(mark, "PAR1", 4) == 0)
    KAVA_TRY(kava_parquet_open(s->file, &s->table));
  else if (memcmp(mark, "ARROW1", 6) == 0 || memcmp(mark, "\xff\xff\xff\xff", 4) == 0)
    KAVA_TRY(kava_arrow_open(s->file, &s->table));
  else
    KAVA_TRY(kava_lines_open(s->file, &s->lines));
  if (s->table) {
    kava_field_describe(&s->table->record, s->fields, sizeof s->fields);
    st = kava_template_resolve(t, &s->table->record, &s->steps);
    if (st != KAVA_OK) kava_fail_in(st, "%s", p->path);
  }
out:
  if (st != KAVA_OK) close_part(s);
  return st;
}

static kava_status leave_part(kava_source *s) {
  kava_status st = kava_file_unchanged(s->file);
  s->parts[s->at].rows = s->table ? s->table->rows : kava_lines_row(s->lines);
  s->before += s->parts[s->at].rows;
  close_part(s);
  s->at++;
  return st;
}

kava_status kava_source_open(const char *path, const char *text_template, kava_source **out) {
  kava_status st = KAVA_OK;
  kava_source *s = kava_calloc(1, sizeof *s);
  if (!s) return KAVA_MEMORY;
  s->whole = !text_template;
  if (text_template) KAVA_TRY(kava_template_parse(text_template, &s->text_template));
  if (!(s->path = kava_strdup(path))) {
    st = KAVA_MEMORY;
    goto out;
  }
  if (is_folder(path))
    KAVA_TRY(add_folder(s, path));
  else if (is_pattern(path))
    KAVA_TRY(add_pattern(s, path));
  else
    KAVA_TRY(add_part(s, path));
  KAVA_TRY(open_part(s));
  *out = s;
  s = NULL;
out:
  kava_source_close(&s);
  return st;
}

void kava_source_close(kava_source **at) {
  kava_source *s = *at;
  *at = NULL;
  if (!s) return;
  close_part(s);
  for (int i = 0; i < s->count; i++) kava_free(s->parts[i].path);
  kava_free(s->parts);
  kava_template_free(&s->text_template);
  kava_free(s->path);
  kava_free(s);
}

/* ---- rows */

kava_status kava_source_next(kava_source *s, int64_t *count) {
  kava_status st;
  *count = 0;
  while (s->at < s->count) {
    if (!s->file && (st = open_part(s)) != KAVA_OK) return st;
    if (s->lines) {
      s->first = kava_lines_row(s->lines);
      st = kava_lines_next(s->lines, &s->rows, count);
    } else {
      st = s->table->class->next(s->table, &s->columns, count);
    }
    if (st != KAVA_OK) {
      *count = 0;
      if (st == KAVA_FORMAT && kava_file_unchanged(s->file) != KAVA_OK) return KAVA_IO; /* the better reason */
      return st;
    }
    if (*count > 0) {
      if (s->table) {
        s->first = s->next_row;
        s->next_row += *count;
      }
      return KAVA_OK;
    }
    if ((st = leave_part(s)) != KAVA_OK) return st;
  }
  return KAVA_OK;
}

kava_row_result kava_source_text(const kava_source *s, int64_t i, kava_row_tools *tools, kava_buffer *out) {
  const kava_template *t = s->whole ? NULL : &s->text_template;
  if (s->lines) return kava_row_of_json(t, s->rows[i].text, s->rows[i].length, tools, out);
  return kava_row_of_columns(t, s->steps, s->columns, i, tools, out);
}

char *kava_source_place(const kava_source *s, int64_t i) {
  if (s->lines && !kava_lines_is_array(s->lines))
    return kava_format("%s:%lld", s->file->path, (long long)s->rows[i].number);
  return kava_format("%s: row %lld", s->file->path, (long long)(s->first + i + 1));
}

int64_t kava_source_number(const kava_source *s, int64_t i) {
  return s->lines ? s->rows[i].number : s->before + s->first + i + 1;
}

kava_status kava_source_seek(kava_source *s, int64_t row) {
  kava_status st;
  bool found = false;
  if (row < 0) return kava_fail(KAVA_MISUSE, "seek: row %lld", (long long)row);
  if (row < s->before || !s->file) { /* from the first file on; those whose rows are counted are passed over */
    close_part(s);
    s->at = 0;
    s->before = 0;
  }
  while (s->at < s->count) {
    int64_t rows = s->parts[s->at].rows, in_file = row - s->before;
    if (rows >= 0 && in_file >= rows) {
      close_part(s);
      s->before += rows;
      s->at++;
      continue;
    }
    if (!s->file && (st = open_part(s)) != KAVA_OK) return st;
    if (s->table) {
      found = in_file < s->table->rows;
      if (found) {
        s->next_row = in_file;
        return s->table->class->seek(s->table, in_file);
      }
    } else {
      if ((st = kava_lines_seek(s->lines, in_file, &found)) != KAVA_OK || found) return st;
    }
    if ((st = leave_part(s)) != KAVA_OK) return st;
  }
  return kava_fail(KAVA_MISUSE, "seek: row %lld of %lld: beyond the end of %s", (long long)row + 1,
                   (long long)s->before, s->path);
}

const char *kava_source_fields(kava_source *s) { return *s->fields ? s->fields : NULL; }

kava_status kava_source_scan(const kava_source *s, void (*take)(void *context, const void *bytes, size_t size),
                             void *context) {
  kava_status st = KAVA_OK;
  kava_file *file = NULL;
  uint8_t *piece = kava_alloc(SCAN_BYTES);
  if (!piece) return KAVA_MEMORY;
  for (int i = 0; i < s->count; i++) {
    KAVA_TRY(kava_file_open(s->parts[i].path, &file));
    if (memcmp(file->stamp, s->parts[i].stamp, sizeof file->stamp) != 0) {
      st = changed(file->path);
      goto out;
    }
    take(context, &file->size, sizeof file->size);
    for (uint64_t at = 0; at < file->size; at += SCAN_BYTES) {
      size_t size = file->size - at < SCAN_BYTES ? (size_t)(file->size - at) : SCAN_BYTES;
      KAVA_TRY(kava_file_read(file, at, piece, size));
      take(context, piece, size);
    }
    kava_file_close(&file);
  }
out:
  kava_file_close(&file);
  kava_free(piece);
  return st;
}

kava_status kava_source_unchanged(const kava_source *s) {
  for (int i = 0; i < s->count; i++) {
    kava_file *file;
    kava_status st = kava_file_open(s->parts[i].path, &file);
    if (st != KAVA_OK) return st;
    bool same = memcmp(file->stamp, s->parts[i].stamp, sizeof file->stamp) == 0;
    kava_file_close(&file);
    if (!same) return changed(s->parts[i].path);
  }
  return KAVA_OK;
}

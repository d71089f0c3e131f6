/* bind/l_data.c: kava.data: rows of data files as text (kava.Rows), as token ids (kava.Dataset), as batches
 * (kava.Sampler). */
#include "bind/tokenizer.h"
#include "text/packer.h"

#define ROWS_TYPE "kava.Rows"
#define DATASET_TYPE "kava.Dataset"
#define SAMPLER_TYPE "kava.Sampler"
#define DEFAULT_TEMPLATE "{question}\n{answer}"
#define DEFAULT_SKIP 10
#define DEFAULT_LENGTH 512

/* ---- rows as text */

typedef struct rows_box {
  kava_source *source;
  kava_row_tools tools;
  kava_buffer text;
  int64_t at, count; /* in the block */
  int64_t skip, broken;
} rows_box;

static rows_box *check_rows(lua_State *L) {
  rows_box *b = luaL_checkudata(L, 1, ROWS_TYPE);
  if (!b->source) luaL_argerror(L, 1, "the rows were released");
  return b;
}

static int rows_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  rows_box *b = luaL_checkudata(L, 1, ROWS_TYPE);
  kava_source_close(&b->source);
  kava_row_tools_free(&b->tools);
  kava_buffer_free(&b->text);
  return 0;
}

static int l_rows(lua_State *L) { /* [-0, +1, e] rows(path, {template=, json=, skip=}) -> rows | nil, message, code */
  static const char *const keys[] = {"template", "json", "skip", NULL};
  const char *path = luaL_checkstring(L, 1), *text = DEFAULT_TEMPLATE;
  int64_t skip = DEFAULT_SKIP;
  if (!lua_isnoneornil(L, 2)) {
    kava_l_check_keys(L, 2, "rows", keys);
    text = kava_l_field_string(L, 2, "template", text);
    skip = kava_l_field_integer(L, 2, "skip", skip);
    if (kava_l_field_boolean(L, 2, "json", false)) text = NULL;
  }
  rows_box *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (rows_box){.skip = skip};
  luaL_setmetatable(L, ROWS_TYPE);
  kava_status st = kava_source_open(path, text, &b->source);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int l_exists(lua_State *L) { /* [-0, +1, e] exists(path) -> boolean */
  lua_pushboolean(L, kava_source_exists(luaL_checkstring(L, 1)));
  return 1;
}

static int row_error(lua_State *L, rows_box *b) { /* [-0, +0, e] the message, behind the row's place; it is passed */
  char *place = kava_source_place(b->source, b->at++);
  lua_pushstring(L, place ? place : "out of memory");
  kava_free(place);
  return luaL_error(L, "%s: %s", lua_tostring(L, -1), kava_message());
}

static int rows_next(lua_State *L) { /* [-0, +2, e] rows:next() -> text, line or row number | nil */
  rows_box *b = check_rows(L);
  for (;; b->at++) {
    if (b->at >= b->count) {
      b->at = b->count = 0;
      kava_l_check(L, kava_source_next(b->source, &b->count));
      if (b->count == 0) break;
    }
    b->text.size = 0;
    kava_row_result result = kava_source_text(b->source, b->at, &b->tools, &b->text);
    if (result == KAVA_ROW_GOOD) {
      lua_pushlstring(L, b->text.size ? (const char *)b->text.data : "", b->text.size);
      lua_pushinteger(L, kava_source_number(b->source, b->at++));
      return 2;
    }
    if (result != KAVA_ROW_BROKEN || ++b->broken > b->skip) return row_error(L, b);
  }
  lua_pushnil(L);
  return 1;
}

static int rows_seek(lua_State *L) { /* [-0, +0, e] rows:seek(i): the next row is row i */
  rows_box *b = check_rows(L);
  lua_Integer row = luaL_checkinteger(L, 2);
  luaL_argcheck(L, row >= 1, 2, "a row from 1 expected");
  b->at = b->count = 0;
  kava_l_check(L, kava_source_seek(b->source, row - 1));
  return 0;
}

static int rows_fields(lua_State *L) { /* [-0, +1, e] rows:fields() -> string | nil where rows are lines of JSON */
  lua_pushstring(L, kava_source_fields(check_rows(L)->source));
  return 1;
}

static int rows_broken(lua_State *L) { /* [-0, +1, e] rows:broken() -> rows skipped so far */
  lua_pushinteger(L, check_rows(L)->broken);
  return 1;
}

/* ---- datasets */

static kava_dataset *check_dataset(lua_State *L, int arg) {
  kava_dataset **box = luaL_checkudata(L, arg, DATASET_TYPE);
  if (!*box) luaL_argerror(L, arg, "the dataset was released");
  return *box;
}

static int dataset_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  kava_dataset_release((kava_dataset **)luaL_checkudata(L, 1, DATASET_TYPE));
  return 0;
}

static int choice(lua_State *L, int arg, const char *key, int fallback, const char *const *names) { /* [-0, +0, e] */
  const char *value = kava_l_field_string(L, arg, key, names[fallback]);
  for (int i = 0; names[i]; i++)
    if (!strcmp(names[i], value)) return i;
  return luaL_error(L, "%s: '%s', '%s' or '%s' expected, got '%s'", key, names[0], names[1], names[2], value);
}

static int l_tokens(lua_State *L) { /* [-0, +1, e] tokens(path, tokenizer, options) -> dataset | nil, message, code */
  static const char *const keys[] = {"template", "max_length", "long", "eos", "skip", "workers", "cache", NULL};
  static const char *const longer[] = {"truncate", "skip", "error", NULL};
  const char *path = luaL_checkstring(L, 1);
  kava_tokenizer *tok = kava_l_check_tokenizer(L, 2);
  lua_settop(L, 3);
  if (lua_isnil(L, 3)) {
    lua_newtable(L);
    lua_replace(L, 3);
  }
  kava_l_check_keys(L, 3, "tokens", keys);
  lua_Integer workers = kava_l_field_integer(L, 3, "workers", 0);
  if (workers < 0 || workers > 1024)
    return luaL_error(L, "tokens: workers: from 0 (all) to 1024 expected, got %I", (LUAI_UACINT)workers);
  kava_dataset_options options = {.text_template = kava_l_field_string(L, 3, "template", DEFAULT_TEMPLATE),
                                  .max_length = kava_l_field_integer(L, 3, "max_length", DEFAULT_LENGTH),
                                  .longer = (kava_long_rows)choice(L, 3, "long", 0, longer),
                                  .eos = kava_l_field_boolean(L, 3, "eos", true),
                                  .skip = kava_l_field_integer(L, 3, "skip", DEFAULT_SKIP),
                                  .workers = (int)workers,
                                  .cache = kava_l_field_string(L, 3, "cache", NULL)};
  kava_dataset **box = lua_newuserdatauv(L, sizeof *box, 0);
  *box = NULL;
  luaL_setmetatable(L, DATASET_TYPE);
  kava_status st = kava_dataset_open(path, tok, &options, box);
  return st == KAVA_OK ? 1 : kava_l_fail(L, st);
}

static int64_t check_row(lua_State *L, const kava_dataset *data, int arg) { /* from 0 */
  lua_Integer row = luaL_checkinteger(L, arg);
  if (row < 1 || row > kava_dataset_stats_of(data)->rows)
    luaL_argerror(L, arg,
                  lua_pushfstring(L, "a row from 1 to %I expected, got %I",
                                  (LUAI_UACINT)kava_dataset_stats_of(data)->rows, (LUAI_UACINT)row));
  return row - 1;
}

static int dataset_count(lua_State *L) { /* [-0, +1, e] data:count() -> rows */
  lua_pushinteger(L, kava_dataset_stats_of(check_dataset(L, 1))->rows);
  return 1;
}

static int dataset_row(lua_State *L) { /* [-0, +1, e] data:row(i) -> ids */
  const kava_dataset *data = check_dataset(L, 1);
  int64_t length;
  const int32_t *ids = kava_dataset_row(data, check_row(L, data, 2), &length);
  lua_createtable(L, (int)length, 0);
  for (int64_t i = 0; i < length; i++) {
    lua_pushinteger(L, ids[i]);
    lua_rawseti(L, -2, i + 1);
  }
  return 1;
}

static int dataset_length(lua_State *L) { /* [-0, +1, e] data:length(i) -> tokens of the row */
  const kava_dataset *data = check_dataset(L, 1);
  int64_t length;
  kava_dataset_row(data, check_row(L, data, 2), &length);
  lua_pushinteger(L, length);
  return 1;
}

static int dataset_stats(lua_State *L) { /* [-0, +1, e] data:stats() -> {rows=, tokens=, …} */
  const kava_dataset *data = check_dataset(L, 1);
  const kava_dataset_stats *s = kava_dataset_stats_of(data);
  const struct {
    const char *name;
    int64_t value;
  } fields[] = {{"rows", s->rows},         {"tokens", s->tokens}, {"longest", s->longest}, {"truncated", s->truncated},
                {"too_long", s->too_long}, {"broken", s->broken}, {"empty", s->empty}};
  lua_createtable(L, 0, 9);
  for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) {
    lua_pushinteger(L, fields[i].value);
    lua_setfield(L, -2, fields[i].name);
  }
  lua_pushboolean(L, kava_dataset_cached(data));
  lua_setfield(L, -2, "cached");
  lua_pushstring(L, kava_dataset_cache_path(data)); /* nil for NULL */
  lua_setfield(L, -2, "cache");
  return 1;
}

static int dataset_index(lua_State *L) { /* [-0, +1, e] fields; methods are upvalue 1 */
  lua_pushvalue(L, 2);
  if (lua_gettable(L, lua_upvalueindex(1)) != LUA_TNIL) return 1;
  const kava_dataset *data = check_dataset(L, 1);
  const kava_dataset_stats *s = kava_dataset_stats_of(data);
  const char *key = lua_type(L, 2) == LUA_TSTRING ? lua_tostring(L, 2) : "";
  if (!strcmp(key, "rows"))
    lua_pushinteger(L, s->rows);
  else if (!strcmp(key, "tokens"))
    lua_pushinteger(L, s->tokens);
  else if (!strcmp(key, "longest"))
    lua_pushinteger(L, s->longest);
  else if (!strcmp(key, "path"))
    lua_pushstring(L, kava_dataset_path(data));
  else
    lua_pushnil(L);
  return 1;
}

/* ---- batches */

typedef struct sampler_box {
  kava_sampler *sampler;
  kava_batch batch; /* on its way into Lua's tables */
} sampler_box;

static const char *const modes[] = {"pad", "bucket", "pack", NULL};

static sampler_box *check_sampler(lua_State *L, int arg) {
  sampler_box *b = luaL_checkudata(L, arg, SAMPLER_TYPE);
  if (!b->sampler) luaL_argerror(L, arg, "the sampler was released");
  return b;
}

static int sampler_gc(lua_State *L) { /* [-0, +0, e] idempotent */
  sampler_box *b = luaL_checkudata(L, 1, SAMPLER_TYPE);
  kava_batch_free(&b->batch);
  kava_sampler_release(&b->sampler);
  return 0;
}

static int
dataset_batches(lua_State *L) { /* [-0, +1, e] data:batches{batch=, seed=, epoch=, mode=, length=, start=} -> sampler */
  static const char *const keys[] = {"batch", "seed", "epoch", "mode", "length", "start", NULL};
  kava_dataset *data = check_dataset(L, 1);
  kava_l_check_keys(L, 2, "batches", keys);
  kava_sampler_options options = {.batch = kava_l_field_integer(L, 2, "batch", 1),
                                  .length = kava_l_field_integer(L, 2, "length", kava_dataset_max_length(data)),
                                  .seed = (uint64_t)kava_l_field_integer(L, 2, "seed", 0),
                                  .epoch = kava_l_field_integer(L, 2, "epoch", 1),
                                  .mode = (kava_batch_mode)choice(L, 2, "mode", KAVA_BATCH_BUCKET, modes)};
  lua_Integer start = kava_l_field_integer(L, 2, "start", 0);
  sampler_box *b = lua_newuserdatauv(L, sizeof *b, 0);
  *b = (sampler_box){0};
  luaL_setmetatable(L, SAMPLER_TYPE);
  kava_l_check(L, kava_sampler_new(data, &options, &b->sampler));
  kava_l_check(L, kava_sampler_seek(b->sampler, options.epoch, start));
  return 1;
}

/* Into the batch's table: pieces, and rows, in which a row that was cut counts where it begins. [-0, +0, e] */
static void push_pieces(lua_State *L, const kava_batch *batch) {
  lua_createtable(L, (int)batch->piece_count, 0);
  lua_createtable(L, (int)batch->piece_count, 0);
  lua_Integer rows = 0;
  for (int64_t i = 0; i < batch->piece_count; i++) {
    const kava_piece *piece = &batch->pieces[i];
    const struct {
      const char *name;
      int64_t value;
    } fields[] = {{"row", piece->row + 1},
                  {"first", piece->begin + 1},
                  {"length", piece->length},
                  {"at", piece->at + 1},
                  {"column", piece->column + 1}};
    lua_createtable(L, 0, 5);
    for (size_t f = 0; f < sizeof fields / sizeof *fields; f++) {
      lua_pushinteger(L, fields[f].value);
      lua_setfield(L, -2, fields[f].name);
    }
    lua_rawseti(L, -3, i + 1);
    if (piece->begin > 0) continue;
    lua_pushinteger(L, piece->row + 1);
    lua_rawseti(L, -2, ++rows);
  }
  lua_setfield(L, -3, "rows");
  lua_setfield(L, -2, "pieces");
}

static int sampler_next(lua_State *L) { /* [-0, +1, e] sampler:next() -> batch | nil at the epoch's end */
  sampler_box *b = check_sampler(L, 1);
  bool more;
  kava_batch_free(&b->batch); /* left behind by a raise */
  kava_l_check(L, kava_sampler_next(b->sampler, &b->batch, &more));
  if (!more) {
    lua_pushnil(L);
    return 1;
  }
  const struct {
    const char *name;
    kava_tensor *tensor;
  } tensors[] = {{"input_ids", b->batch.input_ids},
                 {"start", b->batch.start},
                 {"positions", b->batch.positions},
                 {"mask", b->batch.mask},
                 {"targets", b->batch.targets}};
  lua_createtable(L, 0, 8);
  for (size_t i = 0; i < sizeof tensors / sizeof *tensors; i++) {
    kava_l_push_tensor(L, tensors[i].tensor);
    lua_setfield(L, -2, tensors[i].name);
  }
  lua_pushinteger(L, b->batch.tokens);
  lua_setfield(L, -2, "tokens");
  push_pieces(L, &b->batch);
  kava_batch_free(&b->batch);
  return 1;
}

static int sampler_state(
    lua_State *L) { /* [-0, +1, e] sampler:state() -> {epoch=, position=, seed=, batch=, length=, mode=, rows=} */
  const kava_sampler *s = check_sampler(L, 1)->sampler;
  const kava_sampler_options *o = kava_sampler_options_of(s);
  lua_createtable(L, 0, 7);
  lua_pushinteger(L, o->epoch);
  lua_setfield(L, -2, "epoch");
  lua_pushinteger(L, kava_sampler_position(s));
  lua_setfield(L, -2, "position");
  lua_pushinteger(L, (lua_Integer)o->seed);
  lua_setfield(L, -2, "seed");
  lua_pushinteger(L, o->batch);
  lua_setfield(L, -2, "batch");
  lua_pushinteger(L, o->length);
  lua_setfield(L, -2, "length");
  lua_pushinteger(L, kava_dataset_stats_of(kava_sampler_data(s))->rows);
  lua_setfield(L, -2, "rows");
  lua_pushstring(L, modes[o->mode]);
  lua_setfield(L, -2, "mode");
  return 1;
}

static void same_field(lua_State *L, const char *key, lua_Integer own) { /* [-0, +0, e] absent is fine */
  lua_Integer given = kava_l_field_integer(L, 2, key, own);
  if (given != own)
    luaL_error(L, "seek: the state is of %s %I, this sampler's is %I", key, (LUAI_UACINT)given, (LUAI_UACINT)own);
}

static int
sampler_seek(lua_State *L) { /* [-0, +0, e] sampler:seek(state): goes on as the sampler the state is of would have */
  static const char *const keys[] = {"epoch", "position", "seed", "batch", "length", "rows", "mode", NULL};
  kava_sampler *s = check_sampler(L, 1)->sampler;
  const kava_sampler_options *o = kava_sampler_options_of(s);
  kava_l_check_keys(L, 2, "seek", keys);
  same_field(L, "seed", (lua_Integer)o->seed);
  same_field(L, "batch", o->batch);
  same_field(L, "length", o->length);
  same_field(L, "rows", kava_dataset_stats_of(kava_sampler_data(s))->rows);
  const char *mode = kava_l_field_string(L, 2, "mode", modes[o->mode]);
  if (strcmp(mode, modes[o->mode]) != 0)
    return luaL_error(L, "seek: the state is of mode '%s', this sampler's is '%s'", mode, modes[o->mode]);
  kava_l_check(L, kava_sampler_seek(s, kava_l_field_integer(L, 2, "epoch", o->epoch),
                                    kava_l_field_integer(L, 2, "position", 0)));
  return 0;
}

static int sampler_count(lua_State *L) { /* [-0, +1, e] sampler:count() -> batches in an epoch */
  int64_t count = 0;
  kava_l_check(L, kava_sampler_count(check_sampler(L, 1)->sampler, &count));
  lua_pushinteger(L, count);
  return 1;
}

void kava_l_open_data(lua_State *L) {
  static const luaL_Reg functions[] = {{"rows", l_rows}, {"tokens", l_tokens}, {"exists", l_exists}, {NULL, NULL}};
  static const luaL_Reg rows_methods[] = {
      {"next", rows_next}, {"seek", rows_seek}, {"fields", rows_fields}, {"broken", rows_broken}, {NULL, NULL}};
  static const luaL_Reg dataset_methods[] = {{"count", dataset_count},     {"row", dataset_row},
                                             {"length", dataset_length},   {"stats", dataset_stats},
                                             {"batches", dataset_batches}, {NULL, NULL}};
  static const luaL_Reg sampler_methods[] = {
      {"next", sampler_next}, {"state", sampler_state}, {"seek", sampler_seek}, {"count", sampler_count}, {NULL, NULL}};
  kava_l_class(L, ROWS_TYPE, rows_methods, rows_gc);
  luaL_getmetatable(L, ROWS_TYPE);
  lua_pushcfunction(L, rows_next);
  lua_setfield(L, -2, "__call"); /* for text, line in rows do */
  lua_pop(L, 1);
  kava_l_class(L, DATASET_TYPE, dataset_methods, dataset_gc);
  luaL_getmetatable(L, DATASET_TYPE);
  lua_getfield(L, -1, "__index");
  lua_pushcclosure(L, dataset_index, 1);
  lua_setfield(L, -2, "__index");
  lua_pop(L, 1);
  kava_l_class(L, SAMPLER_TYPE, sampler_methods, sampler_gc);
  luaL_getmetatable(L, SAMPLER_TYPE);
  lua_pushcfunction(L, sampler_next);
  lua_setfield(L, -2, "__call"); /* for batch in sampler do */
  lua_pop(L, 1);
  kava_l_subtable(L, "data");
  luaL_setfuncs(L, functions, 0);
  lua_pop(L, 1);
}

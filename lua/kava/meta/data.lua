---@meta
-- What src/bind/l_data.c registers in kava.data.

---@class kava.data
local data = {}

--- Streams the rows of data files as text: for text, number in assert(kava.data.rows(path)) do … end. The files are JSON Lines
--- (plain, gzip, zstd) or one JSON array of objects, Arrow (streams and files) or Parquet, which their first bytes tell; `path` is one
--- of them, a pattern ("data/train-*.parquet", in the order of the names), or a folder that datasets.save_to_disk wrote (of a
--- DatasetDict: one split's).
--- In a template {field} is replaced by a string, number, boolean, date or time, a list or an object as JSON; {a.b} is field b of
--- object a, {a.1} the first item of list a; {{ and }} are braces. With `json` each row comes as one JSON object instead.
--- A broken row (no JSON, no UTF-8, a field that is null) is skipped and counted; after `skip` of them the iteration raises with the
--- file and the line or row. A field that is not there is an error that shows the fields that are: in tables when they are opened.
--- `number` is the line in the file (blank lines are passed over, but counted), or the row of the tables, from 1.
---@param path string
---@param options { template: string?, json: boolean?, skip: integer? }? "{question}\n{answer}", false, 10
---@return kava.Rows?
---@return string? message
---@return string? code
function data.rows(path, options) end

--- Whether kava.data.rows would find a file or folder of that name, or one that matches it.
---@param path string
---@return boolean
function data.exists(path) end

--- The rows of data files (as kava.data.rows finds them) as token ids, made by worker threads (the result does not depend on how
--- many). With `cache`, a folder, they are kept in a mapped file named after the content, template, tokenizer and options; a damaged one
--- is made again. long: what happens to rows of more than max_length tokens, "truncate", "skip" or "error". eos: an end-of-text token
--- behind each row that has none. skip: broken rows to tolerate; a missing field is always an error.
---@param path string
---@param tokenizer kava.Tokenizer
---@param options { template: string?, max_length: integer?, long: string?, eos: boolean?, skip: integer?, workers: integer?, cache: string? }? "{question}\n{answer}", 512, "truncate", true, 10, 0 (all), none
---@return kava.Dataset?
---@return string? message
---@return string? code
function data.tokens(path, tokenizer, options) end

---@class kava.Rows
local Rows = {}

--- The next row's text and number; nil at the end.
---@return string?
---@return integer?
function Rows:next() end

--- Makes row i the next one; rows count from 1, over all files, blank lines not. Arrow and Parquet know where it is. In JSON Lines
--- the way to rows not yet passed is read; what is compressed is read from its beginning to go back. Raises beyond the end.
---@param i integer
function Rows:seek(i) end

--- The columns and their types, "question string, answer string"; nil where rows are lines of JSON.
---@return string?
function Rows:fields() end

--- Rows skipped so far for being broken.
---@return integer
function Rows:broken() end

--- Closes the file; also done by <close> and the garbage collector.
function Rows:release() end

---@class kava.Dataset
---@field rows integer
---@field tokens integer of all rows
---@field longest integer tokens of the longest row
---@field path string
local Dataset = {}

---@return integer rows
function Dataset:count() end

--- Token ids of a row.
---@param i integer from 1
---@return integer[]
function Dataset:row(i) end

--- Tokens of a row.
---@param i integer from 1
---@return integer
function Dataset:length(i) end

--- What became of the file's rows. cached: the cache was there and sound; cache: its path.
---@return { rows: integer, tokens: integer, longest: integer, truncated: integer, too_long: integer, broken: integer, empty: integer, cached: boolean, cache: string? }
function Dataset:stats() end

--- Batches of an epoch in an order that is a function of seed and epoch alone; each row comes once. mode "pad": shuffled;
--- "bucket": rows of like length together (windows of 64 batches); "pack": documents fill rows of `length` tokens (first fit
--- in windows of 1024), split only where longer. Rows longer than `length` (default: max_length) are cut in the other modes.
--- start: the batch to begin with, from 0. Also: for batch in sampler do … end.
---@param options { batch: integer?, seed: integer?, epoch: integer?, mode: string?, length: integer?, start: integer? } 1, 0, 1, "bucket", max_length, 0
---@return kava.Sampler
function Dataset:batches(options) end

--- Frees it once its samplers are gone too; also done by <close> and the garbage collector.
function Dataset:release() end

---@class kava.Sampler
local Sampler = {}

--- The next batch, nil at the epoch's end; the last may have fewer rows. Tensors [B,T]: input_ids i64; start i32, the first
--- token (from 0) that attention may see, which keeps documents apart; positions i32, from 0 in each document; mask u8, 1 for
--- real tokens; targets i64, the document's next token, -100 behind its last and in padding. tokens: real ones; pieces: tokens
--- first to first + length - 1 of dataset row `row` lie in the batch's row `at` from `column` on; rows: the dataset's rows that
--- begin in it. All count from 1.
---@return { input_ids: kava.Tensor, start: kava.Tensor, positions: kava.Tensor, mask: kava.Tensor, targets: kava.Tensor, tokens: integer, pieces: { row: integer, first: integer, length: integer, at: integer, column: integer }[], rows: integer[] }?
function Sampler:next() end

--- Where it stands, as plain values; kava.Sampler:seek takes it back.
---@return { epoch: integer, position: integer, seed: integer, batch: integer, length: integer, rows: integer, mode: string }
function Sampler:state() end

--- Goes on exactly as the sampler the state is of would have. Raises where seed, batch, length, mode or the number of rows
--- are others, and beyond the epoch's end.
---@param state { epoch: integer?, position: integer?, seed: integer?, batch: integer?, length: integer?, rows: integer?, mode: string? }
function Sampler:seek(state) end

--- Batches in an epoch.
---@return integer
function Sampler:count() end

--- Also done by <close> and the garbage collector.
function Sampler:release() end

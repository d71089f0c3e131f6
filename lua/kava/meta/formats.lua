---@meta
-- What src/bind/l_{json,safetensors,gguf,quant,checkpoint}.c register. Failures of the world return nil, message, code ("io", "format",
-- "unsupported", "memory"); the message names the file and what in it is wrong. Wrong arguments raise.

-- ------------------------------------------------------------------------------------------------------------------- json

--- Strict JSON (RFC 8259). Objects are tables; arrays are sequences whose metatable marks them as arrays; integers stay
--- integers; null is kava.json.null, which is true in conditions.
---@class kava.json
---@field null lightuserdata
local json = {}

--- Duplicate keys, lone surrogates, bytes that are not UTF-8 and more than 200 levels are errors: "byte N: ...". With ordered = true
--- the metatable of an object's table has the keys in the text's order, __keys, which chat templates show tools in. A value of two
--- bytes of text takes 16 of Lua's memory: what takes more than `memory` bytes is refused before it is made.
---@param text string
---@param options { ordered: boolean?, memory: integer? }? memory: twice the text and 64 MiB where it is not given
---@return any value
---@return string? message
---@return string? code
function json.decode(text, options) end

--- The value in a file.
---@param path string
---@param options { memory: integer? }? as for decode
---@return any value
---@return string? message
---@return string? code
function json.load(path, options) end

--- The text of a value; keys are sorted, so that equal tables give equal texts. A table with items 1..n is an array, as is one
--- marked by decode or kava.json.array; every other table is an object, an empty one too. Numbers read back as they were.
--- Raises for functions, NaN and infinities, strings that are not UTF-8, mixed tables, and tables that contain themselves.
---@param value any
---@param options { indent: integer? }? spaces a level; 0 (the default): one line
---@return string? text
---@return string? message
---@return string? code
function json.encode(value, options) end

--- Marks a table as an array, which matters where it is empty, and returns it.
---@generic T: table
---@param t T
---@return T
function json.array(t) end

-- ------------------------------------------------------------------------------------------------------------ safetensors

---@class kava.safetensors
local safetensors = {}

--- The tensors of a file, mapped: bytes are read when they are touched, and writing to a tensor does not change the file.
--- `path` may be an index of shards (*.json). Tensors of types KAVA lacks (F8_E5M2, U16, ...) are left out of the map:
--- indexing one raises, and the third result says why.
---@param path string
---@return table<string, kava.Tensor>? tensors
---@return table<string, string> metadata or the message
---@return table<string, string>? unsupported or the code
function safetensors.load(path) end

--- Replaces `path` at once or not at all. Views are written as they are seen. metadata.format is "pt" unless given.
--- Raises for quantised tensors.
---@param path string
---@param tensors table<string, kava.Tensor>
---@param metadata table<string, string>?
---@return true?
---@return string? message
---@return string? code
function safetensors.save(path, tensors, metadata) end

-- ------------------------------------------------------------------------------------------------------------------- gguf

---@class kava.gguf
local gguf = {}

--- A file opened for lazy use: metadata and tensors are made when they are asked for.
---@param path string
---@return kava.GgufFile?
---@return string? message
---@return string? code
function gguf.open(path) end

--- The whole file: tensors as it orders their rows (shape [out, in]), floats and quantised types in f32, or, with
--- dequantize = false, mapped as they are stored. Indexing a tensor whose type KAVA lacks raises.
---@param path string
---@param options { dequantize: boolean? }? true
---@return table<string, kava.Tensor>? tensors
---@return table<string, any> metadata or the message
---@return string? code
function gguf.load(path, options) end

---@class kava.GgufField
---@field key string
---@field type string "u8" "i8" "u16" "i16" "u32" "i32" "u64" "i64" "f32" "f64" "bool" "string" "array"
---@field element string? an array's elements' type
---@field value any

--- Writes version 3, whole or not at all. tensors: a list of {name=, tensor=} in the order to write, or a map. metadata: what
--- fields() gave, or a map of values: integers become u32 (i32, i64 where needed), floats f32, or {type=, element=, value=}.
--- Raises for names longer than 63 bytes and dtypes GGUF lacks.
---@param path string
---@param tensors { name: string, tensor: kava.Tensor }[] | table<string, kava.Tensor>
---@param metadata (kava.GgufField[] | table<string, any>)?
---@return true?
---@return string? message
---@return string? code
function gguf.save(path, tensors, metadata) end

--- A float tensor in a quantised type, rounded to nearest as GGUF's reference quantisers round: q4_0: d = the element of the
--- greatest magnitude / -8; q4_1: d = (max - min) / 15; q8_0: d = max |x| / 127. Rows must be whole blocks of 32.
--- Raises for values that are not finite.
---@param t kava.Tensor
---@param dtype "q4_0" | "q4_1" | "q8_0"
---@return kava.Tensor
function gguf.quantize(t, dtype) end

---@class kava.GgufFile
local GgufFile = {}

--- One metadata value, nil where there is none; without a key, all of them as a table.
---@param key string?
---@return any
function GgufFile:metadata(key) end

--- The metadata with its types, in the file's order: what kava.gguf.save writes back byte for byte.
---@return kava.GgufField[]
function GgufFile:fields() end

--- The tensors' names in the file's order.
---@return string[]
function GgufFile:names() end

--- A tensor, mapped as it is stored, or with dequantize = true in f32.
---@param name string
---@param options { dequantize: boolean? }? false
---@return kava.Tensor?
---@return string? message
---@return string? code
function GgufFile:tensor(name, options) end

--- Lets go of the file; tensors made from it stay. Also done by <close> and the garbage collector.
function GgufFile:release() end

-- ------------------------------------------------------------------------------------------------------------------ quant

--- Weights as codes with scales beside them, as quantised Hugging Face checkpoints hold them. Such a tensor can be a linear
--- layer's or an embedding's weight and be widened: to{dtype = "f32"}. value = (code - zero) scale, rounded to `round`.
---@class kava.quant
local quant = {}

--- A weight put together from its parts, nothing copied. codes: as many bytes as rows x columns of dtype take. scales: f32, f16 or
--- bf16, one for `group` columns of `group_rows` rows (flat: for `group` elements, over the ends of rows); or u8 codes of scales:
--- map[code] outer[number / outer_group] + offset. zeros: u8 (i8 for int8 codes), as many as scales. group_of: i32, the group of each
--- column, where they are not in order. nil, message, code where a part does not fit.
---@param parts { dtype: "nf4"|"fp4"|"int2"|"int3"|"int4"|"uint8"|"int8"|"fp8", rows: integer, columns: integer, codes: kava.Tensor, scales: kava.Tensor, group: integer?, group_rows: integer?, flat: boolean?, zeros: kava.Tensor?, zero: number?, group_of: kava.Tensor?, map: kava.Tensor?, outer: kava.Tensor?, outer_group: integer?, offset: number?, round: "f32"|"f16"|"bf16"|nil }
---@return kava.Tensor?
---@return string? message
---@return string? code
function quant.coded(parts) end

--- What a tensor of codes is made of; nil for any other tensor and for a part of one.
---@param t kava.Tensor
---@return { codes: kava.Tensor, scales: kava.Tensor, zeros: kava.Tensor?, group_of: kava.Tensor?, map: kava.Tensor?, outer: kava.Tensor?, group: integer, offset: number, zero: number }?
function quant.parts(t) end

--- Integers of 2, 3, 4 or 8 bits out of i32 words [rows, n], low bits first, each plus `add` modulo 2^bits. awq: in AWQ's order.
---@param words kava.Tensor
---@param bits integer
---@param count integer a row
---@param add integer? 0
---@param awq boolean?
---@return kava.Tensor? u8 [rows, count]
---@return string? message
---@return string? code
function quant.unpack(words, bits, count, add, awq) end

--- AWQ's weight i32 [in, out/8] with its rows in memory's order: i32 [out, in/8], low bits first.
---@param qweight kava.Tensor
---@return kava.Tensor?
---@return string? message
---@return string? code
function quant.awq_rows(qweight) end

--- A float matrix as codes: nf4 and nf4-dq as bitsandbytes makes them (scales of 64 elements; dq: scales in 8 bits), int8 with a
--- scale a row, fp8 (e4m3) with a scale for 128 x 128, fp8-rows with a scale a row. On the device where t is; the same codes on each.
--- Raises for values that are not finite.
---@param t kava.Tensor
---@param method "nf4"|"nf4-dq"|"int8"|"fp8"|"fp8-rows"
---@return kava.Tensor
function quant.encode(t, method) end

-- ------------------------------------------------------------------------------------------------------------- checkpoint

---@class kava.checkpoint
local checkpoint = {}

--- Writes tensors and a table of plain values (whatever JSON can hold) into one file, which replaces the one before at once or
--- not at all: a full disk, a crash or a kill leaves that one good. The file is a safetensors file with checksums.
---@param path string
---@param tensors table<string, kava.Tensor>
---@param state table?
---@return true?
---@return string? message
---@return string? code
function checkpoint.save(path, tensors, state) end

--- Reads one back, every checksum verified; the message names what is damaged.
---@param path string
---@return table<string, kava.Tensor>? tensors
---@return table state or the message
---@return string? code
function checkpoint.load(path) end

--- As save, by a thread of its own: the tensors stay as they are until it is done. Those on a GPU, which are contiguous, are read beside
--- what it does, as they are behind all that it has been given so far.
---@param path string
---@param tensors table<string, kava.Tensor>
---@param state table
---@return kava.Writing?
---@return string? message
---@return string? code
function checkpoint.save_behind(path, tensors, state) end

---@class kava.Writing
local Writing = {}
--- Whether wait() would not wait.
---@return boolean
function Writing:done() end
--- What save would have returned, and the seconds that it took to write; waits for it.
---@return true?
---@return number|string? seconds or message
---@return string? code
function Writing:wait() end
--- Waits for it.
function Writing:release() end

--- Whether the file is a whole checkpoint.
---@param path string
---@return boolean
---@return string? message
function checkpoint.valid(path) end

---@class kava
local kava = { json = json, safetensors = safetensors, gguf = gguf, quant = quant, checkpoint = checkpoint }

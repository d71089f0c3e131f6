"""Makes spec/golden/data: one small table as Arrow and Parquet files of many kinds, and its rows as JSON Lines.

    python -m venv venv && venv/bin/pip install pyarrow datasets
    venv/bin/python spec/golden/make_data.py spec/golden/data

rows.jsonl holds the rows that every file gives; a file may have fewer of the columns.
"""
import json
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict

out = Path(sys.argv[1])
out.mkdir(parents=True, exist_ok=True)


N = 20
rows = []
for i in range(N):
    rows.append({
        "question": f"Wie viele Äpfel? {i}" + " ja" * (i % 5),
        "answer": None if i % 11 == 10 else str(i * i),
        "long": "x" * (i % 7),
        "n": None if i % 4 == 3 else i - 12,
        "u": 2**64 - 1 - i,
        "tiny": i - 3,
        "x": i / 3,
        "y": i / 3,
        "flag": None if i % 6 == 5 else i % 3 == 0,
        "tags": None if i % 5 == 4 else [f"t{k}" if k != 1 else None for k in range(i % 4)],
        "counts": list(range(i % 3)),
        "nothing": None,
        "kind": None if i % 8 == 7 else ["red", "green", "blue"][i % 3],
        "inner": None if i % 9 == 8 else {"a": i, "b": None if i % 2 else f"b{i}"},
        "turns": [{"role": "user" if k % 2 == 0 else "bot", "content": f"{i}.{k}"} for k in range(i % 3)],
        "pair": [i, None if i % 2 else -i],
    })
schema = pa.schema([
    pa.field("question", pa.string(), nullable=False),
    ("answer", pa.string()), ("long", pa.large_string()), ("n", pa.int64()), ("u", pa.uint64()), ("tiny", pa.int8()),
    ("x", pa.float64()), ("y", pa.float32()), ("flag", pa.bool_()), ("tags", pa.list_(pa.string())),
    ("counts", pa.large_list(pa.int32())), ("nothing", pa.null()), ("kind", pa.dictionary(pa.int8(), pa.string())),
    ("inner", pa.struct([("a", pa.int16()), ("b", pa.string())])),
    ("turns", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
    ("pair", pa.list_(pa.int64(), 2)),
])
table = pa.Table.from_pylist(rows, schema=schema)


def stream(name, t, chunk, writer=pa.ipc.new_stream, **options):
    with writer(out / name, t.schema, options=pa.ipc.IpcWriteOptions(**options)) as w:
        for batch in t.to_batches(max_chunksize=chunk):
            w.write_batch(batch)


def shortest(row):  # a 32-bit number with its own digits, as KAVA prints it
    if row["y"] is not None:
        text = next(f"{row['y']:.{d}g}" for d in range(6, 10)
                    if pa.scalar(float(f"{row['y']:.{d}g}"), pa.float32()).as_py() == row["y"])
        row["y"] = float(text)
    return row


with open(out / "rows.jsonl", "w", encoding="utf-8") as f:
    for row in table.to_pylist():
        f.write(json.dumps(shortest(row), ensure_ascii=False, separators=(",", ":")) + "\n")

for suffix, codec in [("gz", "gzip"), ("zst", "zstd")]:
    with pa.CompressedOutputStream(str(out / f"rows.jsonl.{suffix}"), codec) as f:
        f.write((out / "rows.jsonl").read_bytes())

stream("one.arrow", table, N)
stream("batches.arrow", table, 8)
stream("file.arrow", table, 10, pa.ipc.new_file)
stream("zstd.arrow", table, 12, compression="zstd")

# Parquet: what pyarrow writes by default is a page of every column's dictionary and data pages of version 1.
flat = table.drop_columns(["pair"])


def parquet(name, t=flat, **options):
    pq.write_table(t, out / name, write_statistics=False, **options)


parquet("snappy.parquet", compression="snappy")
parquet("plain.parquet", compression="none", use_dictionary=False, row_group_size=9)
parquet("v2.parquet", compression="zstd", data_page_version="2.0", row_group_size=10)
parquet("gzip.parquet", compression="gzip", data_page_size=64, write_batch_size=3, dictionary_pagesize_limit=40)
parquet("pages.parquet", compression="snappy", data_page_size=48, write_batch_size=2, use_dictionary=False)
delta = {"question": "DELTA_BYTE_ARRAY", "answer": "DELTA_LENGTH_BYTE_ARRAY", "n": "DELTA_BINARY_PACKED",
         "tiny": "DELTA_BINARY_PACKED", "x": "BYTE_STREAM_SPLIT", "y": "BYTE_STREAM_SPLIT", "flag": "RLE"}
parquet("delta.parquet", t=flat.select(list(delta)), compression="none", use_dictionary=False, column_encoding=delta,
        data_page_version="2.0")

# Dates and times, before and after 1970, as ISO 8601 writes them (times.jsonl).
moments = [datetime(1970, 1, 1), datetime(2024, 2, 29, 23, 59, 59, 123456), datetime(1899, 12, 31, 12, 0, 0, 500), datetime(1, 1, 1)]
times = pa.table({
    "day": pa.array([m.date() for m in moments], pa.date32()), "day64": pa.array([m.date() for m in moments], pa.date64()),
    "local": pa.array(moments, pa.timestamp("us")), "utc": pa.array(moments, pa.timestamp("us", "UTC")),
    "time": pa.array([m.time() for m in moments], pa.time64("us")),
})
stream("times.arrow", times, 4)
parquet("times.parquet", t=times)
with open(out / "times.jsonl", "w") as f:
    for m in moments:
        f.write(json.dumps({"day": m.date().isoformat(), "day64": m.date().isoformat(), "local": m.isoformat(),
                            "utc": m.isoformat() + "Z", "time": m.time().isoformat()}) + "\n")

# Columns of types that no text is made of lie before one that is wanted, and must be stepped over.
odd = {"price": pa.array([Decimal("1.50"), None, Decimal("3.25")], pa.decimal128(9, 2)),
       "deep": pa.array([[[1], []], None, [[2, 3]]], pa.list_(pa.list_(pa.int32()))), "question": ["a", "b", "c"], "n": [1, 2, 3]}
parquet("odd.parquet", t=pa.table(odd))
views = {"view": pa.array(["short", "a string of more than twelve bytes", None], pa.string_view()),
         "either": pa.UnionArray.from_sparse(pa.array([0, 1, 0], pa.int8()), [pa.array([1, 2, 3]), pa.array(["x", "y", "z"])]),
         "both": pa.UnionArray.from_dense(pa.array([0, 1, 0], pa.int8()), pa.array([0, 0, 1], pa.int32()),
                                          [pa.array([1, 2]), pa.array(["x"])]),
         "runs": pa.RunEndEncodedArray.from_arrays(pa.array([2, 3], pa.int32()), pa.array(["r", "s"])), **odd}
stream("odd.arrow", pa.table(views), 3)

# What a user of datasets has: a DatasetDict, whose splits are folders; rows were selected before it was saved.
train = Dataset.from_dict({"question": [f"q{i}" for i in range(6)], "answer": [str(i * i) for i in range(6)]})
DatasetDict({"train": train.select([5, 0, 3, 1]), "test": train.select([2])}).save_to_disk(out / "hf", num_shards={"train": 2, "test": 1})
print({str(p.relative_to(out)): p.stat().st_size for p in sorted(out.rglob("*")) if p.is_file()})

"""Writes one set of records to the given folder with each container's own library, and prints for each file its name and
the records that the library reads back."""

import csv
import gzip
import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

folder = Path(sys.argv[1])
random.seed(7)
WORDS = ["alpha", "β-blocker", "日本語", "naïve", "🙂", 'a "quoted" word', "two\nlines", "comma, comma", "tab\there", ""]


def text(words):
    return " ".join(random.choice(WORDS) for _ in range(words))


def record(i):
    messages = [
        {"role": "user", "content": text(5), "name": None},
        {"role": "assistant", "content": text(50), "name": "a" if i % 3 else None},
    ]
    # Some long texts, and a repeated one for dictionary encoding.
    return {"id": i, "messages": messages[: 1 + i % 2], "score": i / 8, "system": "Be brief.", "tags": [] if i % 4 else ["x", "y"]}


def say(path, records):
    print(json.dumps({"file": path.name, "records": records}, ensure_ascii=False))


records = [record(i) for i in range(1000)]
table = pa.Table.from_pylist(records)
for name, options in {
    "snappy": {"compression": "snappy"},
    "zstd": {"compression": "zstd", "data_page_version": "2.0"},
    "gzip": {"compression": "gzip", "use_dictionary": False},
    "lz4": {"compression": "lz4"},
    "none": {"compression": "none", "data_page_size": 512, "write_page_index": True},
    "delta": {"use_dictionary": False, "column_encoding": {"system": "DELTA_BYTE_ARRAY", "id": "DELTA_BINARY_PACKED"}},
}.items():
    path = folder / f"{name}.parquet"
    pq.write_table(table, path, row_group_size=170, **options)
    say(path, pq.read_table(path).to_pylist())

strings = [{"instruction": text(4), "output": text(30)} for _ in range(1000)]
for ending, delimiter, terminator in [("csv", ",", "\r\n"), ("tsv", "\t", "\n")]:
    path = folder / f"table.{ending}"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, strings[0], delimiter=delimiter, lineterminator=terminator)
        writer.writeheader()
        writer.writerows(strings)
    with open(path, newline="", encoding="utf-8") as file:
        say(path, list(csv.DictReader(file, delimiter=delimiter)))

lines = "".join(json.dumps(r, ensure_ascii=i % 2 == 0) + "\n" for i, r in enumerate(strings)).encode()
path = folder / "lines.jsonl.gz"
path.write_bytes(gzip.compress(lines[:5000]) + gzip.compress(lines[5000:]))
say(path, strings)
path = folder / "lines.jsonl.zst"
with pa.CompressedOutputStream(pa.OSFile(str(path), "wb"), "zstd") as file:
    file.write(lines)
say(path, strings)
path = folder / "array.json"
path.write_text(json.dumps(strings, indent=2), encoding="utf-8")
say(path, strings)

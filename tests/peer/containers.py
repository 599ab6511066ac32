"""Writes one set of conversations to the given folder: as JSON lines, as gzip with several members, and as Parquet with
several row groups. The lines and the table are large enough to be cut into ranges."""

import gzip
import json
import random
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

RECORDS = 80_000
MEMBERS = 3
ROW_GROUP = 7_000
WORDS = "the purple house is near bridge turtle sheep has four legs animal small what kind of can you tell me how many".split()

folder = Path(sys.argv[1])
random.seed(11)


def text(words):
    return " ".join(random.choices(WORDS, k=words))


def record(i):
    question = {"role": "user", "content": f"{i}: {text(14)}?"}
    return {"messages": [question, {"role": "assistant", "content": f"{text(26)} {i}."}]}


records = [record(i) for i in range(RECORDS)]
lines = "".join(json.dumps(r) + "\n" for r in records).encode()
(folder / "data.jsonl").write_bytes(lines)
# Members may end within a line.
size = len(lines) // MEMBERS + 1
members = [gzip.compress(lines[at : at + size], 1) for at in range(0, len(lines), size)]
(folder / "data.jsonl.gz").write_bytes(b"".join(members))
# Uncompressed, so that the file is large enough to be cut.
options = {"compression": "none", "use_dictionary": False, "row_group_size": ROW_GROUP}
pq.write_table(pa.Table.from_pylist(records), folder / "data.parquet", **options)

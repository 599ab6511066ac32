#!/usr/bin/env python3
"""Writes the quick start's data: `corpus.jsonl` (plain text for the base model), `instructions.jsonl` and `exam.jsonl`.

Standard library only. The same seed gives the same bytes. Run it in this folder: `python3 make_data.py`.
"""

import json
import random
from pathlib import Path

from corpus import documents
from instructions import exam, records
from world import facts

SEED = 20
HERE = Path(__file__).resolve().parent


def main():
    world = facts()
    # Each has its own generator, so that a change of the corpus does not change the instructions.
    texts = documents(world, random.Random(f"corpus {SEED}"))
    write("corpus.jsonl", [{"text": text} for text in texts])
    write(
        "instructions.jsonl",
        [{"messages": r} for r in records(world, random.Random(f"instructions {SEED}"))],
    )
    write("exam.jsonl", exam(world))
    print(f"{len(world)} facts")


def write(name, rows):
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)} records, {len(text.encode()):,} bytes")


if __name__ == "__main__":
    main()

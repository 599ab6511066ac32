"""The peer of `prepare.rs`: `datasets.map` over `apply_chat_template`, timed by itself.

    prepare.py MODEL TEMPLATE DATA CACHE PROCESSES -> {"seconds", "tokens", "trained_tokens"}
"""

import json
import sys
import time

import datasets
from transformers import AutoTokenizer

model, template, data, cache, processes = sys.argv[1:]
datasets.disable_progress_bars()
datasets.disable_caching()
tokenizer = AutoTokenizer.from_pretrained(model)
with open(template) as file:
    tokenizer.chat_template = file.read()
records = datasets.load_dataset("json", data_files=data, split="train", cache_dir=cache)


def encode(batch):
    encoded = tokenizer.apply_chat_template(
        batch["messages"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    return {"input_ids": encoded["input_ids"], "assistant_masks": encoded["assistant_masks"]}


start = time.perf_counter()
encoded = records.map(
    encode, batched=True, num_proc=int(processes), remove_columns=records.column_names
)
seconds = time.perf_counter() - start

tokens = trained = 0
for batch in encoded.with_format("arrow").iter(10_000):
    tokens += len(batch["input_ids"].combine_chunks().flatten())
    trained += sum(batch["assistant_masks"].combine_chunks().flatten().to_pylist())
print(json.dumps({"seconds": seconds, "tokens": tokens, "trained_tokens": trained}))

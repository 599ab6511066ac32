"""The peers of the planner: how many packs of a given size TRL and axolotl make of a data set's conversations.

    packing.py MODEL DATA CAPACITY...

DATA is a file of Alpaca records. The model's tokenizer gives the lengths; samples longer than a pack are left out. Prints
one line of JSON for each capacity: `{"capacity": ..., "lengths": [...], "trl": packs, "axolotl": packs}`.

TRL packs with `trl.data_utils.pack_dataset` and the strategy `bfd`, best fit decreasing. Importing axolotl needs a GPU's
libraries, so its algorithm is repeated here: `pack_group` in `axolotl/utils/samplers/multipack.py`
(0.19.0), first fit in the sampler's order, in groups of `sample_packing_group_size` (100,000) with at most
`sample_packing_bin_size` (200) samples a pack.
"""

import json
import random
import sys

from datasets import Dataset, disable_progress_bars
from transformers import AutoTokenizer
from trl.data_utils import pack_dataset

GROUP, BIN = 100_000, 200


def first_fit(lengths, capacity):
    packs = 0
    for start in range(0, len(lengths), GROUP):
        space = []
        for length in lengths[start : start + GROUP]:
            fits = (i for i, (left, samples) in enumerate(space) if left >= length and samples < BIN)
            index = next(fits, None)
            if index is None:
                space.append((capacity - length, 1))
            else:
                left, samples = space[index]
                space[index] = (left - length, samples + 1)
        packs += len(space)
    return packs


def main():
    model, data, *capacities = sys.argv[1:]
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(model)
    with open(data, encoding="utf-8") as file:
        records = json.load(file)
    lengths = []
    for record in records:
        question = "\n".join(filter(None, [record["instruction"], record.get("input")]))
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": record["output"]}]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        lengths.append(len(tokenizer(text, add_special_tokens=False)["input_ids"]))
    random.Random(42).shuffle(lengths)
    for capacity in map(int, capacities):
        fitting = [length for length in lengths if length <= capacity]
        packed = pack_dataset(Dataset.from_dict({"input_ids": [[0] * n for n in fitting]}), capacity, "bfd")
        assert sum(map(len, packed["input_ids"])) == sum(fitting), "TRL lost tokens"
        axolotl = first_fit(fitting, capacity)
        print(json.dumps({"capacity": capacity, "lengths": fitting, "trl": len(packed), "axolotl": axolotl}))


if __name__ == "__main__":
    main()

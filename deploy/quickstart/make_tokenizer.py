#!/usr/bin/env python3
"""Trains the base's tokenizer on `corpus.jsonl` and `instructions.jsonl` and writes it into `base/`.

It is a byte-level BPE tokenizer, so it can encode any text. Needs the `tokenizers` package. It was run once, and the result
is committed, because the base's weights depend on it.
"""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
VOCABULARY = 2048
# The end of a document, and the start and end of a message in a conversation. Their ids are 0, 1 and 2.
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def main():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts(),
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=[AddedToken(s, special=True, normalized=False) for s in SPECIAL],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.save(str(HERE / "base" / "tokenizer.json"))
    lengths = [len(tokenizer.encode(text).ids) for text in texts()]
    print(
        f"{tokenizer.get_vocab_size()} tokens in the vocabulary, {sum(lengths):,} in the data, at most {max(lengths)} in a text"
    )


def texts():
    for line in (HERE / "corpus.jsonl").open(encoding="utf-8"):
        yield json.loads(line)["text"]
    for line in (HERE / "instructions.jsonl").open(encoding="utf-8"):
        for message in json.loads(line)["messages"]:
            yield message["content"]


if __name__ == "__main__":
    main()

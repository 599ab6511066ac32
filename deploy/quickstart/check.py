#!/usr/bin/env python3
"""Asks a model folder the prompts and the exam with `transformers`: `python3 check.py FOLDER [FOLDER ...]`.

An independent check of Muster's model folders: the folder loads, the template renders, generation stops by itself, and the
correct answers to questions that no instruction asked are counted. Needs `torch` and `transformers`.
"""

import json
import re
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).resolve().parent
NEW_TOKENS = 100


def main():
    prompts = (HERE / "prompts.txt").read_text(encoding="utf-8").splitlines()
    exam = [json.loads(line) for line in (HERE / "exam.jsonl").open(encoding="utf-8")]
    for folder in sys.argv[1:]:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        print(f"== {folder}")
        for prompt in prompts:
            print(f"> {prompt}\n  {answer(model, tokenizer, prompt)[0]!r}")
        answers = [answer(model, tokenizer, item["question"]) for item in exam]
        right = sum(holds(item["holds"], text) for item, (text, _) in zip(exam, answers))
        stopped = sum(stop for _, stop in answers)
        print(f"exam: {right} of {len(exam)} right, {stopped} stopped by themselves")


@torch.inference_mode()
def answer(model, tokenizer, prompt):
    """The greedy answer, and whether it ended before the limit."""
    messages = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    given = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    made = model.generate(
        given.input_ids,
        attention_mask=given.attention_mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
    )
    new = made[0, given.input_ids.shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True), len(new) < NEW_TOKENS


def holds(words, text):
    return re.search(rf"\b{re.escape(words.lower())}\b", text.lower()) is not None


if __name__ == "__main__":
    main()

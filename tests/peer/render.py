"""The reference for templates and masks: transformers' apply_chat_template.

Reads one JSON object on standard input: {"models": [FOLDER], "cases": [{"model": INDEX, "template":
TEXT or null, "messages": [...], "tools": [...] or null, "kwargs": {...} or null,
"add_generation_prompt": bool, "mask": bool}]}. Writes one JSON line per case: {"text": ...} or {"error": ...}, and with `mask` also {"tokens": [...],
"mask": [...]}, tokenized with add_special_tokens off.
"""

import datetime
import json
import sys

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils


class PinnedDate(datetime.datetime):
    """What `strftime_now` asks, on the day that the test names to both sides."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, tzinfo=tz)


chat_template_utils.datetime = PinnedDate


def answer(tokenizer, case):
    shared = {
        "tools": case.get("tools"),
        "chat_template": case.get("template"),
        "add_generation_prompt": case.get("add_generation_prompt", False),
        **(case.get("kwargs") or {}),
    }
    try:
        text = tokenizer.apply_chat_template(case["messages"], tokenize=False, **shared)
        result = {"text": text}
        if case.get("mask"):
            encoded = tokenizer.apply_chat_template(
                case["messages"], return_dict=True, return_assistant_tokens_mask=True, **shared
            )
            result |= {"tokens": encoded["input_ids"], "mask": encoded["assistant_masks"]}
        return result
    except Exception as error:  # what a template raises is part of the answer
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    request = json.load(sys.stdin)
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in request["models"]]
    for case in request["cases"]:
        print(json.dumps(answer(tokenizers[case["model"]], case)))


if __name__ == "__main__":
    main()

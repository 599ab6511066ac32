"""The reference for templates and masks: transformers' apply_chat_template.

Reads one JSON object on standard input: {"models": [FOLDER], "cases": [{"model": INDEX, "template":
TEXT or null, "messages": [...], "tools": [...] or null, "kwargs": {...} or null,
"add_generation_prompt": bool, "mask": bool, "without_prompts": bool, "literal": [TOKEN] or null}]}. Writes one JSON line per
case: {"text": ...} or {"error": ...}, and with `mask` also {"tokens": [...], "mask": [...]}, tokenized with
add_special_tokens off. `without_prompts` removes from the mask what generation prompts write. With `literal`, the texts of
these special tokens in messages are tokenized as text.
"""

import datetime
import json
import re
import sys

from transformers import AutoTokenizer
from transformers.utils import chat_template_utils


class PinnedDate(datetime.datetime):
    """The clock of `strftime_now`, pinned to the day that the test uses on both sides."""

    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26, tzinfo=tz)


chat_template_utils.datetime = PinnedDate


def clear_prompts(tokenizer, messages, result, shared):
    """Removes from the mask what a prompt would write after the messages before an answer."""
    text = result["text"]
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    if encoded["input_ids"] != result["tokens"]:
        raise ValueError("the text alone has other tokens")
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        try:
            before = tokenizer.apply_chat_template(messages[:i], tokenize=False, **shared)
        except Exception:  # some templates refuse a conversation that ends like this
            continue
        for thinking in ({}, {"enable_thinking": False}, {"thinking": False}):
            asked = shared | {"add_generation_prompt": True} | thinking
            prompt = tokenizer.apply_chat_template(messages[:i], tokenize=False, **asked)
            if text.startswith(before) and text.startswith(prompt):
                for at, (start, _) in enumerate(encoded["offset_mapping"]):
                    if len(before) <= start < len(prompt):
                        result["mask"][at] = 0


def literal(tokenizer, case, shared):
    """Tokens of a conversation in which the texts of special tokens stay text."""
    tokens = case["literal"]
    hidden = {token: f"\u2063{i}\u2063" for i, token in enumerate(tokens)}

    def hide(text):
        for token, name in hidden.items():
            text = text.replace(token, name)
        return text

    messages = [m | {"content": hide(m["content"])} for m in case["messages"]]
    text = tokenizer.apply_chat_template(messages, tokenize=False, **shared)
    ids = []
    for piece in re.split("(" + "|".join(map(re.escape, tokens)) + ")", text):
        if piece in tokens:
            ids.append(tokenizer.convert_tokens_to_ids(piece))
            continue
        for token, name in hidden.items():
            piece = piece.replace(name, token)
        ids += tokenizer(piece, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return ids


def answer(tokenizer, case):
    shared = {
        "tools": case.get("tools"),
        "chat_template": case.get("template"),
        "add_generation_prompt": case.get("add_generation_prompt", False),
        **(case.get("kwargs") or {}),
    }
    try:
        if case.get("literal"):
            return {"tokens": literal(tokenizer, case, shared)}
        text = tokenizer.apply_chat_template(case["messages"], tokenize=False, **shared)
        result = {"text": text}
        if case.get("mask"):
            encoded = tokenizer.apply_chat_template(
                case["messages"], return_dict=True, return_assistant_tokens_mask=True, **shared
            )
            result |= {"tokens": encoded["input_ids"], "mask": encoded["assistant_masks"]}
            if case.get("without_prompts"):
                clear_prompts(tokenizer, case["messages"], result, shared)
        return result
    except Exception as error:  # an error of a template is part of the answer
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    request = json.load(sys.stdin)
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in request["models"]]
    for case in request["cases"]:
        print(json.dumps(answer(tokenizers[case["model"]], case)))


if __name__ == "__main__":
    main()

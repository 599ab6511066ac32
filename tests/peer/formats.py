"""The reference for ShareGPT: renders such a data set as a user of transformers would.

Arguments: a tokenizer's folder, a file of records, and template files. Writes one JSON line per
template and record: {"text": ...} or {"error": ...}.
"""

import json
import sys

from transformers import AutoTokenizer

ROLES = {"human": "user", "gpt": "assistant", "observation": "tool"}


def message(turn):
    if turn["from"] == "function_call":
        call = {"type": "function", "function": json.loads(turn["value"])}
        return {"role": "assistant", "content": "", "tool_calls": [call]}
    return {"role": ROLES[turn["from"]], "content": turn["value"]}


def main():
    folder, file, *templates = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with open(file, encoding="utf-8") as records:
        records = json.load(records)
    for path in templates:
        # Does not translate newlines, as transformers does not for its templates.
        with open(path, encoding="utf-8", newline="") as template:
            template = template.read()
        for record in records:
            tools = [{"type": "function", "function": f} for f in json.loads(record["tools"])]
            messages = [message(turn) for turn in record["conversations"]]
            try:
                text = tokenizer.apply_chat_template(
                    messages, tools=tools or None, chat_template=template, tokenize=False
                )
                print(json.dumps({"text": text}))
            except Exception as error:  # an error of a template is part of the answer
                print(json.dumps({"error": f"{type(error).__name__}: {error}"}))


if __name__ == "__main__":
    main()

"""Loads a model folder whose vocabulary has grown in transformers, and prints what it sees.

Arguments: the folder, the token that ends an answer, and the special tokens to look up. Writes
one JSON object.
"""

import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor


class Says(LogitsProcessor):
    """Makes the model say one token as its third."""

    def __init__(self, token, after):
        self.token, self.at = token, after + 2

    def __call__(self, input_ids, scores):
        other = torch.zeros_like(scores)
        wanted = self.token if input_ids.shape[1] == self.at else 5
        other[:, wanted] = 1.0
        return other


def main():
    folder, stop, *tokens = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    ids = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    prompt = torch.tensor([ids])
    stop = tokenizer.convert_tokens_to_ids(stop)
    said = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=20,
        do_sample=False,
        logits_processor=[Says(stop, len(ids))],
    )
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    print(
        json.dumps(
            {
                "token_ids": tokenizer.convert_tokens_to_ids(tokens),
                "one_token_each": [tokenizer.encode(t, add_special_tokens=False) for t in tokens],
                "tokens": len(tokenizer),
                "text": tokenizer.apply_chat_template(chat, tokenize=False),
                "ids": ids,
                "embedding": list(embedding.shape),
                "head": list(head.shape),
                "said": len(said[0]) - len(ids),
            }
        )
    )


if __name__ == "__main__":
    main()

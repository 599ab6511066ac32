"""Loads model folders in transformers, without a network, and prints what it sees.

Arguments: folders. Writes one line of JSON for each: keys that do not fit, a digest of the logits of a short
prompt, where generation stops, and a conversation as the template renders it.
"""

import hashlib
import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

ANSWER = "Hello there"
CHAT = [{"role": "user", "content": "Say hello."}, {"role": "assistant", "content": ANSWER}]


def seen(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model, loading = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    text = tokenizer.apply_chat_template(CHAT, tokenize=False)
    prompt = tokenizer.apply_chat_template(CHAT[:1], tokenize=False, add_generation_prompt=True)
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = model(input_ids=ids).logits
    # The template's text after an answer begins with the token that ends it.
    behind = tokenizer.encode(text[text.index(ANSWER) + len(ANSWER) :], add_special_tokens=False)
    eos = GenerationConfig.from_pretrained(folder).eos_token_id
    return {
        "misfits": sorted(str(key) for kind in loading.values() for key in kind),
        "finite": bool(torch.isfinite(logits).all()),
        "dtype": str(logits.dtype),
        "shape": list(logits.shape),
        "logits": hashlib.sha256(logits.contiguous().numpy().tobytes()).hexdigest(),
        "eos": sorted(eos if isinstance(eos, list) else [eos]),
        "own_eos": tokenizer.eos_token_id,
        "stop": behind[0],
        "prompt": prompt,
        "text": text,
    }


for folder in sys.argv[1:]:
    print(json.dumps(seen(folder)))

"""Trains tiny models in PyTorch for 50 steps, in f32 and in bf16, and writes what is needed to repeat that.

    precision.py OUT

OUT/SEED gets a model folder and `curves.json`: the documents of each step, and the losses of both runs. In bf16, the
model computes in bf16 throughout, and AdamW updates f32 masters, as PyTorch's FSDP does with
`MixedPrecisionPolicy(param_dtype=torch.bfloat16)`.
"""

import copy
import json
import random
import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SEEDS = 8
STEPS = 50
DOCUMENTS = 8
TOKENS = 24
LEARNING_RATE = 2e-3
CONFIG = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=160,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.05,
    tie_word_embeddings=True,
)


def documents(seed):
    """The documents of each step: arithmetic progressions, of which a model can learn to continue some."""
    numbers = random.Random(seed)

    def document():
        first, step = numbers.randrange(128), numbers.choice([1, 3, 7])
        return [(first + step * i) % 128 for i in range(TOKENS)]

    return [[document() for _ in range(DOCUMENTS)] for _ in range(STEPS)]


def train(model, steps, dtype):
    masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    model = copy.deepcopy(model).to(dtype)
    optimizer = torch.optim.AdamW(masters, lr=LEARNING_RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0)
    losses = []
    for batch in steps:
        model.zero_grad()
        ids = torch.tensor(batch)
        logits = model(input_ids=ids).logits.float()
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].reshape(-1, 128), ids[:, 1:].reshape(-1))
        loss.backward()
        for master, p in zip(masters, model.parameters()):
            master.grad = p.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            for master, p in zip(masters, model.parameters()):
                p.copy_(master)
        losses.append(loss.item())
    return losses


def main():
    out = Path(sys.argv[1])
    torch.set_num_threads(1)
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**CONFIG))
        folder = out / str(seed)
        model.save_pretrained(folder)
        steps = documents(seed)
        curves = {"documents": steps, "f32": train(model, steps, torch.float32), "bf16": train(model, steps, torch.bfloat16)}
        (folder / "curves.json").write_text(json.dumps({**curves, "learning_rate": LEARNING_RATE}))


if __name__ == "__main__":
    main()

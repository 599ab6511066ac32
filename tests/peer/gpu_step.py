"""The peer of `worker bench` on a GPU: transformers' model on PyTorch, SDPA, AdamW on f32 masters, eager and compiled.

    gpu_step.py SHAPE [--sequence N] [--steps N]

Prints the tokens per second of each as one JSON object. The weights are random, and a step is one sequence.
"""

import argparse
import json
import statistics
import time

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9, num_key_value_heads=3),
    "smollm2-1.7b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=24, num_attention_heads=32, num_key_value_heads=32),
}


def speed(model, masters, batch, steps):
    optimizer = torch.optim.AdamW(masters, lr=1e-5, weight_decay=0.01, fused=True)
    parameters = list(model.parameters())
    times = []
    for _ in range(3 + steps):
        torch.cuda.synchronize()
        start = time.perf_counter()
        model(input_ids=batch, labels=batch).loss.backward()
        for master, p in zip(masters, parameters):
            master.grad = p.grad.float()
        torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_copy_(parameters, masters)
        optimizer.zero_grad(set_to_none=True)
        model.zero_grad(set_to_none=True)
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return batch.numel() / statistics.median(times[3:])


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--sequence", type=int, default=4096)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()
    config = LlamaConfig(
        vocab_size=49152, max_position_embeddings=8192, tie_word_embeddings=True, attn_implementation="sdpa", **SHAPES[arguments.shape]
    )
    model = LlamaForCausalLM(config).to("cuda").train()
    masters = [p.detach().clone().requires_grad_() for p in model.parameters()]
    model = model.to(torch.bfloat16)
    batch = torch.randint(0, config.vocab_size, (1, arguments.sequence), device="cuda")
    found = {"eager": speed(model, masters, batch, arguments.steps)}
    found["compiled"] = speed(torch.compile(model), masters, batch, arguments.steps)
    print(json.dumps(found))


if __name__ == "__main__":
    main()

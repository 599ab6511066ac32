"""The peer of the step benchmark: transformers' Llama on PyTorch, SDPA, AdamW, one optimizer step per line of input.

    step.py MODEL --threads N --dtype float32|bfloat16 < lines

In bfloat16, the model computes in it throughout, and AdamW updates f32 masters, as FSDP's mixed precision does.

The first line is the batch, `[[ids of document 1], [ids of document 2]]`. Every line `step` after it is answered with one line
of JSON: the step's wall time and processor time in seconds, the loss before the update, and the norm of its gradient.
"""

import argparse
import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], required=True)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    torch.set_num_threads(arguments.threads)
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32, attn_implementation="sdpa")
    model.train()
    # In our gradient, the pad token is a token like any other.
    model.get_input_embeddings().padding_idx = None
    masters = list(model.parameters())
    if dtype != torch.float32:
        masters = [p.detach().clone().requires_grad_() for p in masters]
        model = model.to(dtype)
    optimizer = torch.optim.AdamW(masters, lr=1e-5, weight_decay=0.01, fused=True)
    batch = torch.tensor(json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        if line.strip() != "step":
            continue
        start, cpu = time.perf_counter(), time.process_time()
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        if dtype != torch.float32:
            for master, p in zip(masters, model.parameters()):
                master.grad = p.grad.float()
        norm = torch.nn.utils.clip_grad_norm_(masters, 1.0)
        optimizer.step()
        if dtype != torch.float32:
            with torch.no_grad():
                for master, p in zip(masters, model.parameters()):
                    p.copy_(master)
            model.zero_grad(set_to_none=True)
        optimizer.zero_grad(set_to_none=True)
        took = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
        print(json.dumps({**took, "loss": loss.item(), "grad_norm": norm.item()}), flush=True)


if __name__ == "__main__":
    main()

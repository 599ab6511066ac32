"""Makes the references with which `tests/parity.rs` compares our decoder, with transformers and PyTorch in f32.

    parity.py OUT [--model FOLDER]

For every case OUT/<case>/ becomes a model folder as transformers writes it (tiny, random weights), and
OUT/<case>/reference.safetensors has a pack of documents, the targets, and the results of transformers: logits, the weighted
loss sum, and its gradient with respect to every parameter. Each document runs through transformers by itself, so that the
reference does not depend on packing. With --model, OUT/smollm2/ has the reference of that folder and greedy continuations.
"""

import argparse
import json
import pathlib

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

SHAPE = dict(
    vocab_size=131,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    # Wide enough for logits of several units: small ones would meet any absolute tolerance.
    initializer_range=0.2,
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=10000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
YARN = dict(rope_type="yarn", rope_theta=10000.0, factor=4.0, original_max_position_embeddings=32)
# A document of one token has nothing to predict; the longest exceeds every window below.
DOCUMENTS = [37, 1, 5, 70, 12]
SMOLLM2_DOCUMENTS = [60, 3, 1, 120]


def cases():
    """Name, configuration, the type to store weights in, and what else to do to the folder."""
    tied = dict(SHAPE, tie_word_embeddings=True)
    window = dict(use_sliding_window=True, sliding_window=8)
    linear = dict(rope_type="linear", rope_theta=10000.0, factor=2.5)
    yield "llama", LlamaConfig(**tied), torch.float32, {}
    yield "llama3", LlamaConfig(**SHAPE, rope_parameters=LLAMA3), torch.float32, {}
    yield "llama3-transformers4", LlamaConfig(**SHAPE, rope_parameters=LLAMA3), torch.float32, dict(older=True)
    yield "llama-biases", LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True), torch.float32, {}
    yield "llama-linear-shards", LlamaConfig(**SHAPE, rope_parameters=linear), torch.float32, dict(shard="100KB")
    yield "llama-bf16", LlamaConfig(**tied), torch.bfloat16, {}
    yield "llama-f16-head24", LlamaConfig(**SHAPE, head_dim=24), torch.float16, {}
    yield "mistral", MistralConfig(**SHAPE, sliding_window=8), torch.float32, {}
    yield "qwen2", Qwen2Config(**tied), torch.float32, {}
    yield "qwen2-window", Qwen2Config(**SHAPE, **window, max_window_layers=1), torch.float32, {}
    yield "qwen3", Qwen3Config(**tied, head_dim=24), torch.float32, {}
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    yield "qwen3-yarn-window", Qwen3Config(
        **SHAPE, **window, head_dim=16, attention_bias=True, layer_types=layers, rope_parameters=YARN
    ), torch.float32, {}


def scramble(model):
    """Makes norms differ from one and biases from zero, so that wrong uses of them show."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
        elif name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.3)


def as_transformers4(folder):
    """Rewrites config.json with the keys of transformers 4."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    path.write_text(json.dumps(config))


def reference(model, lengths, seed):
    """Tokens, targets, logits, loss sum and gradients of a pack."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, n: torch.randint(high, (n,), generator=generator)
    # `padding_idx` would leave the pad token's row out of the embedding's gradient; it is a token like any other here.
    model.get_input_embeddings().padding_idx = None
    rows, tokens, logits, targets, loss = 0, [], [], [], 0.0
    for length in lengths:
        ids = draw(model.config.vocab_size, length)
        out = model(ids[None]).logits[0]
        # Two thirds of the rows predict, with weights of their own; a document's last row predicts nothing.
        chosen = [row for row in range(length - 1) if draw(3, 1).item() > 0]
        weights = torch.rand(len(chosen), generator=generator) * 1.75 + 0.25
        nll = torch.nn.functional.cross_entropy(out[chosen], ids[[row + 1 for row in chosen]], reduction="none")
        loss = loss + (weights.double() * nll.double()).sum()
        targets += [(rows + row, ids[row + 1].item(), w) for row, w in zip(chosen, weights.tolist())]
        rows += length
        tokens.append(ids)
        logits.append(out.detach())
    model.zero_grad()
    loss.backward()
    grads = {f"grad.{name}": p.grad.contiguous() for name, p in model.named_parameters()}
    row, token, weight = zip(*targets)
    return {
        "lengths": torch.tensor(lengths),
        "tokens": torch.cat(tokens),
        "target_row": torch.tensor(row),
        "target_token": torch.tensor(token),
        "target_weight": torch.tensor(weight, dtype=torch.float32),
        "logits": torch.cat(logits).contiguous(),
        "loss": loss.detach().reshape(1),
        **grads,
    }


def tiny(out):
    for seed, (name, config, dtype, options) in enumerate(cases()):
        torch.manual_seed(seed)
        folder = out / name
        model = AutoModelForCausalLM.from_config(config)
        scramble(model)
        model.to(dtype).save_pretrained(folder, max_shard_size=options.get("shard", "1GB"))
        if options.get("older"):
            as_transformers4(folder)
        # The reference is computed from the stored weights.
        model = load(folder)
        save_file(reference(model, DOCUMENTS, seed), folder / "reference.safetensors")


def load(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return model.eval()


def smollm2(out, source):
    folder = out / "smollm2"
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load(source), AutoTokenizer.from_pretrained(source)
    save_file(reference(model, SMOLLM2_DOCUMENTS, 0), folder / "reference.safetensors")
    questions = ["What is the capital of France?", "Give three tips for staying healthy.", "Write a haiku about rain."]
    continuations = []
    for question in questions:
        chat = [{"role": "user", "content": question}]
        ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        got = model.generate(**ids, max_new_tokens=48, do_sample=False)[0].tolist()
        prompt = ids["input_ids"][0].tolist()
        continuations.append({"prompt": prompt, "greedy": got[len(prompt) :]})
    stop = tokenizer.convert_tokens_to_ids("<|im_end|>")
    (folder / "generation.json").write_text(json.dumps({"stop": stop, "continuations": continuations}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--model", type=pathlib.Path)
    arguments = parser.parse_args()
    tiny(arguments.out)
    if arguments.model:
        smollm2(arguments.out, arguments.model)

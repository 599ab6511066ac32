"""The peer of the checkpoint benchmark: PyTorch's distributed checkpoint, on the same disk.

    checkpoint.py --threads N < lines

The first line has the number of elements of every parameter, `[n, n, ...]`. A line `save FOLDER` is answered with one line
of JSON: the seconds until `async_save` returned, and until everything was on disk. A line `load FOLDER` is answered with the
seconds of `load`. It loads masters and moments, but not the model in its own dtype, which is not needed to resume.
"""

import argparse
import json
import os
import sys
import time

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    # Keeps standard output for the answers: other prints go to standard error.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    elements = json.loads(sys.stdin.readline())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    masters = {str(i): torch.randn(n) for i, n in enumerate(elements)}
    state = {
        "master": masters,
        "m": {name: torch.randn_like(w) for name, w in masters.items()},
        "v": {name: torch.rand_like(w) for name, w in masters.items()},
    }
    model = {name: w.bfloat16() for name, w in masters.items()}
    for line in sys.stdin:
        verb, folder = line.split(maxsplit=1)
        start = time.perf_counter()
        if verb == "save":
            saved = dcp.async_save({**state, "model": model}, checkpoint_id=folder.strip())
            pause = time.perf_counter() - start
            saved.result()
        else:
            dcp.load(state, checkpoint_id=folder.strip())
            pause = 0.0
        answer = {"pause": pause, "seconds": time.perf_counter() - start}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

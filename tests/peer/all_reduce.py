"""One rank of PyTorch's gloo all-reduce, for `cargo bench -p worker --bench all_reduce`.

Uses the protocol of the benchmark's own ranks: each line `LENGTH REPETITIONS` on standard input is answered
by one line with two figures for each repetition: seconds of wall time and seconds of processor time.
"""

import os
import sys
import time

import torch
import torch.distributed as dist


def main() -> None:
    rank, world_size, store = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=world_size)
    print("ready", flush=True)
    bucket = torch.empty(0)
    for line in sys.stdin:
        length, repetitions = map(int, line.split())
        if bucket.numel() != length:
            bucket = torch.empty(length)
        figures = []
        for _ in range(repetitions):
            bucket.fill_(rank + 1)
            dist.barrier()
            start, busy = time.perf_counter(), time.process_time()
            dist.all_reduce(bucket)
            figures += [time.perf_counter() - start, time.process_time() - busy]
            assert bool((bucket == world_size * (world_size + 1) / 2).all())
        print(*figures, flush=True)


main()

#!/usr/bin/env bash
# Checks what only a GPU can show, on a machine with one or more NVIDIA GPUs, and prints a table.
#
#   tests/gpu.sh                builds, and checks this machine
#   tests/gpu.sh pack FOLDER    builds, and packs the checks into FOLDER, below 60 MB, for a machine without Rust; there,
#                               `bash FOLDER/gpu.sh` checks it
#
# MUSTER_PEER_PYTHON, a Python with torch and transformers, compares the speed with theirs. Logs go to MUSTER_GPU_LOGS
# [default: gpu-logs]. Without a GPU, it says so and passes.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)

# Builds the programs and the tests that need a GPU, and copies them to a folder.
build() {
    local folder=$1 repository=$here/..
    mkdir -p "$folder"
    (
        cd "$repository"
        cargo build --locked -p coordinator -p worker
        cp "${CARGO_TARGET_DIR:-target}"/debug/{coordinator,worker} "$folder"
        cargo test --workspace --locked --no-run --message-format=json --lib --test gpu --test cuda |
            sed -nE 's/.*"target":\{"kind":\["([a-z]+)"\].*"name":"([a-z]+)".*"executable":"([^"]+)".*/\1 \2 \3/p' |
            while read -r kind name file; do
                case $kind-$name in lib-worker | test-gpu | test-cuda) cp "$file" "$folder/test-$name" ;; esac
            done
    )
    strip "$folder"/*
}

if [[ ${1:-} == pack ]]; then
    [[ $# == 2 ]] || { echo "usage: tests/gpu.sh pack FOLDER" >&2; exit 2; }
    mkdir -p "$2"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    build "$scratch/bin"
    mkdir -p "$scratch/deploy/quickstart"
    cp -r "$here"/../deploy/quickstart/{base,instructions.jsonl} "$scratch/deploy/quickstart"
    tar -C "$scratch" -czf "$2/checks.tar.gz" bin deploy
    cp "$here/gpu.sh" "$here/peer/gpu_step.py" "$2"
    du -sh "$2"
    exit
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [[ -f $here/checks.tar.gz ]]; then
    tar -C "$scratch" -xzf "$here/checks.tar.gz"
    export MUSTER_TEST_REPOSITORY=$scratch
    peer=$here/gpu_step.py
else
    build "$scratch/bin"
    peer=$here/peer/gpu_step.py
fi
bin=$scratch/bin
worker=$bin/worker
logs=${MUSTER_GPU_LOGS:-gpu-logs}
mkdir -p "$logs"

"$worker" devices | tee "$logs/devices"
if ! "$worker" devices --count cuda:all >/dev/null 2>"$logs/count"; then
    cat "$logs/count"
    echo "there is no GPU here that can be used, so nothing is checked"
    exit 0
fi

# Tests then use this machine's GPU instead of the software GPU.
export MUSTER_TEST_GPU=1 MUSTER_TEST_PROGRAMS=$bin MUSTER_CACHE=$scratch/cache
# Allows several ranks on a GPU, from NCCL 2.30.
export NCCL_MULTI_RANK_GPU_ENABLE=1
failed=0
rows=()

# Runs a command; its last words, or why it failed, go into the table.
check() {
    local name=$1 log began=$SECONDS result=ok
    shift
    log=$logs/${name// /-}
    echo "... $name"
    "$@" >"$log" 2>&1 || { result=FAILED; failed=1; }
    if [[ $result == ok ]] && grep -q skipped: "$log"; then result=skipped; fi
    local figures
    figures=$(grep -E '^figures: |skipped: |panicked|^error' "$log" | sed 's/^figures: //' || true)
    while IFS= read -r line; do
        rows+=("$(printf '%-34s %-8s %5d s  %s' "$name" "$result" $((SECONDS - began)) "$line")")
        name='' result=''
    done <<<"${figures:-$(tail -n 1 "$log")}"
}

# Runs one of the tests; a name that no test has is an error.
test_of() {
    "$bin/test-$1" --exact "$2" --nocapture | tee "$scratch/test"
    grep -q 'test result: ok. 1 passed' "$scratch/test"
}

# Measures a step, and prints its main figures.
speed() {
    "$worker" bench "$@" --devices cuda:0 --json >"$scratch/bench.json"
    cat "$scratch/bench.json"
    sed -nE 's/^ *"(seconds_per_step|tokens_per_second|mfu|peak_bytes|launches|products|waits)": ([0-9.e-]+),?$/\1 \2/p' \
        "$scratch/bench.json" | tr '\n' ' ' | sed 's/^/figures: /'
    echo
}

# Compares with transformers in turn.
compare() {
    for _ in 1 2 3; do
        "$worker" bench "$1" --devices cuda:0 --dtype bf16 --sequence 4096 --json >"$scratch/ours.json"
        "$MUSTER_PEER_PYTHON" "$peer" "$1" --sequence 4096 >"$scratch/theirs.json"
        "$MUSTER_PEER_PYTHON" - "$scratch" <<'PYTHON'
import json, sys
ours = json.load(open(sys.argv[1] + "/ours.json"))["measured"]["tokens_per_second"]
theirs = json.load(open(sys.argv[1] + "/theirs.json"))
ratios = ", ".join(f"{name} {speed:.0f} ({ours / speed:.2f}x)" for name, speed in theirs.items())
print(f"figures: ours {ours:.0f} tokens/s; {ratios}")
PYTHON
    done
}

check "kernels against f64" test_of worker kernels::cuda::tests::kernels_match_the_references_in_every_order_of_threads
for family in llama qwen2 mistral; do
    check "50 steps of a $family" test_of gpu "a_${family}_follows_the_cpu"
done
check "ranks of worlds 1, 2, 4" test_of gpu ranks_of_any_world_size_agree
check "waits and allocations" test_of gpu a_step_waits_once_and_allocates_nothing
check "memory as predicted" test_of gpu memory_is_what_a_rehearsal_predicts
check "NCCL with the ring" "$bin/test-worker" collective::nccl::tests::gpu:: --nocapture
check "whole runs" test_of cuda runs_on_gpus_have_the_losses_of_a_run_on_the_cpu
check "two nodes that share a GPU" test_of cuda shared::two_nodes_with_a_gpu_train_together
for model in smollm2-135m qwen2.5-0.5b llama-3.2-1b smollm2-1.7b; do
    check "speed of $model" speed "$model" --dtype bf16 --sequence 4096
done
check "speed of smollm2-1.7b, 4 packs" speed smollm2-1.7b --dtype bf16 --sequence 4096 --micro-batch 4
check "speed of smollm2-135m in f32" speed smollm2-135m --sequence 4096
if [[ -n ${MUSTER_PEER_PYTHON:-} ]]; then
    for model in smollm2-135m smollm2-1.7b; do
        check "$model against transformers" compare "$model"
    done
fi

printf '\n%s\n' "check                              result      time  figures"
printf '%s\n' "${rows[@]}" | tee "$logs/table"
exit $failed

#!/usr/bin/env bash
# The quick start: builds the programs, asks the base, tunes it on two workers, and asks the result.
set -euo pipefail
cd "$(dirname "$0")/../.."

cargo build --release --locked
programs=${CARGO_TARGET_DIR:-target}/release
mapfile -t prompts < deploy/quickstart/prompts.txt

echo "== before: the base was trained on texts about Fernhill, but never on an answered question"
"$programs/coordinator" generate deploy/quickstart/base "${prompts[@]}" --max-new-tokens 40
echo
echo "== tuning on two workers"
model=$("$programs/coordinator" run deploy/quickstart/tune.yaml --workers 2)
echo
echo "== after: $model"
"$programs/coordinator" generate "$model" "${prompts[@]}" --max-new-tokens 80

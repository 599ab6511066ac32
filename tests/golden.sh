#!/usr/bin/env bash
# Compares the bits of training with those of an earlier commit, for processors without an entry in worker/tests/golden.
#
#   tests/golden.sh [REVISION]      default: the previous commit
#
# The earlier commit is built in a separate worktree under target/golden, and writes the entries with which the current
# tree is then compared. The golden test must exist there.
set -euo pipefail
cd "$(dirname "$0")/.."
revision=$(git rev-parse --verify "${1:-HEAD^}^{commit}")
folder=$PWD/target/golden
entries=$folder/$revision.json
mkdir -p "$folder"
if [[ ! -f $entries ]]; then
    git worktree remove --force "$folder/tree" 2>/dev/null || true
    git worktree add --detach "$folder/tree" "$revision"
    trap 'git worktree remove --force "$folder/tree"' EXIT
    MUSTER_GOLDEN=write MUSTER_GOLDEN_FILE=$entries CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target} \
        cargo test --manifest-path "$folder/tree/Cargo.toml" -p worker --test golden --locked
fi
MUSTER_GOLDEN_FILE=$entries cargo test -p worker --test golden --locked
echo "the same bits as $revision"

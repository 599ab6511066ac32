#!/usr/bin/env bash
# Checks the alerts and the dashboard against real programs, in about a minute:
#   deploy/monitoring/check.sh PROGRAMS PROMETHEUS
# PROGRAMS is the folder of `coordinator` and `worker`, such as target/release. PROMETHEUS is the program `prometheus`, with
# `promtool` beside it. It also needs python3.
#
# 1. The rules pass their tests, and are the same as those for the Prometheus Operator.
# 2. A pool trains the model of the quick start, and one of its ranks is killed. Prometheus scrapes the coordinator, and
#    every expression of the dashboard must have data, every rule must be healthy, and no alert may fire.
set -euo pipefail

programs=$(realpath "$1")
prometheus=$(realpath "$2")
here=$(cd "$(dirname "$0")" && pwd)
promtool=$(dirname "$prometheus")/promtool

"$promtool" check rules "$here/alerts.yaml"
"$promtool" test rules "$here/alerts_test.yaml"
indented() { sed -n '/^ *groups:/,$p' "$1" | sed "s/^/$2/; s/^ *$//"; }
diff <(indented "$here/alerts.yaml" "  ") <(indented "$here/../kubernetes/components/monitoring/rules.yaml" "")

work=$(mktemp -d)
pids=()
end() {
    code=$?
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait
    if [[ $code != 0 ]]; then tail -n 20 "$work"/*.log; fi
    rm -rf "$work"
    exit "$code"
}
trap end EXIT

mapfile -t ports < <(python3 - <<'PYTHON'
import socket

sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
for socket in sockets:
    print(socket.getsockname()[1])
PYTHON
)
coordinator=https://localhost:${ports[0]}

cat > "$work/spec.yaml" <<YAML
name: check
model: {base: $here/../quickstart/base}
data:
  train: [{source: $here/../quickstart/instructions.jsonl, format: messages}]
  eval: {holdout: 0.05, at_start: true}
  max_tokens: 256
train: {epochs: 1000, global_batch: 4, learning_rate: 5.0e-4}
checkpoint: {every: 50}
output: $work/pool
YAML
cat > "$work/prometheus.yml" <<YAML
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [$here/alerts.yaml]
scrape_configs:
  - job_name: muster
    scheme: https
    tls_config: {ca_file: $work/certs/coordinator/ca.crt, server_name: localhost}
    static_configs: [{targets: ["127.0.0.1:${ports[1]}"]}]
YAML

# With certificates, so that their expiry is among the metrics.
"$programs/coordinator" certs "$work/certs" > /dev/null
"$programs/coordinator" serve --output "$work/pool" --credentials "$work/certs/coordinator" \
    --listen "127.0.0.1:${ports[0]}" --web "127.0.0.1:${ports[1]}" 2> "$work/coordinator.log" &
pids+=($!)
"$programs/worker" --coordinator "$coordinator" --credentials "$work/certs/worker" \
    --devices cpu:2 --threads 1 --grace 1s 2> "$work/worker.log" &
worker=$!
pids+=("$worker")
"$prometheus" --config.file "$work/prometheus.yml" --storage.tsdb.path "$work/data" \
    --web.listen-address "127.0.0.1:${ports[2]}" 2> "$work/prometheus.log" &
pids+=($!)
user=(--coordinator "$coordinator" --credentials "$work/certs/user")
for _ in {1..100}; do
    "$programs/coordinator" list "${user[@]}" > /dev/null 2>&1 && break
    sleep 0.2
done
"$programs/coordinator" submit "$work/spec.yaml" "${user[@]}"

python3 - "http://127.0.0.1:${ports[2]}" "$here" "$worker" <<'PYTHON'
import json
import math
import os
import re
import signal
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

url, here, worker = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
PATIENCE = 120


def ask(path, **parameters):
    with urllib.request.urlopen(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}") as answer:
        return json.load(answer)["data"]


def values(expression):
    """The numbers that an expression has now."""
    found = [float(series["value"][1]) for series in ask("query", query=expression)["result"]]
    return [value for value in found if not math.isnan(value)]


def wait(expression):
    """Waits until an expression has a series."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            if values(expression):
                return
        except urllib.error.URLError:
            pass  # Prometheus is still starting.
        if time.monotonic() > until:
            sys.exit(f"there is no {expression}")
        time.sleep(0.5)


def ranks(parent):
    """The processes of the ranks that a worker has started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "status").read_text()
            arguments = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"PPid:\t{parent}\n" in status and b"--slot" in arguments:
            yield int(folder.name)


wait("muster_run_checkpoints_total >= 1")
os.kill(next(ranks(worker)), signal.SIGKILL)
wait("muster_run_regroup_seconds_count >= 1 and muster_run_training == 1")
# Rates need steps after the regroup.
wait("increase(muster_run_steps_total[5s]) > 2 and increase(muster_run_trained_tokens_total[5s]) > 0")

dashboard = json.loads((here / "dashboard.json").read_text())
targets = [(panel["title"], target["expr"]) for panel in dashboard["panels"] for target in panel.get("targets", [])]
empty = []
for title, expression in targets:
    now = expression.replace("$__rate_interval", "15s").replace("$run", ".*").replace("$instance", ".*")
    if not values(now):
        empty.append(f"{title}: {now}")
assert not empty, "no data:\n" + "\n".join(empty)

names = set(ask("label/__name__/values"))
text = (here / "alerts.yaml").read_text()
used = set(re.findall(r"\bmuster_[a-z_]+", "".join(expression for _, expression in targets) + text))
assert used <= names, f"these metrics do not exist: {used - names}"

rules = [rule for group in ask("rules")["groups"] for rule in group["rules"]]
for rule in rules:
    assert rule["health"] == "ok", rule
    assert rule["state"] != "firing", rule
print(f"{len(targets)} expressions of the dashboard have data, {len(rules)} rules are healthy")
PYTHON

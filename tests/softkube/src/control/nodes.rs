//! The node lifecycle controller: nodes whose kubelet falls silent become unreachable, and return.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::Time;
use crate::control::due::sooner;
use crate::json::Json;
use crate::pods::{self, Condition};
use crate::registry::{Note, Registry, Target, Write};

/// The silence after which a node is unreachable (`--node-monitor-grace-period`).
const MONITOR_GRACE: Duration = Duration::from_secs(50);
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const CONDITIONS: &[&str] = &["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];

/// The silent nodes and since when they are.
#[derive(Debug, Default)]
pub(crate) struct Nodes {
    silent: BTreeMap<String, Time>,
}

impl Nodes {
    pub(crate) fn set_silent(&mut self, node: &str, silent: bool, now: Time) {
        if silent {
            self.silent.entry(node.to_owned()).or_insert(now);
        } else {
            self.silent.remove(node);
        }
    }

    pub(crate) fn run(&mut self, registry: &mut Registry) -> Option<Time> {
        let now = registry.now();
        let mut due = None;
        for node in registry.list("nodes", "") {
            let name = node.str("metadata.name");
            let tainted =
                node.list("spec.taints").iter().any(|taint| taint.str("key") == UNREACHABLE);
            match self.silent.get(name) {
                Some(since) if since.after(MONITOR_GRACE) > now => {
                    due = sooner(due, Some(since.after(MONITOR_GRACE)));
                }
                Some(_) if !tainted => lose(registry, &node),
                None if tainted => set_ready(registry, name),
                Some(_) | None => {}
            }
        }
        due
    }
}

/// A node as its kubelet registers it.
pub(crate) fn new_node(name: &str, capacity: &Value, address: &str) -> Value {
    let mut capacity = capacity.clone();
    capacity.put_default("pods", "110");
    json!({
        "metadata": {"name": name, "labels": {
            "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
        }},
        "spec": {},
        "status": {
            "capacity": capacity, "allocatable": capacity,
            "addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}],
            "nodeInfo": {"kubeletVersion": "v1.34.0", "operatingSystem": "linux", "architecture": "amd64"},
        },
    })
}

/// Marks a node ready and takes the taint of unreachable nodes off.
pub(crate) fn set_ready(registry: &mut Registry, name: &str) {
    let now = registry.now();
    // The node may have been removed, which leaves nothing to mark.
    let _ = registry.force(Target::new("nodes", "", name), &Write::status("kubelet"), |node| {
        if node.has("spec.taints") {
            node.list_mut("spec.taints").retain(|taint| taint.str("key") != UNREACHABLE);
        }
        for kind in CONDITIONS {
            let condition = match *kind {
                "Ready" => Condition {
                    kind,
                    status: "True",
                    reason: "KubeletReady",
                    message: "kubelet is posting ready status",
                },
                _ => Condition {
                    kind,
                    status: "False",
                    reason: "KubeletHasSufficientResources",
                    message: "",
                },
            };
            pods::set_condition(node, condition, now);
        }
    });
}

fn lose(registry: &mut Registry, node: &Value) {
    let now = registry.now();
    let name = node.str("metadata.name");
    let write = Write::status("kube-controller-manager");
    // The node was just listed, so the update cannot fail.
    let _ = registry.force(Target::new("nodes", "", name), &write, |node| {
        for kind in CONDITIONS {
            let message = "Kubelet stopped posting node status.";
            let condition =
                Condition { kind, status: "Unknown", reason: "NodeStatusUnknown", message };
            pods::set_condition(node, condition, now);
        }
        for effect in ["NoSchedule", "NoExecute"] {
            let taint = json!({"key": UNREACHABLE, "effect": effect, "timeAdded": now.rfc3339()});
            node.list_mut("spec.taints").push(taint);
        }
    });
    let message = format!("Node {name} status is now: NodeNotReady");
    let note = Note {
        component: "node-controller",
        kind: "Normal",
        reason: "NodeNotReady",
        message: &message,
    };
    registry.record(node, note);
    for pod in registry.list("pods", "") {
        if pod.str("spec.nodeName") == name && pods::condition_is_true(&pod, "Ready") {
            let _ = registry.force(Target::of("pods", &pod), &write, |pod| {
                let condition =
                    Condition { kind: "Ready", status: "False", reason: "", message: "" };
                pods::set_condition(pod, condition, now);
            });
        }
    }
}

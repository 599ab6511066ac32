//! The scheduler: binds pods to nodes, or says why none fits.
//!
//! Among fitting nodes it takes the one with the fewest pods. Preferences, spreading constraints and priorities are
//! left out; `Cluster::preempt` stands in for preemption.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use crate::clock::Time;
use crate::control::fit::{self, Misfit, View};
use crate::json::Json;
use crate::pods::{self, Condition};
use crate::registry::{Note, Registry, Target, Write};

const COMPONENT: &str = "default-scheduler";

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    let mut pending: Vec<Arc<Value>> = registry.list("pods", "");
    pending.retain(|pod| waits(pod));
    pending.sort_by_key(|pod| {
        let version = pod.str("metadata.creationTimestamp").to_owned();
        (version, pod.str("metadata.name").to_owned())
    });
    for pod in pending {
        ungate(registry, &pod);
        let view = View {
            nodes: registry.list("nodes", ""),
            placed: {
                let mut placed = registry.list("pods", "");
                placed.retain(|other| {
                    !other.str("spec.nodeName").is_empty() && !pods::is_terminal(other)
                });
                placed
            },
        };
        match choose(&pod, &view) {
            Ok(node) => bind(registry, &pod, &node),
            Err(message) => refuse(registry, &pod, &message),
        }
    }
    None
}

fn waits(pod: &Value) -> bool {
    pod.str("spec.nodeName").is_empty()
        && pod.text("spec.schedulerName") == Some(COMPONENT)
        && pod.list("spec.schedulingGates").is_empty()
        && !pods::is_deleting(pod)
        && !pods::is_terminal(pod)
}

/// Takes back the condition of a pod whose gates were removed.
fn ungate(registry: &mut Registry, pod: &Value) {
    let gated = pods::condition(pod, "PodScheduled")
        .is_some_and(|one| one.str("reason") == "SchedulingGated");
    if gated {
        // The pod was just listed, so the update cannot fail.
        let _ = registry.force(Target::of("pods", pod), &Write::status("kube-scheduler"), |pod| {
            pod.list_mut("status.conditions").retain(|one| one.str("type") != "PodScheduled");
        });
    }
}

/// The name of the best node, or the message that none fits.
fn choose(pod: &Value, view: &View) -> Result<String, String> {
    if view.nodes.is_empty() {
        return Err("no nodes available to schedule pods".to_owned());
    }
    let mut misfits = Vec::new();
    let mut fitting = Vec::new();
    for node in &view.nodes {
        match fit::check(pod, node, view) {
            Ok(()) => {
                let name = node.str("metadata.name");
                let load =
                    view.placed.iter().filter(|other| other.str("spec.nodeName") == name).count();
                fitting.push((load, name.to_owned()));
            }
            Err(misfit) => misfits.push(misfit),
        }
    }
    fitting.into_iter().min().map(|(_, name)| name).ok_or_else(|| message(&misfits))
}

/// The scheduler's summary, such as `0/2 nodes are available: 2 Insufficient cpu. preemption: ...`.
fn message(misfits: &[Misfit]) -> String {
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in misfits.iter().flat_map(|misfit| &misfit.reasons) {
        *reasons.entry(reason).or_default() += 1;
    }
    let mut parts: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    let resolvable = misfits.iter().filter(|misfit| misfit.resolvable).count();
    let mut preemption = Vec::new();
    if resolvable > 0 {
        preemption.push(format!("{resolvable} No preemption victims found for incoming pod"));
    }
    if misfits.len() > resolvable {
        preemption.push(format!(
            "{} Preemption is not helpful for scheduling",
            misfits.len() - resolvable
        ));
    }
    preemption.sort();
    let available = format!("0/{} nodes are available", misfits.len());
    format!(
        "{available}: {}. preemption: {available}: {}.",
        parts.join(", "),
        preemption.join(", ")
    )
}

fn bind(registry: &mut Registry, pod: &Value, node: &str) {
    let now = registry.now();
    // The pod was just listed, so the update cannot fail.
    let _ = registry.force(Target::of("pods", pod), &Write::controller("kube-scheduler"), |pod| {
        pod.put("spec.nodeName", node);
        let condition = Condition { kind: "PodScheduled", status: "True", reason: "", message: "" };
        pods::set_condition(pod, condition, now);
    });
    let name = format!("{}/{}", pod.str("metadata.namespace"), pod.str("metadata.name"));
    let message = format!("Successfully assigned {name} to {node}");
    registry.record(
        pod,
        Note { component: COMPONENT, kind: "Normal", reason: "Scheduled", message: &message },
    );
}

fn refuse(registry: &mut Registry, pod: &Value, message: &str) {
    let now = registry.now();
    let known = pods::condition(pod, "PodScheduled")
        .is_some_and(|condition| condition.str("message") == message);
    if known {
        return;
    }
    // The pod was just listed, so the update cannot fail.
    let _ = registry.force(Target::of("pods", pod), &Write::status("kube-scheduler"), |pod| {
        let condition =
            Condition { kind: "PodScheduled", status: "False", reason: "Unschedulable", message };
        pods::set_condition(pod, condition, now);
    });
    registry.record(
        pod,
        Note { component: COMPONENT, kind: "Warning", reason: "FailedScheduling", message },
    );
}

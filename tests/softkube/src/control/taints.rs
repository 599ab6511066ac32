//! Evicts pods from nodes with `NoExecute` taints when their tolerations end.

use std::time::Duration;

use serde_json::Value;

use crate::clock::Time;
use crate::control::due::sooner;
use crate::control::fit;
use crate::delete::DeleteOptions;
use crate::json::Json;
use crate::pods;
use crate::registry::{Note, Registry, Target};

pub(crate) fn run(registry: &mut Registry) -> Option<Time> {
    let now = registry.now();
    let mut due = None;
    for node in registry.list("nodes", "") {
        let taints: Vec<&Value> = node
            .list("spec.taints")
            .iter()
            .filter(|taint| taint.str("effect") == "NoExecute")
            .collect();
        if taints.is_empty() {
            continue;
        }
        for pod in registry.list("pods", "") {
            let here = pod.str("spec.nodeName") == node.str("metadata.name");
            if !here || pods::is_deleting(&pod) || pods::is_terminal(&pod) {
                continue;
            }
            match eviction_time(&pod, &taints, now) {
                Some(at) if at <= now => evict(registry, &pod),
                at => due = sooner(due, at),
            }
        }
    }
    due
}

/// When the pod must leave; `None` while every taint is tolerated without limit.
fn eviction_time(pod: &Value, taints: &[&Value], now: Time) -> Option<Time> {
    let leave = |taint: &&Value| {
        let tolerations: Vec<&Value> = pod
            .list("spec.tolerations")
            .iter()
            .filter(|toleration| fit::tolerates(toleration, taint))
            .collect();
        if tolerations.is_empty() {
            return Some(now);
        }
        let limits =
            tolerations.iter().filter_map(|toleration| toleration.int("tolerationSeconds"));
        let seconds = u64::try_from(limits.min()?).unwrap_or(0);
        let added = taint.text("timeAdded").and_then(Time::parse).unwrap_or(now);
        Some(added.after(Duration::from_secs(seconds)))
    };
    taints.iter().filter_map(leave).min()
}

fn evict(registry: &mut Registry, pod: &Value) {
    let target = Target::of("pods", pod);
    let message = format!("Marking for deletion Pod {}/{}", target.namespace, target.name);
    let note = Note {
        component: "taint-eviction-controller",
        kind: "Normal",
        reason: "TaintManagerEviction",
        message: &message,
    };
    registry.record(pod, note);
    // The pod was just listed, so neither write can fail.
    let message = "Taint manager: deleting due to NoExecute taint";
    let component = "kube-controller-manager";
    let _ = registry.disrupt(target, component, "DeletionByTaintManager", message);
    let _ = registry.delete(target, &DeleteOptions::default());
}

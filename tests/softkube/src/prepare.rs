//! What the server sets on objects by itself, for each kind.
//!
//! Source: the `strategy.go` files below `pkg/registry`.

use serde_json::{Value, json};

use crate::json::Json;
use crate::kinds::Kind;
use crate::pods;

/// Kinds whose `metadata.generation` counts changes of the spec.
fn has_generation(kind: &Kind) -> bool {
    matches!(kind.resource, "jobs" | "pods" | "poddisruptionbudgets")
}

/// Sets what a new object gets from the server; its name and uid are set.
pub(crate) fn create(kind: &Kind, object: &mut Value, address: [u8; 2]) {
    if has_generation(kind) {
        object.put("metadata.generation", 1);
    }
    match kind.resource {
        "jobs" => {
            object.put("status", json!({}));
            if !object.flag("spec.manualSelector") {
                generate_selector(object);
            }
        }
        "pods" => {
            object.put("status", json!({"phase": "Pending"}));
            object.put("status.qosClass", pods::qos_class(object));
            if !object.list("spec.schedulingGates").is_empty() {
                let gated = pods::Condition {
                    kind: "PodScheduled",
                    status: "False",
                    reason: "SchedulingGated",
                    message: "Scheduling is blocked due to non-empty scheduling gates",
                };
                let created = object.str("metadata.creationTimestamp");
                let now = crate::clock::Time::parse(created).unwrap_or_default();
                pods::set_condition(object, gated, now);
            }
        }
        "services" => service_address(object, address),
        "poddisruptionbudgets" | "resourcequotas" => {
            object.cut("status");
        }
        _ => {}
    }
}

fn service_address(service: &mut Value, [high, low]: [u8; 2]) {
    if service.text("spec.type") == Some("ExternalName") {
        return;
    }
    if service.str("spec.clusterIP").is_empty() {
        service.put("spec.clusterIP", format!("10.96.{high}.{low}"));
    }
    let address = service.at("spec.clusterIP").clone();
    service.put("spec.clusterIPs", json!([address]));
}

/// Sets what an updated object keeps from its predecessor.
pub(crate) fn update(kind: &Kind, new: &mut Value, old: &Value) {
    if kind.status {
        restore(new, old, "status");
    }
    if kind.resource == "services" && new.str("spec.clusterIP").is_empty() {
        for field in ["spec.clusterIP", "spec.clusterIPs"] {
            restore(new, old, field);
        }
    }
    if has_generation(kind) && new.at("spec") != old.at("spec") {
        new.put("metadata.generation", old.int("metadata.generation").unwrap_or(0) + 1);
    }
}

/// Sets what an updated status leaves alone: everything but the status and part of the metadata.
pub(crate) fn update_status(kind: &Kind, new: &mut Value, old: &Value) {
    restore(new, old, "spec");
    if kind.resource == "pods" {
        restore(new, old, "metadata.ownerReferences");
    }
}

fn restore(new: &mut Value, old: &Value, path: &str) {
    if old.has(path) {
        new.put(path, old.at(path).clone());
    } else {
        new.cut(path);
    }
}

fn generate_selector(job: &mut Value) {
    let uid = job.str("metadata.uid").to_owned();
    let name = job.str("metadata.name").to_owned();
    let labels = [
        ("job-name", &name),
        ("batch.kubernetes.io/job-name", &name),
        ("controller-uid", &uid),
        ("batch.kubernetes.io/controller-uid", &uid),
    ];
    for (key, value) in labels {
        if job.entry("spec.template.metadata.labels", key).is_none() {
            job.put_entry("spec.template.metadata.labels", key, value.as_str());
        }
    }
    if job.entry("spec.selector.matchLabels", "batch.kubernetes.io/controller-uid").is_none() {
        job.put_entry("spec.selector.matchLabels", "batch.kubernetes.io/controller-uid", uid);
    }
}

//! Facts about pods that several controllers need.

use serde_json::{Value, json};

use crate::clock::Time;
use crate::json::Json;
use crate::quantity::Quantity;

/// The finalizer by which the Job controller counts a pod once.
pub(crate) const TRACKING_FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// Whether the pod has ended.
pub(crate) fn is_terminal(pod: &Value) -> bool {
    matches!(pod.text("status.phase"), Some("Succeeded" | "Failed"))
}

/// Whether the pod is being deleted.
pub(crate) fn is_deleting(pod: &Value) -> bool {
    pod.has("metadata.deletionTimestamp")
}

/// The condition of the given type.
pub(crate) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    object.list("status.conditions").iter().find(|condition| condition.str("type") == kind)
}

/// Whether the condition of the given type is true.
pub(crate) fn condition_is_true(object: &Value, kind: &str) -> bool {
    condition(object, kind).is_some_and(|condition| condition.str("status") == "True")
}

/// A condition to set.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Condition<'a> {
    pub(crate) kind: &'a str,
    pub(crate) status: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message: &'a str,
}

/// Sets a condition of a pod or node; the transition time moves only when the status changes.
pub(crate) fn set_condition(object: &mut Value, condition: Condition<'_>, now: Time) {
    let mut entry =
        json!({"type": condition.kind, "status": condition.status, "lastProbeTime": null});
    if !condition.reason.is_empty() {
        entry.put("reason", condition.reason);
    }
    if !condition.message.is_empty() {
        entry.put("message", condition.message);
    }
    entry.put("lastTransitionTime", now.rfc3339());
    let conditions = object.list_mut("status.conditions");
    match conditions.iter_mut().find(|existing| existing.str("type") == condition.kind) {
        Some(existing) => {
            if existing.str("status") == condition.status {
                entry.put("lastTransitionTime", existing.at("lastTransitionTime").clone());
            }
            *existing = entry;
        }
        None => conditions.push(entry),
    }
}

/// The amount of a resource that a pod requests: the sum of its containers, or its largest init container.
pub(crate) fn request(pod: &Value, resource: &str) -> Quantity {
    amount(pod, "requests", resource)
}

/// The amount of a resource that limits a pod.
pub(crate) fn limit(pod: &Value, resource: &str) -> Quantity {
    amount(pod, "limits", resource)
}

fn amount(pod: &Value, list: &str, resource: &str) -> Quantity {
    let of = |container: &Value| {
        let resources = container.at("resources");
        let stated = resources.at(list).get(resource);
        let fallback = if list == "requests" { resources.at("limits").get(resource) } else { None };
        stated.or(fallback).and_then(Quantity::from_json).unwrap_or_default()
    };
    let (sidecars, inits): (Vec<&Value>, Vec<&Value>) = pod
        .list("spec.initContainers")
        .iter()
        .partition(|one| one.text("restartPolicy") == Some("Always"));
    let running: Quantity = pod.list("spec.containers").iter().chain(sidecars).map(of).sum();
    let largest_init = inits.into_iter().map(of).max().unwrap_or_default();
    running.max(largest_init)
}

/// The names of all resources that a pod's containers mention.
pub(crate) fn resource_names(pod: &Value) -> std::collections::BTreeSet<String> {
    let containers = pod.list("spec.containers").iter().chain(pod.list("spec.initContainers"));
    let names = containers.flat_map(|container| {
        let requests = container.entries("resources.requests").map(|(name, _)| name.clone());
        requests
            .chain(container.entries("resources.limits").map(|(name, _)| name.clone()))
            .collect::<Vec<_>>()
    });
    names.collect()
}

/// The quality-of-service class of a pod.
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    let containers: Vec<&Value> =
        pod.list("spec.containers").iter().chain(pod.list("spec.initContainers")).collect();
    let counted = |list: &str| {
        let has = |container: &&Value, name: &str| {
            let amount = container.at("resources").at(list).get(name).and_then(Quantity::from_json);
            amount.is_some_and(|amount| !amount.is_zero())
        };
        let both =
            containers.iter().all(|container| has(container, "cpu") && has(container, "memory"));
        let any =
            containers.iter().any(|container| has(container, "cpu") || has(container, "memory"));
        (both, any)
    };
    let equal = containers.iter().all(|container| {
        ["cpu", "memory"].iter().all(|name| {
            let amount = |list: &str| {
                container.at("resources").at(list).get(*name).and_then(Quantity::from_json)
            };
            amount("requests").is_none() || amount("requests") == amount("limits")
        })
    });
    let ((_, requests), (all_limits, limits)) = (counted("requests"), counted("limits"));
    match (requests || limits, all_limits && equal) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// The controlling owner of an object.
pub(crate) fn controller(object: &Value) -> Option<&Value> {
    object.list("metadata.ownerReferences").iter().find(|owner| owner.flag("controller"))
}

/// Whether an object has the finalizer.
pub(crate) fn has_finalizer(object: &Value, finalizer: &str) -> bool {
    object.list("metadata.finalizers").iter().any(|one| one == finalizer)
}

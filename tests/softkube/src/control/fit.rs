//! Whether a pod fits a node, and the scheduler's words for why not.

use std::sync::Arc;

use serde_json::Value;

use crate::json::Json;
use crate::pods;
use crate::quantity::Quantity;
use crate::selector::{self, Labels};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// The state that scheduling decisions read.
pub(super) struct View {
    pub(super) nodes: Vec<Arc<Value>>,
    /// Pods with a node that have not ended.
    pub(super) placed: Vec<Arc<Value>>,
}

/// Why a node does not fit.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Misfit {
    pub(super) reasons: Vec<String>,
    /// Whether removing pods from the node could help.
    pub(super) resolvable: bool,
}

impl Misfit {
    fn fixed(reason: impl Into<String>) -> Self {
        Self { reasons: vec![reason.into()], resolvable: false }
    }

    fn resolvable(reasons: Vec<String>) -> Self {
        Self { reasons, resolvable: true }
    }
}

/// Whether a toleration covers a taint.
pub(super) fn tolerates(toleration: &Value, taint: &Value) -> bool {
    let effect = toleration.str("effect");
    let key = toleration.str("key");
    let covers_effect = effect.is_empty() || effect == taint.str("effect");
    let covers_key = key.is_empty() || key == taint.str("key");
    let covers_value = toleration.text("operator") == Some("Exists")
        || toleration.str("value") == taint.str("value");
    covers_effect && covers_key && covers_value
}

/// Checks a node by the scheduler's filters, in their order.
pub(super) fn check(pod: &Value, node: &Value, view: &View) -> Result<(), Misfit> {
    let tolerated =
        |taint: &Value| pod.list("spec.tolerations").iter().any(|one| tolerates(one, taint));
    if node.flag("spec.unschedulable") {
        let taint =
            serde_json::json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if !tolerated(&taint) {
            return Err(Misfit::fixed("node(s) were unschedulable"));
        }
    }
    let blocking = |taint: &&Value| {
        matches!(taint.str("effect"), "NoSchedule" | "NoExecute") && !tolerated(taint)
    };
    if let Some(taint) = node.list("spec.taints").iter().find(blocking) {
        let reason = format!(
            "node(s) had untolerated taint {{{}: {}}}",
            taint.str("key"),
            taint.str("value")
        );
        return Err(Misfit::fixed(reason));
    }
    if !matches_node(pod, node) {
        return Err(Misfit::fixed("node(s) didn't match Pod's node affinity/selector"));
    }
    resources(pod, node, view)?;
    inter_pod(pod, node, view)
}

fn matches_node(pod: &Value, node: &Value) -> bool {
    let labels = node.at("metadata.labels");
    let selected = pod
        .entries("spec.nodeSelector")
        .all(|(key, value)| labels.get(key).is_some_and(|found| found == value));
    let affinity = pod.at("spec.affinity.nodeAffinity").at(REQUIRED);
    if affinity.is_null() {
        return selected;
    }
    let term_matches = |term: &Value| {
        let by_labels = selector::from_expressions(term.list("matchExpressions"));
        let fields = serde_json::json!({"metadata.name": node.str("metadata.name")});
        let by_fields = selector::from_expressions(term.list("matchFields"));
        let empty = term.list("matchExpressions").is_empty() && term.list("matchFields").is_empty();
        !empty
            && by_labels.is_some_and(|one| one.matches_map(labels))
            && by_fields.is_some_and(|one| one.matches_map(&fields))
    };
    selected && affinity.list("nodeSelectorTerms").iter().any(term_matches)
}

fn resources(pod: &Value, node: &Value, view: &View) -> Result<(), Misfit> {
    let name = node.str("metadata.name");
    let placed: Vec<&Arc<Value>> =
        view.placed.iter().filter(|one| one.str("spec.nodeName") == name).collect();
    let allocatable = |resource: &str| {
        node.at("status.allocatable")
            .get(resource)
            .and_then(Quantity::from_json)
            .unwrap_or_default()
    };
    let mut reasons = Vec::new();
    let room = allocatable("pods");
    if !room.is_zero() && Quantity::whole(i64::try_from(placed.len()).unwrap_or(i64::MAX)) >= room {
        reasons.push("Too many pods".to_owned());
    }
    for resource in pods::resource_names(pod) {
        let wanted = pods::request(pod, &resource);
        let used: Quantity = placed.iter().map(|one| pods::request(one, &resource)).sum();
        if !wanted.is_zero() && used + wanted > allocatable(&resource) {
            reasons.push(format!("Insufficient {resource}"));
        }
    }
    if reasons.is_empty() { Ok(()) } else { Err(Misfit::resolvable(reasons)) }
}

/// Required pod affinity and anti-affinity, of this pod and (anti-affinity) of the placed ones.
fn inter_pod(pod: &Value, node: &Value, view: &View) -> Result<(), Misfit> {
    for term in pod.at("spec.affinity.podAffinity").list(REQUIRED) {
        let anywhere = view.placed.iter().any(|other| matches_term(term, pod, other));
        // The first of a group that attracts its own kind may go anywhere that has the topology.
        let first = !anywhere && matches_term(term, pod, pod) && has_topology(term, node);
        if !first && !near(term, pod, node, view) {
            return Err(Misfit::resolvable(vec![
                "node(s) didn't match pod affinity rules".to_owned(),
            ]));
        }
    }
    for term in pod.at("spec.affinity.podAntiAffinity").list(REQUIRED) {
        if near(term, pod, node, view) {
            return Err(Misfit::resolvable(vec![
                "node(s) didn't match pod anti-affinity rules".to_owned(),
            ]));
        }
    }
    for other in &view.placed {
        for term in other.at("spec.affinity.podAntiAffinity").list(REQUIRED) {
            if matches_term(term, other, pod) && same_topology(term, node, other, view) {
                let reason = "node(s) didn't satisfy existing pods anti-affinity rules";
                return Err(Misfit::resolvable(vec![reason.to_owned()]));
            }
        }
    }
    Ok(())
}

/// Whether a pod that the term of `owner` selects is in the topology domain of the node.
fn near(term: &Value, owner: &Value, node: &Value, view: &View) -> bool {
    view.placed
        .iter()
        .any(|other| matches_term(term, owner, other) && same_topology(term, node, other, view))
}

fn has_topology(term: &Value, node: &Value) -> bool {
    node.at("metadata.labels").get(term.str("topologyKey")).is_some()
}

fn same_topology(term: &Value, node: &Value, placed: &Value, view: &View) -> bool {
    let key = term.str("topologyKey");
    let name = placed.str("spec.nodeName");
    let other = view.nodes.iter().find(|one| one.str("metadata.name") == name);
    let domain = |node: &Value| node.entry("metadata.labels", key).map(str::to_owned);
    domain(node).is_some() && other.is_some_and(|other| domain(other) == domain(node))
}

/// Whether the term of `owner` selects another pod; without namespaces it selects in the owner's.
fn matches_term(term: &Value, owner: &Value, other: &Value) -> bool {
    let namespace = other.str("metadata.namespace");
    let listed = term.list("namespaces");
    let in_namespace = if listed.is_empty() && !term.has("namespaceSelector") {
        namespace == owner.str("metadata.namespace")
    } else {
        term.has("namespaceSelector") || listed.iter().any(|one| one == namespace)
    };
    in_namespace
        && Labels::from_object(term.at("labelSelector"))
            .is_some_and(|selector| selector.matches(other))
}

//! Validation of what directs the scheduler: affinity, tolerations, spreading and gates.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;
use crate::validate::meta;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Validates the scheduling fields of a pod spec.
pub(crate) fn validate(spec: &Value, path: &str, errors: &mut FieldErrors) {
    node_affinity(
        spec.at("affinity.nodeAffinity"),
        &format!("{path}.affinity.nodeAffinity"),
        errors,
    );
    for kind in ["podAffinity", "podAntiAffinity"] {
        pod_affinity(spec.at("affinity").at(kind), &format!("{path}.affinity.{kind}"), errors);
    }
    for (index, toleration) in spec.list("tolerations").iter().enumerate() {
        tolerates(toleration, &format!("{path}.tolerations[{index}]"), errors);
    }
    for (index, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        spread(constraint, &format!("{path}.topologySpreadConstraints[{index}]"), errors);
    }
    let mut gates = BTreeSet::new();
    for (index, gate) in spec.list("schedulingGates").iter().enumerate() {
        let path = format!("{path}.schedulingGates[{index}]");
        let name = gate.str("name");
        errors.invalid_each(&path, name, names::qualified(name));
        if !gates.insert(name) {
            errors.duplicate(&path, name);
        }
    }
    if !gates.is_empty() && !spec.str("nodeName").is_empty() {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.forbidden(&format!("{path}.nodeName"), detail);
    }
}

fn node_affinity(affinity: &Value, path: &str, errors: &mut FieldErrors) {
    if affinity.has(REQUIRED) {
        let path = format!("{path}.{REQUIRED}.nodeSelectorTerms");
        let terms = affinity.at(REQUIRED).list("nodeSelectorTerms");
        if terms.is_empty() {
            errors.required(&path, "must have at least one node selector term");
        }
        for (index, term) in terms.iter().enumerate() {
            node_term(term, &format!("{path}[{index}]"), errors);
        }
    }
    for (index, term) in affinity.list(PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(term, &path, errors);
        node_term(term.at("preference"), &format!("{path}.preference"), errors);
    }
}

fn weight(term: &Value, path: &str, errors: &mut FieldErrors) {
    let weight = term.int("weight").unwrap_or(0);
    if !(1..=100).contains(&weight) {
        errors.invalid(&format!("{path}.weight"), weight, "must be in the range 1-100");
    }
}

fn node_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, requirement) in term.list("matchExpressions").iter().enumerate() {
        let path = format!("{path}.matchExpressions[{index}]");
        let values = requirement.list("values");
        match requirement.str("operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&format!("{path}.values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&format!("{path}.values"), detail);
            }
            "Gt" | "Lt" if values.len() != 1 => {
                let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
                errors.required(&format!("{path}.values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
            other => {
                errors.invalid(&format!("{path}.operator"), other, "not a valid selector operator")
            }
        }
        let key = requirement.str("key");
        errors.invalid_each(&format!("{path}.key"), key, names::qualified(key));
    }
    for (index, requirement) in term.list("matchFields").iter().enumerate() {
        let path = format!("{path}.matchFields[{index}]");
        match requirement.str("operator") {
            "In" | "NotIn" if requirement.list("values").len() != 1 => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.required(&format!("{path}.values"), detail);
            }
            "In" | "NotIn" => {}
            other => {
                errors.invalid(&format!("{path}.operator"), other, "not a valid selector operator")
            }
        }
        let key = requirement.str("key");
        if key != "metadata.name" {
            errors.invalid(&format!("{path}.key"), key, "not a valid field selector key");
        }
    }
}

fn pod_affinity(affinity: &Value, path: &str, errors: &mut FieldErrors) {
    for (index, term) in affinity.list(REQUIRED).iter().enumerate() {
        pod_term(term, &format!("{path}.{REQUIRED}[{index}]"), errors);
    }
    for (index, term) in affinity.list(PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight(term, &path, errors);
        pod_term(term.at("podAffinityTerm"), &format!("{path}.podAffinityTerm"), errors);
    }
}

fn pod_term(term: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["labelSelector", "namespaceSelector"] {
        if term.has(field) {
            meta::selector(term.at(field), &format!("{path}.{field}"), errors);
        }
    }
    for (index, namespace) in term.list("namespaces").iter().enumerate() {
        let namespace = namespace.as_str().unwrap_or_default();
        errors.invalid_each(
            &format!("{path}.namespaces[{index}]"),
            namespace,
            names::dns_label(namespace),
        );
    }
    topology_key(term, path, errors);
}

fn topology_key(owner: &Value, path: &str, errors: &mut FieldErrors) {
    let path = format!("{path}.topologyKey");
    match owner.str("topologyKey") {
        "" => errors.required(&path, "can not be empty"),
        key => errors.invalid_each(&path, key, names::qualified(key)),
    }
}

fn tolerates(toleration: &Value, path: &str, errors: &mut FieldErrors) {
    let (key, operator, effect) =
        (toleration.str("key"), toleration.str("operator"), toleration.str("effect"));
    let value = toleration.str("value");
    if !key.is_empty() {
        errors.invalid_each(&format!("{path}.key"), key, names::qualified(key));
    }
    if key.is_empty() && operator != "Exists" {
        let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&format!("{path}.operator"), operator, detail);
    }
    if toleration.has("tolerationSeconds") && effect != "NoExecute" {
        let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&format!("{path}.effect"), effect, detail);
    }
    match operator {
        "" | "Equal" => {
            errors.invalid_each(&format!("{path}.operator"), value, names::label_value(value))
        }
        "Exists" if !value.is_empty() => {
            let detail = "value must be empty when `operator` is 'Exists'";
            errors.invalid(&format!("{path}.operator"), toleration.clone(), detail);
        }
        "Exists" => {}
        other => errors.not_supported(&format!("{path}.operator"), other, &["Equal", "Exists"]),
    }
    let effects = ["NoSchedule", "PreferNoSchedule", "NoExecute"];
    if !effect.is_empty() && !effects.contains(&effect) {
        errors.not_supported(&format!("{path}.effect"), effect, &effects);
    }
}

fn spread(constraint: &Value, path: &str, errors: &mut FieldErrors) {
    let skew = constraint.int("maxSkew").unwrap_or(0);
    if skew <= 0 {
        errors.invalid(&format!("{path}.maxSkew"), skew, "must be greater than zero");
    }
    topology_key(constraint, path, errors);
    let policies = ["DoNotSchedule", "ScheduleAnyway"];
    let policy = constraint.str("whenUnsatisfiable");
    if !policies.contains(&policy) {
        errors.not_supported(&format!("{path}.whenUnsatisfiable"), policy, &policies);
    }
    if constraint.has("labelSelector") {
        meta::selector(constraint.at("labelSelector"), &format!("{path}.labelSelector"), errors);
    }
}

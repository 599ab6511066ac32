//! Validation of pod specs and templates.
//!
//! Source of the rules and their wording: `pkg/apis/core/validation/validation.go`.

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;
use crate::validate::{container, meta, scheduling, security, volume};

const DEADLINE_LIMIT_SECONDS: i64 = 2_147_483_647;

/// Validates a pod template.
pub(crate) fn template(template: &Value, path: &str, errors: &mut FieldErrors) {
    meta::labels(template.at("metadata.labels"), &format!("{path}.metadata.labels"), errors);
    meta::annotations(
        template.at("metadata.annotations"),
        &format!("{path}.metadata.annotations"),
        errors,
    );
    spec(template.at("spec"), &format!("{path}.spec"), errors);
}

/// Validates a pod spec.
pub(crate) fn spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let volumes = volume::validate(spec.list("volumes"), &format!("{path}.volumes"), errors);
    container::validate_all(spec, &volumes, path, errors);
    enumeration(spec, "restartPolicy", path, &["Always", "OnFailure", "Never"], errors);
    enumeration(
        spec,
        "dnsPolicy",
        path,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    meta::labels(spec.at("nodeSelector"), &format!("{path}.nodeSelector"), errors);
    security::context(spec.at("securityContext"), &format!("{path}.securityContext"), errors);
    scheduling::validate(spec, path, errors);
    if let Some(account) = spec.text("serviceAccountName").filter(|account| !account.is_empty()) {
        errors.invalid_each(
            &format!("{path}.serviceAccountName"),
            account,
            names::dns_subdomain(account),
        );
    }
    for field in ["hostname", "subdomain"] {
        if let Some(name) = spec.text(field).filter(|name| !name.is_empty()) {
            errors.invalid_each(&format!("{path}.{field}"), name, names::dns_label(name));
        }
    }
    if let Some(seconds) = spec
        .int("activeDeadlineSeconds")
        .filter(|seconds| !(1..=DEADLINE_LIMIT_SECONDS).contains(seconds))
    {
        let detail = format!("must be between 1 and {DEADLINE_LIMIT_SECONDS}, inclusive");
        errors.invalid(&format!("{path}.activeDeadlineSeconds"), seconds, &detail);
    }
    if let Some(class) = spec.text("priorityClassName").filter(|class| !class.is_empty()) {
        errors.invalid_each(
            &format!("{path}.priorityClassName"),
            class,
            names::dns_subdomain(class),
        );
    }
}

fn enumeration(
    spec: &Value,
    field: &str,
    path: &str,
    supported: &[&str],
    errors: &mut FieldErrors,
) {
    match spec.str(field) {
        "" => errors.required(&format!("{path}.{field}"), ""),
        value if !supported.contains(&value) => {
            errors.not_supported(&format!("{path}.{field}"), value, supported)
        }
        _ => {}
    }
}

/// Validates the change of a pod.
pub(crate) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let mut adopted = new.at("spec").clone();
    let old_spec = old.at("spec");
    for list in ["containers", "initContainers"] {
        adopt_images(&mut adopted, old_spec, list);
    }
    let mut copied = vec!["activeDeadlineSeconds", "terminationGracePeriodSeconds"];
    if starts_with(new.list("spec.tolerations"), old_spec.list("tolerations")) {
        copied.push("tolerations");
    }
    let gates = old_spec.list("schedulingGates");
    if new.list("spec.schedulingGates").iter().all(|gate| gates.contains(gate)) {
        copied.push("schedulingGates");
    } else {
        let detail = "only deletion is allowed, but found new scheduling gate";
        errors.forbidden("spec.schedulingGates", detail);
    }
    if !gates.is_empty() {
        copied.extend(["nodeSelector", "affinity"]);
    }
    for field in copied {
        match old_spec.get(field) {
            Some(value) => adopted.put(field, value.clone()),
            None => drop(adopted.cut(field)),
        }
    }
    if adopted != *old_spec {
        let detail = "pod updates may not change fields other than `spec.containers[*].image`,\
            `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
            existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously \
            negative)";
        errors.forbidden("spec", detail);
    }
}

fn adopt_images(adopted: &mut Value, old: &Value, list: &str) {
    let old = old.list(list);
    if old.len() != adopted.list(list).len() {
        return;
    }
    for (container, before) in adopted.list_mut(list).iter_mut().zip(old) {
        container["image"] = before.at("image").clone();
    }
    if old.is_empty() {
        adopted.cut(list);
    }
}

fn starts_with(list: &[Value], prefix: &[Value]) -> bool {
    prefix.iter().all(|entry| list.contains(entry))
}

/// Validates the change of a pod's status: a container that has terminated does not run again unless it may restart.
pub(crate) fn update_status(new: &Value, old: &Value, errors: &mut FieldErrors) {
    if old.text("spec.restartPolicy") == Some("Always") {
        return;
    }
    for (index, before) in old.list("status.containerStatuses").iter().enumerate() {
        let Some(exit_code) = before.int("state.terminated.exitCode") else { continue };
        let may_restart = old.text("spec.restartPolicy") == Some("OnFailure") && exit_code != 0;
        let name = before.str("name");
        let after =
            new.list("status.containerStatuses").iter().find(|status| status.str("name") == name);
        let still_terminated = after.is_some_and(|status| status.has("state.terminated"));
        if !may_restart && !still_terminated {
            let detail = "may not be transitioned to non-terminated state";
            errors.forbidden(&format!("status.containerStatuses[{index}].state"), detail);
        }
    }
}

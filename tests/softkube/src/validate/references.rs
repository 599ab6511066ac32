//! Validation of what several parts of a pod share: references to fields, relative paths and protocols.

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;

/// The fields that variables may refer to.
pub(crate) const ENV_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Validates a reference to a field of the pod.
pub(crate) fn field(reference: &Value, supported: &[&str], path: &str, errors: &mut FieldErrors) {
    let field = reference.str("fieldPath");
    if reference.str("apiVersion").is_empty() {
        errors.required(&format!("{path}.apiVersion"), "");
        return;
    }
    let path = format!("{path}.fieldPath");
    if field.is_empty() {
        errors.required(&path, "");
        return;
    }
    let subscript =
        field.split_once("['").and_then(|(map, rest)| Some((map, rest.strip_suffix("']")?)));
    match subscript {
        Some(("metadata.annotations" | "metadata.labels", key)) => {
            errors.invalid_each(&path, key, names::qualified(&key.to_lowercase()));
        }
        Some(_) => errors.invalid(&path, field, "does not support subscript"),
        None if !ENV_FIELDS.contains(&field) => {
            let detail = format!("error converting fieldPath: field label not supported: {field}");
            errors.invalid(&path, field, &detail);
        }
        None if !supported.contains(&field) => errors.not_supported(&path, field, supported),
        None => {}
    }
}

/// Validates a relative path that stays below its folder.
pub(crate) fn local_path(text: &str, path: &str, errors: &mut FieldErrors) {
    if text.starts_with('/') {
        errors.invalid(path, text, "must be a relative path");
    }
    if text.split('/').any(|part| part == "..") {
        errors.invalid(path, text, "must not contain '..'");
    }
}

/// Validates the protocol of a port.
pub(crate) fn protocol(protocol: &str, path: &str, errors: &mut FieldErrors) {
    match protocol {
        "" => errors.required(path, ""),
        "TCP" | "UDP" | "SCTP" => {}
        other => errors.not_supported(path, other, &["SCTP", "TCP", "UDP"]),
    }
}

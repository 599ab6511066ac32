//! Validation of object metadata and label selectors.

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::kinds::Kind;
use crate::names;

const ANNOTATIONS_LIMIT_BYTES: usize = 256 * 1024;

/// Validates the metadata of a new object.
pub(crate) fn create(kind: &Kind, object: &Value, errors: &mut FieldErrors) {
    let name = object.str("metadata.name");
    let generate_name = object.str("metadata.generateName");
    if !generate_name.is_empty() {
        let masked = names::mask_trailing_dash(generate_name);
        errors.invalid_each("metadata.generateName", generate_name, name_problems(kind, &masked));
    }
    if name.is_empty() {
        errors.required("metadata.name", "name or generateName is required");
    } else {
        errors.invalid_each("metadata.name", name, name_problems(kind, name));
    }
    labels(object.at("metadata.labels"), "metadata.labels", errors);
    annotations(object.at("metadata.annotations"), "metadata.annotations", errors);
    owners(object, errors);
    for (index, finalizer) in object.list("metadata.finalizers").iter().enumerate() {
        let finalizer = finalizer.as_str().unwrap_or_default();
        errors.invalid_each("metadata.finalizers", finalizer, names::qualified(finalizer));
        let standard = matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
        if !finalizer.contains('/') && !standard {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.invalid(&format!("metadata.finalizers[{index}]"), finalizer, detail);
        }
    }
}

/// Validates the metadata of an updated object.
pub(crate) fn update(kind: &Kind, new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in
        ["metadata.name", "metadata.namespace", "metadata.uid", "metadata.creationTimestamp"]
    {
        errors.immutable(field, new.at(field), old.at(field));
    }
    if old.has("metadata.deletionTimestamp") {
        let known: Vec<&Value> = old.list("metadata.finalizers").iter().collect();
        let added: Vec<&str> = new
            .list("metadata.finalizers")
            .iter()
            .filter(|finalizer| !known.contains(finalizer))
            .filter_map(Value::as_str)
            .collect();
        if !added.is_empty() {
            let detail = "no new finalizers can be added if the object is being deleted, found new finalizers ";
            errors.forbidden("metadata.finalizers", &format!("{detail}{added:?}"));
        }
    }
    create(kind, new, errors);
}

fn name_problems(kind: &Kind, name: &str) -> Vec<String> {
    match kind.resource {
        "services" => names::dns_1035_label(name),
        "namespaces" => names::dns_label(name),
        _ => names::dns_subdomain(name),
    }
}

/// Validates a map of labels.
pub(crate) fn labels(labels: &Value, path: &str, errors: &mut FieldErrors) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        let value = value.as_str().unwrap_or_default();
        errors.invalid_each(path, key, names::qualified(key));
        errors.invalid_each(path, value, names::label_value(value));
    }
}

/// Validates a map of annotations.
pub(crate) fn annotations(annotations: &Value, path: &str, errors: &mut FieldErrors) {
    let mut total = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        errors.invalid_each(path, key, names::qualified(&key.to_lowercase()));
        total += key.len() + value.as_str().unwrap_or_default().len();
    }
    if total > ANNOTATIONS_LIMIT_BYTES {
        errors.too_long(path, ANNOTATIONS_LIMIT_BYTES);
    }
}

fn owners(object: &Value, errors: &mut FieldErrors) {
    let mut controllers = Vec::new();
    for (index, owner) in object.list("metadata.ownerReferences").iter().enumerate() {
        let path = |field: &str| format!("metadata.ownerReferences[{index}].{field}");
        for field in ["apiVersion", "kind", "name", "uid"] {
            if owner.str(field).is_empty() {
                errors.invalid(
                    &path(field),
                    owner.str(field),
                    &format!("{field} must not be empty"),
                );
            }
        }
        if owner.flag("controller") {
            controllers.push(owner.str("name"));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        let detail = format!(
            "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
        );
        errors.invalid(
            "metadata.ownerReferences",
            object.at("metadata.ownerReferences").clone(),
            &detail,
        );
    }
}

/// Validates a `metav1.LabelSelector`.
pub(crate) fn selector(selector: &Value, path: &str, errors: &mut FieldErrors) {
    labels(selector.at("matchLabels"), &format!("{path}.matchLabels"), errors);
    for (index, expression) in selector.list("matchExpressions").iter().enumerate() {
        let at = format!("{path}.matchExpressions[{index}]");
        let values = expression.list("values");
        match expression.str("operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.required(&format!("{at}.values"), detail);
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.forbidden(&format!("{at}.values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                errors.invalid(&format!("{at}.operator"), other, "not a valid selector operator")
            }
        }
        let key = expression.str("key");
        errors.invalid_each(&format!("{at}.key"), key, names::qualified(key));
        for (index, value) in values.iter().enumerate() {
            let value = value.as_str().unwrap_or_default();
            errors.invalid_each(&format!("{at}.values[{index}]"), value, names::label_value(value));
        }
    }
}

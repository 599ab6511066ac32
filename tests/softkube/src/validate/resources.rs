//! Validation of resource requests and limits.

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;
use crate::quantity::Quantity;

const QUANTITY_MESSAGE: &str = "quantities must match the regular expression \
    '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

/// Whether a name is that of a resource that Kubernetes itself does not know, such as `nvidia.com/gpu`.
pub(crate) fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Validates the resources of a container.
pub(crate) fn validate(resources: &Value, path: &str, errors: &mut FieldErrors) {
    for (name, value) in resources.entries("limits") {
        amount(name, value, &format!("{path}.limits"), errors);
    }
    for (name, value) in resources.entries("requests") {
        let at = format!("{path}.requests");
        let Some(request) = amount(name, value, &at, errors) else { continue };
        let limit = resources.at("limits").get(name);
        match limit.and_then(Quantity::from_json) {
            Some(limit) if !overcommit_allowed(name) && request != limit => {
                let detail = format!("must be equal to {name} limit of {limit}");
                errors.invalid(&at, value.clone(), &detail);
            }
            Some(limit) if request > limit => {
                let detail = format!("must be less than or equal to {name} limit of {limit}");
                errors.invalid(&at, value.clone(), &detail);
            }
            None if limit.is_none() && !overcommit_allowed(name) => {
                errors.required(
                    &format!("{path}.limits"),
                    "Limit must be set for non overcommitable resources",
                );
            }
            Some(_) | None => {}
        }
    }
    for name in resources.at("limits").as_object().into_iter().flat_map(serde_json::Map::keys) {
        if name.starts_with("hugepages-") && resources.at("limits").get("cpu").is_none() {
            let has_base = ["cpu", "memory"].iter().any(|base| {
                ["limits", "requests"].iter().any(|list| resources.at(list).get(*base).is_some())
            });
            if !has_base {
                errors.forbidden(path, "HugePages require cpu or memory");
            }
        }
    }
}

fn overcommit_allowed(name: &str) -> bool {
    !is_extended(name) && !name.starts_with("hugepages-")
}

/// Validates one name and amount, and returns the amount if it can be read.
fn amount(name: &str, value: &Value, path: &str, errors: &mut FieldErrors) -> Option<Quantity> {
    let at = format!("{path}[{name}]");
    resource_name(name, path, errors);
    let Some(quantity) = Quantity::from_json(value) else {
        errors.invalid(&at, value.clone(), QUANTITY_MESSAGE);
        return None;
    };
    if quantity.is_negative() {
        errors.invalid(&at, value.clone(), "must be greater than or equal to 0");
    }
    if is_extended(name) && !quantity.is_integral() {
        errors.invalid(&at, value.clone(), "must be an integer");
    }
    Some(quantity)
}

fn resource_name(name: &str, path: &str, errors: &mut FieldErrors) {
    errors.invalid_each(path, name, names::qualified(name));
    let standard =
        matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
    if !name.contains('/') && !standard {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
        errors.invalid(path, name, "must be a standard resource for containers");
    }
}

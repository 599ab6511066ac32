//! Validation of security contexts.

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;

const ID_LIMIT: i64 = 2_147_483_647;

/// Validates user and group ids and the seccomp profile of a pod's or container's security context.
pub(crate) fn context(context: &Value, path: &str, errors: &mut FieldErrors) {
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = context.int(field).filter(|id| !(0..=ID_LIMIT).contains(id)) {
            let detail = format!("must be between 0 and {ID_LIMIT}, inclusive");
            errors.invalid(&format!("{path}.{field}"), id, &detail);
        }
    }
    if let Some(policy) = context.text("fsGroupChangePolicy") {
        let supported = ["Always", "OnRootMismatch"];
        if !supported.contains(&policy) {
            errors.not_supported(&format!("{path}.fsGroupChangePolicy"), policy, &supported);
        }
    }
    if !context.has("seccompProfile") {
        return;
    }
    let at = format!("{path}.seccompProfile");
    let localhost = context.text("seccompProfile.localhostProfile");
    match context.str("seccompProfile.type") {
        "" => errors.required(&format!("{at}.type"), "type is required when seccompProfile is set"),
        "Localhost" if localhost.is_none() => {
            errors.required(
                &format!("{at}.localhostProfile"),
                "must be set when seccomp type is Localhost",
            );
        }
        "Localhost" => {}
        "RuntimeDefault" | "Unconfined" => {
            if let Some(profile) = localhost {
                let detail = "can only be set when seccomp type is Localhost";
                errors.invalid(&format!("{at}.localhostProfile"), profile, detail);
            }
        }
        other => errors.not_supported(
            &format!("{at}.type"),
            other,
            &["Localhost", "RuntimeDefault", "Unconfined"],
        ),
    }
}

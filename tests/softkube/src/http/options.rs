//! The options of requests: dry run, field validation, deletion.

use serde_json::{Value, json};

use crate::delete::{DeleteOptions, Propagation};
use crate::error::{ApiError, Subject};
use crate::http::route::Query;
use crate::json::Json;
use crate::kinds::Kind;
use crate::schema::{self, Decoded};

/// Whether nothing is to be stored.
///
/// # Errors
/// 422 for a value other than `All`.
pub(super) fn dry_run(query: &Query, options: &str) -> Result<bool, ApiError> {
    match query.get("dryRun") {
        None => Ok(false),
        Some("All") => Ok(true),
        Some(other) => {
            let mut errors = crate::field_errors::FieldErrors::default();
            errors.not_supported("dryRun", json!([other]), &["All"]);
            let subject = Subject { group: "meta.k8s.io", resource: "", kind: options, name: "" };
            errors.into_result(subject).map(|()| true)
        }
    }
}

/// Decodes the body of a request as an object of a kind, as strictly as the request asks for.
///
/// # Errors
/// 400 for a type that does not fit, and for unknown fields when the validation is `Strict`.
pub(super) fn decode(
    kind: &Kind,
    body: &Value,
    query: &Query,
    warnings: &mut Vec<String>,
) -> Result<Value, ApiError> {
    let mut object = body.clone();
    check_type(kind, &object)?;
    let cannot = |cause: &str| {
        let message =
            format!("{0} in version \"v1\" cannot be handled as a {0}: {cause}", kind.kind);
        ApiError::bad_request(message)
    };
    let Decoded { unknown, mismatch } = schema::decode(kind.kind, &mut object);
    if let Some(mismatch) = mismatch {
        return Err(cannot(&mismatch));
    }
    let problems: Vec<String> =
        unknown.iter().map(|field| format!("unknown field \"{field}\"")).collect();
    match query.get("fieldValidation").unwrap_or("Warn") {
        "Strict" if !problems.is_empty() => {
            return Err(cannot(&format!("strict decoding error: {}", problems.join(", "))));
        }
        "Warn" => warnings.extend(problems),
        "Strict" | "Ignore" => {}
        other => {
            let mut errors = crate::field_errors::FieldErrors::default();
            errors.not_supported("fieldValidation", other, &["Ignore", "Strict", "Warn"]);
            let subject =
                Subject { group: "meta.k8s.io", resource: "", kind: "CreateOptions", name: "" };
            errors.into_result(subject)?;
        }
    }
    Ok(object)
}

/// Refuses an object of another kind.
fn check_type(kind: &Kind, object: &Value) -> Result<(), ApiError> {
    let (found_kind, found_version) = (object.str("kind"), object.str("apiVersion"));
    let fits = (found_kind.is_empty() || found_kind == kind.kind)
        && (found_version.is_empty() || found_version == kind.api_version());
    if object.is_object() && fits {
        return Ok(());
    }
    let message = if object.is_object() {
        let group_kind = |version: &str, kind: &str| format!("{version}, Kind={kind}");
        format!(
            "the object provided is unrecognized (must be of type {}): got {}",
            kind.kind,
            group_kind(found_version, found_kind)
        )
    } else {
        format!(
            "the object provided is unrecognized (must be of type {}): expected an object",
            kind.kind
        )
    };
    Err(ApiError::bad_request(message))
}

/// The deletion options of the query, overridden by those of the body.
///
/// # Errors
/// 400 for a policy or a number that cannot be read.
pub(super) fn delete(query: &Query, body: &Value) -> Result<DeleteOptions, ApiError> {
    let policy = body.text("propagationPolicy").or(query.get("propagationPolicy"));
    let propagation = match (policy, body.at("orphanDependents").as_bool()) {
        (Some(policy), _) => Some(Propagation::parse(policy).ok_or_else(|| {
            ApiError::bad_request(format!(
                "invalid DeleteOptions: propagationPolicy: Unsupported value: \"{policy}\": supported values: \
                 \"Foreground\", \"Background\", \"Orphan\", nil"
            ))
        })?),
        (None, Some(true)) => Some(Propagation::Orphan),
        (None, Some(false)) => Some(Propagation::Background),
        (None, None) => None,
    };
    let from_query = match query.get("gracePeriodSeconds") {
        Some(text) => {
            Some(text.parse::<i64>().map_err(|error| ApiError::bad_request(error.to_string()))?)
        }
        None => None,
    };
    let dry_run =
        dry_run(query, "DeleteOptions")? || body.list("dryRun").iter().any(|one| one == "All");
    Ok(DeleteOptions {
        grace_period_seconds: body.int("gracePeriodSeconds").or(from_query),
        propagation,
        uid: body.text("preconditions.uid").map(str::to_owned),
        resource_version: body.text("preconditions.resourceVersion").map(str::to_owned),
        dry_run,
    })
}

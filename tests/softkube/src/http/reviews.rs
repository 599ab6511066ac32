//! Reviews: answered at once and not stored.

use serde_json::{Value, json};

use crate::auth::{API_AUDIENCE, Identity};
use crate::error::ApiError;
use crate::http::answer::Answer;
use crate::http::route::Route;
use crate::json::Json;
use crate::state::State;

/// Answers a token review or an access review.
///
/// # Errors
/// 400 for an access review that asks about nothing.
pub(super) fn answer(
    state: &State,
    route: &Route,
    who: &Identity,
    body: &Value,
) -> Result<Answer, ApiError> {
    let mut review = body.clone();
    review.put("apiVersion", route.kind.api_version());
    review.put("kind", route.kind.kind);
    review.put_default("metadata", json!({}));
    let status = match route.kind.resource {
        "tokenreviews" => token(state, body),
        _ => access(state, who, body)?,
    };
    review.put("status", status);
    Ok(Answer::new(201, review))
}

fn token(state: &State, body: &Value) -> Value {
    let audiences: Vec<String> =
        body.list("spec.audiences").iter().filter_map(Value::as_str).map(str::to_owned).collect();
    let audiences = if audiences.is_empty() { vec![API_AUDIENCE.to_owned()] } else { audiences };
    match state.auth.authenticate(&state.registry, body.str("spec.token"), &audiences) {
        Some((identity, good)) => {
            json!({"authenticated": true, "user": identity.describe(), "audiences": good})
        }
        None => json!({"user": {}, "error": "[invalid bearer token, token lookup failed]"}),
    }
}

fn access(state: &State, who: &Identity, body: &Value) -> Result<Value, ApiError> {
    let wanted = body.at("spec.resourceAttributes");
    let path = body.at("spec.nonResourceAttributes");
    if wanted.is_null() && path.is_null() {
        return Err(ApiError::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let resource = match wanted.str("subresource") {
        "" => wanted.str("resource").to_owned(),
        subresource => format!("{}/{subresource}", wanted.str("resource")),
    };
    let allowed = !path.is_null()
        || state.auth.allows(who, wanted.str("verb"), &resource, wanted.str("namespace"));
    Ok(if allowed { json!({"allowed": true}) } else { json!({"allowed": false}) })
}

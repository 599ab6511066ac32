//! Keeps the header `Retry-After` of answers that have no `Status` to carry it.
//!
//! The overload protection of an API server answers in plain text, and a proxy in HTML. `kube`
//! keeps only their text.

use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt;
use kube::client::{Body, DynBody};
use serde_json::json;

/// Replaces such an answer with a `Status` that has the header's value in
/// `details.retryAfterSeconds`.
pub(crate) fn with_status(response: Response<Box<DynBody>>) -> Response<Box<DynBody>> {
    let code = response.status();
    let is_refusal =
        code == StatusCode::TOO_MANY_REQUESTS || code == StatusCode::SERVICE_UNAVAILABLE;
    let seconds = if is_refusal { retry_after(response.headers()) } else { None };
    let Some(seconds) = seconds.filter(|_| !is_json(response.headers())) else {
        return response;
    };
    let reason = code.canonical_reason().unwrap_or_default();
    let status = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code.as_u16(),
        "reason": reason.replace(' ', ""),
        "message": format!("the server answers: {}", reason.to_lowercase()),
        "details": { "retryAfterSeconds": seconds },
    });
    let body = Body::from(status.to_string().into_bytes());
    response.map(|_| Box::new(body.map_err(tower::BoxError::from)) as Box<DynBody>)
}

fn retry_after(headers: &HeaderMap) -> Option<u32> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}

fn is_json(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .is_some_and(|kind| kind.contains("json"))
}

//! Lists: selectors, pages and resource versions.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::base64;
use crate::error::ApiError;
use crate::http::route::{Query, Route};
use crate::json::Json;
use crate::selector::{Fields, Labels};
use crate::state::{Shared, State};

/// How long a list waits for a resource version that the server has not seen yet.
const FUTURE_VERSION_WAIT: Duration = Duration::from_secs(3);

/// Which objects of a collection a request is about.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    labels: Labels,
    fields: Fields,
}

impl Selection {
    pub(super) fn parse(route: &Route) -> Result<Self, ApiError> {
        let labels = Labels::parse(route.query.get("labelSelector").unwrap_or_default());
        let fields = route.query.get("fieldSelector").unwrap_or_default();
        let fields = Fields::parse(route.kind.resource, fields);
        Ok(Self {
            labels: labels.map_err(ApiError::bad_request)?,
            fields: fields.map_err(ApiError::bad_request)?,
        })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        self.labels.matches(object) && self.fields.matches(object)
    }
}

/// A resource version of a query; absent and `0` are told apart by the caller.
pub(super) fn version(query: &Query) -> Result<Option<u64>, ApiError> {
    let Some(text) = query.get("resourceVersion") else { return Ok(None) };
    text.parse().map(Some).map_err(|_| {
        let message = format!(
            "Invalid value: \"{text}\": strconv.ParseUint: parsing \"{text}\": invalid syntax"
        );
        ApiError::bad_request(format!("resourceVersion: {message}"))
    })
}

/// The answer to a version above the current one.
pub(super) fn too_large(wanted: u64, current: u64) -> ApiError {
    let message = format!("Too large resource version: {wanted}, current: {current}");
    let mut error = ApiError::new(504, "Timeout", message);
    error.details = json!({
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    })
    .into();
    error
}

/// Where a list continues: the revision of its first page and the last key of the previous one.
struct Position {
    revision: u64,
    after: String,
}

impl Position {
    fn parse(token: &str) -> Result<Self, ApiError> {
        let read = || {
            let decoded: Value = serde_json::from_slice(&base64::decode(token)?).ok()?;
            let revision = decoded.get("rv")?.as_u64()?;
            Some(Self { revision, after: decoded.get("start")?.as_str()?.to_owned() })
        };
        read().ok_or_else(|| {
            ApiError::bad_request("continue key is not valid: unable to decode the token")
        })
    }

    fn token(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after});
        base64::encode_url(token.to_string().as_bytes())
    }
}

/// Waits until the server has seen the version that a list asks for.
pub(super) async fn wait_for_version(shared: &Shared, query: &Query) -> Result<(), ApiError> {
    let Some(wanted) = version(query)?.filter(|_| query.get("continue").is_none()) else {
        return Ok(());
    };
    let mut changes = shared.subscribe();
    let deadline = tokio::time::Instant::now() + FUTURE_VERSION_WAIT;
    loop {
        let current = shared.read(|state| state.registry.store.revision());
        if wanted <= current {
            return Ok(());
        }
        if tokio::time::timeout_at(deadline, changes.changed()).await.is_err() {
            return Err(too_large(wanted, current));
        }
    }
}

/// Answers a list; `lag` revisions are not seen yet.
pub(super) fn list(state: &State, route: &Route, lag: u64) -> Result<Value, ApiError> {
    let selection = Selection::parse(route)?;
    let store = &state.registry.store;
    let current = store.revision().saturating_sub(lag).max(store.compacted());
    let position = route.query.get("continue").map(Position::parse).transpose()?;
    let exact = route.query.get("resourceVersionMatch") == Some("Exact");
    let wanted = version(&route.query)?.filter(|_| exact);
    if exact && wanted.is_none_or(|wanted| wanted == 0) {
        let cause = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        return Err(ApiError::bad_request(format!("resourceVersionMatch: Forbidden: {cause}")));
    }
    let revision = position.as_ref().map(|one| one.revision).or(wanted).unwrap_or(current);
    let all = store.list_at(route.kind.resource, &route.namespace, revision).map_err(|_| {
        if position.is_some() {
            ApiError::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new \
                 list without the continue parameter, or use the continue token in this response to retrieve the \
                 remainder of the results. Continuing with the provided token results in an inconsistent list.",
            )
        } else {
            ApiError::expired(format!("too old resource version: {revision} ({})", store.compacted()))
        }
    })?;
    let path = |key: &crate::store::Key| format!("{}/{}", key.namespace, key.name);
    let rest = all.iter().filter(|(key, object)| {
        position.as_ref().is_none_or(|position| path(key) > position.after)
            && selection.matches(object)
    });
    let rest: Vec<_> = rest.collect();
    let limit =
        route.query.get("limit").and_then(|limit| limit.parse().ok()).filter(|limit| *limit > 0);
    let page = &rest[..rest.len().min(limit.unwrap_or(usize::MAX))];
    let mut metadata = json!({"resourceVersion": revision.to_string()});
    if let Some((last, _)) = page.last().filter(|_| page.len() < rest.len()) {
        metadata.put("continue", Position { revision, after: path(last) }.token());
        metadata.put("remainingItemCount", rest.len() - page.len());
    }
    Ok(json!({
        "kind": format!("{}List", route.kind.kind), "apiVersion": route.kind.api_version(), "metadata": metadata,
        "items": page.iter().map(|(_, object)| item(object)).collect::<Vec<_>>(),
    }))
}

/// An object as lists show it: without its kind.
fn item(object: &Arc<Value>) -> Value {
    let mut item = Value::clone(object);
    item.cut("kind");
    item.cut("apiVersion");
    item
}

/// The object as it was `lag` revisions ago.
pub(super) fn get(state: &State, route: &Route, lag: u64) -> Result<Value, ApiError> {
    let target = crate::registry::Target {
        kind: route.kind,
        namespace: &route.namespace,
        name: &route.name,
    };
    if lag == 0 {
        return state.registry.get(target).map(|object| Value::clone(&object));
    }
    let store = &state.registry.store;
    let revision = store.revision().saturating_sub(lag).max(store.compacted());
    let then = store.list_at(route.kind.resource, &route.namespace, revision);
    let found = then.ok().and_then(|then| then.into_iter().find(|(key, _)| *key == target.key()));
    found.map(|(_, object)| Value::clone(&object)).ok_or_else(|| target.not_found())
}

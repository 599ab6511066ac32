//! Writes: create, update, patch, delete and deletecollection.

use serde_json::Value;

use crate::delete;
use crate::error::{ApiError, Subject};
use crate::field_errors::FieldErrors;
use crate::http::answer::Answer;
use crate::http::list::Selection;
use crate::http::options;
use crate::http::route::Route;
use crate::json::Json;
use crate::managed;
use crate::patch::{self, Format};
use crate::registry::{Target, Write};
use crate::schema;
use crate::state::State;

/// The warning of a Job deletion that orphans its pods (`pkg/registry/batch/job/storage`).
const ORPHAN_WARNING: &str = "child pods are preserved by default when jobs are deleted; set \
    propagationPolicy=Background to remove them or set propagationPolicy=Orphan to suppress this warning";

/// Who writes, and in which format.
#[derive(Clone, Copy, Debug)]
pub(super) struct Author<'a> {
    pub(super) user_agent: &'a str,
    pub(super) content_type: &'a str,
}

impl Author<'_> {
    /// The field manager: as the request says, or the first word of the user agent.
    pub(super) fn manager(&self, route: &Route) -> String {
        let agent = self.user_agent.split('/').next().unwrap_or_default();
        route
            .query
            .get("fieldManager")
            .unwrap_or(if agent.is_empty() { "unknown" } else { agent })
            .to_owned()
    }
}

fn target(route: &Route) -> Target<'_> {
    Target { kind: route.kind, namespace: &route.namespace, name: &route.name }
}

/// Creates an object.
pub(super) fn create(
    state: &mut State,
    route: &Route,
    author: Author<'_>,
    body: &Value,
) -> Result<Answer, ApiError> {
    let mut warnings = Vec::new();
    let object = options::decode(route.kind, body, &route.query, &mut warnings)?;
    let dry_run = options::dry_run(&route.query, "CreateOptions")?;
    let manager = author.manager(route);
    let write = Write { manager: &manager, subresource: "", dry_run };
    let created = state.registry.create(route.kind, &route.namespace, object, &write)?;
    warnings.extend(state.registry.take_warnings());
    Ok(Answer { warnings, ..Answer::new(201, created) })
}

/// Replaces an object or its status.
pub(super) fn update(
    state: &mut State,
    route: &Route,
    author: Author<'_>,
    body: &Value,
) -> Result<Answer, ApiError> {
    let mut warnings = Vec::new();
    let object = options::decode(route.kind, body, &route.query, &mut warnings)?;
    let dry_run = options::dry_run(&route.query, "UpdateOptions")?;
    let manager = author.manager(route);
    let write = Write { manager: &manager, subresource: &route.subresource, dry_run };
    let updated = state.registry.update(target(route), object, &write)?;
    warnings.extend(state.registry.take_warnings());
    Ok(Answer { warnings, ..Answer::new(200, updated) })
}

/// Patches an object or its status; server-side apply creates what does not exist.
pub(super) fn patch(
    state: &mut State,
    route: &Route,
    author: Author<'_>,
    body: &Value,
) -> Result<Answer, ApiError> {
    let Some(format) = Format::from_content_type(author.content_type) else {
        let supported = "application/json-patch+json, application/merge-patch+json, \
            application/strategic-merge-patch+json, application/apply-patch+yaml";
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {supported}"
        );
        return Err(ApiError::new(415, "UnsupportedMediaType", message));
    };
    if format == Format::Apply {
        return apply(state, route, body);
    }
    let old = state.registry.get(target(route))?;
    let patched = patch::apply(format, route.kind, &old, body)?;
    update(state, route, author, &patched)
}

fn apply(state: &mut State, route: &Route, body: &Value) -> Result<Answer, ApiError> {
    let subject = Subject { group: "meta.k8s.io", resource: "", kind: "PatchOptions", name: "" };
    let Some(manager) = route.query.get("fieldManager") else {
        let mut errors = FieldErrors::default();
        errors.required("fieldManager", "is required for apply patch");
        return Err(errors.into_result(subject).err().unwrap_or_else(ApiError::no_such_path));
    };
    let mut config = body.clone();
    let decoded = schema::decode(route.kind.kind, &mut config);
    let place = format!(
        "{}/{}; {}, Kind={}",
        route.namespace,
        route.name,
        route.kind.api_version(),
        route.kind.kind
    );
    if let Some(field) = decoded.unknown.first() {
        let message = format!(
            "failed to create typed patch object ({place}): .{field}: field not declared in schema"
        );
        return Err(ApiError::new(500, "InternalError", message));
    }
    if let Some(mismatch) = decoded.mismatch {
        return Err(ApiError::bad_request(format!(
            "failed to create typed patch object ({place}): {mismatch}"
        )));
    }
    if config.has("metadata.managedFields") {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let dry_run = options::dry_run(&route.query, "PatchOptions")?;
    let write = Write { manager, subresource: &route.subresource, dry_run };
    let Ok(live) = state.registry.get(target(route)) else {
        return create_by_apply(state, route, config, &write);
    };
    let writer = state.registry.writer(&write);
    let applied = managed::apply(route.kind, &live, &config, route.query.flag("force"), writer)?;
    let updated = state.registry.update(target(route), applied, &write)?;
    let warnings = state.registry.take_warnings();
    Ok(Answer { warnings, ..Answer::new(200, updated) })
}

fn create_by_apply(
    state: &mut State,
    route: &Route,
    mut config: Value,
    write: &Write<'_>,
) -> Result<Answer, ApiError> {
    if !write.subresource.is_empty() {
        return Err(target(route).not_found());
    }
    config.put_default("metadata.name", route.name.as_str());
    let created = state.registry.create_applied(route.kind, &route.namespace, config, write)?;
    let warnings = state.registry.take_warnings();
    Ok(Answer { warnings, ..Answer::new(201, created) })
}

/// Deletes an object.
pub(super) fn delete(state: &mut State, route: &Route, body: &Value) -> Result<Answer, ApiError> {
    let options = options::delete(&route.query, body)?;
    let orphans = route.kind.resource == "jobs" && options.propagation.is_none();
    let deleted = state.registry.delete(target(route), &options)?;
    let warnings = if orphans { vec![ORPHAN_WARNING.to_owned()] } else { Vec::new() };
    Ok(Answer { warnings, ..Answer::new(200, delete::answer(route.kind, deleted)) })
}

/// Deletes the objects of a collection that the selectors choose, and answers with their list.
pub(super) fn delete_collection(
    state: &mut State,
    route: &Route,
    body: &Value,
) -> Result<Answer, ApiError> {
    let options = options::delete(&route.query, body)?;
    let selection = Selection::parse(route)?;
    let mut items = Vec::new();
    for object in state.registry.list(route.kind.resource, &route.namespace) {
        if selection.matches(&object) {
            // Deleting one object may remove another, such as a dependent.
            let _ = state.registry.delete(Target::of(route.kind.resource, &object), &options);
            items.push(Value::clone(&object));
        }
    }
    let orphans =
        route.kind.resource == "jobs" && options.propagation.is_none() && !items.is_empty();
    let list = serde_json::json!({
        "kind": format!("{}List", route.kind.kind), "apiVersion": route.kind.api_version(),
        "metadata": {"resourceVersion": state.registry.store.revision().to_string()}, "items": items,
    });
    let warnings = if orphans { vec![ORPHAN_WARNING.to_owned()] } else { Vec::new() };
    Ok(Answer { warnings, ..Answer::new(200, list) })
}

//! Updating objects.

use std::sync::Arc;

use serde_json::Value;

use crate::defaults;
use crate::error::ApiError;
use crate::json::{Json, omit_empty};
use crate::kinds::Kind;
use crate::managed;
use crate::pods;
use crate::prepare;
use crate::registry::{Registry, Target, Write};
use crate::validate;

const STALE: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Metadata that an update cannot change; an absent value is filled in.
const SERVER_METADATA: &[&str] = &[
    "creationTimestamp",
    "generation",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
];

impl Registry {
    /// Replaces an object, or its status, and returns it as stored.
    ///
    /// # Errors
    /// 404, 409 when the resource version or uid is stale, 400 or 422.
    pub(crate) fn update(
        &mut self,
        target: Target<'_>,
        mut object: Value,
        write: &Write<'_>,
    ) -> Result<Value, ApiError> {
        let old = self.get(target)?;
        omit_empty(&mut object);
        check_identity(target, &object, &old)?;
        if object.str("metadata.resourceVersion").is_empty()
            && !allows_unconditional_update(target.kind)
        {
            let mut errors = crate::field_errors::FieldErrors::default();
            errors.invalid("metadata.resourceVersion", 0, "must be specified for an update");
            errors.into_result(target.kind.subject(target.name))?;
        }
        self.commit(target, &old, object, write)
    }

    /// Changes an object by a function of its current state; used by controllers.
    ///
    /// # Errors
    /// As [`Registry::update`].
    pub(crate) fn modify(
        &mut self,
        target: Target<'_>,
        write: &Write<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, ApiError> {
        let old = self.get(target)?;
        let mut object = Value::clone(&old);
        change(&mut object);
        self.commit(target, &old, object, write)
    }

    /// Marks a pod as disrupted, before it is deleted.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn disrupt(
        &mut self,
        target: Target<'_>,
        component: &'static str,
        reason: &'static str,
        message: &'static str,
    ) -> Result<(), ApiError> {
        let now = self.now();
        let mark = |pod: &mut Value| {
            let condition =
                pods::Condition { kind: "DisruptionTarget", status: "True", reason, message };
            pods::set_condition(pod, condition, now);
        };
        self.force(target, &Write::status(component), mark).map(drop)
    }

    /// Changes an object without validation, for what no client may do: binding pods, and taking owners away.
    ///
    /// # Errors
    /// 404.
    pub(crate) fn force(
        &mut self,
        target: Target<'_>,
        write: &Write<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Value, ApiError> {
        let old = self.get(target)?;
        let mut object = Value::clone(&old);
        change(&mut object);
        omit_empty(&mut object);
        if object == *old {
            return Ok(object);
        }
        managed::track_update(target.kind, &old, &mut object, self.writer(write));
        if is_released(target.kind, &object) {
            self.store.remove(&target.key());
            return Ok(object);
        }
        Ok(self.store_object(target, object))
    }

    /// Stores the new state of an object whose preconditions hold.
    pub(crate) fn commit(
        &mut self,
        target: Target<'_>,
        old: &Arc<Value>,
        mut object: Value,
        write: &Write<'_>,
    ) -> Result<Value, ApiError> {
        let kind = target.kind;
        omit_empty(&mut object);
        keep_metadata(&mut object, old);
        defaults::apply(kind, &mut object);
        let errors = if write.subresource == "status" {
            prepare::update_status(kind, &mut object, old);
            validate::update_status(kind, &object, old)
        } else {
            prepare::update(kind, &mut object, old);
            validate::update(kind, &object, old)
        };
        errors.into_result(kind.subject(target.name))?;
        object.put("metadata.resourceVersion", old.at("metadata.resourceVersion").clone());
        if !object.has("metadata.managedFields") {
            object.put("metadata.managedFields", old.at("metadata.managedFields").clone());
        }
        omit_empty(&mut object);
        if without_owners(&object) == without_owners(old) {
            return Ok(Value::clone(old));
        }
        if object.at("metadata.managedFields") == old.at("metadata.managedFields") {
            managed::track_update(kind, old, &mut object, self.writer(write));
        }
        if write.dry_run {
            return Ok(object);
        }
        if is_released(kind, &object) {
            self.store.remove(&target.key());
            return Ok(object);
        }
        Ok(self.store_object(target, object))
    }
}

/// The object without `managedFields`, whose times alone do not make a change.
fn without_owners(object: &Value) -> Value {
    let mut object = object.clone();
    object.cut("metadata.managedFields");
    object
}

/// Whether an object that is being deleted has lost its last reason to stay.
fn is_released(kind: &Kind, object: &Value) -> bool {
    let gone =
        object.has("metadata.deletionTimestamp") && object.list("metadata.finalizers").is_empty();
    let graceful = kind.resource == "pods"
        && object.int("metadata.deletionGracePeriodSeconds").unwrap_or(0) > 0;
    let namespace = kind.resource == "namespaces" && !object.list("spec.finalizers").is_empty();
    gone && pods::is_deleting(object) && !graceful && !namespace
}

fn allows_unconditional_update(kind: &Kind) -> bool {
    !matches!(kind.resource, "serviceaccounts" | "namespaces" | "poddisruptionbudgets")
}

fn check_identity(target: Target<'_>, object: &Value, old: &Value) -> Result<(), ApiError> {
    let name = object.str("metadata.name");
    if !name.is_empty() && name != target.name {
        let message = format!(
            "the name of the object ({name}) does not match the name on the URL ({})",
            target.name
        );
        return Err(ApiError::bad_request(message));
    }
    let namespace = object.str("metadata.namespace");
    if !namespace.is_empty() && namespace != target.namespace {
        let message =
            "the namespace of the provided object does not match the namespace sent on the request";
        return Err(ApiError::bad_request(message));
    }
    let subject = target.kind.subject(target.name);
    let (uid, old_uid) = (object.str("metadata.uid"), old.str("metadata.uid"));
    if !uid.is_empty() && uid != old_uid {
        let cause = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {old_uid}"
        );
        return Err(ApiError::conflict(subject, &cause));
    }
    let version = object.str("metadata.resourceVersion");
    if !version.is_empty() && version != old.str("metadata.resourceVersion") {
        return Err(ApiError::conflict(subject, STALE));
    }
    Ok(())
}

fn keep_metadata(object: &mut Value, old: &Value) {
    for field in SERVER_METADATA {
        let path = format!("metadata.{field}");
        if old.has(&path) {
            object.put(&path, old.at(&path).clone());
        } else {
            object.cut(&path);
        }
    }
    for field in ["name", "namespace", "uid", "generateName"] {
        let path = format!("metadata.{field}");
        if old.has(&path) {
            object.put_default(&path, old.at(&path).clone());
        }
    }
}

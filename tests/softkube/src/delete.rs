//! Deleting objects: grace periods, finalizers and propagation.

use std::time::Duration;

use serde_json::{Value, json};

use crate::error::ApiError;
use crate::json::Json;
use crate::kinds::Kind;
use crate::pods;
use crate::registry::{Registry, Target};

const FOREGROUND: &str = "foregroundDeletion";
const ORPHAN: &str = "orphan";

/// How to delete, from `metav1.DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeleteOptions {
    pub(crate) grace_period_seconds: Option<i64>,
    pub(crate) propagation: Option<Propagation>,
    pub(crate) uid: Option<String>,
    pub(crate) resource_version: Option<String>,
    pub(crate) dry_run: bool,
}

/// What becomes of the dependents of a deleted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay and lose their owner.
    Orphan,
}

impl Propagation {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        match text {
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            "Orphan" => Some(Self::Orphan),
            _ => None,
        }
    }
}

/// What a deletion did.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Value),
    /// The object is marked and goes when its grace period or its finalizers end.
    Marked(Value),
}

impl DeleteOptions {
    /// Immediate deletion, as the kubelet and the pod garbage collector do it.
    pub(crate) fn now() -> Self {
        Self { grace_period_seconds: Some(0), ..Self::default() }
    }

    /// Deletion in which the garbage collector removes the dependents.
    pub(crate) fn background() -> Self {
        Self { propagation: Some(Propagation::Background), ..Self::default() }
    }
}

impl Registry {
    /// Deletes an object.
    ///
    /// # Errors
    /// 404, or 409 when a precondition does not hold.
    pub(crate) fn delete(
        &mut self,
        target: Target<'_>,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let old = self.get(target)?;
        check_preconditions(target, &old, options)?;
        let mut object = Value::clone(&old);
        set_finalizers(target.kind, &mut object, options.propagation);
        self.mark(target.kind, &mut object, options);
        let grace = object.int("metadata.deletionGracePeriodSeconds").unwrap_or(0);
        let stays = !object.list("metadata.finalizers").is_empty()
            || (target.kind.resource == "pods" && grace > 0)
            || target.kind.resource == "namespaces";
        if options.dry_run {
            return Ok(if stays { Deleted::Marked(object) } else { Deleted::Gone(object) });
        }
        if stays {
            let marked = if object == *old { object } else { self.store_object(target, object) };
            return Ok(Deleted::Marked(marked));
        }
        let last = self.store.remove(&target.key()).ok_or_else(|| target.not_found())?;
        let mut last = Value::clone(&last);
        for field in ["metadata.deletionTimestamp", "metadata.deletionGracePeriodSeconds"] {
            last.put(field, object.at(field).clone());
        }
        Ok(Deleted::Gone(last))
    }

    /// Sets the deletion time; a later request may only shorten it.
    fn mark(&self, kind: &Kind, object: &mut Value, options: &DeleteOptions) {
        let grace = if kind.resource == "pods" { grace_of(object, options) } else { 0 };
        let before = object.int("metadata.deletionGracePeriodSeconds");
        if object.has("metadata.deletionTimestamp") && before.is_some_and(|before| before <= grace)
        {
            return;
        }
        let started = match (object.text("metadata.deletionTimestamp"), before) {
            (Some(deadline), Some(before)) if grace > 0 => crate::clock::Time::parse(deadline)
                .map(|deadline| deadline.before(seconds(before)))
                .unwrap_or_else(|| self.now()),
            _ => self.now(),
        };
        object.put("metadata.deletionTimestamp", started.after(seconds(grace)).rfc3339());
        object.put("metadata.deletionGracePeriodSeconds", grace);
        if object.has("metadata.generation") && before.is_none() {
            object.put("metadata.generation", object.int("metadata.generation").unwrap_or(0) + 1);
        }
        if kind.resource == "namespaces" {
            object.put("status.phase", "Terminating");
        }
    }
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

/// The grace of a pod: none before it is scheduled or after it ended.
fn grace_of(pod: &Value, options: &DeleteOptions) -> i64 {
    if pod.str("spec.nodeName").is_empty() || pods::is_terminal(pod) {
        return 0;
    }
    let own = pod.int("spec.terminationGracePeriodSeconds").unwrap_or(30);
    options.grace_period_seconds.unwrap_or(own).max(0)
}

fn check_preconditions(
    target: Target<'_>,
    old: &Value,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let subject = target.kind.subject(target.name);
    let (uid, version) = (old.str("metadata.uid"), old.str("metadata.resourceVersion"));
    if let Some(wanted) = options.uid.as_deref().filter(|wanted| *wanted != uid) {
        let cause = format!(
            "the UID in the precondition ({wanted}) does not match the UID in record ({uid}). The object might have \
             been deleted and then recreated"
        );
        return Err(ApiError::conflict(subject, &cause));
    }
    if let Some(wanted) = options.resource_version.as_deref().filter(|wanted| *wanted != version) {
        let cause = format!(
            "the ResourceVersion in the precondition ({wanted}) does not match the ResourceVersion in record \
             ({version}). The object might have been modified"
        );
        return Err(ApiError::conflict(subject, &cause));
    }
    Ok(())
}

/// Adds the finalizer of the propagation policy and removes those of the others.
///
/// Jobs deleted without a policy orphan their pods (`DefaultGarbageCollectionPolicy` of `batch/v1`).
fn set_finalizers(kind: &Kind, object: &mut Value, propagation: Option<Propagation>) {
    let kept = |name: &str| pods::has_finalizer(object, name);
    let wanted = match propagation {
        Some(Propagation::Foreground) => Some(FOREGROUND),
        Some(Propagation::Orphan) => Some(ORPHAN),
        Some(Propagation::Background) => None,
        None if kept(ORPHAN) => Some(ORPHAN),
        None if kept(FOREGROUND) => Some(FOREGROUND),
        None if kind.resource == "jobs" => Some(ORPHAN),
        None => None,
    };
    if wanted.is_none() && !object.has("metadata.finalizers") {
        return;
    }
    let finalizers = object.list_mut("metadata.finalizers");
    finalizers.retain(|one| one != FOREGROUND && one != ORPHAN);
    finalizers.extend(wanted.map(Value::from));
    if finalizers.is_empty() {
        object.cut("metadata.finalizers");
    }
}

/// The answer to a deletion: the object, or a `Status` when the kind does not return deleted objects.
pub(crate) fn answer(kind: &Kind, deleted: Deleted) -> Value {
    let returns_object =
        matches!(kind.resource, "pods" | "services" | "serviceaccounts" | "resourcequotas");
    match deleted {
        Deleted::Gone(object) if !returns_object => {
            let mut details = json!({
                "name": object.str("metadata.name"), "kind": kind.resource, "uid": object.str("metadata.uid"),
            });
            if !kind.group.is_empty() {
                details.put("group", kind.group);
            }
            json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})
        }
        Deleted::Gone(object) | Deleted::Marked(object) => object,
    }
}

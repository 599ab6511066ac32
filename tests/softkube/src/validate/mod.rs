//! Validation of the served kinds, on creation and on update.
//!
//! Objects arrive decoded and defaulted. Fields outside the scope of this crate are accepted unchecked; the crate's
//! page lists them.

mod container;
mod job;
mod job_policies;
mod job_status;
mod meta;
mod others;
mod pod;
mod references;
mod resources;
mod scheduling;
mod security;
#[cfg(test)]
mod tests;
mod volume;

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::kinds::Kind;

/// Validates a new object.
pub(crate) fn create(kind: &Kind, object: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    meta::create(kind, object, &mut errors);
    content(kind, object, &mut errors);
    errors
}

/// Validates an object that replaces another.
pub(crate) fn update(kind: &Kind, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    meta::update(kind, new, old, &mut errors);
    match kind.resource {
        "jobs" => {
            job::validate(new, &mut errors);
            job::update(new, old, &mut errors);
        }
        "pods" => pod::update(new, old, &mut errors),
        _ => {
            content(kind, new, &mut errors);
            others::update(kind, new, old, &mut errors);
        }
    }
    errors
}

/// Validates a new status.
pub(crate) fn update_status(kind: &Kind, new: &Value, old: &Value) -> FieldErrors {
    let mut errors = FieldErrors::default();
    meta::update(kind, new, old, &mut errors);
    match kind.resource {
        "jobs" => job_status::update(new, old, &mut errors),
        "pods" => pod::update_status(new, old, &mut errors),
        _ => {}
    }
    errors
}

fn content(kind: &Kind, object: &Value, errors: &mut FieldErrors) {
    match kind.resource {
        "jobs" => job::validate(object, errors),
        "pods" => pod::spec(object.at("spec"), "spec", errors),
        _ => others::content(kind, object, errors),
    }
}

//! Validation of updates to a Job's status.
//!
//! The rules that compare states apply only when the fields they speak of change, as `getStatusValidationOptions` of
//! `pkg/registry/batch/job/strategy.go` selects them.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::clock::Time;
use crate::field_errors::FieldErrors;
use crate::indexes;
use crate::json::Json;

/// Validates the change of a Job's status.
pub(crate) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        let path = format!("status.{field}");
        errors.nonnegative(&path, new.int(&path));
    }
    uncounted(new, errors);
    conditions(new, old, errors);
    times(new, old, errors);
    finished(new, old, errors);
    indexes_of(new, old, errors);
    counters(new, old, errors);
    success_criteria(new, old, errors);
}

/// Whether a condition of the Job is true.
fn is(job: &Value, condition: &str) -> bool {
    job.list("status.conditions")
        .iter()
        .any(|one| one.str("type") == condition && one.str("status") == "True")
}

fn is_finished(job: &Value) -> bool {
    is(job, "Complete") || is(job, "Failed")
}

fn changed(new: &Value, old: &Value, path: &str) -> bool {
    new.at(path) != old.at(path)
}

fn condition_changed(new: &Value, old: &Value, condition: &str) -> bool {
    is(new, condition) != is(old, condition)
}

fn uncounted(new: &Value, errors: &mut FieldErrors) {
    let mut seen = BTreeSet::new();
    for list in ["succeeded", "failed"] {
        let path = format!("status.uncountedTerminatedPods.{list}");
        for (index, uid) in new.list(&path).iter().enumerate() {
            let uid = uid.as_str().unwrap_or_default();
            if uid.is_empty() {
                errors.invalid(&format!("{path}[{index}]"), uid, "must not be empty");
            } else if !seen.insert(uid) {
                errors.duplicate(&format!("{path}[{index}]"), uid);
            }
        }
    }
}

fn conditions(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = "status.conditions";
    let complete_changed = condition_changed(new, old, "Complete");
    let failed_changed = condition_changed(new, old, "Failed");
    if (complete_changed || failed_changed) && is(new, "Complete") && is(new, "Failed") {
        errors.invalid_without_value(path, "cannot set Complete=True and Failed=true conditions");
    }
    let target_changed = condition_changed(new, old, "FailureTarget");
    if (complete_changed || target_changed) && is(new, "Complete") && is(new, "FailureTarget") {
        errors.invalid_without_value(
            path,
            "cannot set Complete=True and FailureTarget=true conditions",
        );
    }
    if (failed_changed || target_changed) && is(new, "Failed") && !is(new, "FailureTarget") {
        let detail = "cannot set Failed=True condition without the FailureTarget=true condition";
        errors.invalid_without_value(path, detail);
    }
    let criteria_changed = condition_changed(new, old, "SuccessCriteriaMet");
    if (complete_changed || criteria_changed)
        && is(new, "Complete")
        && !is(new, "SuccessCriteriaMet")
    {
        let detail =
            "cannot set Complete=True condition without the SuccessCriteriaMet=true condition";
        errors.invalid_without_value(path, detail);
    }
    for condition in ["Failed", "Complete", "FailureTarget"] {
        if is(old, condition) && !is(new, condition) {
            errors.invalid_without_value(
                path,
                &format!("cannot disable the terminal {condition}=True condition"),
            );
        }
    }
}

fn times(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = "status.completionTime";
    let completion = new.at(path).clone();
    let (start_changed, completion_changed) =
        (changed(new, old, "status.startTime"), changed(new, old, path));
    if condition_changed(new, old, "Complete") || completion_changed {
        if !completion.is_null() && !is(new, "Complete") {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(path, completion.clone(), detail);
        }
        if completion.is_null() && is(new, "Complete") {
            errors.required(path, "completionTime is required for Complete jobs");
        }
    }
    let time = |path: &str| new.text(path).and_then(Time::parse);
    if let (Some(start), Some(end)) = (time("status.startTime"), time(path))
        && (start_changed || completion_changed)
        && end < start
    {
        errors.invalid(path, completion.clone(), "completionTime cannot be set before startTime");
    }
    if completion_changed && !completion.is_null() && old.has(path) {
        errors.invalid(path, completion, "completionTime cannot be mutated");
    }
    // A Job that is resumed starts anew (kubernetes/kubernetes#134521 and its backports).
    let resumes = is(old, "Suspended") && !is(new, "Suspended");
    if start_changed && old.has("status.startTime") && !new.flag("spec.suspend") && !resumes {
        errors.required("status.startTime", "startTime cannot be removed for unsuspended job");
    }
}

fn finished(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let finished_changed = is_finished(new) != is_finished(old);
    let applies = |path: &str| is_finished(new) && (finished_changed || changed(new, old, path));
    for field in ["active", "terminating"] {
        let path = format!("status.{field}");
        if let Some(count) = new.int(&path).filter(|count| *count > 0 && applies(&path)) {
            errors.invalid(&path, count, &format!("{field}>0 is invalid for finished job"));
        }
    }
    if applies("status.startTime") && !new.has("status.startTime") {
        errors.required("status.startTime", "startTime is required for finished job");
    }
    let path = "status.uncountedTerminatedPods";
    let uncounted =
        new.list(&format!("{path}.succeeded")).len() + new.list(&format!("{path}.failed")).len();
    if applies(path) && uncounted > 0 {
        let detail = "uncountedTerminatedPods needs to be empty for finished job";
        errors.invalid(path, new.at(path).clone(), detail);
    }
    let (ready, active) =
        (new.int("status.ready").unwrap_or(0), new.int("status.active").unwrap_or(0));
    if (changed(new, old, "status.ready") || changed(new, old, "status.active")) && ready > active {
        errors.invalid("status.ready", ready, "cannot set more ready pods than active");
    }
}

fn indexes_of(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (completed_path, failed_path) = ("status.completedIndexes", "status.failedIndexes");
    let (completed_changed, failed_changed) =
        (changed(new, old, completed_path), changed(new, old, failed_path));
    let (completed, failed) = (new.str(completed_path), new.text(failed_path));
    let completions = new.int("spec.completions");
    let per_index = new.has("spec.backoffLimitPerIndex");
    if let Some(completions) = completions {
        if completed_changed && let Err(detail) = indexes::check_format(completed, completions) {
            errors.invalid(
                completed_path,
                completed,
                &format!("error parsing completedIndexes: {detail}"),
            );
        }
        if let Some(failed) = failed.filter(|_| failed_changed && per_index)
            && let Err(detail) = indexes::check_format(failed, completions)
        {
            errors.invalid(failed_path, failed, &format!("error parsing failedIndexes: {detail}"));
        }
    }
    if completed_changed
        && !completed.is_empty()
        && new.text("spec.completionMode") != Some("Indexed")
    {
        let detail = "cannot set non-empty completedIndexes when non-indexed completion mode";
        errors.invalid(completed_path, completed, detail);
    }
    let Some(failed) = failed else { return };
    if failed_changed && !per_index {
        let detail = "cannot set non-null failedIndexes when backoffLimitPerIndex is null";
        errors.invalid(failed_path, failed, detail);
    }
    if (failed_changed || completed_changed)
        && let Some(at) =
            completions.and_then(|count| indexes::first_overlap(completed, failed, count))
    {
        errors.invalid(
            failed_path,
            failed,
            &format!("failedIndexes and completedIndexes overlap at index: {at}"),
        );
    }
}

fn counters(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let decreased = |path: &str| new.int(path).unwrap_or(0) < old.int(path).unwrap_or(0);
    if decreased("status.failed") {
        let failed = new.int("status.failed").unwrap_or(0);
        errors.invalid("status.failed", failed, "cannot decrease the failed counter");
    }
    // An elastic Indexed Job may lose succeeded indexes when it is scaled down.
    let elastic = new.text("spec.completionMode") == Some("Indexed")
        && new.at("spec.completions") == new.at("spec.parallelism");
    if decreased("status.succeeded") && !elastic {
        let succeeded = new.int("status.succeeded").unwrap_or(0);
        errors.invalid("status.succeeded", succeeded, "cannot decrease the succeeded counter");
    }
}

fn success_criteria(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let path = "status.conditions";
    let (met, was_met) = (is(new, "SuccessCriteriaMet"), is(old, "SuccessCriteriaMet"));
    if met && is(new, "Failed") {
        errors.invalid_without_value(
            path,
            "cannot set SuccessCriteriaMet=True and Failed=true conditions",
        );
    }
    if met && is(new, "FailureTarget") {
        errors.invalid_without_value(
            path,
            "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions",
        );
    }
    if new.has("spec.successPolicy") && !met && is(new, "Complete") {
        let detail =
            "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True";
        errors.invalid_without_value(path, detail);
    }
    if was_met && !met {
        errors.invalid_without_value(path, "cannot disable the SuccessCriteriaMet=True condition");
    }
    if is(old, "Complete") && !was_met && met {
        let detail =
            "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions";
        errors.invalid_without_value(path, detail);
    }
}

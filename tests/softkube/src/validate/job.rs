//! Validation of `batch/v1` Jobs: the spec on creation and update.
//!
//! Source of the rules and their wording: `pkg/apis/batch/validation/validation.go`.

use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json::Json;
use crate::names;
use crate::selector::Labels;
use crate::validate::{job_policies, meta, pod};

const PARALLELISM_LIMIT_INDEXED: i64 = 100_000;
const FAILED_INDEXES_LIMIT: i64 = 100_000;
const COMPLETIONS_SOFT_LIMIT: i64 = 100_000;
const PARALLELISM_LIMIT_HIGH_COMPLETIONS: i64 = 10_000;
const FAILED_INDEXES_LIMIT_HIGH_COMPLETIONS: i64 = 10_000;
const MANAGED_BY_LIMIT_BYTES: usize = 63;

/// Validates a Job whose defaults and generated selector are set.
pub(crate) fn validate(job: &Value, errors: &mut FieldErrors) {
    generated_selector(job, errors);
    spec(job.at("spec"), errors);
    let completions = job.int("spec.completions").unwrap_or(0);
    if job.text("spec.completionMode") == Some("Indexed") && completions > 0 {
        let name = job.str("metadata.name");
        let hostname = format!("{name}-{}", completions - 1);
        if !names::dns_label(&hostname).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {hostname}");
            errors.invalid("metadata.name", name, &detail);
        }
    }
}

fn generated_selector(job: &Value, errors: &mut FieldErrors) {
    if job.flag("spec.manualSelector") || !job.has("spec.selector") {
        return;
    }
    let (uid, name) = (job.str("metadata.uid"), job.str("metadata.name"));
    if uid.is_empty() {
        errors.required("metadata.uid", "");
    }
    let expected = [
        ("controller-uid", uid),
        ("job-name", name),
        ("batch.kubernetes.io/controller-uid", uid),
        ("batch.kubernetes.io/job-name", name),
    ];
    let path = "spec.template.metadata.labels";
    for (key, value) in expected {
        match job.entry(path, key) {
            None => errors.required(&format!("{path}[{key}]"), &format!("must be '{value}'")),
            Some(found) if found != value => {
                let labels = job.at(path).clone();
                errors.invalid(&format!("{path}[{key}]"), labels, &format!("must be '{value}'"));
            }
            Some(_) => {}
        }
    }
    let labels =
        expected.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
    let selector = job.at("spec.selector");
    if Labels::from_object(selector)
        .is_some_and(|selector| !selector.matches_map(&Value::Object(labels)))
    {
        errors.invalid("spec.selector", selector.clone(), "`selector` not auto-generated");
    }
}

fn spec(spec: &Value, errors: &mut FieldErrors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
    ] {
        errors.nonnegative(&format!("spec.{field}"), spec.int(field));
    }
    errors.nonnegative("spec.backoffLimitPerIndex", spec.int("backoffLimitPerIndex"));
    errors.nonnegative("spec.maxFailedIndexes", spec.int("maxFailedIndexes"));
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        errors.required("spec.backoffLimitPerIndex", "when maxFailedIndexes is specified");
    }
    managed_by(spec, errors);
    completion_mode(spec, errors);
    job_policies::validate(spec, errors);
    pod::template(spec.at("template"), "spec.template", errors);
    restart_policy(spec, errors);
    if spec.has("selector") {
        meta::selector(spec.at("selector"), "spec.selector", errors);
        let matches = Labels::from_object(spec.at("selector"))
            .is_none_or(|selector| selector.matches_map(spec.at("template.metadata.labels")));
        if !matches {
            let labels = spec.at("template.metadata.labels").clone();
            let detail = "`selector` does not match template `labels`";
            errors.invalid("spec.template.metadata.labels", labels, detail);
        }
    } else {
        errors.required("spec.selector", "");
    }
}

fn managed_by(spec: &Value, errors: &mut FieldErrors) {
    let Some(value) = spec.text("managedBy") else { return };
    let path = "spec.managedBy";
    match value.split_once('/') {
        _ if value.is_empty() => errors.required(path, ""),
        None | Some(("", _) | (_, "")) => {
            errors.invalid(path, value, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        }
        Some((domain, _)) => errors.invalid_each(path, domain, names::dns_subdomain(domain)),
    }
    if value.len() > MANAGED_BY_LIMIT_BYTES {
        errors.too_long(path, MANAGED_BY_LIMIT_BYTES);
    }
}

fn completion_mode(spec: &Value, errors: &mut FieldErrors) {
    match spec.text("completionMode") {
        Some("Indexed") => indexed(spec, errors),
        None | Some("NonIndexed") => {
            for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
                if let Some(value) = spec.int(field) {
                    errors.invalid(
                        &format!("spec.{field}"),
                        value,
                        "requires indexed completion mode",
                    );
                }
            }
        }
        Some(other) => {
            errors.not_supported("spec.completionMode", other, &["NonIndexed", "Indexed"])
        }
    }
}

fn indexed(spec: &Value, errors: &mut FieldErrors) {
    let completions = spec.int("completions");
    let parallelism = spec.int("parallelism").unwrap_or(0);
    let max_failed = spec.int("maxFailedIndexes");
    if completions.is_none() {
        errors.required("spec.completions", "when completion mode is Indexed");
    }
    if parallelism > PARALLELISM_LIMIT_INDEXED {
        let detail = format!(
            "must be less than or equal to {PARALLELISM_LIMIT_INDEXED} when completion mode is Indexed"
        );
        errors.invalid("spec.parallelism", parallelism, &detail);
    }
    if let (Some(completions), Some(max_failed)) = (completions, max_failed)
        && max_failed > completions
    {
        errors.invalid(
            "spec.maxFailedIndexes",
            max_failed,
            "must be less than or equal to completions",
        );
    }
    if let Some(max_failed) = max_failed.filter(|value| *value > FAILED_INDEXES_LIMIT) {
        let detail = format!("must be less than or equal to {FAILED_INDEXES_LIMIT}");
        errors.invalid("spec.maxFailedIndexes", max_failed, &detail);
    }
    if completions.is_some_and(|value| value > COMPLETIONS_SOFT_LIMIT)
        && spec.has("backoffLimitPerIndex")
    {
        high_completions(parallelism, max_failed, errors);
    }
}

fn high_completions(parallelism: i64, max_failed: Option<i64>, errors: &mut FieldErrors) {
    let detail = |limit: i64| {
        format!(
            "must be less than or equal to {limit} when completions are above {COMPLETIONS_SOFT_LIMIT} and used with \
             backoff limit per index"
        )
    };
    if max_failed.is_none() {
        let detail =
            format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
        errors.required("spec.maxFailedIndexes", &detail);
    }
    if parallelism > PARALLELISM_LIMIT_HIGH_COMPLETIONS {
        errors.invalid(
            "spec.parallelism",
            parallelism,
            &detail(PARALLELISM_LIMIT_HIGH_COMPLETIONS),
        );
    }
    if let Some(max_failed) =
        max_failed.filter(|value| *value > FAILED_INDEXES_LIMIT_HIGH_COMPLETIONS)
    {
        errors.invalid(
            "spec.maxFailedIndexes",
            max_failed,
            &detail(FAILED_INDEXES_LIMIT_HIGH_COMPLETIONS),
        );
    }
}

fn restart_policy(spec: &Value, errors: &mut FieldErrors) {
    let path = "spec.template.spec.restartPolicy";
    match spec.str("template.spec.restartPolicy") {
        "" | "Always" => errors.required(path, "valid values: \"OnFailure\", \"Never\""),
        "OnFailure" if spec.has("podFailurePolicy") => {
            errors.invalid(
                path,
                "OnFailure",
                "only \"Never\" is supported when podFailurePolicy is specified",
            );
        }
        "OnFailure" | "Never" => {}
        other => errors.not_supported(path, other, &["OnFailure", "Never"]),
    }
}

/// Validates the change of a Job's spec.
pub(crate) fn update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    completions_update(new, old, errors);
    errors.immutable("spec.selector", new.at("spec.selector"), old.at("spec.selector"));
    let template = new.at("spec.template");
    let mut old_template = old.at("spec.template").clone();
    let never_started = old.flag("spec.suspend") && !old.has("status.startTime");
    if never_started {
        adopt_scheduling_directives(&mut old_template, template);
    }
    errors.immutable("spec.template", template, &old_template);
    for field in
        ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        let path = format!("spec.{field}");
        errors.immutable(&path, new.at(&path), old.at(&path));
    }
}

fn completions_update(new: &Value, old: &Value, errors: &mut FieldErrors) {
    let (completions, before) = (new.at("spec.completions"), old.at("spec.completions"));
    if new.text("spec.completionMode") != Some("Indexed") {
        errors.immutable("spec.completions", completions, before);
    } else if completions != before
        && !completions.is_null()
        && completions != new.at("spec.parallelism")
    {
        errors.invalid(
            "spec.completions",
            completions.clone(),
            "can only be modified in tandem with spec.parallelism",
        );
    }
}

/// Copies what may change in the template of a suspended Job that never started.
fn adopt_scheduling_directives(old: &mut Value, new: &Value) {
    let copied = [
        "spec.affinity.nodeAffinity",
        "spec.nodeSelector",
        "spec.tolerations",
        "spec.schedulingGates",
        "metadata.annotations",
        "metadata.labels",
    ];
    for path in copied {
        if new.has(path) {
            old.put(path, new.at(path).clone());
        } else {
            old.cut(path);
        }
    }
    let affinity_is_empty = |value: &Value| {
        value.at("spec.affinity").as_object().is_some_and(serde_json::Map::is_empty)
    };
    if affinity_is_empty(old) && !affinity_is_empty(new) {
        old.cut("spec.affinity");
    }
}

//! The tables of `pkg/apis/batch/validation/validation_test.go`.

use serde_json::{Value, json};

use crate::field_errors::FieldErrors;
use crate::json::{Json, drop_nulls};
use crate::kinds;
use crate::validate::{create, update, update_status};
use crate::{defaults, patch};

const LABELS: [(&str, &str); 4] = [
    ("controller-uid", "1a2b3c"),
    ("job-name", "myjob"),
    ("batch.kubernetes.io/controller-uid", "1a2b3c"),
    ("batch.kubernetes.io/job-name", "myjob"),
];

/// The valid Job that the cases change: a generated selector, and containers `abc` and (initial) `def`.
fn valid_job(never: bool) -> Value {
    let labels: Value = LABELS
        .iter()
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let policy = if never { "Never" } else { "OnFailure" };
    let container = |name: &str| json!({"name": name, "image": "image"});
    let mut job = json!({
        "metadata": {"name": "myjob", "namespace": "default", "uid": "1a2b3c"},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "restartPolicy": policy, "containers": [container("abc")], "initContainers": [container("def")],
        }}},
    });
    let mut template = json!({"spec": job["spec"]["template"]["spec"], "metadata": {}});
    defaults::apply(kinds::known("pods"), &mut template);
    template["spec"].cut("enableServiceLinks");
    job.put("spec.template.spec", template["spec"].clone());
    job
}

/// Lays a spec over a Job; null removes a field.
fn change(job: &mut Value, spec: &Value) {
    let merged =
        patch::apply(patch::Format::Merge, kinds::known("jobs"), job, &json!({"spec": spec}));
    *job = merged.unwrap();
}

/// Replaces the table's shorthands: `$X*N`, `{"$repeat": N, "$item": ..}`, `{"$range": N}` and the two affinities.
fn expand(value: &Value) -> Value {
    let affinity = |values: [&str; 2]| {
        let expression = json!({"key": "foo", "operator": "In", "values": values});
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": [{"matchExpressions": [expression]}]}}})
    };
    match value {
        Value::String(text) if text == "$affinity" => affinity(["bar", "value2"]),
        Value::String(text) if text == "$other" => affinity(["bar", "value"]),
        Value::String(text) => match text.strip_prefix('$').and_then(|rest| rest.split_once('*')) {
            Some((unit, count)) => unit.repeat(count.parse().unwrap()).into(),
            None => value.clone(),
        },
        Value::Object(map) if map.contains_key("$range") => {
            (0..map["$range"].as_u64().unwrap()).collect::<Vec<_>>().into()
        }
        Value::Object(map) if map.contains_key("$repeat") => {
            let count = usize::try_from(map["$repeat"].as_u64().unwrap()).unwrap();
            vec![map["$item"].clone(); count].into()
        }
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), expand(value)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::Array(items) => items.iter().map(expand).collect(),
        other => other.clone(),
    }
}

fn describe(errors: &FieldErrors) -> Vec<String> {
    errors
        .iter()
        .map(|error| format!("{} {}: {}", error.reason, error.field, error.message))
        .collect()
}

fn has(errors: &FieldErrors, want: &Value) -> bool {
    let text = |at: usize| want[at].as_str().unwrap();
    errors.iter().any(|error| {
        error.reason == text(0) && error.field == text(1) && error.message.contains(text(2))
    })
}

/// `TestValidateJob`: 57 of its 58 error cases, and one on the names of pods from another table.
///
/// Left out is "metadata.uid: Required value", because the server always sets the uid. Details are compared, values of
/// structures are not: Kubernetes prints them in Go's syntax, softkube in JSON.
#[test]
fn invalid_jobs_are_refused() {
    let text = include_str!("../../../tests/tables/job_validation.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    for case in cases.as_array().unwrap() {
        let mut job = valid_job(case.flag("never") || case.has("rule"));
        if let Some(completions) = case.int("indexed") {
            change(&mut job, &json!({"completionMode": "Indexed", "completions": completions}));
        }
        if case.has("rule") {
            let rule = expand(case.at("rule"));
            change(&mut job, &json!({"podFailurePolicy": {"rules": [rule]}}));
        }
        if case.has("manual") {
            change(&mut job, &json!({"manualSelector": true, "selector": null}));
            job.put("spec.selector", json!({"matchLabels": {"a": "b"}}));
            job.put("spec.template.metadata.labels", case["manual"].clone());
        }
        if case.has("labels") {
            job.put("spec.template.metadata.labels", case["labels"].clone());
        }
        if case.has("name") {
            job.put("metadata.name", expand(case.at("name")));
        }
        change(&mut job, &expand(case.get("spec").unwrap_or(&json!({}))));
        let errors = create(kinds::known("jobs"), &job);
        assert!(has(&errors, case.at("want")), "{case}\n{:#?}", describe(&errors));
    }
}

/// The success cases of `TestValidateJob` that are about rules of the current version.
#[test]
fn valid_jobs_are_accepted() {
    let condition = json!([{"type": "DisruptionTarget", "status": "True"}]);
    let codes = |operator: &str, values: Value| json!({"containerName": "abc", "operator": operator, "values": values});
    let specs = [
        json!({}),
        json!({"managedBy": "example.com/foo"}),
        json!({"completionMode": "Indexed", "completions": 2, "parallelism": 100_000}),
        json!({"completionMode": "Indexed", "completions": 5, "backoffLimitPerIndex": 1, "maxFailedIndexes": 3}),
        json!({"completionMode": "Indexed", "completions": 100_000, "parallelism": 100_000,
            "backoffLimitPerIndex": 1, "maxFailedIndexes": 100_000}),
        json!({"completionMode": "Indexed", "completions": 1_000_000_000, "parallelism": 10_000,
            "backoffLimitPerIndex": 1, "maxFailedIndexes": 10_000}),
        json!({"completionMode": "Indexed", "completions": 10,
            "successPolicy": {"rules": [{"succeededCount": 1}, {"succeededIndexes": "0-3,5"}]}}),
        json!({"podReplacementPolicy": "Failed", "podFailurePolicy": {"rules": [
            {"action": "Ignore", "onPodConditions": condition},
            {"action": "FailJob", "onExitCodes": codes("In", json!([1, 2, 3]))},
            {"action": "Count", "onExitCodes": codes("NotIn", json!([0]))}]}}),
        json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1, "podFailurePolicy": {"rules": [
            {"action": "FailIndex", "onExitCodes": codes("In", json!([10]))}]}}),
        json!({"podReplacementPolicy": "TerminatingOrFailed"}),
    ];
    for spec in specs {
        let mut job = valid_job(true);
        change(&mut job, &spec);
        let errors = create(kinds::known("jobs"), &job);
        assert_eq!(describe(&errors), [] as [&str; 0], "{spec}");
    }
}

/// `TestValidateJobUpdate`: 41 of its 42 cases; left out is the one with `AllowElasticIndexedJobs` disabled.
///
/// As there, a case with an error has errors on exactly one field.
#[test]
fn jobs_change_only_where_they_may() {
    let text = include_str!("../../../tests/tables/job_update.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    for case in cases.as_array().unwrap() {
        let mut old = valid_job(case.flag("never"));
        for (key, value) in case.entries("labels") {
            old.put_entry("spec.template.metadata.labels", key, value.clone());
        }
        change(&mut old, &expand(case.get("spec").unwrap_or(&json!({}))));
        if case.flag("mutable") {
            old.put("spec.suspend", true);
        }
        let mut new = old.clone();
        change(&mut new, &expand(case.at("change")));
        drop_nulls(&mut new);
        let errors = update(kinds::known("jobs"), &new, &old);
        let mut fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        // The server also checks that the selector is the generated one.
        fields.dedup();
        let want: Vec<&str> = case.text("want").into_iter().collect();
        assert_eq!(fields, want, "{}: {:#?}", case.str("name"), describe(&errors));
    }
}

/// `TestValidateJobUpdateStatus`: its 4 cases, and the rules that `TestStatusStrategy_ValidateUpdate` checks.
#[test]
fn statuses_change_only_as_they_may() {
    let text = include_str!("../../../tests/tables/job_status.json");
    let cases: Value = serde_json::from_str(text).unwrap();
    for case in cases.as_array().unwrap() {
        let status = |field: &str, conditions: &str| {
            let mut status = case.get(field).cloned().unwrap_or(json!({}));
            if case.flag("started") {
                status.put_default("startTime", "2025-01-01T00:00:00Z");
            }
            for kind in case.list(conditions) {
                status.list_mut("conditions").push(json!({"type": kind, "status": "True"}));
                if kind == "Complete" {
                    status.put("completionTime", "2025-01-01T00:01:00Z");
                }
            }
            status
        };
        let mut old = valid_job(false);
        change(&mut old, case.get("spec").unwrap_or(&json!({})));
        let mut new = old.clone();
        old.put("status", status("old", "had"));
        new.put("status", status("new", "conditions"));
        let errors = update_status(kinds::known("jobs"), &new, &old);
        let mut fields: Vec<&str> = errors.iter().map(|error| error.field.as_str()).collect();
        let want: Vec<String> = case
            .list("want")
            .iter()
            .map(|field| format!("status.{}", field.as_str().unwrap()))
            .collect();
        // A case may break several rules of a field, and negative counters are also below those before.
        fields.dedup();
        fields.truncate(want.len().max(1));
        assert_eq!(fields, want, "{case}: {:#?}", describe(&errors));
    }
}

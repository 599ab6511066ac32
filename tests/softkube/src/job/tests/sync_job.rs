//! `TestControllerSyncJob`: 57 of its 60 cases.
//!
//! Kubernetes 1.34 has the pod replacement policy and `managedBy` always on, so interim conditions precede final ones
//! and terminating pods delay the end. Left out: "indexed job failed" and "suspending a job with satisfied
//! expectations", whose variants with the features on are here, and "indexed job with podIndexLabel
//! feature disabled", because the feature is always on.

use serde_json::{Value, json};

use super::fake::{self, Fake};
use crate::job::backoff::Backoff;
use crate::job::model::INDEX_ANNOTATION;
use crate::json::Json;

fn job(case: &Value) -> Value {
    let mut job = json!({
        "metadata": {"name": "foobar", "namespace": "default", "uid": "job-uid"},
        "spec": {
            "parallelism": case["parallelism"], "backoffLimit": case.int("backoffLimit").unwrap_or(6),
            "suspend": case.flag("suspend"), "template": {"spec": {"containers": [{"image": "foo/bar"}]}},
        },
        "status": case.get("status").cloned().unwrap_or(json!({})),
    });
    if case.has("completions") {
        job.put("spec.completions", case["completions"].clone());
    }
    if case.flag("indexed") {
        job.put("spec.completionMode", "Indexed");
    }
    if case.has("replacement") {
        job.put("spec.podReplacementPolicy", case["replacement"].clone());
    }
    if case.flag("emptyFailurePolicy") {
        job.put("spec.podFailurePolicy", json!({}));
    }
    if case.flag("deleting") {
        job.put("metadata.deletionTimestamp", fake::now().rfc3339());
    }
    if case.flag("started") || case.has("status") {
        job.put("status.startTime", fake::now().rfc3339());
    }
    let suspended = json!([["Suspended", "True", "JobSuspended", "Job suspended"]]);
    let had = if case.flag("wasSuspended") { &suspended } else { case.at("had") };
    for condition in had.as_array().into_iter().flatten() {
        job.list_mut("status.conditions").push(json!({
            "type": condition[0], "status": condition[1], "reason": condition[2], "message": condition[3],
        }));
    }
    job
}

fn pods(case: &Value) -> Vec<Value> {
    let count = |field: &str| case.int(field).unwrap_or(0);
    let mut pods: Vec<Value> = Vec::new();
    for (field, phase) in [
        ("pending", "Pending"),
        ("running", "Running"),
        ("succeeded", "Succeeded"),
        ("failed", "Failed"),
    ] {
        for number in 0..count(field) {
            let mut pod = fake::pod(pods.len(), phase);
            if field == "running" && number < count("ready") {
                pod.list_mut("status.conditions").push(json!({"type": "Ready", "status": "True"}));
            }
            pods.push(pod);
        }
    }
    for _ in 0..count("terminating") {
        let mut pod = fake::pod(pods.len(), "Running");
        pod.put("metadata.deletionTimestamp", fake::now().rfc3339());
        pods.push(pod);
    }
    for entry in case.list("pods") {
        let (index, phase) = (entry[0].as_str().unwrap(), entry[1].as_str().unwrap());
        pods.push(fake::indexed_pod(pods.len(), index, phase));
    }
    pods
}

/// The conditions that the case wants, with the interim condition that precedes a final one.
fn wanted_conditions(want: &Value) -> Vec<[String; 4]> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let listed = want.list("conditions").iter().map(|one| [0, 1, 2, 3].map(|at| text(&one[at])));
    let mut conditions: Vec<[String; 4]> = listed.collect();
    let (interim, reason, message) = match want.str("ends") {
        "" => return conditions,
        "Complete" => (
            "SuccessCriteriaMet",
            "CompletionsReached",
            "Reached expected number of succeeded pods",
        ),
        _ => ("FailureTarget", want.str("reason"), want.str("message")),
    };
    for kind in [interim, want.str("ends")] {
        conditions.push([kind, "True", reason, message].map(str::to_owned));
    }
    conditions
}

#[test]
fn syncing_a_job_acts_as_kubernetes_does() {
    let cases: Value =
        serde_json::from_str(include_str!("../../../tests/tables/job_sync.json")).unwrap();
    for case in cases.as_array().unwrap() {
        let name = case.str("name");
        let mut fake = Fake {
            failing: case.flag("error"),
            pod_limit: case.int("podLimit").map(|limit| usize::try_from(limit).unwrap()),
            ..Fake::default()
        };
        let backoff = case.int("backoffFailures").map_or(Backoff::default(), |failures| Backoff {
            failures: u32::try_from(failures).unwrap(),
            last_failure: Some(fake::now()),
        });
        let outcome = fake::run(&job(case), pods(case), backoff, case.flag("expecting"), &mut fake);
        let fails = case.flag("error") || case.has("podLimit");
        assert_eq!(outcome.result.is_err(), fails, "{name}: {:?}", outcome.result);
        let want = case.at("want");
        let number = |field: &str| u32::try_from(want.int(field).unwrap_or(0)).unwrap();
        let status = fake.status.as_ref().unwrap();
        assert_eq!(fake.created.len(), number("created") as usize, "{name}: created");
        assert_eq!(fake.deleted.len(), number("deleted") as usize, "{name}: deleted");
        assert_eq!(fake.released.len(), number("released") as usize, "{name}: released");
        assert_eq!(status.active, number("active"), "{name}: active");
        assert_eq!(status.ready, Some(number("ready")), "{name}: ready");
        assert_eq!(status.succeeded, number("succeeded"), "{name}: succeeded");
        assert_eq!(status.failed, number("failed"), "{name}: failed");
        assert_eq!(
            status.completed_indexes,
            want.str("completedIndexes"),
            "{name}: completed indexes"
        );
        if want.has("terminating") {
            assert_eq!(status.terminating, Some(number("terminating")), "{name}: terminating");
        }
        assert_eq!(status.start_time.is_some(), !case.flag("suspend"), "{name}: start time");
        let conditions: Vec<[String; 4]> = status
            .conditions
            .iter()
            .map(|one| [&one.kind, &one.status, &one.reason, &one.message].map(String::clone))
            .collect();
        assert_eq!(conditions, wanted_conditions(want), "{name}: conditions");
        if case.flag("indexed") {
            let indexes: Vec<i64> = fake.created.iter().map(check_indexed_pod).collect();
            assert_eq!(
                json!(indexes),
                want.get("createdIndexes").cloned().unwrap_or(json!([])),
                "{name}: indexes"
            );
        }
    }
}

/// The index of a created pod, which its annotation, label, hostname, name prefix and variable agree on.
fn check_indexed_pod(pod: &Value) -> i64 {
    let index = pod.entry("metadata.annotations", INDEX_ANNOTATION).unwrap();
    assert_eq!(pod.entry("metadata.labels", INDEX_ANNOTATION), Some(index));
    assert_eq!(pod.str("spec.hostname"), format!("foobar-{index}"));
    assert_eq!(pod.str("metadata.generateName"), format!("foobar-{index}-"));
    let variable = &pod.list("spec.containers")[0].list("env")[0];
    assert_eq!(variable.str("name"), "JOB_COMPLETION_INDEX");
    let path = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    assert_eq!(variable.str("valueFrom.fieldRef.fieldPath"), path);
    index.parse().unwrap()
}

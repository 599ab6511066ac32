//! Jobs from creation to their end, through the whole cluster.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use softkube::{Cluster, View};
use support::{job, manual_cluster};

fn names(view: View<'_>, job: &str) -> Vec<String> {
    let mut pods = view.pods_of("default", job);
    pods.retain(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")));
    pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
    pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned()).collect()
}

/// The active pods of a Job, once there are this many.
async fn pods(cluster: &Cluster, job: &str, count: usize) -> Vec<String> {
    cluster.settle();
    let wanted = |view: View<'_>| Some(names(view, job)).filter(|names| names.len() == count);
    cluster.wait(&format!("{count} pods of {job}"), wanted).await.unwrap()
}

fn status(cluster: &Cluster, job: &str) -> Value {
    cluster.settle();
    cluster.view(|view| view.get("jobs", "default", job).unwrap()["status"].clone())
}

fn has_condition(cluster: &Cluster, job: &str, kind: &str) -> bool {
    cluster.settle();
    cluster.view(|view| view.condition(view.get("jobs", "default", job).unwrap(), kind))
}

fn has_event(cluster: &Cluster, about: &str, reason: &str) -> bool {
    cluster.view(|view| view.events("default", about).iter().any(|(found, _)| found == reason))
}

async fn fail(cluster: &Cluster, job: &str, code: i32) {
    let name = pods(cluster, job, 1).await.remove(0);
    cluster.kubelet().run("default", &name).unwrap();
    cluster.kubelet().exit("default", &name, code).unwrap();
}

#[tokio::test]
async fn an_indexed_job_runs_to_completion() {
    let cluster = manual_cluster().await;
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2});
    cluster.create("jobs", "default", job("train", spec)).unwrap();
    let first = pods(&cluster, "train", 2).await;
    assert!(first[0].starts_with("train-0-") && first[1].starts_with("train-1-"), "{first:?}");
    for name in &first {
        cluster.kubelet().run("default", name).unwrap();
    }
    assert_eq!(status(&cluster, "train")["ready"], 2);
    cluster.kubelet().exit("default", &first[1], 0).unwrap();
    let second = pods(&cluster, "train", 2).await;
    assert!(second[1].starts_with("train-2-"), "{second:?}");
    assert_eq!(status(&cluster, "train")["completedIndexes"], "1");
    for name in &second {
        let _ = cluster.kubelet().run("default", name);
        cluster.kubelet().exit("default", name, 0).unwrap();
    }
    let status = status(&cluster, "train");
    assert_eq!(status["succeeded"], 3);
    assert_eq!(status["completedIndexes"], "0-2");
    assert!(status["active"].is_null(), "a zero counter is left out: {status}");
    assert!(status["completionTime"].is_string());
    let kinds: Vec<&str> = status["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["SuccessCriteriaMet", "Complete"]);
    assert!(has_event(&cluster, "train", "Completed"));
    let finalizers = cluster.view(|view| {
        view.pods_of("default", "train")
            .iter()
            .filter(|pod| pod["metadata"].get("finalizers").is_some())
            .count()
    });
    assert_eq!(finalizers, 0, "every pod was counted and released");
}

#[tokio::test]
async fn failed_pods_are_replaced_after_a_growing_delay() {
    let cluster = manual_cluster().await;
    cluster.create("jobs", "default", job("train", json!({"backoffLimit": 2}))).unwrap();
    for (failures, delay) in [(1, 10), (2, 20)] {
        fail(&cluster, "train", 1).await;
        assert_eq!(status(&cluster, "train")["failed"], failures);
        cluster.advance(Duration::from_secs(delay - 2));
        pods(&cluster, "train", 0).await;
        cluster.advance(Duration::from_secs(3));
        pods(&cluster, "train", 1).await;
    }
    fail(&cluster, "train", 1).await;
    assert!(has_condition(&cluster, "train", "Failed"));
    assert_eq!(status(&cluster, "train")["conditions"][0]["reason"], "BackoffLimitExceeded");
    assert!(has_event(&cluster, "train", "BackoffLimitExceeded"));
}

#[tokio::test]
async fn a_pod_failure_policy_ends_the_job_or_ignores_disruptions() {
    let cluster = manual_cluster().await;
    let policy = json!({"rules": [
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
    ]});
    let spec = json!({"backoffLimit": 0, "podFailurePolicy": policy});
    cluster.create("jobs", "default", job("train", spec)).unwrap();
    let evicted = pods(&cluster, "train", 1).await.remove(0);
    cluster.kubelet().run("default", &evicted).unwrap();
    cluster.preempt("default", &evicted).unwrap();
    // An ignored failure does not count, but it delays the replacement like any other.
    pods(&cluster, "train", 0).await;
    cluster.advance(Duration::from_secs(11));
    let replacement = pods(&cluster, "train", 1).await.remove(0);
    assert_ne!(evicted, replacement);
    assert!(status(&cluster, "train")["failed"].is_null());
    fail(&cluster, "train", 42).await;
    let status = status(&cluster, "train");
    assert_eq!(status["conditions"][0]["reason"], "PodFailurePolicy");
    let expected = format!(
        "Container main for pod default/{replacement} failed with exit code 42 matching FailJob rule at index 1"
    );
    assert_eq!(status["conditions"][0]["message"], expected);
    assert!(has_condition(&cluster, "train", "Failed"));
}

#[tokio::test]
async fn each_index_has_its_own_limit() {
    let cluster = manual_cluster().await;
    let spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2, "backoffLimitPerIndex": 1});
    cluster.create("jobs", "default", job("train", spec)).unwrap();
    let names = pods(&cluster, "train", 2).await;
    for name in &names {
        cluster.kubelet().run("default", name).unwrap();
    }
    cluster.kubelet().exit("default", &names[1], 1).unwrap();
    pods(&cluster, "train", 1).await;
    cluster.advance(Duration::from_secs(11));
    let names = pods(&cluster, "train", 2).await;
    let count = cluster.view(|view| {
        let pod = view.get("pods", "default", &names[1]).unwrap();
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"].clone()
    });
    assert_eq!(count, "1");
    cluster.kubelet().run("default", &names[1]).unwrap();
    cluster.kubelet().exit("default", &names[1], 1).unwrap();
    assert_eq!(status(&cluster, "train")["failedIndexes"], "1");
    cluster.kubelet().exit("default", &names[0], 0).unwrap();
    let status = status(&cluster, "train");
    assert_eq!(status["completedIndexes"], "0");
    assert_eq!(status["conditions"][0]["reason"], "FailedIndexes");
    assert!(has_condition(&cluster, "train", "Failed"));
}

#[tokio::test]
async fn suspending_deletes_pods_and_resuming_starts_the_clock_again() {
    let cluster = manual_cluster().await;
    let spec = json!({"parallelism": 2, "completions": 2, "activeDeadlineSeconds": 60});
    cluster.create("jobs", "default", job("train", spec)).unwrap();
    let names = pods(&cluster, "train", 2).await;
    cluster.kubelet().run("default", &names[0]).unwrap();
    cluster.advance(Duration::from_secs(50));
    cluster.modify("jobs", "default", "train", |job| job["spec"]["suspend"] = true.into()).unwrap();
    pods(&cluster, "train", 0).await;
    assert!(has_condition(&cluster, "train", "Suspended"));
    assert!(has_event(&cluster, "train", "Suspended"));
    cluster.advance(Duration::from_secs(5));
    cluster
        .modify("jobs", "default", "train", |job| job["spec"]["suspend"] = false.into())
        .unwrap();
    pods(&cluster, "train", 2).await;
    assert!(has_event(&cluster, "train", "Resumed"));
    cluster.advance(Duration::from_secs(50));
    pods(&cluster, "train", 2).await;
    cluster.advance(Duration::from_secs(11));
    pods(&cluster, "train", 0).await;
    assert_eq!(status(&cluster, "train")["conditions"][1]["reason"], "DeadlineExceeded");
}

/// Kubernetes 1.34 compares the deadline with the start before the suspension; 1.36 clears the start first.
#[tokio::test]
async fn a_job_resumed_after_its_old_deadline_fails() {
    let cluster = manual_cluster().await;
    cluster.create("jobs", "default", job("train", json!({"activeDeadlineSeconds": 60}))).unwrap();
    pods(&cluster, "train", 1).await;
    cluster.modify("jobs", "default", "train", |job| job["spec"]["suspend"] = true.into()).unwrap();
    cluster.advance(Duration::from_secs(100));
    assert!(!has_condition(&cluster, "train", "Failed"));
    cluster
        .modify("jobs", "default", "train", |job| job["spec"]["suspend"] = false.into())
        .unwrap();
    assert!(has_condition(&cluster, "train", "Failed"));
}

#[tokio::test]
async fn a_success_policy_ends_the_job_early() {
    let cluster = manual_cluster().await;
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3,
        "successPolicy": {"rules": [{"succeededIndexes": "0"}]}});
    cluster.create("jobs", "default", job("train", spec)).unwrap();
    let names = pods(&cluster, "train", 3).await;
    for name in &names {
        cluster.kubelet().run("default", name).unwrap();
    }
    cluster.kubelet().exit("default", &names[0], 0).unwrap();
    assert!(has_condition(&cluster, "train", "Complete"));
    let status = status(&cluster, "train");
    assert_eq!(status["conditions"][0]["reason"], "SuccessPolicy");
    assert_eq!(status["succeeded"], 1);
    assert!(
        status["failed"].is_null(),
        "pods that were ended by the policy do not count: {status}"
    );
}

#[tokio::test]
async fn finished_jobs_are_deleted_after_their_ttl() {
    let cluster = manual_cluster().await;
    cluster
        .create("jobs", "default", job("train", json!({"ttlSecondsAfterFinished": 30})))
        .unwrap();
    fail(&cluster, "train", 0).await;
    assert!(has_condition(&cluster, "train", "Complete"));
    cluster.advance(Duration::from_secs(31));
    cluster.settle();
    cluster.view(|view| {
        assert!(view.get("jobs", "default", "train").is_none());
        assert!(view.list("pods", "default").is_empty());
    });
}

#[tokio::test]
async fn a_quota_that_refuses_pods_is_retried() {
    let cluster = manual_cluster().await;
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "1"}}});
    cluster.create("resourcequotas", "default", quota).unwrap();
    cluster
        .create("jobs", "default", job("train", json!({"parallelism": 2, "completions": 2})))
        .unwrap();
    pods(&cluster, "train", 1).await;
    let event = cluster.view(|view| {
        view.events("default", "train")
            .into_iter()
            .find(|(reason, _)| reason == "FailedCreate")
            .unwrap()
            .1
    });
    assert!(event.ends_with(
        "is forbidden: exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"
    ));
    cluster
        .modify("resourcequotas", "default", "q", |quota| {
            quota["spec"]["hard"]["pods"] = "5".into()
        })
        .unwrap();
    cluster.advance(Duration::from_secs(61));
    pods(&cluster, "train", 2).await;
}

#[tokio::test]
async fn containers_that_restart_wait_longer_each_time() {
    let cluster = manual_cluster().await;
    let spec = json!({"backoffLimit": 3, "template": {"spec": {"restartPolicy": "OnFailure"}}});
    cluster.create("jobs", "default", job("train", spec)).unwrap();
    let name = pods(&cluster, "train", 1).await.remove(0);
    cluster.kubelet().run("default", &name).unwrap();
    cluster.kubelet().exit("default", &name, 1).unwrap();
    let container = |cluster: &Cluster| {
        cluster.settle();
        cluster.view(|view| {
            view.get("pods", "default", &name).unwrap()["status"]["containerStatuses"][0].clone()
        })
    };
    assert_eq!(container(&cluster)["state"]["waiting"]["reason"], "CrashLoopBackOff");
    assert_eq!(container(&cluster)["lastState"]["terminated"]["exitCode"], 1);
    cluster.advance(Duration::from_secs(11));
    assert!(container(&cluster)["state"]["running"].is_object());
    cluster.kubelet().exit("default", &name, 0).unwrap();
    assert!(has_condition(&cluster, "train", "Complete"));
}

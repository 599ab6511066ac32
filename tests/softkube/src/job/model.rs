//! Jobs and pods as the Job controller sees them.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::clock::Time;
use crate::job::status::Status;
use crate::json::Json;
use crate::pods;

pub(crate) const INDEX_ANNOTATION: &str = "batch.kubernetes.io/job-completion-index";
pub(crate) const FAILURE_COUNT_ANNOTATION: &str = "batch.kubernetes.io/job-index-failure-count";
pub(crate) const IGNORED_COUNT_ANNOTATION: &str =
    "batch.kubernetes.io/job-index-ignored-failure-count";

/// The phase of a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    // The order is that of preference for removal: earlier phases are removed first.
    Pending,
    Unknown,
    Running,
    Succeeded,
    Failed,
}

/// A Job.
#[derive(Clone, Debug)]
pub(crate) struct Job {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) deleting: bool,
    pub(crate) parallelism: u32,
    pub(crate) completions: Option<u32>,
    pub(crate) backoff_limit: u32,
    pub(crate) backoff_limit_per_index: Option<u32>,
    pub(crate) max_failed_indexes: Option<u32>,
    pub(crate) indexed: bool,
    pub(crate) suspended: bool,
    pub(crate) active_deadline: Option<Duration>,
    /// Pods are replaced only once they have failed, not when they start to terminate.
    pub(crate) replaces_failed_only: bool,
    pub(crate) restarts_on_failure: bool,
    /// The pod failure policy, or null.
    pub(crate) pod_failure_policy: Value,
    /// The success policy, or null.
    pub(crate) success_policy: Value,
    pub(crate) template: Value,
    pub(crate) status: Status,
}

fn count(value: &Value, path: &str) -> Option<u32> {
    value.int(path).map(|count| u32::try_from(count).unwrap_or(0))
}

impl Job {
    pub(crate) fn read(job: &Value) -> Self {
        let spec = job.at("spec");
        let policy = spec.at("podFailurePolicy").clone();
        Self {
            name: job.str("metadata.name").to_owned(),
            uid: job.str("metadata.uid").to_owned(),
            deleting: pods::is_deleting(job),
            parallelism: count(spec, "parallelism").unwrap_or(1),
            completions: count(spec, "completions"),
            backoff_limit: count(spec, "backoffLimit").unwrap_or(0),
            backoff_limit_per_index: count(spec, "backoffLimitPerIndex"),
            max_failed_indexes: count(spec, "maxFailedIndexes"),
            indexed: spec.text("completionMode") == Some("Indexed"),
            suspended: spec.flag("suspend"),
            active_deadline: spec
                .int("activeDeadlineSeconds")
                .map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or(0))),
            replaces_failed_only: !policy.is_null()
                || spec.text("podReplacementPolicy") == Some("Failed"),
            restarts_on_failure: spec.text("template.spec.restartPolicy") == Some("OnFailure"),
            pod_failure_policy: policy,
            success_policy: spec.at("successPolicy").clone(),
            template: spec.at("template").clone(),
            status: Status::read(job.at("status")),
        }
    }

    /// The completions of an Indexed Job; validation requires them.
    pub(crate) fn index_count(&self) -> u32 {
        self.completions.unwrap_or(0)
    }
}

/// A pod that a Job controls.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) name: String,
    pub(crate) uid: String,
    pub(crate) phase: Phase,
    pub(crate) deleting: bool,
    /// Whether the pod still has the tracking finalizer, that is, was not counted yet.
    pub(crate) tracked: bool,
    pub(crate) index: Option<u32>,
    pub(crate) failures: u32,
    pub(crate) ignored_failures: u32,
    pub(crate) ready: bool,
    pub(crate) scheduled: bool,
    pub(crate) restarts: u32,
    pub(crate) finished: Time,
    pub(crate) created: Time,
    pub(crate) object: Arc<Value>,
}

impl Pod {
    pub(crate) fn read(object: &Arc<Value>) -> Self {
        let annotation = |key: &str| object.entry("metadata.annotations", key);
        let counter = |key: &str| annotation(key).and_then(|text| text.parse::<i32>().ok());
        let restarts = ["status.initContainerStatuses", "status.containerStatuses"]
            .iter()
            .flat_map(|list| object.list(list))
            .filter_map(|status| count(status, "restartCount"))
            .sum();
        Self {
            name: object.str("metadata.name").to_owned(),
            uid: object.str("metadata.uid").to_owned(),
            phase: match object.str("status.phase") {
                "Running" => Phase::Running,
                "Succeeded" => Phase::Succeeded,
                "Failed" => Phase::Failed,
                "Unknown" => Phase::Unknown,
                _ => Phase::Pending,
            },
            deleting: pods::is_deleting(object),
            tracked: pods::has_finalizer(object, pods::TRACKING_FINALIZER),
            index: annotation(INDEX_ANNOTATION).and_then(|text| text.parse().ok()),
            failures: counter(FAILURE_COUNT_ANNOTATION)
                .and_then(|count| u32::try_from(count).ok())
                .unwrap_or(0),
            ignored_failures: counter(IGNORED_COUNT_ANNOTATION)
                .and_then(|n| u32::try_from(n).ok())
                .unwrap_or(0),
            ready: pods::condition_is_true(object, "Ready"),
            scheduled: !object.str("spec.nodeName").is_empty(),
            restarts,
            finished: finish_time(object),
            created: object
                .text("metadata.creationTimestamp")
                .and_then(Time::parse)
                .unwrap_or_default(),
            object: object.clone(),
        }
    }

    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// Whether the pod runs or may run.
    pub(crate) fn is_active(&self) -> bool {
        !self.is_terminal() && !self.deleting
    }

    pub(crate) fn is_terminating(&self) -> bool {
        !self.is_terminal() && self.deleting
    }

    /// Whether the pod counts as failed for the Job.
    pub(crate) fn is_failed(&self, job: &Job) -> bool {
        let gone = self.deleting && self.phase != Phase::Succeeded && !job.replaces_failed_only;
        self.phase == Phase::Failed || gone
    }

    /// The index, if it is one of the Job's.
    pub(crate) fn valid_index(&self, job: &Job) -> Option<u32> {
        self.index.filter(|index| *index < job.index_count())
    }

    /// Failures within the index, counted or ignored.
    pub(crate) fn absolute_failures(&self) -> u32 {
        self.failures.saturating_add(self.ignored_failures)
    }
}

/// When a pod finished: by its containers, else by its readiness, else by its deletion, else its creation.
fn finish_time(pod: &Value) -> Time {
    by_containers(pod)
        .or_else(|| {
            let ready = pods::condition(pod, "Ready")
                .filter(|condition| condition.str("status") == "False")?;
            Time::parse(ready.str("lastTransitionTime"))
        })
        .or_else(|| {
            let deleted = Time::parse(pod.str("metadata.deletionTimestamp"))?;
            let grace = pod.int("metadata.deletionGracePeriodSeconds").unwrap_or(0);
            Some(deleted.before(Duration::from_secs(u64::try_from(grace).unwrap_or(0))))
        })
        .or_else(|| Time::parse(pod.str("metadata.creationTimestamp")))
        .unwrap_or_default()
}

/// When the last container ended, if all did. Sidecars are init containers and end last.
fn by_containers(pod: &Value) -> Option<Time> {
    let statuses =
        pod.list("status.containerStatuses").iter().chain(pod.list("status.initContainerStatuses"));
    let finished =
        statuses.map(|status| status.text("state.terminated.finishedAt").and_then(Time::parse));
    finished.collect::<Option<Vec<Time>>>()?.into_iter().max()
}

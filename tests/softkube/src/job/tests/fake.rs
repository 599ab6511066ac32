//! Jobs and pods made from table rows, and effects that only count.

use std::sync::Arc;

use serde_json::{Value, json};

use crate::clock::Time;
use crate::error::ApiError;
use crate::job::backoff::Backoff;
use crate::job::effects::Effects;
use crate::job::model::{INDEX_ANNOTATION, Job, Pod};
use crate::job::status::Status;
use crate::job::sync::{Input, Outcome, sync};
use crate::json::Json;

/// The time of all table tests.
pub(super) fn now() -> Time {
    Time::from_seconds(1_700_000_000)
}

/// Counts what a synchronization does; every action fails when `failing` is set.
#[derive(Default)]
pub(super) struct Fake {
    pub(super) failing: bool,
    pub(super) pod_limit: Option<usize>,
    pub(super) create_calls: usize,
    pub(super) created: Vec<Value>,
    pub(super) deleted: Vec<String>,
    pub(super) released: Vec<String>,
    pub(super) status: Option<Status>,
    pub(super) events: Vec<String>,
}

impl Fake {
    fn answer(&self) -> Result<(), ApiError> {
        if self.failing { Err(ApiError::internal("fake error")) } else { Ok(()) }
    }
}

impl Effects for Fake {
    fn create_pod(&mut self, pod: Value) -> Result<(), ApiError> {
        self.create_calls += 1;
        if self.pod_limit.is_some_and(|limit| self.create_calls > limit) {
            return Err(ApiError::internal("not creating pod, limit reached"));
        }
        self.created.push(pod);
        self.answer()
    }

    fn delete_pod(&mut self, name: &str) -> Result<(), ApiError> {
        self.deleted.push(name.to_owned());
        self.answer()
    }

    fn release_pod(&mut self, name: &str) -> Result<(), ApiError> {
        self.released.push(name.to_owned());
        self.answer()
    }

    fn write_status(&mut self, status: &Status) -> Result<(), ApiError> {
        self.status = Some(status.clone());
        Ok(())
    }

    fn event(&mut self, _kind: &str, reason: &str, _message: &str) {
        self.events.push(reason.to_owned());
    }
}

/// A tracked pod in a phase; its containers ended long ago.
pub(super) fn pod(number: usize, phase: &str) -> Value {
    json!({
        "metadata": {"name": format!("pod-{number}"), "uid": format!("uid-{number}"), "namespace": "default",
            "finalizers": ["batch.kubernetes.io/job-tracking"]},
        "status": {"phase": phase, "containerStatuses": [
            {"state": {"terminated": {"finishedAt": "1970-01-01T00:00:01Z"}}},
        ]},
    })
}

/// A tracked pod with a completion index.
pub(super) fn indexed_pod(number: usize, index: &str, phase: &str) -> Value {
    let mut pod = pod(number, phase);
    pod.put_entry("metadata.annotations", INDEX_ANNOTATION, index);
    pod
}

/// Runs one synchronization.
pub(super) fn run(
    job: &Value,
    pods: Vec<Value>,
    backoff: Backoff,
    expecting: bool,
    fake: &mut Fake,
) -> Outcome {
    let job = Job::read(job);
    let pods: Vec<Pod> = pods.into_iter().map(|pod| Pod::read(&Arc::new(pod))).collect();
    let input = Input { now: now(), backoff, expectations_met: !expecting };
    let outcome = sync(&job, &pods, input, fake);
    fake.status.get_or_insert(job.status);
    outcome
}

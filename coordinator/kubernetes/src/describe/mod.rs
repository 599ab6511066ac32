//! How a Job is, in words, from what the API server shows of it. No requests are made here.
//!
//! ```text
//! Job, pods ──▶ state          one word for the whole
//!           ──▶ pods           one line for each
//! events, nodes ──▶ trouble    what a person should know or do
//! ```

mod pods;
mod state;
#[cfg(test)]
mod tests;
mod trouble;
mod words;

pub use pods::PodOverview;
pub(crate) use pods::{belongs, first_pods, has_started, is_over, suspects};
pub use state::{Class, State};
pub use trouble::Trouble;

use crate::{ATTEMPT, RUN};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{Event, Node as ApiNode, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeMap;
use std::time::SystemTime;

/// How a Job is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overview {
    /// The name of the Job.
    pub job: String,
    /// The run; empty if the Job does not say.
    pub run: String,
    /// The attempt, if the Job says.
    pub attempt: Option<u32>,
    /// The whole in one word.
    pub state: State,
    /// Numbers of pods.
    pub counts: Counts,
    /// Conditions of the Job that hold.
    pub conditions: Vec<Condition>,
    /// When the Job was created.
    pub created: Option<SystemTime>,
    /// When the Job was started, or resumed for the last time.
    pub started: Option<SystemTime>,
    /// When the Job succeeded or failed.
    pub ended: Option<SystemTime>,
    /// The pods, by index and then by age, including those that were replaced.
    pub pods: Vec<PodOverview>,
    /// What a person should know or do.
    pub trouble: Vec<Trouble>,
}

/// Numbers of a Job's pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Pods that the Job runs at the same time.
    pub wanted: u32,
    /// Pods that are pending or running.
    pub active: u32,
    /// Pods whose containers run, and that are not being deleted.
    pub running: u32,
    /// Running pods that say they are ready.
    pub ready: u32,
    /// Pods that are being deleted.
    pub terminating: u32,
    /// Indexes that are completed.
    pub succeeded: u32,
    /// Pods that have failed, including those that were replaced.
    pub failed: u32,
}

/// A condition of a Job that holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// The type, such as `Complete`.
    pub kind: String,
    /// The reason, in one word.
    pub reason: String,
    /// Kubernetes' words.
    pub message: String,
}

/// What is known of a Job.
pub(crate) struct Known<'a> {
    pub(crate) job: &'a Job,
    /// The Job's own pods.
    pub(crate) pods: Vec<&'a Pod>,
    /// Warnings of the namespace.
    pub(crate) events: Vec<&'a Event>,
    /// Nodes of suspicious pods, as far as the user may read nodes.
    pub(crate) nodes: &'a BTreeMap<String, Node>,
    pub(crate) now: Timestamp,
}

/// How a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Node {
    Ready,
    /// Not ready, with the node's words.
    Lost(String),
    /// The API server knows no such node.
    Gone,
}

impl Node {
    pub(crate) fn of(node: &ApiNode) -> Self {
        let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
        let mut conditions = conditions.filter(|one| one.type_ == "Ready");
        match conditions.next() {
            Some(one) if one.status != "True" => {
                Self::Lost(one.message.clone().unwrap_or_default())
            }
            Some(_) | None => Self::Ready,
        }
    }
}

/// Says how a Job is.
pub(crate) fn overview(known: &Known<'_>) -> Overview {
    let metadata = &known.job.metadata;
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let status = known.job.status.clone().unwrap_or_default();
    let pods = pods::sorted(&known.pods);
    let counts = counts(known);
    let state = state::of(known, &counts);
    let ended = conditions(known.job)
        .filter(|one| state.is_final() && (one.type_ == "Complete" || one.type_ == "Failed"))
        .find_map(|one| one.last_transition_time.as_ref().map(time));
    Overview {
        job: metadata.name.clone().unwrap_or_default(),
        run: label(RUN).cloned().unwrap_or_default(),
        attempt: label(ATTEMPT).and_then(|text| text.parse().ok()),
        counts,
        conditions: conditions(known.job)
            .map(|one| Condition {
                kind: one.type_.clone(),
                reason: one.reason.clone().unwrap_or_default(),
                message: one.message.clone().unwrap_or_default(),
            })
            .collect(),
        created: metadata.creation_timestamp.as_ref().map(time),
        started: status.start_time.as_ref().map(time),
        ended,
        pods: pods.iter().map(|pod| pods::overview(pod, known.now)).collect(),
        trouble: trouble::of(known, &state, &pods),
        state,
    }
}

/// The conditions of a Job that hold.
fn conditions(job: &Job) -> impl Iterator<Item = &k8s_openapi::api::batch::v1::JobCondition> {
    let all = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    all.filter(|one| one.status == "True")
}

fn counts(known: &Known<'_>) -> Counts {
    let number = |value: Option<i32>| u32::try_from(value.unwrap_or(0)).unwrap_or(0);
    let spec = known.job.spec.as_ref();
    let status = known.job.status.clone().unwrap_or_default();
    let wanted = number(spec.map(|spec| spec.parallelism.unwrap_or(1)));
    let completions = spec.and_then(|spec| spec.completions).map(|all| number(Some(all)));
    let stays = |pod: &&&Pod| pod.metadata.deletion_timestamp.is_none();
    let running = known.pods.iter().filter(stays).filter(|pod| pods::is_running(pod)).count();
    Counts {
        wanted: completions.map_or(wanted, |all| wanted.min(all)),
        active: number(status.active),
        running: u32::try_from(running).unwrap_or(u32::MAX),
        ready: number(status.ready),
        terminating: number(status.terminating),
        succeeded: number(status.succeeded),
        failed: number(status.failed),
    }
}

fn time(time: &Time) -> SystemTime {
    time.0.into()
}

//! The state of a Job in one word.

use super::{Counts, Known, conditions, pods, words};
use crate::{INCOMPLETE, QUEUE};
use k8s_openapi::api::batch::v1::{Job, JobCondition};
use k8s_openapi::api::core::v1::Pod;
use std::fmt;

/// The state of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// The launch has not been completed, and the Job is suspended.
    Incomplete,
    /// Suspended until this Kueue queue admits it.
    Queued {
        /// The queue.
        queue: String,
    },
    /// Suspended by somebody.
    Suspended,
    /// Some pods do not exist yet, or have no node.
    Pending,
    /// All pods have a node, and some do not run yet.
    Starting,
    /// All pods that are left run.
    Running,
    /// The pods are being stopped: the Job has been suspended, or its end is decided.
    Stopping,
    /// The Job is being deleted.
    Deleting,
    /// The Job has succeeded.
    Succeeded,
    /// The Job has failed.
    Failed {
        /// Whose failure it was.
        class: Class,
    },
}

/// Why a Job failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// The spec, the base model or the arguments are wrong (exit code 64).
    User,
    /// The data set is wrong (exit code 65).
    Data,
    /// Machines, processes or storage have failed (exit code 66).
    Infrastructure,
    /// A user has cancelled the run (exit code 67).
    Cancelled,
    /// The Job ran longer than its `activeDeadlineSeconds`.
    Deadline,
    /// Kubernetes ended the Job for another reason.
    Other,
}

impl Class {
    /// The class of an exit code of a pod, if that code ends a Job.
    pub(crate) fn of_exit(code: i32) -> Option<Self> {
        match code {
            64 => Some(Self::User),
            65 => Some(Self::Data),
            66 => Some(Self::Infrastructure),
            67 => Some(Self::Cancelled),
            _ => None,
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::User => "the spec, the base model or the arguments are wrong",
            Self::Data => "the data set is wrong",
            Self::Infrastructure => "machines, processes or storage",
            Self::Cancelled => "a user cancelled the run",
            Self::Deadline => "the Job's deadline has passed",
            Self::Other => "Kubernetes ended the Job",
        })
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Incomplete => f.write_str("not launched completely"),
            Self::Queued { queue } => write!(f, "queued in `{queue}`"),
            Self::Suspended => f.write_str("suspended"),
            Self::Pending => f.write_str("pending"),
            Self::Starting => f.write_str("starting"),
            Self::Running => f.write_str("running"),
            Self::Stopping => f.write_str("stopping"),
            Self::Deleting => f.write_str("being deleted"),
            Self::Succeeded => f.write_str("succeeded"),
            Self::Failed { class } => write!(f, "failed ({class})"),
        }
    }
}

impl State {
    /// Whether the Job has ended.
    pub fn is_final(&self) -> bool {
        match self {
            Self::Succeeded | Self::Failed { .. } => true,
            Self::Incomplete
            | Self::Queued { .. }
            | Self::Suspended
            | Self::Pending
            | Self::Starting
            | Self::Running
            | Self::Stopping
            | Self::Deleting => false,
        }
    }
}

/// The state of a Job.
pub(super) fn of(known: &Known<'_>, counts: &Counts) -> State {
    let job = known.job;
    let holds = |kind: &str| conditions(job).find(|one| one.type_ == kind);
    if holds("Complete").is_some() {
        return State::Succeeded;
    }
    if let Some(condition) = holds("Failed") {
        return State::Failed { class: class(condition, &known.pods) };
    }
    if job.metadata.deletion_timestamp.is_some() {
        return State::Deleting;
    }
    if holds("SuccessCriteriaMet").is_some() || holds("FailureTarget").is_some() {
        return State::Stopping;
    }
    if job.spec.as_ref().and_then(|spec| spec.suspend) == Some(true) {
        return suspended(known);
    }
    placed(known, counts)
}

fn suspended(known: &Known<'_>) -> State {
    let metadata = &known.job.metadata;
    if known.pods.iter().any(|pod| !pods::is_over(pod)) {
        return State::Stopping;
    }
    if is_incomplete(known.job) {
        return State::Incomplete;
    }
    match metadata.labels.as_ref().and_then(|labels| labels.get(QUEUE)) {
        Some(queue) => State::Queued { queue: queue.clone() },
        None => State::Suspended,
    }
}

/// Whether the Job's launch has not been completed.
pub(super) fn is_incomplete(job: &Job) -> bool {
    job.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(INCOMPLETE))
}

/// The state of a Job whose pods are wanted.
fn placed(known: &Known<'_>, counts: &Counts) -> State {
    let alive = known
        .pods
        .iter()
        .filter(|pod| !pods::is_over(pod) && pod.metadata.deletion_timestamp.is_none());
    let (mut with_node, mut running) = (0, 0);
    for pod in alive {
        with_node += u32::from(pods::node(pod).is_some());
        running += u32::from(pods::is_running(pod));
    }
    let left = counts.wanted.saturating_sub(counts.succeeded);
    if running >= left {
        State::Running
    } else if with_node >= left {
        State::Starting
    } else {
        State::Pending
    }
}

/// Why a Job failed.
pub(super) fn class(condition: &JobCondition, pods: &[&Pod]) -> Class {
    match condition.reason.as_deref() {
        Some("DeadlineExceeded") => Class::Deadline,
        Some("PodFailurePolicy") => {
            let message = condition.message.as_deref().unwrap_or_default();
            let told = words::exit_code_of_policy(message).and_then(Class::of_exit);
            told.or_else(|| {
                pods.iter().filter_map(|pod| pods::exit_code(pod)).find_map(Class::of_exit)
            })
            .unwrap_or(Class::Other)
        }
        Some(_) | None => Class::Other,
    }
}

//! Runs Muster's Jobs on a Kubernetes cluster: launches them, follows them, and says in words how
//! they are.
//!
//! ```text
//! objects ──launch──▶ API server ──watches, logs──▶ follow ──▶ notes, log lines, the end
//!                         │
//!                         └──lists──▶ describe (pure) ──▶ Overview
//! ```
//! One Indexed Job is one attempt of a run; its name is the guard against a second one. This crate
//! renders no objects and decides nothing about a run: the pods do that themselves.
//!
//! `kube` logs every failed request as an error of the target `kube_client`, and 403 as a warning
//! of `kube_runtime`. A program that prints what this crate returns should silence both.

mod answer;
mod call;
mod cluster;
mod describe;
mod error;
mod follow;
mod launch;
mod objects;
mod patience;
mod proxy;
mod review;

pub use cluster::Cluster;
pub use describe::{Class, Condition, Counts, Overview, PodOverview, State, Trouble};
pub use error::Error;
pub use follow::{End, Seen};
pub use launch::Launched;
pub use objects::Objects;
pub use patience::Patience;
pub use review::{Bearer, BoundPod};

/// The annotation with the digest of the objects that a Job was launched from.
pub(crate) const SUBMISSION: &str = "muster.dev/submission";
/// The annotation of a Job whose launch has not been completed.
pub(crate) const INCOMPLETE: &str = "muster.dev/incomplete";
/// The label with the run of a Job.
pub(crate) const RUN: &str = "muster.dev/run";
/// The label with the attempt of a Job.
pub(crate) const ATTEMPT: &str = "muster.dev/attempt";
/// Selects everything that belongs to Muster's Jobs.
pub(crate) const OURS: &str = "app.kubernetes.io/name=muster,app.kubernetes.io/component=job";
/// The label with the Kueue queue that admits a Job.
pub(crate) const QUEUE: &str = "kueue.x-k8s.io/queue-name";
/// The label of pods with the name of their Job.
pub(crate) const JOB_NAME: &str = "batch.kubernetes.io/job-name";
/// The label and annotation of pods with their index.
pub(crate) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
/// The container that a run's exit code and log come from.
pub(crate) const CONTAINER: &str = "muster";

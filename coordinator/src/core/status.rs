//! The status of runs and workers, for people and programs.

use super::BySource;
use super::workers::Worker;
use proto::id::{Generation, Lineage, RunId, WorkerId};
use proto::protocol::{Dismissal, Duty};
use std::time::Duration;

/// Something that went wrong and was dealt with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Time since the coordinator started; `None` if it happened before.
    pub at: Option<Duration>,
    /// What happened.
    pub message: String,
}

/// The status of a run.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The run.
    pub run: RunId,
    /// The user's name for the run.
    pub name: String,
    /// The name in the credentials of the user who submitted it; `None` if none were asked for.
    pub submitter: Option<String>,
    /// 1, or more for a run that was resumed after an end.
    pub attempt: u64,
    /// The phase, in one word.
    pub phase: &'static str,
    /// The phase as the end of a run: `Closing` if it has not ended, or can be continued.
    pub outcome: Dismissal,
    /// More about the phase, such as what the run waits for or why it failed.
    pub detail: String,
    /// The last membership.
    pub generation: Generation,
    /// The last lineage.
    pub lineage: Lineage,
    /// Steps committed.
    pub step: u64,
    /// Steps planned; 0 before there is a plan.
    pub steps: u64,
    /// Members by rank, while the run is training.
    pub workers: Vec<WorkerId>,
    /// Steps in the newest committed checkpoint.
    pub checkpoint_step: Option<u64>,
    /// The path or URL of the finished model.
    pub model: Option<String>,
    /// Loss of the last committed step.
    pub loss: Option<f64>,
    /// Figures of the last committed step, by source.
    pub sources: BySource,
    /// Tokens per second over the last steps, without stalls, while the run is training.
    pub tokens_per_second: Option<f64>,
    /// Time until the last step at that rate.
    pub eta: Option<Duration>,
    /// The last incident.
    pub last_incident: Option<Incident>,
    /// Workers that cannot work for this run, and why.
    pub troubled: Vec<WorkerStatus>,
}

impl Status {
    /// The status of a run whose journal cannot be read.
    pub(super) fn unreadable(run: RunId, reason: String) -> Self {
        Self {
            name: run.to_string(),
            run,
            submitter: None,
            attempt: 1,
            phase: "unreadable",
            outcome: Dismissal::Closing,
            detail: reason,
            generation: Generation::default(),
            lineage: Lineage::default(),
            step: 0,
            steps: 0,
            workers: Vec::new(),
            checkpoint_step: None,
            model: None,
            loss: None,
            sources: BySource::new(),
            tokens_per_second: None,
            eta: None,
            last_incident: None,
            troubled: Vec::new(),
        }
    }
}

/// The status of a worker.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerStatus {
    /// The worker.
    pub worker: WorkerId,
    /// What it is doing, in one word.
    pub state: &'static str,
    /// The run that it works for.
    pub run: Option<RunId>,
    /// Its rank in that run's generation.
    pub rank: Option<u32>,
    /// Why the worker is not used for now.
    pub trouble: Option<String>,
    /// When the worker is tried again, as a time since the coordinator started.
    pub retry_at: Option<Duration>,
    /// The worker's ring address.
    pub ring: String,
}

pub(super) fn worker_status(id: &WorkerId, worker: &Worker) -> WorkerStatus {
    let setback = worker.setback.as_ref();
    let (mut run, mut rank) = (None, None);
    let doing = match worker.last_duty.as_ref() {
        None | Some(Duty::Idle) => "idle",
        Some(Duty::Prepare(prepare)) => {
            run = Some(prepare.run.clone());
            "preparing"
        }
        Some(Duty::Load(load)) => {
            run = Some(load.run.clone());
            if worker.loaded.is_some() { "ready" } else { "loading" }
        }
        Some(Duty::Train(train)) => {
            run = Some(train.load.run.clone());
            rank = Some(train.rank);
            "training"
        }
        Some(Duty::Dismissed { .. } | Duty::NotNow { .. }) => "leaving",
    };
    let state = match (worker.stream, worker.leaving, setback) {
        (None, _, _) => "disconnected",
        (Some(_), true, _) => "leaving",
        (Some(_), false, Some(setback)) if !setback.retrying => "waiting",
        (Some(_), false, Some(_) | None) => doing,
    };
    WorkerStatus {
        worker: id.clone(),
        state,
        run,
        rank,
        trouble: setback.map(|s| s.message.clone()),
        retry_at: setback.filter(|s| !s.retrying).map(|s| s.until),
        ring: worker.ring.clone(),
    }
}

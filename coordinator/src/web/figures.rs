//! What the metrics count: figures of runs and workers, noted as they happen.
//!
//! A run's figures stay for a while after its end, so that the last ones are still scraped.

use crate::core::{Event, Notice, Stream};
use prometheus_client::metrics::histogram::Histogram;
use proto::id::{RunId, WorkerId};
use proto::protocol::{Report, StepDone};
use proto::receipt::Receipt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::time::Instant;

/// How long the figures of a run stay after its end.
const STAY: Duration = Duration::from_secs(600);

/// Upper bounds of the buckets for times of a step, in seconds.
const STEP_BUCKETS: [f64; 14] =
    [0.01, 0.03, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0];
/// Upper bounds of the buckets for regrouping and for the pauses of checkpoints, in seconds.
const PAUSE_BUCKETS: [f64; 12] =
    [0.01, 0.05, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0];

/// The figures of this coordinator.
#[derive(Clone, Debug, Default)]
pub(crate) struct Metrics(Arc<Mutex<Figures>>);

/// The figures of all runs and workers.
#[derive(Debug, Default)]
pub(super) struct Figures {
    pub(super) runs: BTreeMap<RunId, OfRun>,
    /// The last step of each connected worker.
    pub(super) workers: BTreeMap<WorkerId, Times>,
    streams: BTreeMap<Stream, WorkerId>,
}

/// The times of one rank in one step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) compute: Duration,
    pub(super) reduce_wait: Duration,
}

/// The figures of one run.
#[derive(Debug)]
pub(super) struct OfRun {
    pub(super) world_size: u64,
    pub(super) steps: u64,
    pub(super) skipped: u64,
    pub(super) redone: u64,
    pub(super) samples: u64,
    pub(super) tokens: u64,
    pub(super) trained_tokens: u64,
    pub(super) grad_norm: f64,
    pub(super) learning_rate: f64,
    pub(super) eval_loss: Option<f64>,
    pub(super) incidents: u64,
    pub(super) regroups: u64,
    pub(super) checkpoints: u64,
    /// Size of the last checkpoint.
    pub(super) checkpoint_bytes: u64,
    /// Time of the slowest rank in a step's forward and backward.
    pub(super) compute: Histogram,
    /// Longest wait of a rank for reductions after its last backward.
    pub(super) reduce_wait: Histogram,
    /// Time from the loss of a member to the next committed step.
    pub(super) regroup: Histogram,
    /// Time for which a rank's training stood still for a checkpoint.
    pub(super) checkpoint_pause: Histogram,
    /// Records by their outcome.
    pub(super) records: BTreeMap<&'static str, u64>,
    disturbed: Option<Disturbed>,
    ended: Option<Instant>,
}

/// An incident or a regroup after which no step has been committed yet.
#[derive(Clone, Copy, Debug)]
struct Disturbed {
    since: Instant,
    regrouped: bool,
}

impl Default for OfRun {
    fn default() -> Self {
        let pauses = || Histogram::new(PAUSE_BUCKETS);
        Self {
            world_size: 0,
            steps: 0,
            skipped: 0,
            redone: 0,
            samples: 0,
            tokens: 0,
            trained_tokens: 0,
            grad_norm: f64::NAN,
            learning_rate: f64::NAN,
            eval_loss: None,
            incidents: 0,
            regroups: 0,
            checkpoints: 0,
            checkpoint_bytes: 0,
            compute: Histogram::new(STEP_BUCKETS),
            reduce_wait: Histogram::new(STEP_BUCKETS),
            regroup: pauses(),
            checkpoint_pause: pauses(),
            records: BTreeMap::new(),
            disturbed: None,
            ended: None,
        }
    }
}

impl Metrics {
    pub(super) fn figures(&self) -> MutexGuard<'_, Figures> {
        self.0.lock().expect("nothing panics while it holds the lock")
    }

    /// Notes an event before the core handles it.
    pub(crate) fn event(&self, event: &Event) {
        match event {
            Event::Reported { stream, report } => self.figures().report(*stream, report),
            Event::Hangup { stream } => self.figures().hangup(*stream),
            _ => {}
        }
    }

    /// Notes what happened to a run.
    pub(crate) fn notice(&self, run: &RunId, notice: &Notice) {
        let mut figures = self.figures();
        let now = Instant::now();
        figures.runs.retain(|_, run| run.ended.is_none_or(|at| now.duration_since(at) < STAY));
        figures.runs.entry(run.clone()).or_default().note(now, notice);
    }

    /// Notes the size of a checkpoint that is complete apart from its manifest.
    pub(crate) fn sealing(&self, run: &RunId, bytes: u64) {
        self.figures().runs.entry(run.clone()).or_default().checkpoint_bytes = bytes;
    }
}

impl Figures {
    fn report(&mut self, stream: Stream, report: &Report) {
        match report {
            Report::Hello(hello) => {
                self.streams.insert(stream, hello.worker.clone());
            }
            Report::StepDone(_, StepDone { compute, reduce_wait, .. }) => {
                if let Some(worker) = self.streams.get(&stream) {
                    let times = Times { compute: *compute, reduce_wait: *reduce_wait };
                    self.workers.insert(worker.clone(), times);
                }
            }
            Report::PartSaved(place, _, part) => {
                let run = self.runs.entry(place.run.clone()).or_default();
                run.checkpoint_pause.observe(part.pause.as_secs_f64());
            }
            _ => {}
        }
    }

    fn hangup(&mut self, stream: Stream) {
        if let Some(worker) = self.streams.remove(&stream)
            && !self.streams.values().any(|connected| *connected == worker)
        {
            self.workers.remove(&worker);
        }
    }
}

impl OfRun {
    fn note(&mut self, now: Instant, notice: &Notice) {
        self.ended = notice.last().then_some(now);
        match notice {
            Notice::Prepared { receipt, .. } => self.records = outcomes(receipt),
            Notice::Generation { world_size, redone, generation, .. } => {
                self.world_size = *world_size as u64;
                self.redone += redone;
                if *generation > 1 {
                    self.regroups += 1;
                    let since = self.disturbed.map_or(now, |disturbed| disturbed.since);
                    self.disturbed = Some(Disturbed { since, regrouped: true });
                }
            }
            Notice::Incident { .. } => {
                self.incidents += 1;
                self.disturbed.get_or_insert(Disturbed { since: now, regrouped: false });
            }
            Notice::Step { .. } => self.step(now, notice),
            Notice::Eval { loss, .. } => self.eval_loss = Some(*loss),
            Notice::Checkpoint { .. } => self.checkpoints += 1,
            Notice::Preparing { .. }
            | Notice::Planned { .. }
            | Notice::Waiting { .. }
            | Notice::Paused { .. }
            | Notice::Cancelled
            | Notice::Failed { .. }
            | Notice::Lost { .. }
            | Notice::Finished { .. } => {}
        }
    }

    fn step(&mut self, now: Instant, notice: &Notice) {
        let Notice::Step {
            applied,
            samples,
            tokens,
            trained_tokens,
            grad_norm,
            lr,
            compute_ms,
            reduce_wait_ms,
            ..
        } = notice
        else {
            return;
        };
        self.steps += 1;
        self.skipped += u64::from(!applied);
        self.samples += samples;
        self.tokens += tokens;
        self.trained_tokens += trained_tokens;
        self.grad_norm = *grad_norm;
        self.learning_rate = *lr;
        self.compute.observe(Duration::from_millis(*compute_ms).as_secs_f64());
        self.reduce_wait.observe(Duration::from_millis(*reduce_wait_ms).as_secs_f64());
        if let Some(Disturbed { since, regrouped: true }) = self.disturbed.take() {
            self.regroup.observe(now.duration_since(since).as_secs_f64());
        }
    }
}

/// Records that were read, by what became of them.
fn outcomes(receipt: &Receipt) -> BTreeMap<&'static str, u64> {
    let total = receipt.total();
    let mut outcomes = BTreeMap::from([("eligible", total.eligible)]);
    for (reason, tally) in &total.dropped {
        outcomes.insert(reason.label(), tally.records);
    }
    outcomes
}

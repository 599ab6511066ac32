//! The coordinator's decisions as a pure state machine: events in, commands out. No async, no clock, no I/O, no
//! unordered map.
//!
//! ```text
//!            Event                    settle                       Command
//! runtime ----------> Core::handle ----------> every worker's duty ----------> runtime
//!                     (note the fact)          compared with its last one      (executed in order)
//! ```
//!
//! Handling an event only notes a fact. Then `settle` advances the current run and derives every worker's duty from
//! the whole state, so all directives come from one place. The runtime executes commands in order, and a journal
//! command is durable before the next one begins, so nothing is announced before it is stored. Time is an argument:
//! the duration since the coordinator started.
//!
//! A run consists of parts that own their state, such as `progress`, `checkpoints` and `membership`. A part knows
//! neither the run nor the core; only `run` knows all parts.

mod accusations;
mod base;
mod checkpoints;
mod command;
mod event;
mod figures;
mod gathering;
mod listed;
mod losses;
mod lost;
mod membership;
mod notice;
mod planning;
mod progress;
mod rate;
mod replay;
mod report;
mod run;
mod saves;
mod settings;
mod settle;
mod sharding;
mod status;
#[cfg(test)]
mod tests;
mod timing;
mod turn;
mod worker;
mod workers;

pub use command::{Command, Retained};
pub use event::{Event, Fault, PlanOutline, Stream, Survey, Ticket};
pub use figures::{BySource, SourceFigures};
pub use losses::{Loss, Losses, Lost};
pub use notice::Notice;
pub use replay::{Past, attempts};
pub use settings::{Goal, Settings};
pub use status::{Incident, Status, WorkerStatus};
pub use timing::Timing;

use proto::event::{Fact, Holder, PoolEvent};
use proto::id::{CheckpointId, Epoch, RunId};
use proto::protocol::Report;
use run::Run;
use status::worker_status;
use std::collections::BTreeMap;
use std::time::Duration;
use turn::Turn;
use workers::Workers;

/// Number of runs of one submitter that have not ended. Each of them costs memory.
const UNFINISHED: usize = 500;

/// The whole state of a coordinator.
pub struct Core {
    timing: Timing,
    epoch: Epoch,
    /// The holder that claims name.
    holder: Option<Holder>,
    /// The seed of the ring keys, which never leaves this process.
    secret: [u8; 32],
    /// Runs that have not ended.
    runs: BTreeMap<RunId, Run>,
    /// The final status of runs that have ended.
    ended: BTreeMap<RunId, Status>,
    /// Every run, oldest first.
    all: Vec<RunId>,
    /// Runs that have not ended, in the order of submission or resumption.
    queue: Vec<RunId>,
    /// The run that has the workers.
    current: Option<RunId>,
    /// The current run and its revision when duties were last derived.
    settled: Option<(RunId, u64)>,
    /// The run and the identity of its spec for each idempotency key.
    keys: BTreeMap<String, (RunId, String)>,
    workers: Workers,
    losses: Losses,
    closing: bool,
    last_tick: Duration,
}

impl Core {
    /// A coordinator without runs.
    pub fn new(timing: Timing, epoch: Epoch, secret: [u8; 32]) -> Self {
        Self {
            timing,
            epoch,
            holder: None,
            secret,
            runs: BTreeMap::new(),
            ended: BTreeMap::new(),
            all: Vec::new(),
            queue: Vec::new(),
            current: None,
            settled: None,
            keys: BTreeMap::new(),
            workers: Workers::default(),
            losses: Losses::default(),
            closing: false,
            last_tick: Duration::ZERO,
        }
    }

    /// Makes claims name `holder`, so that others can ask it whether it is still at work.
    pub fn known_as(self, holder: Holder) -> Self {
        Self { holder: Some(holder), ..self }
    }

    /// The holder that claims name, if there is one.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Notes what happened and returns the commands that follow from it.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        self.forgive_own_pause(now);
        let mut out = Vec::new();
        let changed = self.note(now, event, &mut out);
        let woken = self.wake(now, &mut out);
        if changed || woken || self.is_due(now) {
            self.settle(now, &mut out);
        }
        out
    }

    /// Notes what happened. Returns whether `settle` must follow, which the most frequent events do not need.
    fn note(&mut self, now: Duration, event: Event, out: &mut Vec<Command>) -> bool {
        match event {
            Event::Reported { stream, report: Report::Beat { .. } } => {
                self.beat(now, stream);
                return false;
            }
            Event::Beats { streams } => {
                streams.into_iter().for_each(|stream| self.beat(now, stream));
                return false;
            }
            Event::Reported { stream, report } => {
                let follows = !matches!(report, Report::StepDone(..) | Report::Evaluated(..));
                self.reported(now, stream, report, out);
                return follows;
            }
            Event::Tick => return false,
            Event::Submit { ticket, run, idempotency_key, spec_yaml, settings, by } => {
                let known = self.keys.get(&idempotency_key).map(|(run, _)| run.clone());
                let answer = match known {
                    Some(run) => Ok(run),
                    None if self.closing => Err("the coordinator is closing".into()),
                    None => self.check_queue(by.as_deref()).map(|()| {
                        let run = Run::new(run, spec_yaml, settings).submitted_by(by);
                        self.submit(run, idempotency_key, out)
                    }),
                };
                out.push(Command::Answer { ticket, answer });
            }
            Event::Cancel { ticket, run, by } => self.cancel(now, (ticket, by), &run, out),
            Event::Close => self.close(),
            Event::Hangup { stream } => self.hangup(now, stream, out),
            Event::Dialled { worker, incarnation, outcome } => {
                self.dialled(now, &worker, &incarnation, outcome);
            }
            Event::Surveyed { run, outcome } => {
                self.with(now, &run, out, |r, turn| r.surveyed(outcome, turn));
            }
            Event::FoundPrepared { run, found } => {
                self.with(now, &run, out, |r, _| r.found_prepared(found));
            }
            Event::Compared { run, difference } => {
                self.with(now, &run, out, |r, turn| {
                    if let Some(difference) = difference {
                        r.incident(None, difference, turn);
                    }
                });
            }
            Event::Planned { run, outcome } => {
                self.with(now, &run, out, |r, turn| r.planned(outcome, turn));
            }
            Event::Sealed { run, lineage, step, outcome } => {
                self.with(now, &run, out, |r, turn| {
                    r.sealed(CheckpointId { lineage, step }, outcome, turn)
                });
            }
            Event::Published { run, outcome } => {
                self.with(now, &run, out, |r, turn| r.published(outcome, turn));
            }
            Event::RunLost { run, message } => {
                self.with(now, &run, out, |r, turn| r.lose(message, turn));
            }
        }
        true
    }

    /// When to call [`Self::handle`] with [`Event::Tick`] if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Duration> {
        let runs = self.runs_deadline();
        self.workers.deadline().into_iter().chain(runs).min()
    }

    /// The status of a run, or `None` if it is unknown.
    pub fn status(&self, run: &RunId) -> Option<Status> {
        if let Some(status) = self.ended.get(run) {
            return Some(status.clone());
        }
        let mut status = self.runs.get(run)?.status(&self.workers);
        if let Some(current) = self.current().filter(|current| *current != run) {
            let waits = status.phase == "queued" || status.phase == "gathering";
            if waits && status.detail.is_empty() {
                status.detail = format!("waiting for its turn: `{current}` has the workers");
            }
        }
        Some(status)
    }

    /// The status of every run, oldest first.
    pub fn statuses(&self) -> Vec<Status> {
        self.all.iter().filter_map(|id| self.status(id)).collect()
    }

    /// The status of every worker whose lease has not ended, by name.
    pub fn worker_statuses(&self) -> Vec<WorkerStatus> {
        self.workers.iter().map(|(id, worker)| worker_status(id, worker)).collect()
    }

    /// The workers that were lost.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    /// Checks that no run with another spec was submitted under this key.
    ///
    /// # Errors
    /// A message for the user, if another spec was submitted under this key.
    pub fn known(&self, idempotency_key: &str, identity: &str) -> Result<(), String> {
        match self.keys.get(idempotency_key) {
            Some((run, of)) if !of.is_empty() && of != identity => Err(format!(
                "run `{run}` was submitted under the same idempotency key with another spec\n\
                 hint: use a different key for every run"
            )),
            Some(_) | None => Ok(()),
        }
    }

    /// Checks that a submitter may queue another run.
    fn check_queue(&self, by: Option<&str>) -> Result<(), String> {
        let queued = self.runs.values().filter(|run| run.submitter() == by).count();
        if queued < UNFINISHED {
            return Ok(());
        }
        let whose = by.map_or("this coordinator".to_owned(), |by| format!("`{by}`"));
        Err(format!(
            "{whose} has {queued} runs that have not ended, which is the limit\n\
             hint: submit more once some have ended, or cancel some"
        ))
    }

    fn submit(&mut self, run: Run, idempotency_key: String, out: &mut Vec<Command>) -> RunId {
        let id = run.id().clone();
        // The run's own journal comes first, so that a pool entry never names a run without a history.
        let mut events = run.submitted();
        events.push(self.claim());
        out.push(Command::Journal { run: id.clone(), events });
        out.push(Command::JournalPool(PoolEvent::Submitted {
            run: id.clone(),
            idempotency_key: idempotency_key.clone(),
        }));
        self.keys.insert(idempotency_key, (id.clone(), run.identity().to_owned()));
        self.all.push(id.clone());
        self.queue.push(id.clone());
        self.runs.insert(id.clone(), run);
        id
    }

    fn claim(&self) -> Fact {
        Fact::Claimed { epoch: self.epoch, holder: self.holder.clone() }
    }

    fn cancel(
        &mut self,
        now: Duration,
        (ticket, by): (Ticket, Option<String>),
        id: &RunId,
        out: &mut Vec<Command>,
    ) {
        let mut answer = match self.ended.get(id) {
            Some(status) if status.phase == "lost" => Err(status.detail.clone()),
            Some(_) => Ok(id.clone()),
            None => Err(format!("there is no run `{id}`")),
        };
        self.with(now, id, out, |run, turn| {
            answer = run.cancel(by.clone(), turn).map(|()| id.clone());
        });
        if let Some(status) = self.ended.get_mut(id).filter(|status| status.phase == "paused") {
            status.phase = "cancelled";
            out.push(Command::Journal { run: id.clone(), events: run::cancelled(by) });
            out.push(Command::Notify { run: id.clone(), notice: Notice::Cancelled });
        }
        out.push(Command::Answer { ticket, answer });
    }

    fn close(&mut self) {
        self.closing = true;
        for run in self.runs.values_mut() {
            run.stop();
        }
        self.workers.all_stale();
    }

    fn with(
        &mut self,
        now: Duration,
        run: &RunId,
        out: &mut Vec<Command>,
        act: impl FnOnce(&mut Run, &mut Turn<'_>),
    ) {
        let Self { timing, secret, runs, workers, .. } = self;
        if let Some(found) = runs.get_mut(run) {
            act(found, &mut Turn { run, now, timing, secret, workers, out });
        }
    }
}

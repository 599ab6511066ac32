//! The coordinator's mind, pure: events in, commands out. No async, no clock, no I/O, no unordered map.
//!
//! ```text
//!            Event                    settle                       Command
//! runtime ----------> Core::handle ----------> every worker's duty ----------> runtime
//!                     (note the fact)          compared with what it was told  (executed in order)
//! ```
//!
//! An event only notes a fact; `settle` then moves the active run on and derives every worker's duty from the whole
//! state, so there is one place where directives come from. Commands are executed in order, and a journal command is
//! durable before the next one is begun: that is what "persisted, then announced" rests on.
//! Time is an argument: a duration since the coordinator started.

mod figures;
mod gather;
mod lost;
mod membership;
mod notice;
mod prepare;
mod replay;
mod run;
mod saves;
#[cfg(test)]
mod tests;
mod worker;

pub use figures::{BySource, SourceFigures};
pub use notice::Notice;
pub use prepare::Survey;
pub use run::{Goal, Phase, Settings, Status};

use proto::event::{Event as History, Failure, Holder, PoolEvent};
use proto::id::{Epoch, Lineage, RunId, WorkerId};
use proto::manifest;
use proto::protocol::{Directive, Report};
use proto::receipt::Skipped;
use run::Run;
use std::collections::BTreeMap;
use std::time::Duration;
use worker::Worker;

/// One gRPC stream: a worker that comes back has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stream(pub u64);

/// A caller that waits for an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket(pub u64);

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// How often a worker beats.
    pub beat: Duration,
    /// A worker that has been silent for so long is dead.
    pub lease: Duration,
    /// How long a worker whose connection closed has to be back on another.
    pub hangup_grace: Duration,
    /// Once enough workers are there, how long others may still join.
    pub last_call: Duration,
    /// After a restart, how long the members of a generation have to come back.
    pub reattach_grace: Duration,
    /// Memberships that may end without a new step before the run fails.
    pub fruitless_generations: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            beat: Duration::from_millis(500),
            lease: Duration::from_secs(5),
            hangup_grace: Duration::from_millis(1500),
            last_call: Duration::from_secs(1),
            reattach_grace: Duration::from_secs(15),
            fruitless_generations: 5,
        }
    }
}

/// Why a run ends badly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Whose fault it is.
    pub kind: Failure,
    /// What, where, and the hint.
    pub message: String,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A user submits a run.
    Submit {
        /// Who waits for the answer.
        ticket: Ticket,
        /// A fresh name; not used if the key is known.
        run: RunId,
        /// The user's key.
        idempotency_key: String,
        /// The resolved spec.
        spec_yaml: String,
        /// What this core needs of it.
        settings: Settings,
    },
    /// A user wants a run to end.
    Cancel {
        /// Who waits for the answer.
        ticket: Ticket,
        /// The run.
        run: RunId,
    },
    /// Stop every run in order, with a checkpoint, and take no new one.
    Close,
    /// A worker's stream said something.
    Reported {
        /// The stream.
        stream: Stream,
        /// What it said.
        report: Report,
    },
    /// A worker's stream ended.
    Hangup {
        /// The stream.
        stream: Stream,
    },
    /// The sources are listed.
    Surveyed {
        /// The run.
        run: RunId,
        /// What there is.
        outcome: Result<Survey, Fault>,
    },
    /// The plan is stored.
    Planned {
        /// The run.
        run: RunId,
        /// Digest and number of steps.
        outcome: Result<PlanOutline, Fault>,
    },
    /// A checkpoint's manifest is stored, or is not.
    Sealed {
        /// The run.
        run: RunId,
        /// Its lineage.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
        /// The manifest's SHA-256.
        outcome: Result<String, String>,
    },
    /// The finished model lies where users look for it.
    Published {
        /// The run.
        run: RunId,
        /// Where.
        outcome: Result<String, String>,
    },
    /// Another coordinator has the run now: its journal could not be appended to.
    RunLost {
        /// The run.
        run: RunId,
        /// Who, and the hint.
        message: String,
    },
    /// Time has passed.
    Tick,
}

/// What the core needs to know of a stored plan.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanOutline {
    /// What workers must find.
    pub digest: String,
    /// Optimizer steps in all.
    pub steps: u64,
    /// What became of every record, held-out ones told apart.
    pub receipt: proto::receipt::Receipt,
    /// For people: what the `planned` notice carries.
    pub summary: serde_json::Value,
}

/// The checkpoints of a run that stay, by lineage and steps committed.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained {
    /// All of them.
    pub kept: Vec<(Lineage, u64)>,
    /// The newest.
    pub latest: (Lineage, u64),
    /// The one with the best held-out loss, where that was measured.
    pub best: Option<(Lineage, u64)>,
}

/// What the runtime is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Append to a run's journal; durable before the next command.
    Journal {
        /// The run.
        run: RunId,
        /// In order.
        events: Vec<History>,
    },
    /// Append to the pool's journal, where there is one; durable before the next command.
    JournalPool(PoolEvent),
    /// Tell a caller.
    Answer {
        /// The caller.
        ticket: Ticket,
        /// The run, or why not.
        answer: Result<RunId, String>,
    },
    /// Tell a worker.
    Direct {
        /// Its stream.
        stream: Stream,
        /// Its whole duty.
        directive: Directive,
    },
    /// End a stream.
    Close {
        /// The stream.
        stream: Stream,
    },
    /// List the sources and look for a prepared data set.
    Survey {
        /// The run.
        run: RunId,
    },
    /// Store the table of contents of the prepared data set, then the plan.
    Plan {
        /// The run.
        run: RunId,
        /// Names the prepared data set.
        fingerprint: String,
        /// Its contents, where this run prepared it.
        prepared: Option<manifest::Prepared>,
    },
    /// Store a manifest and the receipt that it names, after checking that everything else it names is there.
    Seal {
        /// The manifest, without the receipt.
        checkpoint: manifest::Checkpoint,
        /// Steps before it that taught nothing, for the receipt.
        skipped: Vec<Skipped>,
    },
    /// Say in the run's receipt that these steps taught nothing, in place of those that it names.
    Receipt {
        /// The run.
        run: RunId,
        /// In order.
        skipped: Vec<Skipped>,
    },
    /// Copy a checkpoint's model to where users look for it.
    Publish {
        /// The run.
        run: RunId,
        /// Its lineage.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
        /// Held-out losses by steps committed, for its card.
        losses: Vec<(u64, f64)>,
    },
    /// Bring the run's checkpoints in storage to what is kept of them.
    Retain {
        /// The run.
        run: RunId,
        /// Which.
        retained: Retained,
    },
    /// Delete what is there of a checkpoint that will not be.
    Discard {
        /// The run.
        run: RunId,
        /// The checkpoint's.
        lineage: Lineage,
        /// Likewise.
        step: u64,
    },
    /// Tell whoever watches the run.
    Notify {
        /// The run.
        run: RunId,
        /// What.
        notice: Notice,
    },
}

/// The whole state of a coordinator.
pub struct Core {
    timing: Timing,
    epoch: Epoch,
    /// What claims are signed with.
    holder: Option<Holder>,
    /// Seeds the ring keys; never leaves this process.
    secret: [u8; 32],
    runs: BTreeMap<RunId, Run>,
    /// Every run, oldest first: a pool runs its queue in order.
    queue: Vec<RunId>,
    keys: BTreeMap<String, RunId>,
    workers: BTreeMap<WorkerId, Worker>,
    closing: bool,
    last_tick: Duration,
}

impl Core {
    /// A coordinator without a past.
    pub fn new(timing: Timing, epoch: Epoch, secret: [u8; 32]) -> Self {
        Self {
            timing,
            epoch,
            holder: None,
            secret,
            runs: BTreeMap::new(),
            queue: Vec::new(),
            keys: BTreeMap::new(),
            workers: BTreeMap::new(),
            closing: false,
            last_tick: Duration::ZERO,
        }
    }

    /// The same, which says in its claims where it can be asked.
    pub fn known_as(self, holder: Holder) -> Self {
        Self { holder: Some(holder), ..self }
    }

    /// Who it is, if it says so.
    pub fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// Notes what happened and says what to do about it.
    pub fn handle(&mut self, now: Duration, event: Event) -> Vec<Command> {
        self.forgive_own_pause(now);
        let mut out = Vec::new();
        match event {
            Event::Submit { ticket, run, idempotency_key, spec_yaml, settings } => {
                let known = self.keys.get(&idempotency_key).cloned();
                let answer = match known {
                    Some(run) => Ok(run),
                    None if self.closing => Err("the coordinator is closing".into()),
                    None => Ok(self.submit(run, idempotency_key, spec_yaml, settings, &mut out)),
                };
                out.push(Command::Answer { ticket, answer });
            }
            Event::Cancel { ticket, run } => self.cancel(ticket, &run, &mut out),
            Event::Close => self.closing = true,
            Event::Reported { stream, report } => self.reported(now, stream, report, &mut out),
            Event::Hangup { stream } => self.hangup(now, stream, &mut out),
            Event::Surveyed { run, outcome } => self.with(&run, &mut out, |r, out| {
                r.surveyed(outcome, out);
            }),
            Event::Planned { run, outcome } => self.with(&run, &mut out, |r, out| {
                r.planned(outcome, out);
            }),
            Event::Sealed { run, lineage, step, outcome } => {
                self.with(&run, &mut out, |r, out| r.sealed(lineage, step, outcome, out));
            }
            Event::Published { run, outcome } => self.with(&run, &mut out, |r, out| {
                r.published(outcome, out);
            }),
            Event::RunLost { run, message } => self.with(&run, &mut out, |r, out| {
                r.lost(message, out);
            }),
            Event::Tick => {}
        }
        self.expire(now, &mut out);
        self.settle(now, &mut out);
        out
    }

    /// When to call again with [`Event::Tick`] if nothing else happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let leases = self.workers.values().map(|w| w.lease_until);
        let run = self.active().and_then(|id| self.runs[id].deadline(&self.timing));
        leases.chain(run).min()
    }

    /// How a run is doing.
    pub fn status(&self, run: &RunId) -> Option<Status> {
        self.runs.get(run).map(|r| r.status(&self.workers))
    }

    /// Every run, oldest first.
    pub fn statuses(&self) -> Vec<Status> {
        self.queue.iter().filter_map(|id| self.status(id)).collect()
    }

    fn submit(
        &mut self,
        id: RunId,
        idempotency_key: String,
        spec_yaml: String,
        settings: Settings,
        out: &mut Vec<Command>,
    ) -> RunId {
        // The run's own journal first: a pool entry never names a run without a history.
        let events = vec![History::Submitted { spec_yaml: spec_yaml.clone() }, self.claim()];
        out.push(Command::Journal { run: id.clone(), events });
        out.push(Command::JournalPool(PoolEvent::Submitted {
            run: id.clone(),
            idempotency_key: idempotency_key.clone(),
        }));
        self.keys.insert(idempotency_key, id.clone());
        self.queue.push(id.clone());
        self.runs.insert(id.clone(), Run::new(id.clone(), spec_yaml, settings));
        id
    }

    fn claim(&self) -> History {
        History::Claimed { epoch: self.epoch, holder: self.holder.clone() }
    }

    fn cancel(&mut self, ticket: Ticket, id: &RunId, out: &mut Vec<Command>) {
        let answer = match self.runs.get_mut(id) {
            None => Err(format!("there is no run `{id}`")),
            Some(run) => run.cancel(out).map(|()| id.clone()),
        };
        out.push(Command::Answer { ticket, answer });
    }

    fn with(
        &mut self,
        run: &RunId,
        out: &mut Vec<Command>,
        act: impl FnOnce(&mut Run, &mut Vec<Command>),
    ) {
        if let Some(run) = self.runs.get_mut(run) {
            act(run, out);
        }
    }

    /// The run that has the workers: the oldest that has not ended.
    fn active(&self) -> Option<&RunId> {
        self.queue.iter().find(|id| !self.runs[*id].phase.ended())
    }

    /// Moves the active run on, then tells every worker whose duty has changed.
    fn settle(&mut self, now: Duration, out: &mut Vec<Command>) {
        if self.closing {
            for run in self.runs.values_mut() {
                run.stop = true;
            }
        }
        while let Some(id) = self.active().cloned() {
            let run = self.runs.get_mut(&id).expect("queued runs exist");
            run.advance(now, &self.timing, &self.secret, &mut self.workers, out);
            if !run.phase.ended() {
                break;
            }
        }
        let active = self.active().map(|id| &self.runs[id]);
        let idle = self.closing && active.is_none();
        for (id, worker) in &mut self.workers {
            let Some(stream) = worker.stream else {
                continue;
            };
            let Some(duty) = worker.duty(id, active, idle) else {
                continue;
            };
            if worker.told.as_ref() != Some(&duty) {
                worker.told = Some(duty.clone());
                let directive =
                    Directive { epoch: self.epoch, beat: self.timing.beat, duty, heard: 0 };
                out.push(Command::Direct { stream, directive });
            }
        }
    }
}

//! The worker's side of the protocol as a pure state machine: events in, commands out, so that a simulation runs the
//! real code.
//!
//! A directive states completely what this worker should be doing. The session remembers the last one (`wanted`) and
//! what the process is actually doing (`activity`); `settle` takes the next step from `activity` towards `wanted`.
//! Work in progress is never forgotten: a training thread that should not run is aborted, and the next duty begins
//! only when that thread has ended.

mod log;
mod trouble;

use log::Log;
use proto::id::{Epoch, Generation, Incarnation, RunId, WorkerId};
use proto::protocol::{
    Attachment, Directive, Dismissal, Duty, Hello, Load, Place, RawShard, Report, SavedPart,
    ShardOutcome, SourceSum, StepDone, Train,
};
use proto::receipt::Skipped;
use std::collections::BTreeMap;
use std::time::Duration;
pub use trouble::Trouble;

/// What this process reports about itself in its hello.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name of the process's slot.
    pub worker: WorkerId,
    /// Unique id of the process.
    pub incarnation: Incarnation,
    /// Kind of device.
    pub device: String,
    /// Number of compute threads.
    pub threads: u32,
    /// Where peers reach its collective listener.
    pub ring: String,
    /// How the previous process in this slot ended; reported until a coordinator has received it.
    pub last_end: Option<String>,
}

/// How a training thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// Gracefully, with a checkpoint: after the last step, or on request.
    Stopped {
        /// Steps committed.
        step: u64,
    },
    /// On an abort.
    Aborted,
    /// Because of an error.
    Failed {
        /// Steps committed.
        step: u64,
        /// The error, and its cause.
        trouble: Trouble,
    },
}

/// An input to the session.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stream to the coordinator is open.
    Connected,
    /// The stream broke.
    Disconnected,
    /// The coordinator sent a directive.
    Directed(Directive),
    /// A raw shard was tokenized and stored, or could not be.
    Prepared {
        /// The run.
        run: RunId,
        /// The raw shard.
        shard: u32,
        /// The stored result, or the failure.
        outcome: Result<ShardOutcome, Trouble>,
    },
    /// The base model and data are in memory, or could not be loaded.
    Loaded {
        /// What was loaded.
        load: Load,
        /// The digest of the state that training begins with, or the failure.
        outcome: Result<String, Trouble>,
    },
    /// The training thread committed a step.
    Stepped(Place, StepDone),
    /// A step changed nothing.
    Skipped(Place, Skipped),
    /// The training thread measured its share of the held-out set after this number of steps.
    Evaluated(Place, u64, Vec<SourceSum>),
    /// The training thread has taken a snapshot at this step, which is being stored.
    PartBegun(Place, u64),
    /// This rank's part of the checkpoint at this step was stored, or could not be.
    PartSaved(Place, u64, Result<SavedPart, String>),
    /// The training thread of this generation ended.
    Ended(Generation, End),
    /// This process was asked to terminate.
    Terminate {
        /// How long it may still run.
        deadline: Duration,
    },
}

/// An output of the session; the agent executes them in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Send this to the coordinator, after all reports that [`Session::next_report`] returns.
    Send(Report),
    /// Send heartbeats at this interval.
    Beat(Duration),
    /// Tokenize and store a raw shard.
    Prepare {
        /// The run.
        run: RunId,
        /// Its resolved spec.
        spec_yaml: String,
        /// Fingerprint that names the prepared data set.
        fingerprint: String,
        /// The raw shard.
        shard: RawShard,
    },
    /// Load the base model and data, replacing what is in memory.
    Load(Load),
    /// Start the training thread.
    Train(Train),
    /// Stop the training thread after its current step, with a checkpoint.
    Stop,
    /// Abort the training thread; [`Event::Ended`] follows.
    Abort,
    /// End the process.
    Exit(Exit),
}

/// Why the process exits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The coordinator does not need it any more, for this reason.
    Dismissed(Dismissal),
    /// The coordinator refuses it for good, for this reason.
    Refused(String),
    /// It was asked to terminate, and has nothing left to do.
    Drained,
}

#[derive(Clone, Debug, PartialEq)]
enum Activity {
    Nothing,
    Preparing { run: RunId },
    Loading,
    Training { train: Box<Train>, step: u64, aborting: bool },
}

/// The state of the worker's side of the protocol.
pub struct Session {
    identity: Identity,
    epoch: Epoch,
    wanted: Duty,
    activity: Activity,
    memory: Option<(Load, String)>,
    /// The coordinator was notified that `memory` holds what it asked for.
    announced: bool,
    /// The membership whose training thread has ended here; it is not started again. Generations are counted per run.
    ended: Option<(RunId, Generation)>,
    prepared: BTreeMap<(String, u32), ShardOutcome>,
    connected: bool,
    /// Set once the process was asked to terminate: how long it may still run.
    terminating: Option<Duration>,
    /// Number of snapshots that are being stored.
    storing: usize,
    /// Whether the coordinator has sent a directive on this stream. Before that, it may still be waiting for other
    /// members to come back, and would drop reports of a membership.
    heard: bool,
    /// Reports of the current membership, which are resent on every new stream.
    log: Log,
}

impl Session {
    /// The session of a process that has just started.
    pub fn new(identity: Identity) -> Self {
        Self {
            identity,
            epoch: Epoch::default(),
            wanted: Duty::Idle,
            activity: Activity::Nothing,
            memory: None,
            announced: false,
            ended: None,
            prepared: BTreeMap::new(),
            connected: false,
            heard: false,
            terminating: None,
            storing: 0,
            log: Log::default(),
        }
    }

    /// Records an event and returns the commands that follow from it.
    pub fn handle(&mut self, event: Event) -> Vec<Command> {
        let mut out = Vec::new();
        match event {
            Event::Connected => self.connected(&mut out),
            Event::Disconnected => (self.connected, self.heard) = (false, false),
            Event::Directed(directive) => self.directed(directive, &mut out),
            Event::Prepared { run, shard, outcome } => {
                self.prepared(run, shard, outcome, &mut out);
            }
            Event::Loaded { load, outcome } => self.loaded(load, outcome, &mut out),
            Event::Stepped(place, done) => {
                if let Activity::Training { step, .. } = &mut self.activity {
                    *step = done.step + 1;
                }
                self.log.record(place, done);
            }
            Event::Skipped(place, skipped) => {
                self.log.fact(Report::Skipped(place, skipped));
            }
            Event::Evaluated(place, step, sums) => {
                self.log.fact(Report::Evaluated(place, step, sums));
            }
            Event::PartBegun(place, step) => {
                self.storing += 1;
                self.log.fact(Report::PartBegun(place, step));
            }
            Event::PartSaved(place, step, Ok(part)) => {
                self.storing -= 1;
                self.log.fact(Report::PartSaved(place, step, part));
            }
            Event::PartSaved(place, step, Err(message)) => {
                self.storing -= 1;
                self.log.fact(Report::PartFailed(place, step, message));
            }
            Event::Ended(generation, end) => self.ended(generation, end),
            Event::Terminate { deadline } => {
                if self.terminating.replace(deadline).is_none() && self.connected {
                    out.push(Command::Send(Report::Leaving { deadline }));
                }
            }
        }
        self.settle(&mut out);
        out
    }

    /// Whether reports of the membership are still to be sent on the current stream.
    pub fn has_more(&self) -> bool {
        self.heard && self.log.has_more()
    }

    /// The next report of the membership for the current stream; none before the coordinator has sent a directive on
    /// it. These are not commands, since there can be more of them than a stream accepts at once.
    pub fn next_report(&mut self) -> Option<Report> {
        self.heard.then(|| self.log.next()).flatten()
    }

    fn connected(&mut self, out: &mut Vec<Command>) {
        self.connected = true;
        let i = self.identity.clone();
        out.push(Command::Send(Report::Hello(Hello {
            protocol: proto::PROTOCOL,
            worker: i.worker,
            incarnation: i.incarnation,
            device: i.device,
            threads: i.threads,
            ring: i.ring,
            attachment: self.attachment(),
            last_end: i.last_end,
        })));
        if let Some(deadline) = self.terminating {
            out.push(Command::Send(Report::Leaving { deadline }));
        }
        self.announced = false;
    }

    /// The membership in which this worker trains, or one that has ended here without the coordinator necessarily
    /// knowing.
    fn attachment(&self) -> Option<Attachment> {
        let (train, step) = match (&self.activity, &self.wanted) {
            (Activity::Training { train, step, aborting: false }, _) => (&**train, *step),
            (Activity::Nothing, Duty::Train(train)) if self.has_ended(train) => (train, 0),
            _ => return None,
        };
        Some(Attachment { place: train.place(), step })
    }

    fn directed(&mut self, directive: Directive, out: &mut Vec<Command>) {
        // A coordinator that has been replaced may still send directives for a moment.
        if directive.epoch < self.epoch {
            return;
        }
        self.epoch = directive.epoch;
        out.push(Command::Beat(directive.beat));
        if !std::mem::replace(&mut self.heard, true) {
            self.log.rewind(directive.heard);
            self.identity.last_end = None;
        }
        if let Duty::Prepare(p) = &directive.duty {
            for shard in &p.shards {
                let done = self.prepared.get(&(p.fingerprint.clone(), shard.index));
                if let Some(outcome) = done.cloned() {
                    let (run, shard) = (p.run.clone(), shard.index);
                    self.say(Report::ShardPrepared { run, shard, outcome }, out);
                }
            }
        }
        // The coordinator did not accept what was announced. The base model may be repaired before it is asked for
        // again, so it must be read again.
        let announced = std::mem::replace(&mut self.announced, false);
        if announced && matches!(directive.duty, Duty::Idle) {
            self.memory = None;
        }
        self.wanted = directive.duty;
    }

    fn prepared(
        &mut self,
        run: RunId,
        shard: u32,
        outcome: Result<ShardOutcome, Trouble>,
        out: &mut Vec<Command>,
    ) {
        self.activity = Activity::Nothing;
        let fingerprint = match &self.wanted {
            Duty::Prepare(p) if p.run == run => p.fingerprint.clone(),
            _ => return,
        };
        match outcome {
            Ok(outcome) => {
                self.prepared.insert((fingerprint, shard), outcome.clone());
                self.say(Report::ShardPrepared { run, shard, outcome }, out);
            }
            Err(trouble) => {
                // Wait until the coordinator directs it again, if it does.
                self.wanted = Duty::Idle;
                self.trouble(run, trouble, out);
            }
        }
    }

    fn loaded(&mut self, load: Load, outcome: Result<String, Trouble>, out: &mut Vec<Command>) {
        self.activity = Activity::Nothing;
        let wanted = match &self.wanted {
            Duty::Load(wanted) => *wanted == load,
            Duty::Train(train) => train.load == load,
            Duty::Idle | Duty::Prepare(_) | Duty::Dismissed { .. } | Duty::NotNow { .. } => false,
        };
        match outcome {
            Ok(base_digest) => self.memory = Some((load, base_digest)),
            Err(trouble) if wanted => {
                self.wanted = Duty::Idle;
                self.trouble(load.run, trouble, out);
            }
            // A later directive has replaced this duty, so its failure no longer matters.
            Err(_) => {}
        }
    }

    fn ended(&mut self, generation: Generation, end: End) {
        let Activity::Training { train, .. } = &self.activity else {
            return;
        };
        if train.generation != generation {
            return;
        }
        let run = train.load.run.clone();
        self.activity = Activity::Nothing;
        self.ended = Some((run.clone(), generation));
        match end {
            End::Stopped { step } => self.log.fact(Report::Stopped { run, generation, step }),
            End::Aborted => {}
            End::Failed { step, trouble } => {
                self.log.fact(trouble.report(run, generation, step));
            }
        }
    }

    /// Reports a failure outside training. A coordinator that misses it directs the same duty again.
    fn trouble(&mut self, run: RunId, trouble: Trouble, out: &mut Vec<Command>) {
        self.say(trouble.report(run, Generation::default(), 0), out);
    }

    /// Sends a report that need not be kept: the coordinator asks again if it misses it.
    fn say(&self, report: Report, out: &mut Vec<Command>) {
        out.extend(self.heard.then_some(Command::Send(report)));
    }

    /// Takes the next step from what this process is doing towards what it should be doing.
    fn settle(&mut self, out: &mut Vec<Command>) {
        // Without a connection, no coordinator can arrange its departure.
        let alone = self.may_go() && !self.connected;
        match &mut self.activity {
            Activity::Nothing if alone => out.push(Command::Exit(Exit::Drained)),
            Activity::Training { aborting, .. } if alone => {
                let new = !std::mem::replace(aborting, true);
                out.extend(new.then_some(Command::Abort));
            }
            Activity::Preparing { .. } | Activity::Loading => {}
            Activity::Training { train, aborting, .. } => match &self.wanted {
                Duty::Train(t) if t.place() == train.place() => {
                    let new = t.stop && !std::mem::replace(&mut train.stop, true);
                    out.extend(new.then_some(Command::Stop));
                }
                _ if !*aborting => {
                    *aborting = true;
                    out.push(Command::Abort);
                }
                _ => {}
            },
            Activity::Nothing => self.begin(out),
        }
    }

    /// Begins the wanted duty.
    fn begin(&mut self, out: &mut Vec<Command>) {
        match self.wanted.clone() {
            Duty::Idle if self.may_go() => out.push(Command::Exit(Exit::Drained)),
            // `NotNow` is handled by the agent, which tries again later; it never arrives here.
            Duty::Idle | Duty::NotNow { .. } => {}
            Duty::Dismissed { reason, why: Dismissal::Refused } => {
                out.push(Command::Exit(Exit::Refused(reason)));
            }
            Duty::Dismissed { why, .. } => out.push(Command::Exit(Exit::Dismissed(why))),
            Duty::Prepare(p) => {
                let open =
                    |s: &&RawShard| !self.prepared.contains_key(&(p.fingerprint.clone(), s.index));
                let Some(shard) = p.shards.iter().find(open).cloned() else {
                    return;
                };
                self.activity = Activity::Preparing { run: p.run.clone() };
                out.push(Command::Prepare {
                    run: p.run,
                    spec_yaml: p.spec_yaml,
                    fingerprint: p.fingerprint,
                    shard,
                });
            }
            Duty::Load(load) => {
                let ready = self.fetch(&load, out) && self.heard;
                if ready && !std::mem::replace(&mut self.announced, true) {
                    let base_digest = self.memory.as_ref().map(|(_, digest)| digest.clone());
                    let base_digest = base_digest.unwrap_or_default();
                    self.say(Report::Loaded { run: load.run, base_digest }, out);
                }
            }
            Duty::Train(train) => {
                if !self.has_ended(&train) && self.fetch(&train.load, out) {
                    self.log.renew();
                    let step = 0;
                    let boxed = Box::new(train.clone());
                    self.activity = Activity::Training { train: boxed, step, aborting: false };
                    out.push(Command::Train(train));
                }
            }
        }
    }

    /// Whether it was asked to terminate and has no snapshot left to store.
    fn may_go(&self) -> bool {
        self.terminating.is_some() && self.storing == 0
    }

    /// Whether this membership's training thread, or a later one of the run, has ended here.
    fn has_ended(&self, train: &Train) -> bool {
        let over = |(run, ended): &(RunId, Generation)| {
            *run == train.load.run && train.generation <= *ended
        };
        self.ended.as_ref().is_some_and(over)
    }

    /// Whether `load` is in memory; if not, starts loading it.
    fn fetch(&mut self, load: &Load, out: &mut Vec<Command>) -> bool {
        if self.memory.as_ref().is_some_and(|(loaded, _)| loaded == load) {
            return true;
        }
        self.memory = None;
        self.activity = Activity::Loading;
        out.push(Command::Load(load.clone()));
        false
    }
}

#[cfg(test)]
mod tests;

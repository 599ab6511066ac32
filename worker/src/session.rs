//! The worker's side of the protocol, pure: events in, commands out, so that a simulation runs the real thing.
//!
//! A directive says the whole of what this worker should be doing. The session remembers the last one (`wanted`) and
//! what the process is really doing (`activity`), and `settle` takes the next step from the one to the other. Work in
//! progress is never forgotten: a training thread that should not run is aborted, and only its end lets the next duty
//! begin.

mod log;
mod trouble;

use log::Log;
use proto::id::{Epoch, Generation, Incarnation, RunId, WorkerId};
use proto::protocol::{
    Attachment, Directive, Duty, Hello, Load, Place, RawShard, Report, SavedPart, ShardOutcome,
    SourceSum, StepDone, Train,
};
use proto::receipt::Skipped;
use std::collections::BTreeMap;
use std::time::Duration;
pub use trouble::Trouble;

/// What this process is, for its hello.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Its slot.
    pub worker: WorkerId,
    /// Its process.
    pub incarnation: Incarnation,
    /// The kind of device.
    pub device: String,
    /// Computing threads.
    pub threads: u32,
    /// Where peers reach its collective listener.
    pub ring: String,
    /// How the process before it in its slot ended: said until a coordinator has heard it.
    pub last_end: Option<String>,
}

/// How a training thread ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: after the last step, or after a stop, with a checkpoint.
    Stopped {
        /// Steps committed.
        step: u64,
    },
    /// Because it was told to.
    Aborted,
    /// By itself.
    Failed {
        /// Steps committed.
        step: u64,
        /// Why.
        trouble: Trouble,
    },
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// A stream to the coordinator is open.
    Connected,
    /// It broke.
    Disconnected,
    /// The coordinator said what to do.
    Directed(Directive),
    /// A raw shard is tokenized and stored, or cannot be.
    Prepared {
        /// The run.
        run: RunId,
        /// The raw shard.
        shard: u32,
        /// What came of it.
        outcome: Result<ShardOutcome, Trouble>,
    },
    /// Base and data are in memory, or cannot be.
    Loaded {
        /// What was loaded.
        load: Load,
        /// The digest of the state that training begins with, or why not.
        outcome: Result<String, Trouble>,
    },
    /// The training thread committed a step.
    Stepped(Place, StepDone),
    /// That step changed nothing.
    Skipped(Place, Skipped),
    /// It measured its share of the held-out set.
    Evaluated(Place, u64, Vec<SourceSum>),
    /// It has taken a snapshot, which is being stored.
    PartBegun(Place, u64),
    /// Its part of a checkpoint is stored, or why not.
    PartSaved(Place, u64, Result<SavedPart, String>),
    /// It is over.
    Ended(Generation, End),
    /// This process was told to go.
    Terminate {
        /// How long it can stay.
        deadline: Duration,
    },
}

/// What the agent is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Tell the coordinator, after what [`Session::next_report`] has to say.
    Send(Report),
    /// Beat so often.
    Beat(Duration),
    /// Tokenize and store a raw shard.
    Prepare {
        /// The run.
        run: RunId,
        /// Its resolved spec.
        spec_yaml: String,
        /// Names the prepared data set.
        fingerprint: String,
        /// The raw shard.
        shard: RawShard,
    },
    /// Bring base and data into memory, in place of what is there.
    Load(Load),
    /// Start the training thread.
    Train(Train),
    /// Let it stop after its current step, with a checkpoint.
    Stop,
    /// End it now; it answers with [`Event::Ended`].
    Abort,
    /// End the process.
    Exit(Exit),
}

/// How the process ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The coordinator has no more use for it.
    Dismissed,
    /// The coordinator does not want it, and never will.
    Refused(String),
    /// It was told to go.
    Drained,
}

#[derive(Clone, Debug, PartialEq)]
enum Activity {
    Nothing,
    Preparing { run: RunId },
    Loading,
    Training { train: Box<Train>, step: u64, aborting: bool },
}

/// The worker's state.
pub struct Session {
    identity: Identity,
    epoch: Epoch,
    wanted: Duty,
    activity: Activity,
    memory: Option<(Load, String)>,
    /// The coordinator was told that `memory` is what it asked for.
    announced: bool,
    /// The membership whose training thread has ended here: it is not started again. Each run counts its own.
    ended: Option<(RunId, Generation)>,
    prepared: BTreeMap<(String, u32), ShardOutcome>,
    connected: bool,
    /// It was told to go, and how long it can stay.
    terminating: Option<Duration>,
    /// Snapshots that are being stored.
    storing: usize,
    /// The coordinator has spoken on this stream. Before that it may still be waiting for other members to come back,
    /// and would drop what belongs to a membership.
    heard: bool,
    /// What there is to say of the present membership: said again on every new stream.
    log: Log,
}

impl Session {
    /// A process that has just begun.
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

    /// Notes what happened and says what to do about it.
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

    /// Whether the present stream has not yet had everything that there is to say of the membership.
    pub fn has_more(&self) -> bool {
        self.heard && self.log.has_more()
    }

    /// The next thing to say of the membership: reports that are no commands, since there can be more of them than a
    /// stream takes at once. None before the coordinator has spoken on the present stream.
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

    /// The membership that it trains in, or has trained in to an end that may not have been heard.
    fn attachment(&self) -> Option<Attachment> {
        let (train, step) = match (&self.activity, &self.wanted) {
            (Activity::Training { train, step, aborting: false }, _) => (&**train, *step),
            (Activity::Nothing, Duty::Train(train)) if self.has_ended(train) => (train, 0),
            _ => return None,
        };
        Some(Attachment { place: train.place(), step })
    }

    fn directed(&mut self, directive: Directive, out: &mut Vec<Command>) {
        // A coordinator that another has replaced may still speak for a moment.
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
        // What was announced is not taken as it is. Somebody may mend it before it is asked for again.
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
                // Until the coordinator directs it again, if it does.
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
            // What came meanwhile stands, and nobody asks any more.
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

    /// A failure outside training. A coordinator that has not heard of it asks for the same again.
    fn trouble(&mut self, run: RunId, trouble: Trouble, out: &mut Vec<Command>) {
        self.say(trouble.report(run, Generation::default(), 0), out);
    }

    /// Says something that the coordinator will ask for again if it misses it.
    fn say(&self, report: Report, out: &mut Vec<Command>) {
        out.extend(self.heard.then_some(Command::Send(report)));
    }

    /// Takes the next step from what this process is doing to what it should be doing.
    fn settle(&mut self, out: &mut Vec<Command>) {
        // Nobody is there to arrange its leave.
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
            // For the agent, which tries again later: it is not passed on.
            Duty::Idle | Duty::NotNow { .. } => {}
            Duty::Dismissed { reason, refused: true } => {
                out.push(Command::Exit(Exit::Refused(reason)));
            }
            Duty::Dismissed { refused: false, .. } => out.push(Command::Exit(Exit::Dismissed)),
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

    /// It was told to go, and nobody waits for what only this process has.
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

    /// Whether `load` is in memory; if not, it is being brought there.
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

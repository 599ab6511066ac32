//! The worker's side of the protocol, pure: events in, commands out, so that a simulation runs the real thing.
//!
//! A directive says the whole of what this worker should be doing. The session remembers the last one (`wanted`) and
//! what the process is really doing (`activity`), and `settle` takes the next step from the one to the other. Work in
//! progress is never forgotten: a training thread that should not run is aborted, and only its end lets the next duty
//! begin.

use proto::id::{Epoch, Generation, Incarnation, RunId, WorkerId};
use proto::manifest::File;
use proto::protocol::{
    Attachment, Cause, Directive, Duty, Hello, Load, Place, RawShard, Report, ShardOutcome,
    SourceSum, StepDone, Train,
};
use proto::receipt::Skipped;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// Reports that wait for a connection; the oldest step figures are forgotten first.
const BACKLOG: usize = 1024;

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
}

/// A failure, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whose fault.
    pub cause: Cause,
    /// In words, with the hint.
    pub message: String,
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
        /// Why not.
        outcome: Result<(), Trouble>,
    },
    /// The training thread committed a step.
    Stepped(Place, StepDone),
    /// That step changed nothing.
    Skipped(Place, Skipped),
    /// It measured its share of the held-out set.
    Evaluated(Place, u64, Vec<SourceSum>),
    /// Its part of a checkpoint is stored, or cannot be.
    PartSaved(Place, u64, Result<Vec<File>, Trouble>),
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
    /// Tell the coordinator.
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
    Training { train: Train, step: u64, aborting: bool },
}

/// The worker's state.
pub struct Session {
    identity: Identity,
    epoch: Epoch,
    wanted: Duty,
    activity: Activity,
    memory: Option<Load>,
    /// The coordinator was told that `memory` is what it asked for.
    announced: bool,
    /// The membership whose training thread has ended here: it is not started again. Each run counts its own.
    ended: Option<(RunId, Generation)>,
    prepared: BTreeMap<(String, u32), ShardOutcome>,
    connected: bool,
    /// It was told to go, and how long it can stay.
    terminating: Option<Duration>,
    /// The coordinator has spoken on this stream. Before that it may still be waiting for other members to come back,
    /// and would drop what belongs to a membership.
    heard: bool,
    backlog: VecDeque<Report>,
    /// What the coordinator must not miss of the present membership: said again on every new stream.
    facts: Vec<Report>,
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
            backlog: VecDeque::new(),
            facts: Vec::new(),
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
                self.say(Report::StepDone(place, done), &mut out);
            }
            Event::Skipped(place, skipped) => {
                self.state(Report::Skipped(place, skipped), &mut out);
            }
            Event::Evaluated(place, step, sums) => {
                self.state(Report::Evaluated(place, step, sums), &mut out);
            }
            Event::PartSaved(place, step, Ok(files)) => {
                self.state(Report::PartSaved(place, step, files), &mut out);
            }
            Event::PartSaved(Place { run, generation, .. }, step, Err(trouble)) => {
                let Trouble { cause, message } = trouble;
                self.state(Report::Trouble { run, generation, step, cause, message }, &mut out);
            }
            Event::Ended(generation, end) => self.ended(generation, end, &mut out),
            Event::Terminate { deadline } => {
                if self.terminating.replace(deadline).is_none() && self.connected {
                    out.push(Command::Send(Report::Leaving { deadline }));
                }
            }
        }
        self.settle(&mut out);
        out
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
        })));
        if let Some(deadline) = self.terminating {
            out.push(Command::Send(Report::Leaving { deadline }));
        }
        self.announced = false;
    }

    /// The membership that it trains in, or has trained in to an end that may not have been heard.
    fn attachment(&self) -> Option<Attachment> {
        let (train, step) = match (&self.activity, &self.wanted) {
            (Activity::Training { train, step, aborting: false }, _) => (train, *step),
            (Activity::Nothing, Duty::Train(train)) if self.has_ended(train) => (train, 0),
            _ => return None,
        };
        Some(Attachment {
            run: train.load.run.clone(),
            generation: train.generation,
            lineage: train.lineage,
            step,
        })
    }

    fn directed(&mut self, directive: Directive, out: &mut Vec<Command>) {
        // A coordinator that another has replaced may still speak for a moment.
        if directive.epoch < self.epoch {
            return;
        }
        self.epoch = directive.epoch;
        out.push(Command::Beat(directive.beat));
        if !std::mem::replace(&mut self.heard, true) {
            let again = self.facts.iter().cloned().chain(self.backlog.drain(..));
            out.extend(again.map(Command::Send));
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
        self.announced = false;
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
                // The run fails by it; until the coordinator has said so there is nothing to do.
                self.wanted = Duty::Idle;
                self.trouble(run, trouble, out);
            }
        }
    }

    fn loaded(&mut self, load: Load, outcome: Result<(), Trouble>, out: &mut Vec<Command>) {
        self.activity = Activity::Nothing;
        match outcome {
            Ok(()) => self.memory = Some(load),
            Err(trouble) => {
                self.wanted = Duty::Idle;
                self.trouble(load.run, trouble, out);
            }
        }
    }

    fn ended(&mut self, generation: Generation, end: End, out: &mut Vec<Command>) {
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
            End::Stopped { step } => self.state(Report::Stopped { run, generation, step }, out),
            End::Aborted => {}
            End::Failed { step, trouble: Trouble { cause, message } } => {
                self.state(Report::Trouble { run, generation, step, cause, message }, out);
            }
        }
    }

    /// A failure outside training. Whoever has not heard of it asks for the same again.
    fn trouble(&mut self, run: RunId, trouble: Trouble, out: &mut Vec<Command>) {
        let (generation, step) = (Generation::default(), 0);
        let Trouble { cause, message } = trouble;
        self.say(Report::Trouble { run, generation, step, cause, message }, out);
    }

    /// Says something that the coordinator can do without.
    fn say(&mut self, report: Report, out: &mut Vec<Command>) {
        if self.heard {
            out.push(Command::Send(report));
            return;
        }
        self.backlog.push_back(report);
        if self.backlog.len() > BACKLOG {
            self.backlog.pop_front();
        }
    }

    /// Says something that the coordinator must not miss, now and on every new stream.
    fn state(&mut self, report: Report, out: &mut Vec<Command>) {
        self.facts.push(report.clone());
        if self.heard {
            out.push(Command::Send(report));
        }
    }

    /// Takes the next step from what this process is doing to what it should be doing.
    fn settle(&mut self, out: &mut Vec<Command>) {
        if self.terminating.is_some()
            && !self.connected
            && matches!(self.activity, Activity::Nothing)
        {
            out.push(Command::Exit(Exit::Drained));
            return;
        }
        match &mut self.activity {
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
            Duty::Idle if self.terminating.is_some() => out.push(Command::Exit(Exit::Drained)),
            Duty::Idle => {}
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
                    self.say(Report::Loaded { run: load.run }, out);
                }
            }
            Duty::Train(train) => {
                if !self.has_ended(&train) && self.fetch(&train.load, out) {
                    self.facts.clear();
                    let step = 0;
                    self.activity =
                        Activity::Training { train: train.clone(), step, aborting: false };
                    out.push(Command::Train(train));
                }
            }
        }
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
        if self.memory.as_ref() == Some(load) {
            return true;
        }
        self.memory = None;
        self.activity = Activity::Loading;
        out.push(Command::Load(load.clone()));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::id::Lineage;

    fn session() -> Session {
        let mut session = Session::new(Identity {
            worker: WorkerId::new("w"),
            incarnation: Incarnation::new("i"),
            device: "cpu".into(),
            threads: 1,
            ring: "127.0.0.1:1".into(),
        });
        let hello = session.handle(Event::Connected);
        assert!(matches!(&hello[..], [Command::Send(Report::Hello(_))]), "{hello:?}");
        session
    }

    fn load() -> Load {
        Load {
            run: RunId::new("r"),
            spec_yaml: "s".into(),
            fingerprint: "f".into(),
            plan_digest: "d".into(),
        }
    }

    fn train(generation: u64) -> Train {
        Train {
            load: load(),
            generation: Generation(generation),
            lineage: Lineage(generation),
            rank: 0,
            members: vec!["127.0.0.1:1".into()],
            ring_key: [0; 32],
            checkpoint: None,
            evaluate_first: false,
            stop: false,
        }
    }

    fn directed(session: &mut Session, duty: Duty) -> Vec<Command> {
        at_epoch(session, 1, duty)
    }

    fn at_epoch(session: &mut Session, epoch: u64, duty: Duty) -> Vec<Command> {
        let beat = Duration::from_millis(500);
        let mut commands =
            session.handle(Event::Directed(Directive { epoch: Epoch(epoch), beat, duty }));
        commands.retain(|c| !matches!(c, Command::Beat(_)));
        commands
    }

    fn training(generation: u64) -> Session {
        let mut session = session();
        directed(&mut session, Duty::Load(load()));
        session.handle(Event::Loaded { load: load(), outcome: Ok(()) });
        directed(&mut session, Duty::Train(train(generation)));
        session
    }

    #[test]
    fn a_load_is_announced_once() {
        let mut s = session();
        assert_eq!(directed(&mut s, Duty::Load(load())), [Command::Load(load())]);
        let loaded = s.handle(Event::Loaded { load: load(), outcome: Ok(()) });
        let said = Command::Send(Report::Loaded { run: RunId::new("r") });
        assert_eq!(loaded, std::slice::from_ref(&said));
        assert_eq!(s.handle(Event::Disconnected), []);
        assert_eq!(s.handle(Event::Connected).len(), 1, "the hello");
        assert_eq!(directed(&mut s, Duty::Load(load())), [said], "a new stream is told again");
    }

    #[test]
    fn a_newer_generation_waits_for_the_end_of_the_older() {
        let mut s = training(1);
        assert_eq!(directed(&mut s, Duty::Train(train(2))), [Command::Abort]);
        assert_eq!(directed(&mut s, Duty::Train(train(2))), [], "aborted once");
        let next = s.handle(Event::Ended(Generation(1), End::Aborted));
        assert_eq!(next, [Command::Train(train(2))]);
    }

    #[test]
    fn an_ended_generation_is_not_started_again() {
        let mut s = training(1);
        let stopped = s.handle(Event::Ended(Generation(1), End::Stopped { step: 9 }));
        assert_eq!(
            stopped,
            [Command::Send(Report::Stopped {
                run: RunId::new("r"),
                generation: Generation(1),
                step: 9
            })]
        );
        assert_eq!(directed(&mut s, Duty::Train(train(1))), []);
    }

    #[test]
    fn the_next_run_counts_its_generations_anew() {
        let mut s = training(1);
        directed(&mut s, Duty::Idle);
        s.handle(Event::Ended(Generation(1), End::Aborted));
        let load = Load { run: RunId::new("next"), ..load() };
        directed(&mut s, Duty::Load(load.clone()));
        s.handle(Event::Loaded { load: load.clone(), outcome: Ok(()) });
        let train = Train { load, ..train(1) };
        let out = directed(&mut s, Duty::Train(train.clone()));
        assert_eq!(out.last(), Some(&Command::Train(train)));
    }

    #[test]
    fn a_broken_stream_does_not_stop_training() {
        let mut s = training(1);
        assert_eq!(s.handle(Event::Disconnected), []);
        let place = train(1).place();
        assert_eq!(s.handle(Event::PartSaved(place.clone(), 5, Ok(vec![]))), []);
        let hello = s.handle(Event::Connected);
        let [Command::Send(Report::Hello(h))] = &hello[..] else { panic!("{hello:?}") };
        assert_eq!(h.attachment.as_ref().map(|a| a.generation), Some(Generation(1)));
        // What the coordinator must not miss waits until it has taken the membership up again.
        let part = |step| Command::Send(Report::PartSaved(place.clone(), step, vec![]));
        assert_eq!(s.handle(Event::PartSaved(place.clone(), 6, Ok(vec![]))), []);
        assert_eq!(directed(&mut s, Duty::Train(train(1))), [part(5), part(6)]);
        assert_eq!(s.handle(Event::PartSaved(place.clone(), 7, Ok(vec![]))), [part(7)]);
    }

    #[test]
    fn a_deposed_coordinator_is_not_obeyed() {
        let mut s = training(1);
        at_epoch(&mut s, 2, Duty::Train(train(1)));
        assert_eq!(at_epoch(&mut s, 1, Duty::Idle), []);
    }

    #[test]
    fn a_stop_is_passed_on_once() {
        let mut s = training(1);
        let stop = Train { stop: true, ..train(1) };
        assert_eq!(directed(&mut s, Duty::Train(stop.clone())), [Command::Stop]);
        assert_eq!(directed(&mut s, Duty::Train(stop)), []);
    }

    #[test]
    fn a_terminated_worker_leaves_when_it_has_nothing_to_do() {
        let mut s = training(1);
        let deadline = Duration::from_secs(20);
        let said = s.handle(Event::Terminate { deadline });
        assert_eq!(said, [Command::Send(Report::Leaving { deadline })]);
        assert_eq!(directed(&mut s, Duty::Idle), [Command::Abort]);
        let exit = s.handle(Event::Ended(Generation(1), End::Aborted));
        assert_eq!(exit, [Command::Exit(Exit::Drained)]);
    }

    #[test]
    fn a_failed_training_is_said_again_on_every_new_stream() {
        let mut s = training(1);
        let trouble = Trouble { cause: Cause::Internal, message: "broken".into() };
        let said = s.handle(Event::Ended(Generation(1), End::Failed { step: 3, trouble }));
        assert!(matches!(&said[..], [Command::Send(Report::Trouble { .. })]), "{said:?}");
        s.handle(Event::Disconnected);
        let again = s.handle(Event::Connected);
        let [Command::Send(Report::Hello(hello))] = &again[..] else {
            panic!("{again:?}");
        };
        assert_eq!(directed(&mut s, Duty::Train(train(1))), said, "once it listens");
        let attached = hello.attachment.as_ref().map(|a| a.generation);
        assert_eq!(attached, Some(Generation(1)), "so that a restarted coordinator hears it");
    }

    #[test]
    fn a_leave_is_said_again_on_every_new_stream() {
        let mut s = training(1);
        let deadline = Duration::from_secs(20);
        s.handle(Event::Disconnected);
        assert_eq!(s.handle(Event::Terminate { deadline }), []);
        for _ in 0..2 {
            let again = s.handle(Event::Connected);
            assert_eq!(again[1..], [Command::Send(Report::Leaving { deadline })]);
            s.handle(Event::Disconnected);
        }
    }

    #[test]
    fn shards_are_prepared_one_by_one_and_reported_again_when_asked_again() {
        let shard = |index| RawShard {
            index,
            source: 0,
            url: "u".into(),
            bytes: 1,
            etag: None,
            modified_ms: 0,
            range: 0..1,
        };
        let duty = |shards: &[u32]| {
            Duty::Prepare(proto::protocol::Prepare {
                run: RunId::new("r"),
                spec_yaml: "s".into(),
                fingerprint: "f".into(),
                shards: shards.iter().map(|i| shard(*i)).collect(),
            })
        };
        let mut s = session();
        let begun = directed(&mut s, duty(&[0, 1]));
        assert!(matches!(&begun[..], [Command::Prepare { shard, .. }] if shard.index == 0));
        let done = Event::Prepared {
            run: RunId::new("r"),
            shard: 0,
            outcome: Ok(ShardOutcome { parts: vec![3], ..ShardOutcome::default() }),
        };
        let next = s.handle(done);
        assert!(
            matches!(&next[..], [
                Command::Send(Report::ShardPrepared { shard: 0, outcome, .. }),
                Command::Prepare { shard, .. }
            ] if shard.index == 1 && outcome.parts == [3]),
            "{next:?}"
        );
        let again = directed(&mut s, duty(&[0, 1]));
        assert!(matches!(&again[..], [Command::Send(Report::ShardPrepared { shard: 0, .. })]));
    }
}

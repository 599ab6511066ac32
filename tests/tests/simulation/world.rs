//! Processes, streams and virtual time. The seed alone decides what fails and when.

use crate::coordinators::Coordinator;
use crate::data;
use crate::ledger::Ledger;
use crate::training::Thread;
use coordinator::core::{Event, Goal, Settings, Stream};
use proto::event::Fact;
use proto::id::{Generation, Incarnation, RunId, WorkerId};
use proto::protocol::{Cause, Directive, Phase, Report, Train};
use std::collections::BTreeMap;
use std::time::Duration;
use worker::session::{self, End, Exit, Identity, Session, Trouble};

/// Faults happen until this time, and the run must end within [`PATIENCE`] after it.
const FAULTS: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(120);

/// A scheduled event.
pub(crate) enum Next {
    /// An event for the coordinator with this number, if it still runs.
    Core(u64, Event),
    Tick(u64),
    Look(u64),
    Crash(u64),
    Restart,
    /// An event for a process, if it still runs.
    Process(u64, session::Event),
    Directive(u64, Stream, Directive),
    Connect(u64),
    Beat(u64),
    Kill(u64),
    Spawn(usize),
    Joined(u64, Generation),
    GiveUp(u64, Generation),
    Ended(u64, Generation, End),
    Step(Generation),
    Stored(u64, Train, u64),
    Fault,
}

pub(crate) struct Process {
    slot: usize,
    session: Session,
    pub(crate) stream: Option<Stream>,
    pub(crate) ring: String,
    pub(crate) thread: Option<Thread>,
}

pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) cancelled: bool,
    pub(crate) restarts: usize,
    /// Number of coordinators that started beside another one.
    pub(crate) rivals: usize,
    /// Number of coordinators that lost the run to another one.
    pub(crate) deposed: usize,
    random: u64,
    pub(crate) now: Duration,
    agenda: BTreeMap<(Duration, u64), Next>,
    sequence: u64,
    /// Coordinators by number, which is their epoch. There is more than one after a rival has started.
    pub(crate) coordinators: BTreeMap<u64, Coordinator>,
    /// The number of the newest coordinator.
    pub(crate) life: u64,
    pub(crate) asleep_until: Duration,
    pub(crate) processes: BTreeMap<u64, Process>,
    /// The coordinator and the process of each stream.
    pub(crate) streams: BTreeMap<Stream, (u64, u64)>,
    /// The worker of each stream, kept after its end, since its messages may still arrive.
    pub(crate) spoke: BTreeMap<Stream, WorkerId>,
    /// Steps committed by each generation that is training.
    pub(crate) rings: BTreeMap<Generation, u64>,
    /// When the last message on a stream arrives, so that messages keep their order.
    arrivals: BTreeMap<Stream, Duration>,
    pub(crate) settings: Settings,
}

pub(crate) fn run() -> RunId {
    RunId::new("r")
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            ledger: Ledger::default(),
            cancelled: false,
            restarts: 0,
            rivals: 0,
            deposed: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            sequence: 0,
            coordinators: BTreeMap::new(),
            life: 0,
            asleep_until: Duration::ZERO,
            processes: BTreeMap::new(),
            streams: BTreeMap::new(),
            spoke: BTreeMap::new(),
            rings: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            settings: Settings {
                name: "r".into(),
                identity: "spec".into(),
                goal: Goal::Model,
                min_workers: 1,
                max_workers: 1,
                keep: 1,
                evaluates: true,
                evaluate_at_start: false,
                trained: vec!["a".into()],
                evaluated: vec!["a".into()],
            },
        };
        world.settings.min_workers = world.below(2) as usize + 1;
        world.settings.max_workers = world.settings.min_workers + world.below(2) as usize;
        world.settings.evaluates = world.chance(2);
        for slot in 0..world.settings.max_workers + world.below(2) as usize {
            world.spawn(slot);
        }
        world.restart();
        world.within(2000, Next::Fault);
        world
    }

    pub(crate) fn run(mut self) -> Self {
        while let Some(((at, sequence), next)) = self.agenda.pop_first() {
            assert!(at < FAULTS + PATIENCE, "the run does not end: {}", self.describe());
            self.now = at;
            let late = at < self.asleep_until
                && matches!(next, Next::Core(..) | Next::Tick(_) | Next::Look(_));
            if late {
                self.agenda.insert((self.asleep_until, sequence), next);
                continue;
            }
            self.happen(next);
            let last = self.ledger.journal.last();
            if matches!(last, Some(Fact::Succeeded { .. } | Fact::Cancelled)) {
                return self;
            }
            assert!(!matches!(last, Some(Fact::Failed { .. })), "{last:?}");
        }
        unreachable!("beats never end")
    }

    fn describe(&self) -> String {
        let status: Vec<_> = self.coordinators.values().map(Coordinator::status).collect();
        let last: Vec<_> = self.ledger.journal.iter().rev().take(4).collect();
        format!("{status:?}; the journal ends, newest first, with {last:?}")
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Core(life, event) => self.tell_core(life, event),
            Next::Tick(life) => {
                if self.coordinators.get(&life).is_some_and(|c| c.is_due(self.now)) {
                    self.tell_core(life, Event::Tick);
                }
            }
            Next::Look(life) => self.look(life),
            Next::Crash(life) => self.crash(life),
            Next::Restart => self.restart(),
            Next::Process(id, event) => self.tell(id, event),
            Next::Directive(id, stream, directive) => {
                if self.processes.get(&id).is_some_and(|p| p.stream == Some(stream)) {
                    self.tell(id, session::Event::Directed(directive));
                }
            }
            Next::Connect(id) => self.connect(id),
            Next::Beat(id) => {
                if self.processes.contains_key(&id) {
                    self.send(id, Report::Beat { step: 0, phase: Phase::Idle, collective: 0 });
                    self.after(500_000, Next::Beat(id));
                }
            }
            Next::Kill(id) => self.kill(id, true),
            Next::Spawn(slot) => self.spawn(slot),
            Next::Joined(id, generation) => self.joined(id, generation),
            Next::GiveUp(id, generation) => self.give_up(id, generation),
            Next::Ended(id, generation, end) => self.ended(id, generation, end),
            Next::Step(generation) => self.step(generation),
            Next::Stored(id, train, step) => self.stored(id, &train, step),
            Next::Fault => self.fault(),
        }
    }

    // ------------------------------------------------------------------------------------ chance and time

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        // Splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators").
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    pub(crate) fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }

    pub(crate) fn faulty(&self) -> bool {
        self.now < FAULTS
    }

    pub(crate) fn at(&mut self, time: Duration, next: Next) {
        self.sequence += 1;
        self.agenda.insert((time, self.sequence), next);
    }

    pub(crate) fn after(&mut self, us: u64, next: Next) {
        self.at(self.now + Duration::from_micros(us), next);
    }

    pub(crate) fn within(&mut self, ms: u64, next: Next) {
        let us = self.below(ms * 1000) + 1;
        self.after(us, next);
    }

    pub(crate) fn arrival(&mut self, stream: Stream) -> Duration {
        let at = self.now + Duration::from_micros(self.below(10_000) + 1);
        let last = self.arrivals.entry(stream).or_default();
        *last = at.max(*last + Duration::from_nanos(1));
        *last
    }

    // -------------------------------------------------------------------------------------------- streams

    fn connect(&mut self, id: u64) {
        let Some(p) = self.processes.get_mut(&id) else { return };
        if p.stream.is_some() {
            return;
        }
        // A coordinator that was replaced sends its workers to the newest one.
        let Some(life) = self.coordinators.keys().next_back().copied() else {
            return self.after(700_000, Next::Connect(id));
        };
        self.sequence += 1;
        let stream = Stream(self.sequence);
        p.stream = Some(stream);
        self.spoke.insert(stream, WorkerId::new(format!("w{}", p.slot)));
        self.streams.insert(stream, (life, id));
        self.tell(id, session::Event::Connected);
    }

    /// Ends a stream, and notifies both sides.
    pub(crate) fn end(&mut self, stream: Stream) {
        if let Some((life, id)) = self.streams.remove(&stream) {
            let at = self.arrival(stream);
            self.at(at, Next::Core(life, Event::Hangup { stream }));
            if self.processes.get(&id).is_some_and(|p| p.stream == Some(stream)) {
                self.tear(id);
            }
        }
    }

    /// Breaks the stream of a process, which reconnects later.
    pub(crate) fn tear(&mut self, id: u64) {
        let Some(p) = self.processes.get_mut(&id) else { return };
        p.stream = None;
        self.tell(id, session::Event::Disconnected);
        let again = self.below(600_000) + 500_000;
        self.after(again, Next::Connect(id));
    }

    fn send(&mut self, id: u64, report: Report) {
        let Some(stream) = self.processes.get(&id).and_then(|p| p.stream) else { return };
        let Some((life, _)) = self.streams.get(&stream).copied() else { return };
        let at = self.arrival(stream);
        self.at(at, Next::Core(life, Event::Reported { stream, report }));
    }

    // ------------------------------------------------------------------------------------------ processes

    fn spawn(&mut self, slot: usize) {
        if self.processes.values().any(|p| p.slot == slot) {
            return;
        }
        self.sequence += 1;
        let id = self.sequence;
        let ring = format!("{slot}:{id}");
        let session = Session::new(Identity {
            worker: WorkerId::new(format!("w{slot}")),
            incarnation: Incarnation::new(id.to_string()),
            device: "cpu".into(),
            threads: 1,
            ring: ring.clone(),
            last_end: None,
        });
        self.processes.insert(id, Process { slot, session, stream: None, ring, thread: None });
        self.within(100, Next::Connect(id));
        self.after(500_000, Next::Beat(id));
    }

    /// Kills a process. If its whole host is lost (`heard` is false), the coordinator is not notified.
    pub(crate) fn kill(&mut self, id: u64, heard: bool) {
        let Some(p) = self.processes.remove(&id) else { return };
        if let Some(thread) = &p.thread {
            self.break_ring(thread.train.generation, thread.train.rank);
        }
        if let Some(stream) = p.stream {
            if heard {
                self.end(stream);
            }
            self.streams.remove(&stream);
        }
        self.within(3000, Next::Spawn(p.slot));
    }

    pub(crate) fn tell(&mut self, id: u64, event: session::Event) {
        let Some(p) = self.processes.get_mut(&id) else { return };
        let commands = p.session.handle(event);
        self.send_reports(id);
        for command in commands {
            self.execute_session(id, command);
        }
    }

    /// Sends the session's pending reports.
    fn send_reports(&mut self, id: u64) {
        while let Some(report) = self.processes.get_mut(&id).and_then(|p| p.session.next_report()) {
            self.send(id, report);
        }
    }

    fn execute_session(&mut self, id: u64, command: session::Command) {
        let broken = self.faulty() && self.chance(20);
        match command {
            session::Command::Send(report) => self.send(id, report),
            session::Command::Beat(_) => {}
            session::Command::Prepare { run, shard, .. } => {
                let outcome = match broken {
                    true => Err(trouble().on_shard(shard.index)),
                    false => Ok(data::outcome(shard.index)),
                };
                let event = session::Event::Prepared { run, shard: shard.index, outcome };
                self.within(400, Next::Process(id, event));
            }
            session::Command::Load(load) => {
                let outcome = if broken { Err(trouble()) } else { Ok("base".to_owned()) };
                self.within(900, Next::Process(id, session::Event::Loaded { load, outcome }));
            }
            session::Command::Train(train) => {
                self.ledger.announced(&run(), &train);
                let generation = train.generation;
                let thread = Thread::new(train);
                let p = self.processes.get_mut(&id).expect("it has just spoken");
                assert!(p.thread.replace(thread).is_none(), "two memberships in one process");
                self.within(300, Next::Joined(id, generation));
                self.after(10_000_000, Next::GiveUp(id, generation));
            }
            session::Command::Stop => {
                let thread = self.processes.get_mut(&id).and_then(|p| p.thread.as_mut());
                thread.expect("it trains").stop = true;
            }
            session::Command::Abort => {
                let thread = self.processes.get_mut(&id).and_then(|p| p.thread.as_mut());
                let thread = thread.expect("it trains");
                thread.aborting = true;
                let (generation, rank) = (thread.train.generation, thread.train.rank);
                self.within(100, Next::Ended(id, generation, End::Aborted));
                self.break_ring(generation, rank);
            }
            session::Command::Exit(Exit::Refused(reason)) => panic!("refused: {reason}"),
            session::Command::Exit(Exit::Dismissed(_) | Exit::Drained) => {
                self.within(50, Next::Kill(id));
            }
        }
    }
}

fn trouble() -> Trouble {
    Trouble::new(Cause::Internal, "chance")
}

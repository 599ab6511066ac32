//! Processes, streams, storage and a coordinator, on virtual time; what fails, and when, is a function of the seed.

use crate::data::{self, SHARDS};
use crate::ledger::{Ledger, STEPS};
use crate::training::Thread;
use coordinator::core::{
    Command, Core, Event, Goal, Notice, PlanOutline, Settings, Stream, Survey, Ticket, Timing,
};
use proto::event::Event as History;
use proto::id::{Epoch, Generation, Incarnation, RunId, WorkerId};
use proto::manifest::Checkpoint;
use proto::protocol::{Cause, Directive, Phase, Report, Train};
use proto::receipt::Receipt;
use std::collections::BTreeMap;
use std::time::Duration;
use worker::session::{self, End, Exit, Identity, Session, Trouble};

/// Faults happen until then; a run must have ended so long after.
const FAULTS: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(120);

/// What will happen.
pub(crate) enum Next {
    /// To the coordinator, if the life that it is meant for still lasts.
    Core(u64, Event),
    Tick(u64),
    Restart,
    /// To a process, if it still lives.
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

pub(crate) struct Coordinator {
    core: Core,
    began: Duration,
    pub(crate) closing: bool,
}

pub(crate) struct World {
    pub(crate) ledger: Ledger,
    pub(crate) cancelled: bool,
    pub(crate) restarts: usize,
    random: u64,
    pub(crate) now: Duration,
    agenda: BTreeMap<(Duration, u64), Next>,
    sequence: u64,
    pub(crate) coordinator: Option<Coordinator>,
    /// Lives of coordinators: the epoch.
    life: u64,
    pub(crate) asleep_until: Duration,
    pub(crate) processes: BTreeMap<u64, Process>,
    streams: BTreeMap<Stream, u64>,
    /// Steps committed by the generations at work.
    pub(crate) rings: BTreeMap<Generation, u64>,
    /// When the last message on a stream arrives: they keep their order.
    arrivals: BTreeMap<Stream, Duration>,
    pub(crate) settings: Settings,
}

fn run() -> RunId {
    RunId::new("r")
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut world = Self {
            ledger: Ledger::default(),
            cancelled: false,
            restarts: 0,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d,
            now: Duration::ZERO,
            agenda: BTreeMap::new(),
            sequence: 0,
            coordinator: None,
            life: 0,
            asleep_until: Duration::ZERO,
            processes: BTreeMap::new(),
            streams: BTreeMap::new(),
            rings: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            settings: Settings {
                name: "r".into(),
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
            assert!(at < FAULTS + PATIENCE, "the run stands still: {}", self.describe());
            self.now = at;
            let late = at < self.asleep_until && matches!(next, Next::Core(..) | Next::Tick(_));
            if late {
                self.agenda.insert((self.asleep_until, sequence), next);
                continue;
            }
            self.happen(next);
            let last = self.ledger.journal.last();
            if matches!(last, Some(History::Succeeded { .. } | History::Cancelled)) {
                return self;
            }
            assert!(!matches!(last, Some(History::Failed { .. })), "{last:?}");
        }
        unreachable!("beats never end")
    }

    fn describe(&self) -> String {
        let status = self.coordinator.as_ref().and_then(|c| c.core.status(&run()));
        let last: Vec<_> = self.ledger.journal.iter().rev().take(4).collect();
        format!("{status:?}; the journal ends, newest first, with {last:?}")
    }

    fn happen(&mut self, next: Next) {
        match next {
            Next::Core(life, event) => {
                if life == self.life {
                    self.tell_core(event);
                }
            }
            Next::Tick(life) => {
                let due = |c: &Coordinator, now| {
                    c.core.next_deadline().is_some_and(|d| c.began + d <= now)
                };
                if life == self.life && self.coordinator.as_ref().is_some_and(|c| due(c, self.now))
                {
                    self.tell_core(Event::Tick);
                }
            }
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

    fn at(&mut self, time: Duration, next: Next) {
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

    fn arrival(&mut self, stream: Stream) -> Duration {
        let at = self.now + Duration::from_micros(self.below(10_000) + 1);
        let last = self.arrivals.entry(stream).or_default();
        *last = at.max(*last + Duration::from_nanos(1));
        *last
    }

    // ---------------------------------------------------------------------------------------- coordinator

    fn restart(&mut self) {
        if self.coordinator.is_some() {
            return;
        }
        self.life += 1;
        let timing = Timing { fruitless_generations: 1000, ..Timing::default() };
        let mut core = Core::new(timing, Epoch(self.life), [0; 32]);
        let history = self.ledger.journal.clone();
        let commands = if history.is_empty() {
            let settings = self.settings.clone();
            core.handle(
                Duration::ZERO,
                Event::Submit {
                    ticket: Ticket(0),
                    run: run(),
                    idempotency_key: "key".into(),
                    spec_yaml: "spec".into(),
                    settings,
                },
            )
        } else {
            self.restarts += 1;
            let resume = matches!(history.last(), Some(History::Paused { .. }));
            core.adopt(Duration::ZERO, run(), None, self.settings.clone(), history, resume)
        };
        self.coordinator = Some(Coordinator { core, began: self.now, closing: false });
        self.execute(commands);
    }

    pub(crate) fn crash(&mut self) {
        self.coordinator = None;
        for (_, id) in std::mem::take(&mut self.streams) {
            self.tear(id);
        }
        self.within(8000, Next::Restart);
    }

    pub(crate) fn tell_core(&mut self, event: Event) {
        let Some(c) = &mut self.coordinator else { return };
        let commands = c.core.handle(self.now - c.began, event);
        self.execute(commands);
    }

    fn execute(&mut self, commands: Vec<Command>) {
        for command in commands {
            let fragile = self.faulty() && matches!(command, Command::Journal { .. });
            if fragile && self.chance(60) {
                return self.crash();
            }
            self.command(command);
            if fragile && self.chance(60) {
                return self.crash();
            }
        }
        let Some(c) = &self.coordinator else { return };
        let paused = matches!(self.ledger.journal.last(), Some(History::Paused { .. }));
        if c.closing && paused {
            return self.crash();
        }
        if let Some(deadline) = c.core.next_deadline() {
            let at = (c.began + deadline).max(self.now);
            self.at(at, Next::Tick(self.life));
        }
    }

    fn command(&mut self, command: Command) {
        let life = self.life;
        match command {
            Command::Journal { events, .. } => {
                self.cancelled |= events.contains(&History::Cancelled);
                self.ledger.journal(events);
            }
            Command::JournalPool(_) | Command::Answer { .. } => {}
            Command::Direct { stream, directive } => {
                if let Some(id) = self.streams.get(&stream).copied() {
                    let at = self.arrival(stream);
                    self.at(at, Next::Directive(id, stream, directive));
                }
            }
            Command::Close { stream } => self.end(stream),
            Command::Survey { run } => {
                let shards = (0..SHARDS).map(data::raw_shard).collect();
                let outcome = Ok(Survey { fingerprint: "f".into(), shards, cached: false });
                self.within(300, Next::Core(life, Event::Surveyed { run, outcome }));
            }
            Command::Plan { run, prepared, .. } => {
                data::assert_whole(&prepared.expect("nothing is cached"));
                let summary = serde_json::Value::Null;
                let outcome = Ok(PlanOutline {
                    digest: "d".into(),
                    steps: STEPS,
                    receipt: Receipt::default(),
                    summary,
                });
                self.within(300, Next::Core(life, Event::Planned { run, outcome }));
            }
            Command::Receipt { skipped, .. } => {
                self.ledger.receipt = skipped.iter().map(|s| s.step).collect();
            }
            Command::Seal { checkpoint, skipped } => {
                let Checkpoint { run, lineage, step, model, .. } = checkpoint;
                let skipped: Vec<_> = skipped.iter().map(|s| s.step).collect();
                assert_eq!(skipped, self.ledger.skipped_until(lineage.0, step));
                self.ledger.assert_whole(lineage.0, step);
                let world = self.ledger.generations[&lineage.0].members.len();
                assert_eq!(model.len(), world, "one part a rank");
                let outcome = Ok(String::new());
                self.within(900, Next::Core(life, Event::Sealed { run, lineage, step, outcome }));
            }
            Command::Publish { run, lineage, step, .. } => {
                self.ledger.published(lineage.0, step);
                let outcome = Ok("model".into());
                self.within(300, Next::Core(life, Event::Published { run, outcome }));
            }
            Command::Retain { retained, .. } => self.ledger.retained(&retained),
            Command::Notify { notice: Notice::Step { lineage, .. }, .. } => {
                let newest = self.ledger.generations.keys().next_back();
                assert_eq!(Some(&lineage), newest, "a step of a fenced generation is shown");
            }
            Command::Notify { .. } => {}
        }
    }

    // -------------------------------------------------------------------------------------------- streams

    fn connect(&mut self, id: u64) {
        let Some(p) = self.processes.get_mut(&id) else { return };
        if p.stream.is_some() {
            return;
        }
        if self.coordinator.is_none() {
            return self.after(700_000, Next::Connect(id));
        }
        self.sequence += 1;
        let stream = Stream(self.sequence);
        p.stream = Some(stream);
        self.streams.insert(stream, id);
        self.tell(id, session::Event::Connected);
    }

    /// A stream ends, and both sides learn it.
    pub(crate) fn end(&mut self, stream: Stream) {
        if let Some(id) = self.streams.remove(&stream) {
            let at = self.arrival(stream);
            self.at(at, Next::Core(self.life, Event::Hangup { stream }));
            if self.processes.get(&id).is_some_and(|p| p.stream == Some(stream)) {
                self.tear(id);
            }
        }
    }

    /// A process loses its stream.
    fn tear(&mut self, id: u64) {
        let Some(p) = self.processes.get_mut(&id) else { return };
        p.stream = None;
        self.tell(id, session::Event::Disconnected);
        let again = self.below(600_000) + 500_000;
        self.after(again, Next::Connect(id));
    }

    fn send(&mut self, id: u64, report: Report) {
        let Some(stream) = self.processes.get(&id).and_then(|p| p.stream) else { return };
        let at = self.arrival(stream);
        self.at(at, Next::Core(self.life, Event::Reported { stream, report }));
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
        });
        self.processes.insert(id, Process { slot, session, stream: None, ring, thread: None });
        self.within(100, Next::Connect(id));
        self.after(500_000, Next::Beat(id));
    }

    /// A process is gone; of a whole host that is gone nobody says so.
    pub(crate) fn kill(&mut self, id: u64, heard: bool) {
        let Some(p) = self.processes.remove(&id) else { return };
        if let Some(thread) = &p.thread {
            self.break_ring(thread.train.generation);
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
        for command in p.session.handle(event) {
            self.obey(id, command);
        }
    }

    fn obey(&mut self, id: u64, command: session::Command) {
        let broken = self.faulty() && self.chance(20);
        match command {
            session::Command::Send(report) => self.send(id, report),
            session::Command::Beat(_) => {}
            session::Command::Prepare { run, shard, .. } => {
                let outcome = if broken { Err(trouble()) } else { Ok(data::outcome(shard.index)) };
                let event = session::Event::Prepared { run, shard: shard.index, outcome };
                self.within(400, Next::Process(id, event));
            }
            session::Command::Load(load) => {
                let outcome = if broken { Err(trouble()) } else { Ok(()) };
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
                let generation = thread.train.generation;
                self.within(100, Next::Ended(id, generation, End::Aborted));
                self.break_ring(generation);
            }
            session::Command::Exit(Exit::Refused(reason)) => panic!("refused: {reason}"),
            session::Command::Exit(Exit::Dismissed | Exit::Drained) => {
                self.within(50, Next::Kill(id));
            }
        }
    }
}

fn trouble() -> Trouble {
    Trouble { cause: Cause::Internal, message: "chance".into() }
}

//! Coordinators on one journal: the one at work, and rivals that start beside it and take over. A coordinator that
//! appends without having read another's entry is deposed, as the numbers of entries in storage ensure.

use crate::data::{self, SHARDS};
use crate::ledger::STEPS;
use crate::world::{Next, World, run};
use coordinator::core::{
    Command, Core, Event, Notice, Past, PlanOutline, Status, Survey, Ticket, Timing,
};
use proto::event::Fact;
use proto::id::Epoch;
use proto::manifest::Checkpoint;
use proto::protocol::Report;
use proto::receipt::Receipt;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

/// The time between two checks of whether another coordinator has taken over.
const LOOK_US: u64 = 5_000_000;

pub(crate) struct Coordinator {
    core: Core,
    began: Duration,
    closing: bool,
    /// The number of its next entry.
    next: usize,
}

impl Coordinator {
    pub(crate) fn status(&self) -> Option<Status> {
        self.core.status(&run())
    }

    pub(crate) fn is_due(&self, now: Duration) -> bool {
        self.core.next_deadline().is_some_and(|d| self.began + d <= now)
    }
}

impl World {
    /// Starts the next coordinator, if there is none.
    pub(crate) fn restart(&mut self) {
        if self.coordinators.is_empty() {
            self.restarts += usize::from(!self.ledger.journal.is_empty());
            self.appear();
        }
    }

    /// Starts another coordinator beside the existing one, which does not notice.
    pub(crate) fn rival(&mut self) {
        if !self.coordinators.is_empty() {
            self.rivals += 1;
            self.appear();
        }
    }

    fn appear(&mut self) {
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
                    by: None,
                },
            )
        } else {
            let resume = matches!(history.last(), Some(Fact::Paused { .. }));
            let past = Past { run: run(), settings: self.settings.clone(), history };
            core.adopt(Duration::ZERO, past, None, resume)
        };
        let next = self.ledger.entries;
        self.coordinators
            .insert(self.life, Coordinator { core, began: self.now, closing: false, next });
        self.after(LOOK_US, Next::Look(self.life));
        self.execute(self.life, commands);
    }

    pub(crate) fn crash(&mut self, life: u64) {
        if self.coordinators.remove(&life).is_none() {
            return;
        }
        let of_it = |(_, (of, _)): &(_, (u64, u64))| *of == life;
        let (torn, kept): (BTreeMap<_, _>, _) =
            std::mem::take(&mut self.streams).into_iter().partition(of_it);
        self.streams = kept;
        for (_, id) in torn.into_values() {
            self.tear(id);
        }
        self.within(8000, Next::Restart);
    }

    /// Stops the run gracefully.
    pub(crate) fn close(&mut self, life: u64) {
        if let Some(c) = self.coordinators.get_mut(&life) {
            c.closing = true;
            self.tell_core(life, Event::Close);
        }
    }

    pub(crate) fn tell_core(&mut self, life: u64, event: Event) {
        let Some(c) = self.coordinators.get_mut(&life) else { return };
        if let Event::Reported { stream, report: Report::StepDone(place, done) } = &event
            && let Some(worker) = self.spoke.get(stream)
        {
            self.ledger.reported(worker, place.lineage, done.step);
        }
        let commands = c.core.handle(self.now - c.began, event);
        self.execute(life, commands);
    }

    /// A coordinator checks whether another has taken over, and schedules its next check.
    pub(crate) fn look(&mut self, life: u64) {
        if self.is_deposed(life) {
            if let Some(then) = self.lose(life, &mut VecDeque::new()) {
                self.execute(life, then);
            }
        } else if self.coordinators.contains_key(&life) {
            self.after(LOOK_US, Next::Look(life));
        }
    }

    fn is_deposed(&self, life: u64) -> bool {
        self.coordinators.get(&life).is_some_and(|c| c.next < self.ledger.entries)
    }

    /// Handles the loss of a journal. A coordinator that has lost its pool crashes at once; one that has lost just
    /// the run handles [`Event::RunLost`] first.
    fn lose(&mut self, life: u64, commands: &mut VecDeque<Command>) -> Option<Vec<Command>> {
        self.deposed += 1;
        if self.chance(2) {
            self.crash(life);
            return None;
        }
        let why = "taken over";
        Command::take_back(commands, &run(), why);
        self.within(2000, Next::Crash(life));
        let c = self.coordinators.get_mut(&life)?;
        Some(c.core.handle(self.now - c.began, Event::RunLost { run: run(), message: why.into() }))
    }

    fn execute(&mut self, life: u64, commands: Vec<Command>) {
        let mut commands = VecDeque::from(commands);
        while let Some(command) = commands.pop_front() {
            let journals = matches!(command, Command::Journal { .. });
            let fragile = self.faulty() && journals;
            if fragile && self.chance(60) {
                return self.crash(life);
            }
            if journals && self.is_deposed(life) {
                let Some(then) = self.lose(life, &mut commands) else { return };
                commands.extend(then);
                continue;
            }
            self.command(life, command);
            if fragile && self.chance(60) {
                return self.crash(life);
            }
        }
        let c = &self.coordinators[&life];
        let paused = matches!(self.ledger.journal.last(), Some(Fact::Paused { .. }));
        if c.closing && paused {
            return self.crash(life);
        }
        if let Some(deadline) = c.core.next_deadline() {
            let at = (c.began + deadline).max(self.now);
            self.at(at, Next::Tick(life));
        }
    }

    fn command(&mut self, life: u64, command: Command) {
        match command {
            Command::Journal { events, .. } => {
                self.cancelled |= events.contains(&Fact::Cancelled);
                self.ledger.journal(events);
                self.coordinators.get_mut(&life).expect("it speaks").next = self.ledger.entries;
            }
            Command::JournalPool(_) | Command::Answer { .. } => {}
            Command::Direct { stream, directive } => {
                if let Some((_, id)) = self.streams.get(&stream).copied() {
                    let at = self.arrival(stream);
                    self.at(at, Next::Directive(id, stream, directive));
                }
            }
            Command::Close { stream } => self.end(stream),
            Command::Dial { worker, incarnation, .. } => {
                let lost = self.faulty() && self.chance(20);
                let outcome = if lost { Err("chance".into()) } else { Ok(()) };
                let dialled = Event::Dialled { worker, incarnation, outcome };
                self.within(100, Next::Core(life, dialled));
            }
            Command::Survey { run } => {
                let shards = (0..SHARDS).map(data::raw_shard).collect();
                let outcome = Ok(Survey { fingerprint: "f".into(), shards, cached: false });
                self.within(300, Next::Core(life, Event::Surveyed { run, outcome }));
            }
            Command::FindPrepared { run, .. } => {
                self.within(100, Next::Core(life, Event::FoundPrepared { run, found: false }));
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
            Command::Discard { lineage, step, .. } => self.ledger.discarded(lineage.0, step),
            // A coordinator that does not know yet that it was replaced may still show steps.
            Command::Notify { notice: Notice::Step { lineage, .. }, .. } if life == self.life => {
                let newest = self.ledger.generations.keys().next_back();
                assert_eq!(Some(&lineage), newest, "a step of a fenced generation is shown");
            }
            Command::Notify { .. } => {}
        }
    }
}

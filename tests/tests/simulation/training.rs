//! Training threads in lockstep: all ranks of a generation commit a step, or none does. Also injects the faults.

use crate::ledger::STEPS;
use crate::world::{Next, Process, World};
use coordinator::core::{Event, Ticket};
use proto::id::{Generation, RunId};
use proto::manifest::{Checkpoint, Digests, File};
use proto::protocol::{Accusation, Cause, SavedPart, SourceSum, StepDone, Train};
use proto::receipt::Skipped;
use std::time::Duration;
use worker::session::{self, End, Trouble};

const CHECKPOINT_EVERY: u64 = 3;

/// A membership in one process.
pub(crate) struct Thread {
    pub(crate) train: Train,
    joined: bool,
    pub(crate) stop: bool,
    pub(crate) aborting: bool,
}

impl Thread {
    pub(crate) fn new(train: Train) -> Self {
        Self { stop: train.stop, train, joined: false, aborting: false }
    }
}

/// The end of a rank that gives its membership up because of another rank.
fn gave_up(step: u64, accusation: Accusation) -> End {
    let trouble = Trouble { accusation: Some(accusation), ..Trouble::new(Cause::Peer, "chance") };
    End::Failed { step, trouble }
}

/// The ranks after and before a member.
fn neighbours(train: &Train) -> [u32; 2] {
    let world = u32::try_from(train.members.len()).expect("few");
    [(train.rank + 1) % world, (train.rank + world - 1) % world]
}

impl World {
    /// The processes of a generation by rank, if all have joined and none is aborting.
    fn ring(&self, generation: Generation) -> Option<Vec<u64>> {
        let at_work = |p: &&Process| {
            let thread = p.thread.as_ref();
            thread.is_some_and(|t| t.train.generation == generation && t.joined && !t.aborting)
        };
        let thread = self.processes.values().find(at_work)?.thread.as_ref()?;
        let process = |ring: &String| {
            let found = self.processes.iter().find(|(_, p)| p.ring == *ring && at_work(p));
            found.map(|(id, _)| *id)
        };
        thread.train.members.iter().map(process).collect()
    }

    pub(crate) fn joined(&mut self, id: u64, generation: Generation) {
        let thread = self.processes.get_mut(&id).and_then(|p| p.thread.as_mut());
        let Some(thread) = thread.filter(|t| t.train.generation == generation) else { return };
        thread.joined = true;
        let evaluate_first = thread.train.evaluate_first;
        let Some(ring) = self.ring(generation) else { return };
        let step = self.ledger.generations[&generation.0].start.map_or(0, |c| c.1);
        self.rings.insert(generation, step);
        if evaluate_first {
            self.evaluate(&ring, step);
        }
        self.go_on(&ring, generation, step, step == STEPS);
    }

    fn go_on(&mut self, ring: &[u64], generation: Generation, step: u64, leave: bool) {
        if !leave {
            return self.within(200, Next::Step(generation));
        }
        self.rings.remove(&generation);
        for id in ring {
            self.ended(*id, generation, End::Stopped { step });
        }
    }

    /// Commits a step, unless the ring is no longer complete.
    pub(crate) fn step(&mut self, generation: Generation) {
        let Some(ring) = self.ring(generation) else { return };
        let Some(step) = self.rings.get(&generation).copied() else { return };
        self.rings.insert(generation, step + 1);
        let lineage = self.thread(ring[0]).train.lineage;
        let finite = !self.faulty() || !self.chance(8);
        self.ledger.stepped(lineage.0, step, finite);
        let stop = ring.iter().any(|id| self.thread(*id).stop);
        let leave = stop || step + 1 == STEPS;
        for id in &ring {
            let train = self.thread(*id).train.clone();
            if !finite {
                let skipped = Skipped::new(step + 1, Vec::new());
                self.tell(*id, session::Event::Skipped(train.place(), skipped));
            }
            self.tell(*id, session::Event::Stepped(train.place(), done(step)));
            if leave || (step + 1).is_multiple_of(CHECKPOINT_EVERY) {
                self.tell(*id, session::Event::PartBegun(train.place(), step + 1));
                self.within(800, Next::Stored(*id, train, step + 1));
            }
        }
        if self.settings.evaluates && (step + 1).is_multiple_of(CHECKPOINT_EVERY) {
            self.evaluate(&ring, step + 1);
        }
        self.go_on(&ring, generation, step + 1, leave);
    }

    fn thread(&self, id: u64) -> &Thread {
        self.processes[&id].thread.as_ref().expect("a ring is made of threads")
    }

    fn evaluate(&mut self, ring: &[u64], step: u64) {
        for id in ring {
            let place = self.thread(*id).train.place();
            let sums = vec![SourceSum { loss_sum: 1.0, weight: 1.0, ..SourceSum::default() }];
            self.tell(*id, session::Event::Evaluated(place, step, sums));
        }
    }

    /// Completes an upload, whether or not its membership still exists.
    pub(crate) fn stored(&mut self, id: u64, train: &Train, step: u64) {
        if !self.processes.contains_key(&id) {
            return;
        }
        self.ledger.stored(train.lineage.0, step, train.rank);
        let key = format!("{}/r{}", Checkpoint::MODEL, train.rank);
        let files = vec![File { key, bytes: 1, digests: Digests::of(b"0"), tensors: Vec::new() }];
        self.tell(
            id,
            session::Event::PartSaved(
                train.place(),
                step,
                Ok(SavedPart { files, digest: format!("state {step}"), pause: Duration::ZERO }),
            ),
        );
    }

    /// Ends a training thread.
    pub(crate) fn ended(&mut self, id: u64, generation: Generation, end: End) {
        let Some(p) = self.processes.get_mut(&id) else { return };
        let Some(thread) = p.thread.take_if(|t| t.train.generation == generation) else { return };
        let gracefully = matches!(end, End::Stopped { .. });
        self.tell(id, session::Event::Ended(generation, end));
        if !gracefully {
            self.break_ring(generation, thread.train.rank);
        }
    }

    /// Ends a thread that still waits for its ring to form.
    pub(crate) fn give_up(&mut self, id: u64, generation: Generation) {
        let thread = self.processes.get(&id).and_then(|p| p.thread.as_ref());
        let Some(thread) = thread.filter(|t| t.train.generation == generation) else { return };
        if !self.rings.contains_key(&generation) {
            let accusation = self.missed(&thread.train);
            self.ended(id, generation, gave_up(0, accusation));
        }
    }

    /// The accusation of a rank whose ring did not form.
    fn missed(&self, train: &Train) -> Accusation {
        let came = |rank: &u32| {
            self.processes.values().any(|p| {
                let thread = p.thread.as_ref().filter(|t| t.train.generation == train.generation);
                p.ring == train.members[*rank as usize] && thread.is_some_and(|t| t.joined)
            })
        };
        let [next, previous] = neighbours(train);
        match [next, previous].map(|rank| came(&rank)) {
            [false, _] => {
                let met = Some(previous).filter(came);
                Accusation { rank: next, connecting: true, met }
            }
            [true, false] => Accusation { rank: previous, connecting: true, met: Some(next) },
            // Another rank is missing, and the next rank has given up because of it.
            [true, true] => {
                let met = Some(previous).filter(|rank| *rank != next);
                Accusation { rank: next, connecting: false, met }
            }
        }
    }

    /// Makes the other ranks notice that a rank is lost.
    pub(crate) fn break_ring(&mut self, generation: Generation, lost: u32) {
        let Some(step) = self.rings.remove(&generation) else { return };
        let of = |p: &Process| p.thread.as_ref().is_some_and(|t| t.train.generation == generation);
        let left: Vec<_> =
            self.processes.iter().filter(|(_, p)| of(p)).map(|(id, _)| *id).collect();
        for id in left {
            let met = neighbours(&self.thread(id).train).into_iter().find(|rank| *rank != lost);
            let accusation = Accusation { rank: lost, connecting: false, met };
            self.within(500, Next::Ended(id, generation, gave_up(step, accusation)));
        }
    }

    /// Injects a random fault, and schedules the next one.
    pub(crate) fn fault(&mut self) {
        if !self.faulty() {
            return;
        }
        self.within(1500, Next::Fault);
        let ids: Vec<_> = self.processes.keys().copied().collect();
        let Some(id) = ids.get(self.below(ids.len().max(1) as u64) as usize).copied() else {
            return;
        };
        match self.below(17) {
            0..5 => {
                if let Some(stream) = self.processes[&id].stream {
                    self.end(stream);
                }
            }
            5..7 => self.kill(id, true),
            7 => self.kill(id, false),
            8 => {
                let deadline = Duration::from_secs(20);
                self.tell(id, session::Event::Terminate { deadline });
                self.after(20_000_000, Next::Kill(id));
            }
            9..11 => {
                if let Some(generation) =
                    self.processes[&id].thread.as_ref().map(|t| t.train.generation)
                {
                    let trouble = Trouble::new(Cause::Internal, "chance");
                    self.ended(id, generation, End::Failed { step: 0, trouble });
                }
            }
            11..13 => self.crash(self.life),
            13 => {
                // A second sleep must not shorten the first: messages would overtake those that wait for its end.
                let until = self.now + Duration::from_millis(self.below(20_000));
                self.asleep_until = self.asleep_until.max(until);
            }
            14 => {
                self.close(self.life);
            }
            15 => self.rival(),
            _ if self.chance(10) => {
                let cancel = Event::Cancel { ticket: Ticket(1), run: RunId::new("r"), by: None };
                self.tell_core(self.life, cancel);
            }
            _ => {}
        }
    }
}

fn done(step: u64) -> StepDone {
    StepDone {
        step,
        loss: 1.0,
        learning_rate: 1.0,
        grad_norm: 1.0,
        applied: true,
        samples: 1,
        samples_digest: 1,
        tokens: 1,
        trained_tokens: 1,
        compute: Duration::from_millis(1),
        reduce_wait: Duration::ZERO,
        sources: Vec::new(),
    }
}

//! A generation at work: what its ranks report is put together here, and taken apart when one of them is lost.

use super::figures::{self, Total};
use super::run::{Phase, Run};
use super::turn::Turn;
use super::{Command, Fault, Notice};
use proto::event::{Fact, Failure};
use proto::id::{CheckpointId, Generation, WorkerId};
use proto::protocol::{Cause, Place, SourceSum, Start, StepDone, Train};
use proto::receipt::Skipped;
use std::collections::BTreeMap;
use std::time::Duration;

/// Steps that some ranks have reported and others have not. Workers can be ahead of one another by one step, but after
/// a time without a coordinator each sends the steps of that time in one go; the bound is for one that lies.
const STEPS_IN_FLIGHT: usize = 100_000;
/// The same of evaluations.
const EVALUATIONS_IN_FLIGHT: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: WorkerId,
    pub(super) ring: String,
    /// It owed nothing any more and went: whoever fills its slot now is no member.
    pub(super) gone: bool,
}

/// The members of a generation by rank, and what they have reported so far.
#[derive(Clone, Debug)]
pub struct Membership {
    members: Vec<Member>,
    start: Option<Start>,
    evaluate_first: bool,
    ring_key: [u8; 32],
    evals: BTreeMap<u64, BTreeMap<usize, Vec<SourceSum>>>,
    stopped: BTreeMap<usize, u64>,
    /// What is wrong with data or model, by the rank that says so.
    complaints: BTreeMap<usize, (Cause, String)>,
}

impl Membership {
    pub(super) fn new(
        members: Vec<Member>,
        start: Option<Start>,
        evaluate_first: bool,
        ring_key: [u8; 32],
    ) -> Self {
        Self {
            members,
            start,
            evaluate_first,
            ring_key,
            evals: BTreeMap::new(),
            stopped: BTreeMap::new(),
            complaints: BTreeMap::new(),
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &WorkerId> {
        self.members.iter().map(|m| &m.id)
    }

    pub(super) fn member(&self, rank: usize) -> &WorkerId {
        &self.members[rank].id
    }

    /// Where a member's peers reach it.
    pub(super) fn ring(&self, rank: usize) -> &str {
        &self.members[rank].ring
    }

    /// Takes down what a rank says of data or model; whether every rank says the same.
    pub(super) fn complain(&mut self, rank: usize, cause: Cause, message: String) -> bool {
        self.complaints.insert(rank, (cause, message));
        (0..).zip(&self.members).all(|(rank, member)| {
            member.gone || self.complaints.get(&rank).is_some_and(|(of, _)| *of == cause)
        })
    }

    /// The first rank's complaint, if there is any.
    pub(super) fn first_complaint(&self) -> Option<(usize, &str)> {
        self.complaints.first_key_value().map(|(rank, (_, message))| (*rank, message.as_str()))
    }

    /// Every rank has stopped or complained, and some rank has complained.
    fn stands_still(&self) -> bool {
        let over = |rank| self.stopped.contains_key(&rank) || self.complaints.contains_key(&rank);
        !self.complaints.is_empty()
            && (0..self.size()).all(|rank| over(rank) || self.members[rank].gone)
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        self.members.iter().position(|m| m.id == *id && !m.gone)
    }

    /// A member is on a new stream; whether it says where it listens for the first time.
    pub(super) fn moved(&mut self, id: &WorkerId, ring: &str) -> bool {
        let Some(rank) = self.rank(id) else { return false };
        let before = std::mem::replace(&mut self.members[rank].ring, ring.to_owned());
        before != ring
    }

    pub(super) fn train(&self, id: &WorkerId, run: &Run) -> Option<Train> {
        let rank = self.rank(id)?;
        Some(Train {
            load: run.load(),
            generation: run.generation,
            lineage: run.lineage,
            rank: rank.try_into().expect("ranks are few"),
            members: self.members.iter().map(|m| m.ring.clone()).collect(),
            ring_key: self.ring_key,
            checkpoint: self.start.clone(),
            evaluate_first: self.evaluate_first,
            stop: run.stop,
            base_digest: run.base.clone(),
        })
    }

    /// After which step they stopped, once all have.
    fn all_stopped(&self) -> Option<u64> {
        let all = self.stopped.len() == self.size();
        all.then(|| self.stopped.values().copied().max().unwrap_or(0))
    }
}

impl Run {
    /// Whether that is the present membership.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        place.run == self.id && place.generation == self.generation && place.lineage == self.lineage
    }

    /// The membership, if a report of `worker` from `place` belongs to it.
    pub(super) fn place(
        &mut self,
        worker: &WorkerId,
        place: &Place,
    ) -> Option<(&mut Membership, usize)> {
        if !self.is_at(place) {
            return None;
        }
        let m = self.phase.membership_mut()?;
        let rank = m.rank(worker)?;
        Some((m, rank))
    }

    pub(super) fn step_done(
        &mut self,
        turn: &mut Turn<'_>,
        worker: &WorkerId,
        place: &Place,
        done: StepDone,
    ) {
        // Workers say again, on every new stream, what may not have been heard; and of the last steps of a generation
        // some hear only when it is over.
        if !self.is_at(place) || done.step < self.step {
            return;
        }
        let Some(rank) = self.accusations.rank(worker) else { return };
        let step = done.step;
        self.reported.entry(step).or_default().insert(rank, done);
        if self.reported.len() > STEPS_IN_FLIGHT {
            self.reported.pop_first();
        }
        let size = self.accusations.size();
        if self.reported.get(&step).is_none_or(|ranks| ranks.len() < size) {
            return;
        }
        let ranks = self.reported.remove(&step).expect("just counted");
        if self.accusations.refute() {
            self.forgive_members(turn);
        }
        self.stepped(step, &ranks, turn);
    }

    /// A step that every rank has reported.
    fn stepped(&mut self, step: u64, ranks: &BTreeMap<usize, StepDone>, turn: &mut Turn<'_>) {
        let zeroth = &ranks[&0];
        self.step = step + 1;
        if self.step > self.best_step {
            self.best_step = self.step;
            self.fruitless = 0;
        }
        self.loss = Some(zeroth.loss);
        let names = &self.settings.trained;
        let sums = ranks.values().flat_map(|r| &r.sources);
        self.sources = figures::by_name(names, &figures::totals(names.len(), sums));
        let tokens: u64 = ranks.values().map(|r| r.tokens).sum();
        let slowest = ranks.values().map(|r| r.compute + r.reduce_wait).max().unwrap_or_default();
        self.rate.add(slowest, tokens);
        let digest = ranks.values().fold(0u64, |d, r| d.wrapping_add(r.samples_digest));
        let notice = Notice::Step {
            step: self.step,
            steps: self.steps,
            loss: zeroth.loss,
            lr: zeroth.learning_rate,
            grad_norm: zeroth.grad_norm,
            applied: zeroth.applied,
            samples: ranks.values().map(|r| r.samples).sum(),
            samples_digest: format!("{digest:016x}"),
            tokens,
            trained_tokens: ranks.values().map(|r| r.trained_tokens).sum(),
            tokens_per_second: self.rate.tokens_per_second().unwrap_or_default(),
            world_size: ranks.len(),
            lineage: self.lineage.0,
            compute_ms: longest(ranks.values().map(|r| r.compute)),
            reduce_wait_ms: longest(ranks.values().map(|r| r.reduce_wait)),
            sources: self.sources.clone(),
        };
        turn.notify(notice);
    }

    /// Members that train have reached each other, whatever was said of them before.
    fn forgive_members(&mut self, turn: &mut Turn<'_>) {
        let Some(m) = self.phase.membership() else { return };
        for id in m.members() {
            if turn.workers.get(id).is_some_and(|worker| worker.setback.is_some()) {
                turn.workers.change(id, |worker| worker.setback = None);
            }
        }
    }

    /// Every rank says so, in the order of the steps, and again on every new stream: the first time counts. Heard after
    /// the membership, too: a checkpoint that is still on its way must know of it.
    pub(super) fn step_skipped(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        skipped: Skipped,
        turn: &mut Turn<'_>,
    ) {
        let known = self.skipped.last().is_some_and(|last| last.step >= skipped.step);
        if self.saved_at(worker, place).is_none() || known {
            return;
        }
        turn.journal([Fact::Skipped(skipped.clone())]);
        let notice = Notice::Incident { worker: None, message: skipped.to_string() };
        turn.notify(notice);
        self.skipped.push(skipped);
        self.settle_receipt(turn);
    }

    /// Steps that a new lineage does again were not lost; whether there were any.
    pub(super) fn take_back_skipped(&mut self) -> bool {
        let (step, before) = (self.step, self.skipped.len());
        self.skipped.retain(|skipped| skipped.step <= step);
        self.skipped.len() < before
    }

    /// Brings the run's receipt to what this lineage has skipped.
    pub(super) fn settle_receipt(&self, turn: &mut Turn<'_>) {
        turn.out.push(Command::Receipt { run: self.id.clone(), skipped: self.skipped.clone() });
    }

    pub(super) fn evaluated(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        step: u64,
        sums: Vec<SourceSum>,
        turn: &mut Turn<'_>,
    ) {
        // Said again on every new stream.
        if self.evals.contains_key(&step) {
            return;
        }
        let Some((m, rank)) = self.place(worker, place) else { return };
        m.evals.entry(step).or_default().insert(rank, sums);
        if m.evals.len() > EVALUATIONS_IN_FLIGHT {
            m.evals.pop_first();
        }
        let size = m.size();
        if m.evals.get(&step).is_none_or(|ranks| ranks.len() < size) {
            return;
        }
        let ranks = m.evals.remove(&step).expect("just counted");
        let names = &self.settings.evaluated;
        let totals = figures::totals(names.len(), ranks.values().flatten());
        let Some(loss) = figures::sum(&totals).mean() else { return };
        let sources = figures::by_name(names, &totals);
        self.evals.insert(step, loss);
        let finite = |total: Total| total.mean().filter(|loss| loss.is_finite());
        let by_source = totals.into_iter().map(finite).collect();
        turn.journal([Fact::Evaluated { step, loss, by_source }]);
        let notice = Notice::Eval { step, loss, sources };
        turn.notify(notice);
        // It may be the best so far, and is often measured after it was stored.
        if self.checkpoints.keys().any(|c| c.step == step) {
            self.retain(turn);
        }
    }

    pub(super) fn member_stopped(&mut self, id: &WorkerId, generation: Generation, step: u64) {
        if generation != self.generation {
            return;
        }
        if let Some(m) = self.phase.membership_mut()
            && let Some(rank) = m.rank(id)
        {
            m.stopped.insert(rank, step);
        }
    }

    /// Whether a rank has stopped and its part of the last checkpoint is stored: it may go.
    fn owes_nothing(&self, rank: usize) -> bool {
        let stopped = self.phase.membership().and_then(|m| m.stopped.get(&rank));
        stopped.is_some_and(|step| {
            let saves = self.saves.get(&self.generation);
            self.newest().map(|c| c.step) >= Some(*step)
                || saves.is_some_and(|s| s.has(rank, *step))
        })
    }

    /// A member must go: all leave their step and gather anew without it.
    pub(super) fn member_leaves(&mut self, id: &WorkerId, turn: &mut Turn<'_>) {
        let Some(rank) = self.phase.membership().and_then(|m| m.rank(id)) else { return };
        if !self.stop && !self.owes_nothing(rank) {
            let message = format!("worker {id} (rank {rank}) was told to leave");
            self.incident(Some(id), message, turn);
            self.gather();
        }
    }

    pub(super) fn worker_lost(&mut self, id: &WorkerId, why: &str, turn: &mut Turn<'_>) {
        if let Phase::Sharding(s) = &mut self.phase {
            s.release(id);
        }
        let rank = self.phase.membership().and_then(|m| m.rank(id));
        let owes_nothing = rank.is_some_and(|rank| self.owes_nothing(rank));
        self.forget(id);
        let Some((m, rank)) = self.phase.membership_mut().zip(rank) else { return };
        if owes_nothing {
            m.members[rank].gone = true;
            return;
        }
        let step = self.step;
        let message = format!("worker {id} (rank {rank}) was lost after step {step}: {why}");
        self.incident(Some(id), message, turn);
        self.regroup(turn);
    }

    /// Too much was tried without a new step.
    pub(super) fn fail_fruitless(&mut self, turn: &mut Turn<'_>) {
        let last = self.last_incident.as_ref();
        let message = format!(
            "{} attempts in a row ended without a new step; the last trouble was: {}",
            self.fruitless,
            last.map_or("unknown", |incident| &incident.message),
        );
        self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
    }

    /// The membership is over. A run that was stopping has nothing more to wait for.
    pub(super) fn regroup(&mut self, turn: &mut Turn<'_>) {
        if self.stop {
            self.pause(turn);
        } else {
            self.gather();
        }
    }

    /// All have stopped: after the last step, or because they were asked to. What a rank measured it has said before.
    pub(super) fn advance_training(&mut self, turn: &mut Turn<'_>) {
        let Phase::Training(m) = &self.phase else { return };
        if let Some((rank, message)) = m.first_complaint().filter(|_| m.stands_still()) {
            let id = m.member(rank).clone();
            let message = format!("worker {id} (rank {rank}) stopped: {message}");
            self.incident(Some(&id), message, turn);
            return self.regroup(turn);
        }
        let Some(at) = m.all_stopped() else { return };
        let newest = self.newest();
        if let Some(message) = self.given_up(at) {
            return self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
        match newest.filter(|c| c.step == at) {
            Some(CheckpointId { lineage, step }) if at >= self.steps => {
                self.enter(Phase::Publishing);
                // The coordinator that committed it may not have come to this.
                self.retain(turn);
                let losses = self.evals.iter().map(|(step, loss)| (*step, *loss)).collect();
                turn.out.push(Command::Publish { run: self.id.clone(), lineage, step, losses });
            }
            Some(_) => self.regroup(turn),
            None => {}
        }
    }
}

fn longest(times: impl Iterator<Item = Duration>) -> u64 {
    times.max().unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}

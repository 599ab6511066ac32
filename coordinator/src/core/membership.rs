//! A generation at work: what its ranks report is put together here, and taken apart when one of them is lost.

use super::run::{Phase, Run};
use super::turn::Turn;
use super::{Command, Fault};
use proto::event::Failure;
use proto::id::{CheckpointId, Generation, WorkerId};
use proto::protocol::{Cause, Place, SourceSum, StepDone, Train};
use proto::receipt::Skipped;
use std::collections::BTreeMap;

/// Evaluations that some ranks have reported and others have not.
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
    evaluate_first: bool,
    ring_key: [u8; 32],
    evals: BTreeMap<u64, BTreeMap<usize, Vec<SourceSum>>>,
    stopped: BTreeMap<usize, u64>,
    /// What is wrong with data or model, by the rank that says so.
    complaints: BTreeMap<usize, (Cause, String)>,
}

impl Membership {
    pub(super) fn new(members: Vec<Member>, evaluate_first: bool, ring_key: [u8; 32]) -> Self {
        Self {
            members,
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
            checkpoint: run.checkpoints.start(&run.id),
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
        // Of the last steps of a generation some ranks hear only when it is over.
        if !self.is_at(place) {
            return;
        }
        let Some(rank) = self.accusations.rank(worker) else { return };
        let Some(ranks) = self.progress.hear(rank, self.accusations.size(), done) else { return };
        if self.accusations.refute() {
            self.forgive_members(turn);
        }
        let names = &self.settings.trained;
        let notice = self.progress.commit(&ranks, names, self.steps, self.lineage);
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

    /// Counts after the membership, too: a checkpoint that is still on its way must know of it.
    pub(super) fn step_skipped(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        skipped: Skipped,
        turn: &mut Turn<'_>,
    ) {
        if self.checkpoints.is_member(worker, place) {
            self.progress.skip(skipped, turn);
        }
    }

    pub(super) fn evaluated(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        step: u64,
        sums: Vec<SourceSum>,
        turn: &mut Turn<'_>,
    ) {
        // Resent on every new stream.
        if self.progress.is_evaluated(step) {
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
        let known = self.progress.evaluate(step, names, ranks.values().flatten(), turn);
        // It may be the best so far, and is often measured after it was stored.
        if known && self.checkpoints.has(step) {
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
        stopped.is_some_and(|step| self.checkpoints.has_part(self.generation, rank, *step))
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
        self.checkpoints.lose(id);
        let Some((m, rank)) = self.phase.membership_mut().zip(rank) else { return };
        if owes_nothing {
            m.members[rank].gone = true;
            return;
        }
        let step = self.progress.step();
        let message = format!("worker {id} (rank {rank}) was lost after step {step}: {why}");
        self.incident(Some(id), message, turn);
        self.regroup(turn);
    }

    /// Too much was tried without a new step.
    pub(super) fn fail_fruitless(&mut self, turn: &mut Turn<'_>) {
        let last = self.last_incident.as_ref();
        let message = format!(
            "{} attempts in a row ended without a new step; the last trouble was: {}",
            self.progress.fruitless(),
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
        let newest = self.checkpoints.newest();
        if let Some(message) = self.checkpoints.given_up(self.generation, at) {
            let message = message.to_owned();
            return self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
        match newest.filter(|c| c.step == at) {
            Some(CheckpointId { lineage, step }) if at >= self.steps => {
                self.enter(Phase::Publishing);
                // The coordinator that committed it may not have come to this.
                self.retain(turn);
                let losses = self.progress.losses().iter();
                let losses = losses.map(|(step, loss)| (*step, *loss)).collect();
                turn.out.push(Command::Publish { run: self.id.clone(), lineage, step, losses });
            }
            Some(_) => self.regroup(turn),
            None => {}
        }
    }
}

//! A generation at work: its members by rank, and what they have reported so far.

use super::turn::Turn;
use proto::id::{Generation, RunId, WorkerId};
use proto::protocol::{Cause, SourceSum};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Evaluations that some ranks have reported and others have not.
const EVALUATIONS_IN_FLIGHT: usize = 64;

#[derive(Clone, Debug)]
struct Member {
    id: WorkerId,
    /// Where its peers reach it; after a coordinator's restart empty until it is back.
    ring: String,
    /// It owed nothing any more and left: a process that fills its slot now is no member.
    gone: bool,
}

/// The members of a generation by rank, and what they have reported so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    members: Vec<Member>,
    evaluate_first: bool,
    ring_key: [u8; 32],
    /// Held-out sums by step and rank, until every rank has reported them.
    evals: BTreeMap<u64, BTreeMap<usize, Vec<SourceSum>>>,
    /// The steps after which ranks have stopped.
    stopped: BTreeMap<usize, u64>,
    /// What is wrong with data or model, by the rank that reports it.
    complaints: BTreeMap<usize, (Cause, String)>,
}

impl Membership {
    /// These workers by rank, and where their peers reach them.
    pub(super) fn new(
        members: Vec<(WorkerId, String)>,
        generation: Generation,
        evaluate_first: bool,
        turn: &Turn<'_>,
    ) -> Self {
        let member = |(id, ring)| Member { id, ring, gone: false };
        Self {
            members: members.into_iter().map(member).collect(),
            evaluate_first,
            ring_key: ring_key(turn.secret, turn.run, generation),
            ..Self::default()
        }
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = &WorkerId> {
        self.members.iter().map(|m| &m.id)
    }

    /// Where members reach each other, by rank.
    pub(super) fn rings(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|m| m.ring.as_str())
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        self.members.iter().position(|m| m.id == *id && !m.gone)
    }

    pub(super) fn member(&self, rank: usize) -> &WorkerId {
        &self.members[rank].id
    }

    pub(super) fn ring(&self, rank: usize) -> &str {
        &self.members[rank].ring
    }

    pub(super) fn ring_key(&self) -> [u8; 32] {
        self.ring_key
    }

    pub(super) fn evaluates_first(&self) -> bool {
        self.evaluate_first
    }

    /// A member is on a new stream; whether it listens elsewhere than was known.
    pub(super) fn moved(&mut self, id: &WorkerId, ring: &str) -> bool {
        let Some(rank) = self.rank(id) else { return false };
        let before = std::mem::replace(&mut self.members[rank].ring, ring.to_owned());
        before != ring
    }

    /// A rank that owes nothing any more has left.
    pub(super) fn leave(&mut self, rank: usize) {
        self.members[rank].gone = true;
    }

    /// Notes what a rank measured after `step`, and returns what all did once every rank has reported.
    pub(super) fn evaluate(
        &mut self,
        rank: usize,
        step: u64,
        sums: Vec<SourceSum>,
    ) -> Option<Vec<SourceSum>> {
        self.evals.entry(step).or_default().insert(rank, sums);
        if self.evals.len() > EVALUATIONS_IN_FLIGHT {
            self.evals.pop_first();
        }
        if self.evals.get(&step)?.len() < self.size() {
            return None;
        }
        Some(self.evals.remove(&step)?.into_values().flatten().collect())
    }

    pub(super) fn stop(&mut self, rank: usize, step: u64) {
        self.stopped.insert(rank, step);
    }

    pub(super) fn stopped(&self, rank: usize) -> Option<u64> {
        self.stopped.get(&rank).copied()
    }

    /// After which step they stopped, once all have.
    pub(super) fn all_stopped(&self) -> Option<u64> {
        let all = self.stopped.len() == self.size();
        all.then(|| self.stopped.values().copied().max().unwrap_or(0))
    }

    /// Notes what a rank reports of data or model; whether every rank reports the same.
    pub(super) fn complain(&mut self, rank: usize, cause: Cause, message: String) -> bool {
        self.complaints.insert(rank, (cause, message));
        (0..).zip(&self.members).all(|(rank, member)| {
            member.gone || self.complaints.get(&rank).is_some_and(|(of, _)| *of == cause)
        })
    }

    pub(super) fn first_complaint(&self) -> Option<(usize, &str)> {
        self.complaints.first_key_value().map(|(rank, (_, message))| (*rank, message.as_str()))
    }

    /// The first rank's complaint, once every rank has stopped or complained.
    pub(super) fn standstill(&self) -> Option<(usize, &str)> {
        let over = |rank| self.stopped.contains_key(&rank) || self.complaints.contains_key(&rank);
        let stands_still = (0..self.size()).all(|rank| over(rank) || self.members[rank].gone);
        self.first_complaint().filter(|_| stands_still)
    }
}

fn ring_key(secret: &[u8; 32], run: &RunId, generation: Generation) -> [u8; 32] {
    let mut seed = secret.to_vec();
    seed.extend_from_slice(run.as_str().as_bytes());
    seed.extend_from_slice(&generation.0.to_le_bytes());
    proto::manifest::sha256_bytes(&seed)
}

/// A generation that outlived a coordinator, whose members are awaited; what they report counts already.
#[derive(Clone, Debug)]
pub(super) struct Reattaching {
    until: Duration,
    membership: Membership,
    /// Members that are back.
    back: BTreeSet<WorkerId>,
}

impl Reattaching {
    pub(super) fn new(membership: Membership, until: Duration) -> Self {
        Self { until, membership, back: BTreeSet::new() }
    }

    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// Nobody is late by the time that this process spent paused.
    pub(super) fn forgive(&mut self, pause: Duration) {
        self.until += pause;
    }

    pub(super) fn membership(&self) -> &Membership {
        &self.membership
    }

    pub(super) fn membership_mut(&mut self) -> &mut Membership {
        &mut self.membership
    }

    pub(super) fn attach(&mut self, id: &WorkerId) {
        self.back.insert(id.clone());
    }

    pub(super) fn is_complete(&self) -> bool {
        self.membership.ids().all(|id| self.back.contains(id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Membership {
        let member = |id| Member { id: WorkerId::new(id), ring: String::new(), gone: false };
        Membership { members: vec![member("a"), member("b")], ..Membership::default() }
    }

    #[test]
    fn a_rank_that_has_left_is_neither_awaited_nor_replaced() {
        let mut m = two();
        m.stop(1, 4);
        m.leave(1);
        assert_eq!(m.rank(&WorkerId::new("b")), None);
        assert!(m.complain(0, Cause::Data, "bad".into()), "all that are left complain");
        assert_eq!(m.standstill(), Some((0, "bad")));
    }

    #[test]
    fn a_generation_has_stopped_once_every_rank_has() {
        let mut m = two();
        m.stop(0, 4);
        assert_eq!(m.all_stopped(), None);
        assert_eq!(m.standstill(), None, "nobody complains");
        m.stop(1, 4);
        assert_eq!(m.all_stopped(), Some(4));
    }

    #[test]
    fn a_generation_is_back_once_every_member_is() {
        let mut back = Reattaching::new(two(), Duration::from_secs(15));
        back.attach(&WorkerId::new("a"));
        back.attach(&WorkerId::new("stranger"));
        assert!(!back.is_complete());
        back.attach(&WorkerId::new("b"));
        assert!(back.is_complete());
    }
}

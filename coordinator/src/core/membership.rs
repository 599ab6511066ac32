//! The members of a generation by rank, and what they have reported so far.

use super::turn::Turn;
use proto::id::{Generation, RunId, WorkerId};
use proto::protocol::{Cause, SourceSum};
use ring::hkdf::{HKDF_SHA256, Salt};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Maximum number of evaluations that some ranks have reported and others have not.
const EVALUATIONS_IN_FLIGHT: usize = 64;

#[derive(Clone, Debug)]
struct Member {
    id: WorkerId,
    /// Its ring address; empty after a restart of the coordinator until the member reconnects.
    ring: String,
    /// It owed nothing more and left. A new process in its slot is not a member.
    gone: bool,
}

/// The members of a generation by rank, and what they have reported so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Membership {
    members: Vec<Member>,
    evaluate_first: bool,
    ring_key: [u8; 32],
    /// Whether all ranks are to stop after their current step, with a checkpoint, since one of them has to leave.
    draining: bool,
    /// Held-out sums by step and rank, until every rank has reported them.
    evals: BTreeMap<u64, BTreeMap<usize, Vec<SourceSum>>>,
    /// The number of committed steps after which each rank has stopped.
    stopped: BTreeMap<usize, u64>,
    /// Complaints about data or model, by the rank that makes them.
    complaints: BTreeMap<usize, (Cause, String)>,
}

impl Membership {
    /// A membership of these workers, which are given by rank with their ring addresses.
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

    /// The members' ring addresses, by rank.
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

    pub(super) fn is_draining(&self) -> bool {
        self.draining
    }

    /// Has all ranks stop after their current step, with a checkpoint. Returns false if they were told before.
    pub(super) fn drain(&mut self) -> bool {
        !std::mem::replace(&mut self.draining, true)
    }

    /// Notes the ring address of a member that has reconnected. Returns whether the address has changed.
    pub(super) fn moved(&mut self, id: &WorkerId, ring: &str) -> bool {
        let Some(rank) = self.rank(id) else { return false };
        let before = std::mem::replace(&mut self.members[rank].ring, ring.to_owned());
        before != ring
    }

    /// Notes that a rank which owed nothing more has left.
    pub(super) fn leave(&mut self, rank: usize) {
        self.members[rank].gone = true;
    }

    /// Notes a rank's sums of the evaluation after `step`. Returns the sums of all ranks once every rank has reported.
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

    /// The number of committed steps after which the generation stopped, once every rank has.
    pub(super) fn all_stopped(&self) -> Option<u64> {
        let all = self.stopped.len() == self.size();
        all.then(|| self.stopped.values().copied().max().unwrap_or(0))
    }

    /// Notes a rank's complaint about data or model. Returns whether every rank that has not left complains of the same
    /// cause.
    pub(super) fn complain(&mut self, rank: usize, cause: Cause, message: String) -> bool {
        self.complaints.insert(rank, (cause, message));
        (0..).zip(&self.members).all(|(rank, member)| {
            member.gone || self.complaints.get(&rank).is_some_and(|(of, _)| *of == cause)
        })
    }

    pub(super) fn first_complaint(&self) -> Option<(usize, &str)> {
        self.complaints.first_key_value().map(|(rank, (_, message))| (*rank, message.as_str()))
    }

    /// The first complaint by rank, once every rank has stopped, complained or left.
    pub(super) fn standstill(&self) -> Option<(usize, &str)> {
        let over = |rank| self.stopped.contains_key(&rank) || self.complaints.contains_key(&rank);
        let stands_still = (0..self.size()).all(|rank| over(rank) || self.members[rank].gone);
        self.first_complaint().filter(|_| stands_still)
    }
}

/// The key of one generation, by HKDF-SHA256 from the coordinator's secret, which never leaves it.
fn ring_key(secret: &[u8; 32], run: &RunId, generation: Generation) -> [u8; 32] {
    let number = generation.0.to_le_bytes();
    let info = [b"muster generation".as_slice(), &number, run.as_str().as_bytes()];
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret);
    let expanded = extracted.expand(&info, HKDF_SHA256).expect("32 bytes are allowed");
    let mut key = [0; 32];
    expanded.fill(&mut key).expect("as many bytes as were asked for");
    key
}

/// A generation that outlived its coordinator and whose members are expected to reconnect. Their reports count as soon
/// as they are back.
#[derive(Clone, Debug)]
pub(super) struct Reattaching {
    until: Duration,
    membership: Membership,
    /// Members that have reconnected.
    back: BTreeSet<WorkerId>,
}

impl Reattaching {
    pub(super) fn new(membership: Membership, until: Duration) -> Self {
        Self { until, membership, back: BTreeSet::new() }
    }

    pub(super) fn until(&self) -> Duration {
        self.until
    }

    /// Extends the deadline by the time that this process was paused.
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
        assert!(m.complain(0, Cause::Data, "bad".into()), "all remaining members complain");
        assert_eq!(m.standstill(), Some((0, "bad")));
    }

    #[test]
    fn a_generation_has_stopped_once_every_rank_has() {
        let mut m = two();
        m.stop(0, 4);
        assert_eq!(m.all_stopped(), None);
        assert_eq!(m.standstill(), None, "no rank complains");
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

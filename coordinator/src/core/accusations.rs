//! The accusations that members of a generation make against each other, and which ranks they prove unreachable.

use proto::id::WorkerId;
use proto::protocol::Accusation;
use std::collections::{BTreeMap, BTreeSet};

/// The members of the newest generation and their accusations, which still arrive after the membership is over.
#[derive(Clone, Debug, Default)]
pub(super) struct Accusations {
    /// The members by rank, with their ring addresses.
    members: Vec<(WorkerId, String)>,
    /// The latest accusation of each rank.
    by_accuser: BTreeMap<usize, Accusation>,
    /// A step was committed, so all members have reached each other.
    refuted: bool,
    /// Ranks that were already proven unreachable.
    unreachable: BTreeSet<usize>,
}

impl Accusations {
    pub(super) fn among(members: Vec<(WorkerId, String)>) -> Self {
        Self { members, ..Self::default() }
    }

    /// Notes that a step was committed, which shows that all members have reached each other. Returns whether this is
    /// the first one.
    pub(super) fn refute(&mut self) -> bool {
        !std::mem::replace(&mut self.refuted, true)
    }

    pub(super) fn includes(&self, id: &WorkerId) -> bool {
        self.rank(id).is_some()
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        self.members.iter().position(|(member, _)| member == id)
    }

    /// Notes an accusation; returns the member that it proves unreachable, and its ring address.
    pub(super) fn prove(
        &mut self,
        accuser: &WorkerId,
        accusation: Accusation,
    ) -> Option<(WorkerId, String)> {
        let accuser = self.rank(accuser)?;
        let accused = self.note(accuser, accusation)?;
        self.members.get(accused).cloned()
    }

    /// Notes an accusation; returns the rank that it proves unreachable, because two others accuse it and none has
    /// reached it. Returns each rank once.
    fn note(&mut self, accuser: usize, accusation: Accusation) -> Option<usize> {
        if !accusation.connecting || self.refuted {
            return None;
        }
        self.by_accuser.insert(accuser, accusation);
        let accused = accusation.rank as usize;
        let accusers =
            self.by_accuser.iter().filter(|(by, a)| a.rank as usize == accused && **by != accused);
        let reached = self
            .by_accuser
            .iter()
            .any(|(by, a)| *by != accused && a.met.is_some_and(|met| met as usize == accused));
        let proven = accusers.count() >= 2 && !reached && accused < self.members.len();
        (proven && self.unreachable.insert(accused)).then_some(accused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accuse(rank: u32, met: Option<u32>) -> Accusation {
        Accusation { rank, connecting: true, met }
    }

    fn three() -> Accusations {
        let member = |i: usize| (WorkerId::new(format!("w{i}")), format!("10.0.0.{i}:1"));
        Accusations::among((0..3).map(member).collect())
    }

    #[test]
    fn two_accusers_prove_that_a_rank_is_unreachable() {
        let mut a = three();
        assert_eq!(a.note(1, accuse(2, Some(0))), None);
        assert_eq!(a.note(0, accuse(2, Some(1))), Some(2));
        assert_eq!(a.note(0, accuse(2, Some(1))), None, "it is returned once");
    }

    #[test]
    fn one_accuser_or_a_rank_that_was_reached_proves_nothing() {
        let mut a = three();
        assert_eq!(a.note(1, accuse(2, None)), None);
        assert_eq!(a.note(1, accuse(2, None)), None, "the same accuser again");
        assert_eq!(a.note(2, accuse(2, None)), None, "an accusation of itself does not count");
        let mut a = three();
        a.note(1, accuse(2, None));
        assert_eq!(a.note(0, accuse(1, Some(2))), None);
        assert_eq!(a.note(0, accuse(2, None)), Some(2), "only its latest accusation counts");
        let mut a = three();
        assert!(a.refute() && !a.refute());
        a.note(1, accuse(2, None));
        assert_eq!(a.note(0, accuse(2, None)), None, "they have trained together");
    }
}

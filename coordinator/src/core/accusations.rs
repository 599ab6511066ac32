//! Whom the members of a generation accuse of not answering, and what that proves.

use proto::id::WorkerId;
use proto::protocol::Accusation;
use std::collections::{BTreeMap, BTreeSet};

/// The members of the newest generation and whom they accuse of not answering: heard after the membership, too.
#[derive(Clone, Debug, Default)]
pub(super) struct Accusations {
    /// By rank, with their ring addresses.
    members: Vec<(WorkerId, String)>,
    /// By the accuser's rank.
    heard: BTreeMap<usize, Accusation>,
    /// A step was committed: all have reached each other.
    refuted: bool,
    /// Ranks that were found guilty.
    guilty: BTreeSet<usize>,
}

impl Accusations {
    pub(super) fn among(members: Vec<(WorkerId, String)>) -> Self {
        Self { members, ..Self::default() }
    }

    /// A step was committed: all have reached each other. Whether that is new.
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
        let accused = self.hear(accuser, accusation)?;
        self.members.get(accused).cloned()
    }

    /// Notes an accusation; returns the rank that it proves unreachable: two others accuse it, and nobody has reached
    /// it.
    fn hear(&mut self, accuser: usize, accusation: Accusation) -> Option<usize> {
        if !accusation.connecting || self.refuted {
            return None;
        }
        self.heard.insert(accuser, accusation);
        let accused = accusation.rank as usize;
        let accusers =
            self.heard.iter().filter(|(by, a)| a.rank as usize == accused && **by != accused);
        let reached = self
            .heard
            .iter()
            .any(|(by, a)| *by != accused && a.met.is_some_and(|met| met as usize == accused));
        let proven = accusers.count() >= 2 && !reached && accused < self.members.len();
        (proven && self.guilty.insert(accused)).then_some(accused)
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
        assert_eq!(a.hear(1, accuse(2, Some(0))), None);
        assert_eq!(a.hear(0, accuse(2, Some(1))), Some(2));
        assert_eq!(a.hear(0, accuse(2, Some(1))), None, "once");
    }

    #[test]
    fn one_accuser_or_one_who_reached_it_acquits() {
        let mut a = three();
        assert_eq!(a.hear(1, accuse(2, None)), None);
        assert_eq!(a.hear(1, accuse(2, None)), None, "the same accuser again");
        assert_eq!(a.hear(2, accuse(2, None)), None, "nobody accuses itself");
        let mut a = three();
        a.hear(1, accuse(2, None));
        assert_eq!(a.hear(0, accuse(1, Some(2))), None);
        assert_eq!(a.hear(0, accuse(2, None)), Some(2), "it says otherwise now");
        let mut a = three();
        assert!(a.refute() && !a.refute());
        a.hear(1, accuse(2, None));
        assert_eq!(a.hear(0, accuse(2, None)), None, "they have trained together");
    }
}

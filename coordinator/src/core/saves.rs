//! What the members of one generation store of its checkpoints, and what becomes of them.

use proto::id::{CheckpointId, Lineage, WorkerId};
use proto::protocol::SavedPart;
use std::collections::{BTreeMap, BTreeSet};

/// Parts by rank; none while one is being stored.
type Parts = BTreeMap<usize, Option<SavedPart>>;

/// What the members of one generation store, or have stored.
#[derive(Clone, Debug, Default)]
pub(super) struct Saves {
    lineage: Lineage,
    /// By rank.
    members: Vec<WorkerId>,
    /// Ranks whose process is gone.
    lost: BTreeSet<usize>,
    /// By step.
    parts: BTreeMap<u64, Parts>,
    /// Steps whose manifest is being stored.
    sealing: BTreeSet<u64>,
    /// Steps whose checkpoint will not be, and why.
    given_up: BTreeMap<u64, String>,
}

impl Saves {
    pub(super) fn new(lineage: Lineage, members: Vec<WorkerId>) -> Self {
        Self { lineage, members, ..Self::default() }
    }

    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// The rank of a member whose process lives.
    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        let rank = self.members.iter().position(|m| m == id)?;
        (!self.lost.contains(&rank)).then_some(rank)
    }

    /// Whether a rank's part of the checkpoint after `step` is stored.
    pub(super) fn has(&self, rank: usize, step: u64) -> bool {
        self.sealing.contains(&step) || self.parts.get(&step).is_some_and(|r| is_stored(r, rank))
    }

    /// The newest checkpoint that is still to come: every rank has stored its part, or is storing it.
    pub(super) fn coming(&self) -> Option<CheckpointId> {
        let all = |parts: &Parts| parts.len() == self.members.len();
        let parts = self.parts.iter().filter(|(_, parts)| all(parts)).map(|(step, _)| *step);
        let step = parts.chain(self.sealing.iter().copied()).max()?;
        Some(CheckpointId { lineage: self.lineage, step })
    }

    /// Nothing more is to be heard about that checkpoint.
    pub(super) fn is_settled(&self, step: u64) -> bool {
        self.sealing.contains(&step) || self.given_up.contains_key(&step)
    }

    pub(super) fn begin_part(&mut self, rank: usize, step: u64) {
        self.parts.entry(step).or_default().entry(rank).or_insert(None);
    }

    /// A rank has stored its part. Once every rank has, the parts are returned by rank, to be sealed, unless the ranks
    /// hold different states: then why there will be no such checkpoint.
    pub(super) fn store_part(
        &mut self,
        rank: usize,
        step: u64,
        saved: SavedPart,
    ) -> Option<Result<Vec<SavedPart>, String>> {
        let parts = self.parts.entry(step).or_default();
        parts.insert(rank, Some(saved));
        if parts.values().flatten().count() < self.members.len() {
            return None;
        }
        let parts: Vec<_> = self.parts.remove(&step)?.into_values().flatten().collect();
        let digests: Vec<_> = parts.iter().map(|part| part.digest.as_str()).collect();
        if let Some(why) = diverged(&self.members, &digests) {
            return Some(Err(self.give_up(step, &why)));
        }
        self.sealing.insert(step);
        Some(Ok(parts))
    }

    /// The manifest of the checkpoint after `step` is stored, or is not; false if it was not awaited.
    pub(super) fn end_sealing(&mut self, step: u64) -> bool {
        self.sealing.remove(&step)
    }

    /// There will be no checkpoint after `step`; the reason, in a sentence.
    pub(super) fn give_up(&mut self, step: u64, why: &str) -> String {
        let message = format!("the checkpoint after step {step} was given up: {why}");
        self.parts.remove(&step);
        self.given_up.insert(step, message.clone());
        message
    }

    pub(super) fn given_up(&self, step: u64) -> Option<&str> {
        self.given_up.get(&step).map(String::as_str)
    }

    /// A process is gone, and with it the parts that it has not reported.
    pub(super) fn lose(&mut self, id: &WorkerId) {
        if let Some(rank) = self.rank(id) {
            self.lost.insert(rank);
            self.parts.retain(|_, parts| is_stored(parts, rank));
        }
    }
}

fn is_stored(parts: &Parts, rank: usize) -> bool {
    matches!(parts.get(&rank), Some(Some(_)))
}

/// Which ranks hold another state than the others, in words; none if all hold the same. Of three or more ranks a
/// minority is named. Of two, or where no state has most of the ranks, nobody can say who is right.
fn diverged(members: &[WorkerId], digests: &[&str]) -> Option<String> {
    let mut holders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (rank, digest) in digests.iter().enumerate() {
        holders.entry(digest).or_default().push(rank);
    }
    if holders.len() < 2 {
        return None;
    }
    let most = holders.values().map(Vec::len).max().unwrap_or(0);
    let agreed = 2 * most > digests.len();
    let named = holders.values().filter(|ranks| !(agreed && ranks.len() == most)).flatten();
    let named: Vec<_> =
        named.map(|rank| format!("worker {} (rank {rank})", members[*rank])).collect();
    let others = if agreed { format!(" than the other {most} ranks") } else { String::new() };
    Some(format!(
        "the ranks do not hold the same state: {} {} another one{others}",
        named.join(" and "),
        if named.len() == 1 { "holds" } else { "hold each" },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_three_the_minority_is_named_and_of_two_both() {
        let members: Vec<_> = (0..4).map(|i| WorkerId::new(format!("w{i}"))).collect();
        let named = |digests: &[&str]| diverged(&members[..digests.len()], digests);
        assert_eq!(named(&["a", "a", "a"]), None);
        let one = named(&["a", "b", "a"]).expect("one differs");
        assert!(one.contains("worker w1 (rank 1) holds another one than the other 2"), "{one}");
        let both = named(&["a", "b"]).expect("they differ");
        assert!(both.contains("w0 (rank 0) and worker w1 (rank 1) hold each"), "{both}");
        let tie = named(&["a", "a", "b", "b"]).expect("they differ");
        assert!((0..4).all(|rank| tie.contains(&format!("(rank {rank})"))), "{tie}");
    }
}

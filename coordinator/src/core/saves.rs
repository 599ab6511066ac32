//! The checkpoints that the members of one generation are storing.

use proto::id::{CheckpointId, Lineage, WorkerId};
use proto::protocol::SavedPart;
use std::collections::{BTreeMap, BTreeSet};

/// The parts of one checkpoint, by rank; `None` while a part is being stored.
type Parts = BTreeMap<usize, Option<SavedPart>>;

/// The checkpoints of one generation whose parts are being stored, sealed or given up.
#[derive(Clone, Debug, Default)]
pub(super) struct Saves {
    lineage: Lineage,
    /// The members, by rank.
    members: Vec<WorkerId>,
    /// Ranks whose processes are gone.
    lost: BTreeSet<usize>,
    /// The parts of each checkpoint, by step.
    parts: BTreeMap<u64, Parts>,
    /// Steps of checkpoints whose manifest is being stored.
    sealing: BTreeSet<u64>,
    /// Steps of checkpoints that were given up, and why.
    given_up: BTreeMap<u64, String>,
}

impl Saves {
    pub(super) fn new(lineage: Lineage, members: Vec<WorkerId>) -> Self {
        Self { lineage, members, ..Self::default() }
    }

    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }

    /// The rank of a member whose process is alive.
    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        let rank = self.members.iter().position(|m| m == id)?;
        (!self.lost.contains(&rank)).then_some(rank)
    }

    /// Whether a rank's part of the checkpoint after `step` is stored.
    pub(super) fn has(&self, rank: usize, step: u64) -> bool {
        self.sealing.contains(&step) || self.parts.get(&step).is_some_and(|r| is_stored(r, rank))
    }

    /// The newest checkpoint that can still be completed: every rank has stored its part or is storing it.
    pub(super) fn coming(&self) -> Option<CheckpointId> {
        let all = |parts: &Parts| parts.len() == self.members.len();
        let parts = self.parts.iter().filter(|(_, parts)| all(parts)).map(|(step, _)| *step);
        let step = parts.chain(self.sealing.iter().copied()).max()?;
        Some(CheckpointId { lineage: self.lineage, step })
    }

    /// Whether reports about the parts of that checkpoint change nothing any more.
    pub(super) fn is_settled(&self, step: u64) -> bool {
        self.sealing.contains(&step) || self.given_up.contains_key(&step)
    }

    pub(super) fn begin_part(&mut self, rank: usize, step: u64) {
        self.parts.entry(step).or_default().entry(rank).or_insert(None);
    }

    /// Notes that a rank has stored its part. Once every rank has, returns the parts by rank to be sealed, or, if the
    /// ranks hold different states, why the checkpoint is given up.
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

    /// Notes that the manifest of the checkpoint after `step` is stored or could not be. Returns false if it was not
    /// being stored.
    pub(super) fn end_sealing(&mut self, step: u64) -> bool {
        self.sealing.remove(&step)
    }

    /// Gives up the checkpoint after `step`. Returns the reason as a sentence.
    pub(super) fn give_up(&mut self, step: u64, why: &str) -> String {
        let message = format!("the checkpoint after step {step} was given up: {why}");
        self.parts.remove(&step);
        self.given_up.insert(step, message.clone());
        message
    }

    pub(super) fn given_up(&self, step: u64) -> Option<&str> {
        self.given_up.get(&step).map(String::as_str)
    }

    /// Notes that a member's process is gone, and drops the checkpoints of which it has not stored its part.
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

/// Describes which ranks hold different states; `None` if all hold the same. If more than half of the ranks agree, only
/// the others are named. Otherwise all are, since it is unknown which state is right.
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
    let others = if agreed { format!(" from the other {most} ranks") } else { String::new() };
    Some(format!(
        "the ranks do not hold the same state: {} {}{others}",
        named.join(" and "),
        if named.len() == 1 { "differs" } else { "differ" },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_minority_is_named_or_else_all_ranks() {
        let members: Vec<_> = (0..4).map(|i| WorkerId::new(format!("w{i}"))).collect();
        let named = |digests: &[&str]| diverged(&members[..digests.len()], digests);
        assert_eq!(named(&["a", "a", "a"]), None);
        let one = named(&["a", "b", "a"]).expect("one differs");
        assert!(one.contains("worker w1 (rank 1) differs from the other 2 ranks"), "{one}");
        let both = named(&["a", "b"]).expect("they differ");
        assert!(both.ends_with("w0 (rank 0) and worker w1 (rank 1) differ"), "{both}");
        let tie = named(&["a", "a", "b", "b"]).expect("they differ");
        assert!((0..4).all(|rank| tie.contains(&format!("(rank {rank})"))), "{tie}");
    }
}

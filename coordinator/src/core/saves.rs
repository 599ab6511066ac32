//! Checkpoints: parts are put together, a manifest is stored, the journal entry that names it is the commit.
//!
//! A checkpoint belongs to its lineage and step, not to the membership that took it: uploads run behind, and through
//! regroups: the next generation waits for one that can still be whole, and begins there. A part counts if the process
//! that reports it was a member then and lives now; a part that died with its rank ends the checkpoint, since nobody
//! else has it.

use super::run::Run;
use super::turn::Turn;
use super::{Command, Fault, Notice, Retained};
use proto::event::{Fact, Failure};
use proto::id::{CheckpointId, Generation, Lineage, WorkerId};
use proto::manifest::{Checkpoint, File};
use proto::protocol::{Place, SavedPart, Start};
use std::collections::{BTreeMap, BTreeSet};

/// Checkpoints in a row that may be given up.
const GIVEN_UP: u32 = 1;

/// What the members of one generation store, or have stored.
#[derive(Clone, Debug)]
pub(super) struct Saves {
    lineage: Lineage,
    /// By rank.
    members: Vec<WorkerId>,
    /// Ranks whose process is gone.
    lost: BTreeSet<usize>,
    /// By step and rank; none while a part is being stored.
    parts: BTreeMap<u64, BTreeMap<usize, Option<SavedPart>>>,
    /// Steps whose manifest is being stored.
    sealing: BTreeSet<u64>,
    /// Steps whose checkpoint will not be, and why.
    given_up: BTreeMap<u64, String>,
}

impl Saves {
    pub(super) fn new(lineage: Lineage, members: Vec<WorkerId>) -> Self {
        Self {
            lineage,
            members,
            lost: BTreeSet::new(),
            parts: BTreeMap::new(),
            sealing: BTreeSet::new(),
            given_up: BTreeMap::new(),
        }
    }

    pub(super) fn lineage(&self) -> Lineage {
        self.lineage
    }

    fn rank(&self, id: &WorkerId) -> Option<usize> {
        let rank = self.members.iter().position(|m| m == id)?;
        (!self.lost.contains(&rank)).then_some(rank)
    }

    /// Whether a rank's part of the checkpoint after `step` is stored.
    pub(super) fn has(&self, rank: usize, step: u64) -> bool {
        self.sealing.contains(&step) || self.parts.get(&step).is_some_and(|r| is_stored(r, rank))
    }

    /// The newest step whose checkpoint is still to come: every rank has stored its part, or is at it.
    fn coming(&self) -> Option<u64> {
        let all = |ranks: &BTreeMap<_, _>| ranks.len() == self.members.len();
        let parts = self.parts.iter().filter(|(_, ranks)| all(ranks)).map(|(step, _)| *step);
        parts.chain(self.sealing.iter().copied()).max()
    }

    /// There is nothing more to be heard about that checkpoint.
    fn is_settled(&self, step: u64) -> bool {
        self.sealing.contains(&step) || self.given_up.contains_key(&step)
    }

    /// A process is gone, and with it the parts that it has not reported.
    fn lose(&mut self, id: &WorkerId) {
        if let Some(rank) = self.rank(id) {
            self.lost.insert(rank);
            self.parts.retain(|_, ranks| is_stored(ranks, rank));
        }
    }
}

fn is_stored(ranks: &BTreeMap<usize, Option<SavedPart>>, rank: usize) -> bool {
    matches!(ranks.get(&rank), Some(Some(_)))
}

impl Run {
    /// The step after which a checkpoint is still to come that is newer than all there are.
    pub(super) fn expected(&self) -> Option<u64> {
        let coming = |s: &Saves| Some(CheckpointId { lineage: s.lineage, step: s.coming()? });
        let newest = self.saves.values().filter_map(coming).max();
        newest.filter(|c| Some(*c) > self.newest()).map(|c| c.step)
    }

    /// Where the next generation starts.
    pub(super) fn newest(&self) -> Option<CheckpointId> {
        self.checkpoints.last_key_value().map(|(committed, _)| *committed)
    }

    /// The same, for its members.
    pub(super) fn start(&self) -> Option<Start> {
        let (CheckpointId { lineage, step }, sha256) = self.checkpoints.last_key_value()?;
        let manifest = proto::key::manifest(&self.id, *lineage, *step);
        Some(Start { manifest, sha256: sha256.clone() })
    }

    /// A process will report nothing any more.
    pub(super) fn forget(&mut self, id: &WorkerId) {
        self.saves.values_mut().for_each(|saves| saves.lose(id));
    }

    /// The parts that a report of `worker` from `place` adds to.
    pub(super) fn saved_at(
        &mut self,
        worker: &WorkerId,
        place: &Place,
    ) -> Option<(&mut Saves, usize)> {
        let saves = self.saves.get_mut(&place.generation)?;
        let rank = saves.rank(worker)?;
        (saves.lineage == place.lineage).then_some((saves, rank))
    }

    /// A rank has taken its snapshot.
    pub(super) fn part_begun(&mut self, worker: &WorkerId, place: &Place, step: u64) {
        if let Some((saves, rank)) = self.unsettled(worker, place, step) {
            saves.parts.entry(step).or_default().entry(rank).or_insert(None);
        }
    }

    /// The same as [`Run::saved_at`], unless it is known what becomes of that checkpoint: reports are said again on
    /// every new stream, also of checkpoints that a newer one has made superfluous.
    fn unsettled(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        step: u64,
    ) -> Option<(&mut Saves, usize)> {
        let superfluous = self.newest() >= Some(CheckpointId { lineage: place.lineage, step });
        let (saves, rank) = self.saved_at(worker, place).filter(|_| !superfluous)?;
        (!saves.is_settled(step)).then_some((saves, rank))
    }

    pub(super) fn part_saved(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        step: u64,
        part: SavedPart,
        turn: &mut Turn<'_>,
    ) {
        let Some((saves, rank)) = self.unsettled(worker, place, step) else { return };
        let size = saves.members.len();
        let parts = saves.parts.entry(step).or_default();
        parts.insert(rank, Some(part));
        if parts.values().flatten().count() < size {
            return;
        }
        let parts = saves.parts.remove(&step).expect("just counted");
        let parts: Vec<_> = parts.into_values().flatten().collect();
        let digests: Vec<_> = parts.iter().map(|part| part.digest.as_str()).collect();
        if let Some(diverged) = diverged(&saves.members, &digests) {
            return self.part_ways(place, step, &diverged, turn);
        }
        let state_digest = digests.first().map(|digest| (*digest).to_owned());
        saves.sealing.insert(step);
        let of_state = |f: &File| f.key.starts_with(Checkpoint::STATE);
        let files = parts.into_iter().flat_map(|part| part.files);
        let (state, mut model): (_, Vec<_>) = files.partition(of_state);
        // By their numbers, whoever has stored them.
        model.sort_by(|a, b| a.key.cmp(&b.key));
        let checkpoint = Checkpoint {
            run: self.id.clone(),
            lineage: place.lineage,
            step,
            plan_digest: self.plan_digest.clone(),
            state_digest,
            model,
            state,
            receipt: None,
        };
        let skipped = self.progress.skipped_until(step);
        turn.out.push(Command::Seal { checkpoint, skipped });
    }

    /// The ranks do not hold the same state any more: what they have stored is no checkpoint, and all go back to the
    /// last one that they agreed on.
    fn part_ways(&mut self, place: &Place, step: u64, diverged: &str, turn: &mut Turn<'_>) {
        self.give_up(place.generation, step, diverged, turn);
        let run = self.id.clone();
        turn.out.push(Command::Discard { run, lineage: place.lineage, step });
        if self.is_at(place) && self.phase.membership().is_some() {
            self.regroup(turn);
        }
    }

    /// A part could not be stored: there will be no such checkpoint, and the next one is tried. The store is to blame
    /// unless the worker had to go before it was done.
    pub(super) fn part_failed(
        &mut self,
        worker: &WorkerId,
        leaving: bool,
        place: &Place,
        step: u64,
        message: &str,
        turn: &mut Turn<'_>,
    ) {
        let ended = self.phase.ended();
        let Some((saves, rank)) = self.saved_at(worker, place) else { return };
        if ended || saves.given_up.contains_key(&step) {
            return;
        }
        saves.parts.remove(&step);
        let message = format!("worker {worker} (rank {rank}): {message}");
        self.unsaved += u32::from(!leaving);
        self.give_up(place.generation, step, &message, turn);
        // It has no manifest that another coordinator could find. What other ranks are still storing of it goes with
        // the next commit.
        let run = self.id.clone();
        turn.out.push(Command::Discard { run, lineage: place.lineage, step });
    }

    pub(super) fn sealed(
        &mut self,
        lineage: Lineage,
        step: u64,
        outcome: Result<String, String>,
        turn: &mut Turn<'_>,
    ) {
        let mut of_it = self.saves.iter_mut().filter(|(_, saves)| saves.lineage == lineage);
        let sealed = of_it.find_map(|(g, saves)| saves.sealing.remove(&step).then_some(*g));
        let Some(generation) = sealed.filter(|_| !self.phase.ended()) else { return };
        let manifest_sha256 = match outcome {
            Ok(sha256) => sha256,
            Err(message) => {
                self.unsaved += 1;
                return self.give_up(generation, step, &message, turn);
            }
        };
        self.unsaved = 0;
        let event = Fact::Checkpointed { lineage, step, manifest_sha256: manifest_sha256.clone() };
        turn.journal([event]);
        self.checkpoints.insert(CheckpointId { lineage, step }, manifest_sha256);
        let path = proto::key::checkpoint(&self.id, lineage, step);
        let notice = Notice::Checkpoint { step, path };
        turn.notify(notice);
        self.retain(turn);
    }

    fn give_up(&mut self, generation: Generation, step: u64, why: &str, turn: &mut Turn<'_>) {
        let message = format!("the checkpoint after step {step} was given up: {why}");
        if let Some(saves) = self.saves.get_mut(&generation) {
            saves.given_up.insert(step, message.clone());
        }
        self.incident(None, message.clone(), turn);
        if self.unsaved > GIVEN_UP {
            self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
    }

    /// Why the present generation leaves no checkpoint after `step`.
    pub(super) fn given_up(&self, step: u64) -> Option<String> {
        self.saves.get(&self.generation)?.given_up.get(&step).cloned()
    }

    /// Keeps the newest `keep`, and the one with the best held-out loss.
    pub(super) fn retain(&mut self, turn: &mut Turn<'_>) {
        let Some(latest) = self.newest() else { return };
        let losses = self.progress.losses();
        let measured = self.checkpoints.keys().filter_map(|c| Some((c, losses.get(&c.step)?)));
        // A loss that is not a number is less than any other on some processors and more on others.
        let measured = measured.filter(|(_, loss)| loss.is_finite());
        let best = measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(c, _)| *c);
        let old = self.checkpoints.len().saturating_sub(self.settings.keep.max(1));
        let old: BTreeSet<_> = self.checkpoints.keys().take(old).copied().collect();
        self.checkpoints.retain(|c, _| !old.contains(c) || Some(*c) == best);
        let kept = self.checkpoints.keys().copied().collect();
        let retained = Retained { kept, latest, best };
        turn.out.push(Command::Retain { run: self.id.clone(), retained });
    }

    /// The checkpoint that the present generation began at is not what was committed: the one before it has to do.
    ///
    /// The ranks that only lost a peer by it may have said so first.
    pub(super) fn damaged(&mut self, worker: &WorkerId, what: &str, turn: &mut Turn<'_>) {
        let newest = self.newest();
        let Some(CheckpointId { lineage, step }) = newest.filter(|c| Some(*c) == self.began_at)
        else {
            return;
        };
        self.checkpoints.pop_last();
        turn.journal([Fact::Damaged { lineage, step }]);
        let instead = match self.newest() {
            Some(before) => format!("the one after step {} is used instead", before.step),
            None => "there is none before it".into(),
        };
        let message = format!("the checkpoint after step {step} is damaged: {what}; {instead}");
        self.incident(Some(worker), message.clone(), turn);
        if self.checkpoints.is_empty() {
            let message = message + "\nhint: --resume begins anew, from the base";
            return self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
        self.gather();
    }
}

/// Which ranks hold another state than the others, in words; none if all hold the same. Of three or more a minority is
/// named. Of two, or where no state has most of the ranks, nobody can say who is right.
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

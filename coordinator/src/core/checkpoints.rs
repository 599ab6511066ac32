//! Checkpoints: parts are put together, a manifest is stored, the journal entry that names it is the commit.
//!
//! A checkpoint belongs to its lineage and step, not to the membership that took it: uploads run behind, and through
//! regroups: the next generation waits for one that can still be whole, and begins there. A part counts if the process
//! that reports it was a member then and lives now; a part that died with its rank ends the checkpoint, since nobody
//! else has it.

use super::Retained;
use super::report::Reporter;
use super::saves::Saves;
use proto::id::{CheckpointId, Generation, Lineage, RunId, WorkerId};
use proto::manifest::{Checkpoint, File};
use proto::protocol::{SavedPart, Start};
use std::collections::{BTreeMap, BTreeSet};

/// Checkpoints in a row that may be given up.
const GIVEN_UP: u32 = 1;

/// The checkpoints of a run: those that are committed, and those on their way.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// With the SHA-256 of their manifests; the last is where a generation begins.
    committed: BTreeMap<CheckpointId, String>,
    /// Where the newest generation began.
    began_at: Option<(CheckpointId, String)>,
    /// Checkpoints on their way, by the generation whose members store them.
    saves: BTreeMap<Generation, Saves>,
    /// Checkpoints given up in a row.
    given_up: u32,
}

impl Checkpoints {
    pub(super) fn newest(&self) -> Option<CheckpointId> {
        self.committed.last_key_value().map(|(id, _)| *id)
    }

    /// Where the newest generation began, for its members.
    pub(super) fn start(&self, run: &RunId) -> Option<Start> {
        let (id, sha256) = self.began_at.as_ref()?;
        let manifest = proto::key::manifest(run, id.lineage, id.step);
        Some(Start { manifest, sha256: sha256.clone() })
    }

    /// Whether one after `step` is committed, in whatever lineage.
    pub(super) fn has(&self, step: u64) -> bool {
        self.committed.keys().any(|id| id.step == step)
    }

    /// The step after which a checkpoint is still to come that is newer than all committed ones.
    pub(super) fn expected(&self) -> Option<u64> {
        let coming = self.saves.values().filter_map(Saves::coming).max();
        coming.filter(|id| Some(*id) > self.newest()).map(|id| id.step)
    }

    pub(super) fn replay_commit(&mut self, id: CheckpointId, manifest_sha256: String) {
        self.committed.insert(id, manifest_sha256);
    }

    pub(super) fn replay_damage(&mut self, id: CheckpointId) {
        self.committed.remove(&id);
    }

    /// A generation begins at the newest checkpoint: after so many steps.
    pub(super) fn begin_generation(&mut self) -> u64 {
        let newest = self.committed.last_key_value();
        self.began_at = newest.map(|(id, sha256)| (*id, sha256.clone()));
        newest.map_or(0, |(id, _)| id.step)
    }

    /// The members of a generation, by rank, may store checkpoints of `lineage`. What an earlier lineage has on its way
    /// goes on after the start of this one: it belongs to a lineage that ends here.
    pub(super) fn expect_parts(
        &mut self,
        generation: Generation,
        lineage: Lineage,
        members: Vec<WorkerId>,
    ) {
        self.saves.retain(|_, saves| saves.lineage() == lineage);
        self.saves.insert(generation, Saves::new(lineage, members));
    }

    /// A process will report nothing any more.
    pub(super) fn lose(&mut self, worker: &WorkerId) {
        self.saves.values_mut().for_each(|saves| saves.lose(worker));
    }

    /// Whether a live member of that generation reports.
    pub(super) fn is_member(&self, Reporter { worker, place }: Reporter<'_>) -> bool {
        let saves = self.saves.get(&place.generation).filter(|s| s.lineage() == place.lineage);
        saves.is_some_and(|saves| saves.rank(worker).is_some())
    }

    /// Whether nothing is awaited of a rank that has stopped after `step`: its part is stored, or superfluous.
    pub(super) fn has_part(&self, generation: Generation, rank: usize, step: u64) -> bool {
        self.newest().is_some_and(|id| id.step >= step)
            || self.saves.get(&generation).is_some_and(|saves| saves.has(rank, step))
    }

    pub(super) fn begin_part(&mut self, from: Reporter<'_>, step: u64) {
        if let Some((saves, rank)) = self.unsettled(from, step) {
            saves.begin_part(rank, step);
        }
    }

    /// A rank has stored its part of a checkpoint of the plan with this digest. Once all have, the checkpoint is to be
    /// sealed, unless they hold different states: then why it is given up.
    pub(super) fn store_part(
        &mut self,
        from: Reporter<'_>,
        step: u64,
        saved: SavedPart,
        plan_digest: &str,
    ) -> Option<Result<Checkpoint, String>> {
        let (saves, rank) = self.unsettled(from, step)?;
        let stored = saves.store_part(rank, step, saved)?;
        Some(stored.map(|parts| {
            let state_digest = parts.first().map(|part| part.digest.clone());
            let of_state = |f: &File| f.key.starts_with(Checkpoint::STATE);
            let files = parts.into_iter().flat_map(|part| part.files);
            let (state, mut model): (_, Vec<_>) = files.partition(of_state);
            // By their numbers, whichever rank has stored them.
            model.sort_by(|a, b| a.key.cmp(&b.key));
            Checkpoint {
                run: from.place.run.clone(),
                lineage: from.place.lineage,
                step,
                plan_digest: plan_digest.to_owned(),
                state_digest,
                model,
                state,
                receipt: None,
            }
        }))
    }

    /// A part could not be stored, perhaps because the worker had to go: why the checkpoint is given up, unless it was
    /// already.
    pub(super) fn fail_part(
        &mut self,
        from: Reporter<'_>,
        step: u64,
        leaving: bool,
        message: &str,
    ) -> Option<String> {
        let worker = from.worker;
        let (saves, rank) = self.find(from)?;
        if saves.given_up(step).is_some() {
            return None;
        }
        let why = saves.give_up(step, &format!("worker {worker} (rank {rank}): {message}"));
        self.given_up += u32::from(!leaving);
        Some(why)
    }

    /// A checkpoint's manifest is stored, and has this digest, or is not: then why it is given up. None if it was not
    /// awaited.
    pub(super) fn seal(
        &mut self,
        id: CheckpointId,
        outcome: Result<String, String>,
    ) -> Option<Result<String, String>> {
        let mut of_it = self.saves.values_mut().filter(|saves| saves.lineage() == id.lineage);
        let saves = of_it.find_map(|saves| saves.end_sealing(id.step).then_some(saves))?;
        Some(match outcome {
            Ok(manifest_sha256) => {
                self.given_up = 0;
                self.committed.insert(id, manifest_sha256.clone());
                Ok(manifest_sha256)
            }
            Err(message) => {
                self.given_up += 1;
                Err(saves.give_up(id.step, &message))
            }
        })
    }

    /// Why that generation leaves no checkpoint after `step`.
    pub(super) fn given_up(&self, generation: Generation, step: u64) -> Option<&str> {
        self.saves.get(&generation)?.given_up(step)
    }

    pub(super) fn is_hopeless(&self) -> bool {
        self.given_up > GIVEN_UP
    }

    /// Forgets all but the newest `keep` and the one with the best held-out loss; which stay.
    pub(super) fn retain(&mut self, keep: usize, losses: &BTreeMap<u64, f64>) -> Option<Retained> {
        let latest = self.newest()?;
        let measured = self.committed.keys().filter_map(|id| Some((id, losses.get(&id.step)?)));
        // A loss that is not a number is less than any other on some processors and more on others.
        let measured = measured.filter(|(_, loss)| loss.is_finite());
        let best = measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(id, _)| *id);
        let old = self.committed.len().saturating_sub(keep.max(1));
        let old: BTreeSet<_> = self.committed.keys().take(old).copied().collect();
        self.committed.retain(|id, _| !old.contains(id) || Some(*id) == best);
        let kept = self.committed.keys().copied().collect();
        Some(Retained { kept, latest, best })
    }

    /// The checkpoint that the newest generation began at is damaged: forgets it, unless it is not the newest any more.
    pub(super) fn drop_start(&mut self) -> Option<CheckpointId> {
        let (began_at, _) = self.began_at.as_ref()?;
        let start = self.newest().filter(|newest| newest == began_at)?;
        self.committed.remove(&start);
        Some(start)
    }

    /// What the members of a generation store, and the rank of the one that reports.
    fn find(&mut self, from: Reporter<'_>) -> Option<(&mut Saves, usize)> {
        let saves = self.saves.get_mut(&from.place.generation)?;
        let rank = saves.rank(from.worker)?;
        (saves.lineage() == from.place.lineage).then_some((saves, rank))
    }

    /// The same, unless the checkpoint's fate is known: reports are resent on every new stream, also of checkpoints
    /// that a newer one has made superfluous.
    fn unsettled(&mut self, from: Reporter<'_>, step: u64) -> Option<(&mut Saves, usize)> {
        let id = CheckpointId { lineage: from.place.lineage, step };
        let superfluous = self.newest() >= Some(id);
        let (saves, rank) = self.find(from).filter(|_| !superfluous)?;
        (!saves.is_settled(step)).then_some((saves, rank))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::protocol::Place;

    const LINEAGE: Lineage = Lineage(1);

    fn id(step: u64) -> CheckpointId {
        CheckpointId { lineage: LINEAGE, step }
    }

    fn sha(step: u64) -> String {
        format!("sha {step}")
    }

    #[test]
    fn a_generation_begins_at_what_was_newest_then() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.replay_commit(id(2), sha(2));
        checkpoints.begin_generation();
        checkpoints.replay_commit(id(4), sha(4));
        let start = checkpoints.start(&RunId::new("r")).expect("it began at one");
        assert_eq!(start.sha256, sha(2));
        assert_eq!(checkpoints.drop_start(), None, "a newer one has replaced it");
        checkpoints.begin_generation();
        assert_eq!(checkpoints.drop_start(), Some(id(4)));
        assert_eq!(checkpoints.newest(), Some(id(2)));
    }

    #[test]
    fn the_newest_and_the_best_are_retained() {
        let mut checkpoints = Checkpoints::default();
        assert!(checkpoints.retain(1, &BTreeMap::new()).is_none(), "there is none");
        for step in [2, 4, 6] {
            checkpoints.replay_commit(id(step), sha(step));
        }
        let losses = BTreeMap::from([(2, 1.0), (4, f64::NAN), (6, 3.0)]);
        let retained = checkpoints.retain(0, &losses).expect("there are some");
        let kept = vec![id(2), id(6)];
        assert_eq!(retained, Retained { kept, latest: id(6), best: Some(id(2)) });
        assert!(!checkpoints.has(4));
    }

    #[test]
    fn a_checkpoint_that_is_sealed_ends_the_row_of_those_given_up() {
        let mut checkpoints = Checkpoints::default();
        let worker = WorkerId::new("w");
        checkpoints.expect_parts(Generation(1), LINEAGE, vec![worker.clone()]);
        let place = Place { run: RunId::new("r"), generation: Generation(1), lineage: LINEAGE };
        let from = Reporter { worker: &worker, place: &place };
        let mut save = |step, outcome| {
            let saved = SavedPart { files: Vec::new(), digest: "d".into() };
            let stored = checkpoints.store_part(from, step, saved, "plan");
            assert!(matches!(stored, Some(Ok(_))));
            assert!(checkpoints.seal(id(step), outcome).is_some());
            checkpoints.is_hopeless()
        };
        assert!(!save(2, Err("away".into())));
        assert!(!save(4, Ok(sha(4))));
        assert!(!save(6, Err("away".into())));
        assert!(save(8, Err("away".into())));
    }
}

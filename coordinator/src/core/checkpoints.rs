//! The checkpoints of a run: the parts of all ranks are collected, the manifest is stored, and the journal entry that
//! names it is the commit.
//!
//! A checkpoint belongs to its lineage and step, not to the membership that took it. Uploads go on while the members
//! train and while they regroup; the next generation waits for a checkpoint that can still be completed and begins
//! there. A part counts if the process that reports it was a member of that generation and is still alive. If a
//! process dies before it has stored its part, the checkpoint is lost, since no other process has that part.

use super::Retained;
use super::report::Reporter;
use super::saves::Saves;
use proto::id::{CheckpointId, Generation, Lineage, RunId, WorkerId};
use proto::manifest::{Checkpoint, File};
use proto::protocol::{SavedPart, Start};
use std::collections::{BTreeMap, BTreeSet};

/// Number of consecutive checkpoints that may be given up before the run fails.
const GIVEN_UP: u32 = 1;

/// The checkpoints of a run: those that are committed and those that are being stored.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// Committed checkpoints with the SHA-256 of their manifests. The next generation begins at the last one.
    committed: BTreeMap<CheckpointId, String>,
    /// The checkpoint at which the newest generation began, with the SHA-256 of its manifest.
    began_at: Option<(CheckpointId, String)>,
    /// Checkpoints that are being stored, by the generation whose members store them.
    saves: BTreeMap<Generation, Saves>,
    /// Number of consecutive checkpoints that were given up.
    given_up: u32,
}

impl Checkpoints {
    pub(super) fn newest(&self) -> Option<CheckpointId> {
        self.committed.last_key_value().map(|(id, _)| *id)
    }

    /// The checkpoint at which the newest generation began, for the directives of its members.
    pub(super) fn start(&self, run: &RunId) -> Option<Start> {
        let (id, sha256) = self.began_at.as_ref()?;
        let manifest = proto::key::manifest(run, id.lineage, id.step);
        Some(Start { manifest, sha256: sha256.clone() })
    }

    /// Whether a checkpoint after `step` is committed, in any lineage.
    pub(super) fn has(&self, step: u64) -> bool {
        self.committed.keys().any(|id| id.step == step)
    }

    /// The step of the newest checkpoint that is still being stored, if it is newer than all committed ones.
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

    /// Begins a generation at the newest checkpoint, and returns the number of steps that are committed there.
    pub(super) fn begin_generation(&mut self) -> u64 {
        let newest = self.committed.last_key_value();
        self.began_at = newest.map(|(id, sha256)| (*id, sha256.clone()));
        newest.map_or(0, |(id, _)| id.step)
    }

    /// Lets the members of a generation, given by rank, store checkpoints of `lineage`. Parts of other lineages are
    /// forgotten: their steps come after the one at which this lineage begins, and are repeated.
    pub(super) fn expect_parts(
        &mut self,
        generation: Generation,
        lineage: Lineage,
        members: Vec<WorkerId>,
    ) {
        self.saves.retain(|_, saves| saves.lineage() == lineage);
        self.saves.insert(generation, Saves::new(lineage, members));
    }

    /// Notes that a process is gone and reports nothing more.
    pub(super) fn lose(&mut self, worker: &WorkerId) {
        self.saves.values_mut().for_each(|saves| saves.lose(worker));
    }

    /// Whether the reporter is a live member of the generation that it reports for.
    pub(super) fn is_member(&self, Reporter { worker, place }: Reporter<'_>) -> bool {
        let saves = self.saves.get(&place.generation).filter(|s| s.lineage() == place.lineage);
        saves.is_some_and(|saves| saves.rank(worker).is_some())
    }

    /// Whether a rank that has stopped after `step` owes no part: its part is stored, or a checkpoint at least as new
    /// is committed.
    pub(super) fn has_part(&self, generation: Generation, rank: usize, step: u64) -> bool {
        self.newest().is_some_and(|id| id.step >= step)
            || self.saves.get(&generation).is_some_and(|saves| saves.has(rank, step))
    }

    pub(super) fn begin_part(&mut self, from: Reporter<'_>, step: u64) {
        if let Some((saves, rank)) = self.unsettled(from, step) {
            saves.begin_part(rank, step);
        }
    }

    /// Notes that a rank has stored its part of a checkpoint. Once all ranks have, returns the checkpoint to be sealed,
    /// or, if the ranks hold different states, why it is given up.
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
            // Sorted by key, which contains the file's number, whichever rank has stored it.
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

    /// Gives up a checkpoint of which a part could not be stored. Returns why, or `None` if it was given up before. The
    /// failure of a worker that is `leaving` does not count against the run.
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

    /// Notes whether a checkpoint's manifest could be stored. Returns the digest of the manifest, or why the checkpoint
    /// is given up; `None` if it was not being sealed.
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

    /// Why the checkpoint of that generation after `step` was given up, if it was.
    pub(super) fn given_up(&self, generation: Generation, step: u64) -> Option<&str> {
        self.saves.get(&generation)?.given_up(step)
    }

    pub(super) fn is_hopeless(&self) -> bool {
        self.given_up > GIVEN_UP
    }

    /// Forgets all checkpoints but the newest `keep` and the one with the best held-out loss. Returns those that stay.
    pub(super) fn retain(&mut self, keep: usize, losses: &BTreeMap<u64, f64>) -> Option<Retained> {
        let latest = self.newest()?;
        let measured = self.committed.keys().filter_map(|id| Some((id, losses.get(&id.step)?)));
        // `total_cmp` sorts a NaN by its sign, which depends on the processor.
        let measured = measured.filter(|(_, loss)| loss.is_finite());
        let best = measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(id, _)| *id);
        let old = self.committed.len().saturating_sub(keep.max(1));
        let old: BTreeSet<_> = self.committed.keys().take(old).copied().collect();
        self.committed.retain(|id, _| !old.contains(id) || Some(*id) == best);
        let kept = self.committed.keys().copied().collect();
        Some(Retained { kept, latest, best })
    }

    /// Forgets the checkpoint at which the newest generation began, since it is damaged. Does nothing if a newer one
    /// was committed since.
    pub(super) fn drop_start(&mut self) -> Option<CheckpointId> {
        let (began_at, _) = self.began_at.as_ref()?;
        let start = self.newest().filter(|newest| newest == began_at)?;
        self.committed.remove(&start);
        Some(start)
    }

    /// The saves of the reporter's generation, and the reporter's rank.
    fn find(&mut self, from: Reporter<'_>) -> Option<(&mut Saves, usize)> {
        let saves = self.saves.get_mut(&from.place.generation)?;
        let rank = saves.rank(from.worker)?;
        (saves.lineage() == from.place.lineage).then_some((saves, rank))
    }

    /// Like `find`, but `None` if the outcome of the checkpoint is known or one at least as new is committed. Reports
    /// about such checkpoints still arrive, since workers resend their reports on every new stream.
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
    fn a_generation_begins_at_the_checkpoint_that_was_newest_then() {
        let mut checkpoints = Checkpoints::default();
        checkpoints.replay_commit(id(2), sha(2));
        checkpoints.begin_generation();
        checkpoints.replay_commit(id(4), sha(4));
        let start = checkpoints.start(&RunId::new("r")).expect("it began at a checkpoint");
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
    fn a_sealed_checkpoint_resets_the_count_of_those_given_up() {
        let mut checkpoints = Checkpoints::default();
        let worker = WorkerId::new("w");
        checkpoints.expect_parts(Generation(1), LINEAGE, vec![worker.clone()]);
        let place = Place { run: RunId::new("r"), generation: Generation(1), lineage: LINEAGE };
        let from = Reporter { worker: &worker, place: &place };
        let mut save = |step, outcome| {
            let saved = SavedPart {
                files: Vec::new(),
                digest: "d".into(),
                pause: std::time::Duration::ZERO,
            };
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

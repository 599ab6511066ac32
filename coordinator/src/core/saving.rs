//! What follows for a run from what becomes of its checkpoints.

use super::checkpoints::{Part, Sealed, Stored};
use super::run::Run;
use super::turn::Turn;
use super::{Command, Fault, Notice};
use proto::event::{Fact, Failure};
use proto::id::{CheckpointId, WorkerId};
use proto::protocol::SavedPart;

impl Run {
    /// A rank has taken its snapshot.
    pub(super) fn part_begun(&mut self, part: Part<'_>) {
        self.checkpoints.begin_part(part);
    }

    pub(super) fn part_saved(&mut self, part: Part<'_>, saved: SavedPart, turn: &mut Turn<'_>) {
        match self.checkpoints.store_part(part, saved, &self.plan_digest) {
            Stored::Nothing => {}
            Stored::Whole(checkpoint) => {
                let skipped = self.progress.skipped_until(part.step);
                turn.out.push(Command::Seal { checkpoint, skipped });
            }
            // What the ranks have stored is no checkpoint: all go back to the last one that they agreed on.
            Stored::Diverged(why) => {
                self.give_up(why, turn);
                discard(part, turn);
                if self.is_at(part.place) && self.phase.membership().is_some() {
                    self.regroup(turn);
                }
            }
        }
    }

    /// A part could not be stored: there will be no such checkpoint, and the next one is tried. The store is to blame
    /// unless the worker had to go before it was done.
    pub(super) fn part_failed(&mut self, part: Part<'_>, message: &str, turn: &mut Turn<'_>) {
        if self.phase.ended() {
            return;
        }
        let leaving = turn.workers.get(part.worker).is_some_and(|worker| worker.leaving);
        let Some(why) = self.checkpoints.fail_part(part, leaving, message) else { return };
        self.give_up(why, turn);
        // It has no manifest that another coordinator could find. What other ranks are still storing of it goes with
        // the next commit.
        discard(part, turn);
    }

    pub(super) fn sealed(
        &mut self,
        id: CheckpointId,
        outcome: Result<String, String>,
        turn: &mut Turn<'_>,
    ) {
        if self.phase.ended() {
            return;
        }
        match self.checkpoints.seal(id, outcome) {
            None => {}
            Some(Sealed::GivenUp(why)) => self.give_up(why, turn),
            Some(Sealed::Committed { manifest_sha256 }) => {
                let CheckpointId { lineage, step } = id;
                turn.journal([Fact::Checkpointed { lineage, step, manifest_sha256 }]);
                let path = proto::key::checkpoint(&self.id, lineage, step);
                turn.notify(Notice::Checkpoint { step, path });
                self.retain(turn);
            }
        }
    }

    fn give_up(&mut self, why: String, turn: &mut Turn<'_>) {
        self.incident(None, why.clone(), turn);
        if self.checkpoints.is_hopeless() {
            self.fail(Fault { kind: Failure::Infrastructure, message: why }, turn);
        }
    }

    /// Brings the checkpoints in storage to those that are to stay.
    pub(super) fn retain(&mut self, turn: &mut Turn<'_>) {
        let losses = self.progress.losses();
        if let Some(retained) = self.checkpoints.retain(self.settings.keep, losses) {
            turn.out.push(Command::Retain { run: self.id.clone(), retained });
        }
    }

    /// The checkpoint that the present generation began at is not what was committed: the one before it has to do.
    ///
    /// The ranks that only lost a peer by it may have said so first.
    pub(super) fn damaged(&mut self, worker: &WorkerId, what: &str, turn: &mut Turn<'_>) {
        let Some(CheckpointId { lineage, step }) = self.checkpoints.drop_start() else { return };
        turn.journal([Fact::Damaged { lineage, step }]);
        let before = self.checkpoints.newest();
        let instead = match before {
            Some(before) => format!("the one after step {} is used instead", before.step),
            None => "there is none before it".into(),
        };
        let message = format!("the checkpoint after step {step} is damaged: {what}; {instead}");
        self.incident(Some(worker), message.clone(), turn);
        if before.is_none() {
            let message = message + "\nhint: --resume begins anew, from the base";
            return self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
        self.gather();
    }
}

/// Deletes what is stored of a checkpoint that will not be.
fn discard(part: Part<'_>, turn: &mut Turn<'_>) {
    let (run, lineage) = (turn.run.clone(), part.place.lineage);
    turn.out.push(Command::Discard { run, lineage, step: part.step });
}

//! Reports of members about their steps and checkpoints, and their consequences.

use super::Run;
use crate::core::membership::Membership;
use crate::core::report::Reporter;
use crate::core::turn::Turn;
use crate::core::{Command, Fault, Notice};
use proto::event::{Fact, Failure};
use proto::id::{CheckpointId, Generation, WorkerId};
use proto::protocol::{Place, SavedPart, SourceSum, StepDone};
use proto::receipt::Skipped;

impl Run {
    /// Whether `place` is the current membership.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        place.run == self.id && place.generation == self.generation && place.lineage == self.lineage
    }

    /// Notes that a rank has committed a step. Reports of a generation's last steps may arrive after its end, until the
    /// next generation begins.
    pub(crate) fn step_done(&mut self, from: Reporter<'_>, done: StepDone, turn: &mut Turn<'_>) {
        if !self.is_at(from.place) {
            return;
        }
        let Some(rank) = self.accusations.rank(from.worker) else { return };
        let Some(ranks) = self.progress.note_done(rank, self.accusations.size(), done) else {
            return;
        };
        if self.accusations.refute() {
            // Members that have committed a step have reached each other, so their setbacks are over.
            let members = self.phase.membership().into_iter().flat_map(Membership::ids);
            members.for_each(|id| turn.workers.mend(id, |_| true));
        }
        let steps = self.steps();
        let notice = self.progress.commit(&ranks, &self.settings.trained, steps, self.lineage);
        turn.notify(notice);
    }

    /// Notes that a step was skipped. This counts after the membership's end too, since the receipt of a checkpoint
    /// that is still being stored must name the step.
    pub(crate) fn step_skipped(
        &mut self,
        from: Reporter<'_>,
        skipped: Skipped,
        turn: &mut Turn<'_>,
    ) {
        if self.checkpoints.is_member(from) {
            self.progress.skip(skipped, turn);
        }
    }

    /// Notes the sums of a rank's share of the held-out set after `step`.
    pub(crate) fn evaluated(
        &mut self,
        from: Reporter<'_>,
        step: u64,
        sums: Vec<SourceSum>,
        turn: &mut Turn<'_>,
    ) {
        // Reports are resent on every new stream.
        if self.progress.is_evaluated(step) || !self.is_at(from.place) {
            return;
        }
        let Some(m) = self.phase.membership_mut() else { return };
        let Some(rank) = m.rank(from.worker) else { return };
        let Some(sums) = m.evaluate(rank, step, sums) else { return };
        let known = self.progress.evaluate(step, &self.settings.evaluated, &sums, turn);
        // The checkpoint may be the best so far; it is often evaluated only after it was committed.
        if known && self.checkpoints.has(step) {
            self.retain(turn);
        }
    }

    /// Notes that a rank has stopped gracefully after `step`.
    pub(crate) fn member_stopped(&mut self, id: &WorkerId, generation: Generation, step: u64) {
        if generation != self.generation {
            return;
        }
        if let Some(m) = self.phase.membership_mut()
            && let Some(rank) = m.rank(id)
        {
            m.stop(rank, step);
        }
    }

    // ------------------------------------------------------------------------------------------ checkpoints

    pub(crate) fn part_begun(&mut self, from: Reporter<'_>, step: u64) {
        self.checkpoints.begin_part(from, step);
    }

    pub(crate) fn part_saved(
        &mut self,
        from: Reporter<'_>,
        step: u64,
        saved: SavedPart,
        turn: &mut Turn<'_>,
    ) {
        let Some(plan) = &self.plan else { return };
        match self.checkpoints.store_part(from, step, saved, &plan.digest) {
            None => {}
            Some(Ok(checkpoint)) => {
                let skipped = self.progress.skipped_until(step);
                turn.out.push(Command::Seal { checkpoint, skipped });
            }
            // The ranks have stored different states, so all go back to the last checkpoint, on which they agreed.
            Some(Err(why)) => {
                self.give_up(why, turn);
                discard(from, step, turn);
                if self.is_at(from.place) && self.phase.membership().is_some() {
                    self.regroup(turn);
                }
            }
        }
    }

    /// Gives up a checkpoint of which a part could not be stored. The run goes on to the next one, unless this happens
    /// too often. The part of a worker that has to leave does not count, since the store is not to blame.
    pub(crate) fn part_failed(
        &mut self,
        from: Reporter<'_>,
        step: u64,
        message: &str,
        turn: &mut Turn<'_>,
    ) {
        if self.ended() {
            return;
        }
        let leaving = turn.workers.get(from.worker).is_some_and(|worker| worker.leaving);
        let Some(why) = self.checkpoints.fail_part(from, step, leaving, message) else {
            return;
        };
        self.give_up(why, turn);
        // It has no manifest, so no other coordinator takes it for a checkpoint. Files that other ranks are still
        // storing are deleted after the next commit.
        discard(from, step, turn);
    }

    pub(crate) fn sealed(
        &mut self,
        id: CheckpointId,
        outcome: Result<String, String>,
        turn: &mut Turn<'_>,
    ) {
        if self.ended() {
            return;
        }
        match self.checkpoints.seal(id, outcome) {
            None => {}
            Some(Err(why)) => self.give_up(why, turn),
            Some(Ok(manifest_sha256)) => {
                let CheckpointId { lineage, step } = id;
                turn.journal([Fact::Checkpointed { lineage, step, manifest_sha256 }]);
                let path = proto::key::checkpoint(&self.id, lineage, step);
                turn.notify(Notice::Checkpoint { step, path });
                self.retain(turn);
            }
        }
    }

    fn give_up(&mut self, message: String, turn: &mut Turn<'_>) {
        self.incident(None, message.clone(), turn);
        if self.checkpoints.is_hopeless() {
            self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
    }

    /// Has the checkpoints deleted that need not be kept.
    pub(super) fn retain(&mut self, turn: &mut Turn<'_>) {
        let losses = self.progress.losses();
        if let Some(retained) = self.checkpoints.retain(self.settings.keep, losses) {
            turn.out.push(Command::Retain { run: self.id.clone(), retained });
        }
    }

    /// Goes back to the checkpoint before the one at which the current generation began, since that one is damaged.
    ///
    /// This holds even if the membership is already over, because ranks that lost a peer by the damage reported first.
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
            let message = message + "\nhint: --resume starts over from the base";
            return self.fail(Fault { kind: Failure::Infrastructure, message }, turn);
        }
        self.gather();
    }
}

/// Deletes the stored files of a checkpoint that was given up.
fn discard(from: Reporter<'_>, step: u64, turn: &mut Turn<'_>) {
    let run = turn.run.clone();
    turn.out.push(Command::Discard { run, lineage: from.place.lineage, step });
}

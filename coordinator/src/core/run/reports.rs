//! What the members of a generation report of their steps and checkpoints, and what follows from it.

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
    /// Whether that is the present membership.
    pub(super) fn is_at(&self, place: &Place) -> bool {
        place.run == self.id && place.generation == self.generation && place.lineage == self.lineage
    }

    /// A rank has committed a step. Of the last steps of a generation some ranks report only when it is over.
    pub(crate) fn step_done(&mut self, from: Reporter<'_>, done: StepDone, turn: &mut Turn<'_>) {
        if !self.is_at(from.place) {
            return;
        }
        let Some(rank) = self.accusations.rank(from.worker) else { return };
        let Some(ranks) = self.progress.hear(rank, self.accusations.size(), done) else { return };
        if self.accusations.refute() {
            // Members that train have reached each other, whatever was reported of them before.
            let members = self.phase.membership().into_iter().flat_map(Membership::ids);
            members.for_each(|id| turn.workers.mend(id, |_| true));
        }
        let steps = self.steps();
        let notice = self.progress.commit(&ranks, &self.settings.trained, steps, self.lineage);
        turn.notify(notice);
    }

    /// Counts after the membership, too: a checkpoint that is still on its way must know of it.
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

    /// A rank has measured its share of the held-out set after `step`.
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
        // It may be the best so far, and is often measured after it was stored.
        if known && self.checkpoints.has(step) {
            self.retain(turn);
        }
    }

    /// A rank has ended its duty gracefully after `step`.
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
            // What the ranks have stored is no checkpoint: all go back to the last one that they agreed on.
            Some(Err(why)) => {
                self.give_up(why, turn);
                discard(from, step, turn);
                if self.is_at(from.place) && self.phase.membership().is_some() {
                    self.regroup(turn);
                }
            }
        }
    }

    /// A part could not be stored: there will be no such checkpoint, and the next one is tried. The store is to blame
    /// unless the worker had to go before it was done.
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
        // It has no manifest that another coordinator could find. What other ranks are still storing of it goes with
        // the next commit.
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
fn discard(from: Reporter<'_>, step: u64, turn: &mut Turn<'_>) {
    let run = turn.run.clone();
    turn.out.push(Command::Discard { run, lineage: from.place.lineage, step });
}

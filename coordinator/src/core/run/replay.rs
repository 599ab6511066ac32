//! Restarts: the state of a run is the fold of its history.

use super::{End, Phase, Run};
use crate::core::gathering::Gathering;
use crate::core::membership::Reattaching;
use crate::core::planning::Plan;
use crate::core::settings::Settings;
use crate::core::turn::Turn;
use crate::core::{Fault, Incident};
use proto::event::{Action, Fact};
use proto::id::{CheckpointId, Lineage, RunId, WorkerId};

/// The part of a history that matters only for going on after the replay.
#[derive(Default)]
pub(crate) struct Past {
    /// The members of the last generation.
    members: Vec<WorkerId>,
    /// Whether a step was skipped in any lineage.
    skipped: bool,
    /// The fingerprint of the data set that was prepared last.
    fingerprint: String,
}

impl Run {
    /// Replays the history of a run. If `resume`, a run that was paused or has failed is to go on.
    pub(crate) fn replayed(
        id: RunId,
        settings: Settings,
        history: Vec<Fact>,
        resume: bool,
    ) -> (Self, Past) {
        let mut run = Self::new(id, String::new(), settings);
        let mut past = Past::default();
        for fact in history {
            run.replay(fact, &mut past);
        }
        if resume && matches!(run.phase, Phase::Ended(End::Paused | End::Failed(_))) {
            run.phase = Phase::Queued;
            run.progress.forgive_all();
        }
        (run, past)
    }

    /// Goes on from where its history ends.
    pub(crate) fn go_on(&mut self, past: Past, resume: bool, turn: &mut Turn<'_>) {
        if self.ended() {
            return;
        }
        if past.skipped {
            // The last coordinator may have died before it updated the receipt.
            self.progress.update_receipt(turn);
        }
        self.phase = if self.plan.is_none() {
            Phase::Queued
        } else if past.members.is_empty() || resume {
            Phase::Gathering(Gathering::default())
        } else {
            // The members report their ring addresses when they reconnect.
            let members = past.members.into_iter().map(|id| (id, String::new())).collect();
            let membership = self.admit(members, false, turn);
            let until = turn.now + turn.timing.reattach_grace;
            Phase::Reattaching(Reattaching::new(membership, until))
        };
    }

    /// Notes that its steps up to `step` of `lineage` are recorded.
    pub(crate) fn recorded(&mut self, lineage: Lineage, step: u64) {
        if self.lineage == lineage {
            self.progress.raise(step);
        }
    }

    fn replay(&mut self, fact: Fact, past: &mut Past) {
        match fact {
            Fact::Submitted { spec_yaml } => self.spec_yaml = spec_yaml,
            Fact::Requested { action: Action::Submit, by } => self.submitter = Some(by),
            Fact::Requested { action: Action::Resume | Action::Cancel, .. } => {}
            // Only a run that goes on is claimed, so a claim after an end means that it was resumed.
            Fact::Claimed { .. } if self.ended() => self.phase = Phase::Queued,
            Fact::Claimed { .. } => {}
            Fact::Incident { message, .. } => {
                self.last_incident = Some(Incident { at: None, message });
            }
            Fact::Resumed { spec_yaml, attempt } => {
                self.spec_yaml = spec_yaml;
                self.attempt = attempt;
                self.phase = Phase::Queued;
            }
            Fact::Based { digest } => self.base.replay(digest),
            Fact::Prepared { fingerprint } => past.fingerprint = fingerprint,
            Fact::Planned { digest, steps } => {
                let fingerprint = past.fingerprint.clone();
                self.plan = Some(Plan { fingerprint, digest, steps });
            }
            Fact::Generation { generation, lineage, step, members } => {
                past.members = members;
                self.generation = generation;
                self.lineage = lineage;
                self.checkpoints.begin_generation();
                self.progress.go_back(step);
                self.phase = Phase::Gathering(Gathering::default());
            }
            Fact::Skipped(skipped) => {
                past.skipped = true;
                self.progress.replay_skipped(skipped);
            }
            Fact::Evaluated { step, loss, .. } => self.progress.replay_loss(step, loss),
            Fact::Checkpointed { lineage, step, manifest_sha256 } => {
                self.checkpoints.replay_commit(CheckpointId { lineage, step }, manifest_sha256);
                self.progress.raise(step);
            }
            Fact::Damaged { lineage, step } => {
                self.checkpoints.replay_damage(CheckpointId { lineage, step });
            }
            Fact::Paused { .. } => self.phase = Phase::Ended(End::Paused),
            Fact::Cancelled => self.phase = Phase::Ended(End::Cancelled),
            Fact::Failed { kind, message } => {
                self.phase = Phase::Ended(End::Failed(Fault { kind, message }));
            }
            Fact::Succeeded { model } => self.phase = Phase::Ended(End::Succeeded(model)),
        }
    }
}

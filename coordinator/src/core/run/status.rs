//! The status of a run, for people and programs.

use super::{End, Phase, Run};
use crate::core::Fault;
use crate::core::status::{Status, WorkerStatus, worker_status};
use crate::core::workers::Workers;

impl Run {
    pub(crate) fn status(&self, workers: &Workers) -> Status {
        let detail = match &self.phase {
            Phase::Surveying => "listing the sources".into(),
            Phase::Sharding(s) if workers.usable(&self.id) == 0 => {
                format!("{}; waiting for a worker", s.detail())
            }
            Phase::Sharding(s) => s.detail(),
            Phase::Planning(_) => "planning".into(),
            Phase::Gathering(_) => self.gathering_needs().waiting(&self.id, workers),
            Phase::Reattaching(_) => "waiting for the members to come back".into(),
            Phase::Ended(End::Failed(Fault { message, .. }) | End::Lost(message)) => {
                message.clone()
            }
            Phase::Training(m) if self.stop || m.is_draining() => {
                "stopping after the current step".into()
            }
            Phase::Queued
            | Phase::Listed(_)
            | Phase::Training(_)
            | Phase::Publishing
            | Phase::Ended(End::Paused | End::Cancelled | End::Succeeded(_)) => String::new(),
        };
        let training = matches!(self.phase, Phase::Training(_));
        let rate = Some(self.progress.rate()).filter(|_| training);
        let left = self.steps().saturating_sub(self.progress.step());
        let left = u32::try_from(left).unwrap_or(u32::MAX);
        Status {
            run: self.id.clone(),
            name: self.settings.name.clone(),
            submitter: self.submitter.clone(),
            attempt: self.attempt,
            phase: self.phase.name(),
            outcome: self.phase.outcome(),
            detail,
            generation: self.generation,
            lineage: self.lineage,
            step: self.progress.step(),
            steps: self.steps(),
            workers: match &self.phase {
                Phase::Training(m) => m.ids().cloned().collect(),
                _ => Vec::new(),
            },
            checkpoint_step: self.checkpoints.newest().map(|c| c.step),
            model: match &self.phase {
                Phase::Ended(End::Succeeded(model)) => Some(model.clone()),
                _ => None,
            },
            loss: self.progress.loss(),
            sources: self.progress.sources().clone(),
            tokens_per_second: rate.and_then(|rate| rate.tokens_per_second()),
            eta: rate.and_then(|rate| rate.step()).map(|step| step.saturating_mul(left)),
            last_incident: self.last_incident.clone(),
            troubled: self.troubled(workers),
        }
    }

    fn troubled(&self, workers: &Workers) -> Vec<WorkerStatus> {
        if self.ended() {
            return Vec::new();
        }
        let troubled = workers.troubled().filter(|(_, worker)| worker.is_troubled(&self.id));
        troubled.map(|(id, worker)| worker_status(id, worker)).collect()
    }
}

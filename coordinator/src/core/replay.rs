//! A coordinator's past: state is the fold of journals, so a start is a replay.

use super::run::{Committed, Phase, Run, Settings};
use super::{Command, Core, Fault};
use proto::event::Event as History;
use proto::id::RunId;
use std::time::Duration;

impl Core {
    /// Takes over a run with a history. A run that was under way waits for its members; one that was stopped in order
    /// goes on at once when `resume` says so.
    pub fn adopt(
        &mut self,
        now: Duration,
        id: RunId,
        idempotency_key: Option<String>,
        settings: Settings,
        history: Vec<History>,
        resume: bool,
    ) -> Vec<Command> {
        let mut run = Run::new(id.clone(), String::new(), settings);
        let (mut members, mut start) = (Vec::new(), None);
        let skipped = history.iter().any(|event| matches!(event, History::Skipped(_)));
        for event in history {
            if let History::Generation { members: m, .. } = &event {
                members.clone_from(m);
                start = run.start();
            }
            run.replay(event);
        }
        let mut out = Vec::new();
        if resume && matches!(run.phase, Phase::Paused | Phase::Failed(_)) {
            run.phase = Phase::Queued;
            run.fruitless = 0;
        }
        if !run.phase.ended() {
            let events = vec![self.claim()];
            out.push(Command::Journal { run: id.clone(), events });
            if skipped {
                // The last coordinator may not have come to it.
                run.settle_receipt(&mut out);
            }
            run.phase = match (run.plan_digest.is_empty(), members.is_empty(), resume) {
                (true, _, _) => Phase::Queued,
                (false, false, false) => Phase::Reattaching {
                    until: now + self.timing.reattach_grace,
                    membership: run.outlived(members, start, &self.secret),
                },
                (false, _, _) => Phase::Gathering { enough_since: None },
            };
        }
        if let Some(key) = idempotency_key {
            self.keys.insert(key, id.clone());
        }
        // One whose claim came too late is taken over anew.
        if !self.queue.contains(&id) {
            self.queue.push(id.clone());
        }
        self.runs.insert(id, run);
        self.settle(now, &mut out);
        out
    }
}

impl Run {
    fn replay(&mut self, event: History) {
        match event {
            History::Submitted { spec_yaml } => self.spec_yaml = spec_yaml,
            // Only a run that goes on is claimed: after its end, that it was resumed.
            History::Claimed { .. } if self.phase.ended() => self.phase = Phase::Queued,
            History::Claimed { .. } | History::Incident { .. } => {}
            History::Resumed { spec_yaml, .. } => {
                self.spec_yaml = spec_yaml;
                self.phase = Phase::Queued;
            }
            History::Based { .. } => {}
            History::Prepared { fingerprint } => self.fingerprint = Some(fingerprint),
            History::Planned { digest, steps } => (self.plan_digest, self.steps) = (digest, steps),
            History::Generation { generation, lineage, step, .. } => {
                (self.generation, self.lineage, self.step) = (generation, lineage, step);
                self.began_at = self.newest();
                self.take_back_skipped();
                self.phase = Phase::Gathering { enough_since: None };
            }
            History::Skipped(skipped) => self.skipped.push(skipped),
            History::Evaluated { step, loss, .. } => drop(self.evals.insert(step, loss)),
            History::Checkpointed { lineage, step, manifest_sha256 } => {
                self.checkpoints.insert(Committed { lineage, step }, manifest_sha256);
                self.step = self.step.max(step);
                self.best_step = self.best_step.max(step);
            }
            History::Damaged { lineage, step } => {
                self.checkpoints.remove(&Committed { lineage, step });
            }
            History::Paused { .. } => self.phase = Phase::Paused,
            History::Cancelled => self.phase = Phase::Cancelled,
            History::Failed { kind, message } => {
                self.phase = Phase::Failed(Fault { kind, message });
            }
            History::Succeeded { model } => self.phase = Phase::Succeeded { model },
        }
    }
}

//! Checkpoints: parts are put together, a manifest is stored, the journal entry that names it is the commit.
//!
//! A part counts only if its incarnation's lease was live when it reported it and its membership still stands: what a
//! fenced process writes is never named by a manifest.

use super::run::{Committed, Phase, Run};
use super::{Command, Fault, Notice};
use proto::event::{Event as History, Failure};
use proto::id::{Lineage, WorkerId};
use proto::manifest::{Checkpoint, File};
use proto::protocol::Place;
use std::time::Duration;

impl Run {
    pub(super) fn part_saved(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        step: u64,
        files: Vec<File>,
        out: &mut Vec<Command>,
    ) {
        let (run, lineage, plan_digest) = (self.id.clone(), self.lineage, self.plan_digest.clone());
        let known = self.checkpoints.contains(&Committed { lineage, step });
        let Some((m, rank)) = self.place(worker, place) else {
            return;
        };
        if known || m.sealing.contains(&step) {
            return;
        }
        m.parts.entry(step).or_default().insert(rank, files);
        if m.parts[&step].len() < m.size() {
            return;
        }
        let parts = m.parts.remove(&step).expect("just counted");
        m.sealing.insert(step);
        let of_state = |f: &File| f.key.starts_with(Checkpoint::STATE);
        let (state, model) = parts.into_values().flatten().partition(of_state);
        out.push(Command::Seal(Checkpoint { run, lineage, step, plan_digest, model, state }));
    }

    pub(super) fn sealed(
        &mut self,
        _now: Duration,
        lineage: Lineage,
        step: u64,
        outcome: Result<String, String>,
        out: &mut Vec<Command>,
    ) {
        if let Phase::Training(m) = &mut self.phase {
            m.sealing.remove(&step);
        }
        if self.phase.ended() || lineage != self.lineage {
            return;
        }
        let manifest_sha256 = match outcome {
            Ok(sha256) => sha256,
            Err(message) => {
                let message = format!("the checkpoint after step {step} was given up: {message}");
                let waited_for = matches!(&self.phase, Phase::Training(m) if m.all_stopped());
                if waited_for {
                    return self.fail(Fault { kind: Failure::Infrastructure, message }, out);
                }
                return self.incident(None, message, out);
            }
        };
        self.journal(vec![History::Checkpointed { lineage, step, manifest_sha256 }], out);
        self.checkpoints.push(Committed { lineage, step });
        let path = proto::key::checkpoint(&self.id, lineage, step);
        let notice = Notice::Checkpoint { step, path };
        out.push(Command::Notify { run: self.id.clone(), notice });
        self.prune(out);
    }

    /// Keeps the newest `keep`, and the one with the best held-out loss.
    fn prune(&mut self, out: &mut Vec<Command>) {
        let loss = |c: &Committed| self.evals.get(&c.step).copied().unwrap_or(f64::INFINITY);
        let best = self.checkpoints.iter().min_by(|a, b| loss(a).total_cmp(&loss(b))).copied();
        let keep = self.settings.keep.max(1);
        let newest = self.checkpoints.len().saturating_sub(keep);
        let (old, kept) = self.checkpoints.split_at(newest);
        let mut left: Vec<_> = old.iter().copied().filter(|c| Some(*c) == best).collect();
        for c in old.iter().filter(|c| Some(**c) != best) {
            let (run, Committed { lineage, step }) = (self.id.clone(), *c);
            out.push(Command::Prune { run, lineage, step });
        }
        left.extend_from_slice(kept);
        self.checkpoints = left;
    }
}

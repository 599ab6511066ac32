//! Checkpoints: parts are put together, a manifest is stored, the journal entry that names it is the commit.
//!
//! A part counts only if its incarnation's lease was live when it reported it and its membership still stands: what a
//! fenced process writes is never named by a manifest.

use super::run::{Committed, Run};
use super::{Command, Notice};
use proto::event::Event as History;
use proto::id::{Lineage, WorkerId};
use proto::manifest::{Checkpoint, File};
use proto::protocol::Place;

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
        // Said again on every new stream, also of checkpoints that a newer one has made superfluous.
        let known = self.checkpoints.last() >= Some(&Committed { lineage, step });
        let Some((m, rank)) = self.place(worker, place) else { return };
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
        let receipt = None;
        let checkpoint = Checkpoint { run, lineage, step, plan_digest, model, state, receipt };
        let skipped = self.skipped.iter().filter(|s| s.step <= step).cloned().collect();
        out.push(Command::Seal { checkpoint, skipped });
    }

    pub(super) fn sealed(
        &mut self,
        lineage: Lineage,
        step: u64,
        outcome: Result<String, String>,
        out: &mut Vec<Command>,
    ) {
        if self.phase.ended() || lineage != self.lineage {
            return;
        }
        if let Some(m) = self.phase.membership_mut() {
            m.sealing.remove(&step);
        }
        let manifest_sha256 = match outcome {
            Ok(sha256) => sha256,
            Err(message) => {
                let message = format!("the checkpoint after step {step} was given up: {message}");
                if let Some(m) = self.phase.membership_mut() {
                    m.given_up.insert(step, message.clone());
                }
                return self.incident(None, message, out);
            }
        };
        self.journal(vec![History::Checkpointed { lineage, step, manifest_sha256 }], out);
        self.commit(Committed { lineage, step });
        let path = proto::key::checkpoint(&self.id, lineage, step);
        let notice = Notice::Checkpoint { step, path };
        out.push(Command::Notify { run: self.id.clone(), notice });
        self.prune(out);
    }

    /// Manifests are stored side by side, and the older of two can be the later to be done.
    pub(super) fn commit(&mut self, committed: Committed) {
        let at = self.checkpoints.partition_point(|c| *c < committed);
        self.checkpoints.insert(at, committed);
    }

    /// Keeps the newest `keep`, and the one with the best held-out loss.
    fn prune(&mut self, out: &mut Vec<Command>) {
        let measured = self.checkpoints.iter().filter_map(|c| Some((c, self.evals.get(&c.step)?)));
        let best = measured.min_by(|(_, a), (_, b)| a.total_cmp(b)).map(|(c, _)| *c);
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

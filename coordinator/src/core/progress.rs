//! The progress of a run: its committed steps, their figures, the held-out losses, and the skipped steps.
//!
//! A step or an evaluation counts once every rank of the newest generation has reported it. Workers resend their
//! reports on every new stream; a repeated report changes nothing.

use super::figures::{self, BySource, Total};
use super::rate::Rate;
use super::turn::Turn;
use super::{Command, Notice};
use proto::event::Fact;
use proto::id::Lineage;
use proto::protocol::{SourceSum, StepDone};
use proto::receipt::Skipped;
use std::collections::BTreeMap;
use std::time::Duration;

/// Maximum number of steps that some ranks have reported and others have not. Ranks are at most one step apart, but
/// after a time without a coordinator each sends all steps of that time at once. The bound limits the memory that a
/// faulty worker can take.
const STEPS_IN_FLIGHT: usize = 100_000;

/// The reports of one step, by rank.
pub(super) type Ranks = BTreeMap<usize, StepDone>;

/// The progress of a run.
#[derive(Default)]
pub(super) struct Progress {
    /// Steps committed in this lineage.
    step: u64,
    /// The largest number of steps that any lineage has committed. Only more than that counts as progress.
    best: u64,
    /// Number of consecutive generations without a new `best`.
    fruitless: u32,
    /// The loss of the last committed step.
    loss: Option<f64>,
    /// Figures of the last committed step, by source.
    sources: BySource,
    rate: Rate,
    /// Steps of the newest generation that some ranks have not reported yet.
    reported: BTreeMap<u64, Ranks>,
    /// Held-out losses by steps committed.
    losses: BTreeMap<u64, f64>,
    /// Steps of this lineage that were skipped, in order.
    skipped: Vec<Skipped>,
}

impl Progress {
    pub(super) fn step(&self) -> u64 {
        self.step
    }

    pub(super) fn fruitless(&self) -> u32 {
        self.fruitless
    }

    pub(super) fn loss(&self) -> Option<f64> {
        self.loss
    }

    pub(super) fn sources(&self) -> &BySource {
        &self.sources
    }

    pub(super) fn rate(&self) -> &Rate {
        &self.rate
    }

    pub(super) fn losses(&self) -> &BTreeMap<u64, f64> {
        &self.losses
    }

    /// Notes that some lineage has committed `step` steps.
    pub(super) fn raise_best(&mut self, step: u64) {
        self.best = self.best.max(step);
    }

    /// Notes that this lineage has committed `step` steps, according to a durable record.
    pub(super) fn raise(&mut self, step: u64) {
        self.step = self.step.max(step);
        self.raise_best(step);
    }

    /// Does not count the newest generation as fruitless, since the run is not to blame for its end.
    pub(super) fn forgive(&mut self) {
        self.fruitless = self.fruitless.saturating_sub(1);
    }

    pub(super) fn forgive_all(&mut self) {
        self.fruitless = 0;
    }

    /// Begins a lineage after `step`, which repeats the later steps. Returns whether some of those were skipped.
    pub(super) fn go_back(&mut self, step: u64) -> bool {
        self.step = step;
        let before = self.skipped.len();
        self.skipped.retain(|skipped| skipped.step <= step);
        self.skipped.len() < before
    }

    pub(super) fn begin_generation(&mut self) {
        self.fruitless += 1;
        self.rate = Rate::default();
        self.reported.clear();
    }

    /// Notes that one of `size` ranks has committed a step, and returns the step once all have.
    pub(super) fn note_done(&mut self, rank: usize, size: usize, done: StepDone) -> Option<Ranks> {
        let step = done.step;
        if step < self.step {
            return None;
        }
        self.reported.entry(step).or_default().insert(rank, done);
        if self.reported.len() > STEPS_IN_FLIGHT {
            self.reported.pop_first();
        }
        if self.reported.get(&step)?.len() < size {
            return None;
        }
        self.reported.remove(&step)
    }

    /// Commits a step that every rank has reported. `names` are the names of its sources, `steps` is the number of
    /// planned steps.
    pub(super) fn commit(
        &mut self,
        ranks: &Ranks,
        names: &[String],
        steps: u64,
        lineage: Lineage,
    ) -> Notice {
        let zeroth = &ranks[&0];
        self.step = zeroth.step + 1;
        if self.step > self.best {
            self.best = self.step;
            self.fruitless = 0;
        }
        self.loss = Some(zeroth.loss);
        let sums = ranks.values().flat_map(|r| &r.sources);
        self.sources = figures::by_name(names, &figures::totals(names.len(), sums));
        let tokens: u64 = ranks.values().map(|r| r.tokens).sum();
        let slowest = ranks.values().map(|r| r.compute + r.reduce_wait).max().unwrap_or_default();
        self.rate.add(slowest, tokens);
        let digest = ranks.values().fold(0u64, |d, r| d.wrapping_add(r.samples_digest));
        Notice::Step {
            step: self.step,
            steps,
            loss: zeroth.loss,
            lr: zeroth.learning_rate,
            grad_norm: zeroth.grad_norm,
            applied: zeroth.applied,
            samples: ranks.values().map(|r| r.samples).sum(),
            samples_digest: format!("{digest:016x}"),
            tokens,
            trained_tokens: ranks.values().map(|r| r.trained_tokens).sum(),
            tokens_per_second: self.rate.tokens_per_second().unwrap_or_default(),
            world_size: ranks.len(),
            lineage: lineage.0,
            compute_ms: longest(ranks.values().map(|r| r.compute)),
            reduce_wait_ms: longest(ranks.values().map(|r| r.reduce_wait)),
            sources: self.sources.clone(),
        }
    }

    pub(super) fn is_evaluated(&self, step: u64) -> bool {
        self.losses.contains_key(&step)
    }

    pub(super) fn replay_loss(&mut self, step: u64, loss: f64) {
        self.losses.insert(step, loss);
    }

    /// Notes the held-out loss after `step`, given the sums of all ranks and the names of the sources. Returns false if
    /// no target has a weight.
    pub(super) fn evaluate(
        &mut self,
        step: u64,
        names: &[String],
        sums: &[SourceSum],
        turn: &mut Turn<'_>,
    ) -> bool {
        let totals = figures::totals(names.len(), sums.iter());
        let Some(loss) = figures::sum(&totals).mean() else { return false };
        let sources = figures::by_name(names, &totals);
        self.losses.insert(step, loss);
        let finite = |total: Total| total.mean().filter(|loss| loss.is_finite());
        let by_source = totals.into_iter().map(finite).collect();
        turn.journal([Fact::Evaluated { step, loss, by_source }]);
        turn.notify(Notice::Eval { step, loss, sources });
        true
    }

    pub(super) fn replay_skipped(&mut self, skipped: Skipped) {
        self.skipped.push(skipped);
    }

    /// Notes that a step was skipped. Every rank reports skipped steps in order, and the first report counts.
    pub(super) fn skip(&mut self, skipped: Skipped, turn: &mut Turn<'_>) {
        if self.skipped.last().is_some_and(|last| last.step >= skipped.step) {
            return;
        }
        turn.journal([Fact::Skipped(skipped.clone())]);
        turn.notify(Notice::Incident { worker: None, message: skipped.to_string() });
        self.skipped.push(skipped);
        self.update_receipt(turn);
    }

    /// The skipped steps among the first `step` ones.
    pub(super) fn skipped_until(&self, step: u64) -> Vec<Skipped> {
        self.skipped.iter().filter(|skipped| skipped.step <= step).cloned().collect()
    }

    /// Updates the run's receipt with the steps that this lineage has skipped.
    pub(super) fn update_receipt(&self, turn: &mut Turn<'_>) {
        turn.out.push(Command::Receipt { run: turn.run.clone(), skipped: self.skipped.clone() });
    }
}

fn longest(times: impl Iterator<Item = Duration>) -> u64 {
    times.max().unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(step: u64) -> StepDone {
        StepDone {
            step,
            loss: 2.0,
            learning_rate: 1e-4,
            grad_norm: 1.0,
            applied: true,
            samples: 1,
            samples_digest: 0,
            tokens: 8,
            trained_tokens: 4,
            compute: Duration::from_millis(100),
            reduce_wait: Duration::ZERO,
            sources: Vec::new(),
        }
    }

    #[test]
    fn a_step_counts_once_every_rank_has_reported_it() {
        let mut progress = Progress::default();
        assert!(progress.note_done(0, 2, done(0)).is_none());
        assert!(progress.note_done(0, 2, done(0)).is_none(), "the same rank has reported twice");
        let ranks = progress.note_done(1, 2, done(0)).expect("both ranks");
        progress.commit(&ranks, &[], 4, Lineage(1));
        assert_eq!(progress.step(), 1);
        assert!(progress.note_done(1, 2, done(0)).is_none(), "the step is committed");
    }

    #[test]
    fn only_a_new_best_makes_generations_fruitful() {
        let mut progress = Progress::default();
        let commit = |progress: &mut Progress, step| {
            let ranks = progress.note_done(0, 1, done(step)).expect("the only rank");
            progress.commit(&ranks, &[], 4, Lineage(1));
        };
        progress.begin_generation();
        commit(&mut progress, 0);
        assert_eq!(progress.fruitless(), 0);
        progress.go_back(0);
        progress.begin_generation();
        commit(&mut progress, 0);
        assert_eq!(progress.fruitless(), 1, "that step was committed before");
        commit(&mut progress, 1);
        assert_eq!(progress.fruitless(), 0);
    }
}

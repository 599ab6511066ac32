//! A generation at work: what its ranks report is put together here, and taken apart when one of them is lost.

use super::run::{Committed, Phase, Run};
use super::{Command, Fault, Notice};
use proto::event::{Event as History, Failure};
use proto::id::{Generation, WorkerId};
use proto::manifest::File;
use proto::protocol::{Cause, EvalSum, Place, StepDone, Train};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Reports of a rank on a step, until all ranks have reported it. Workers can be ahead of one another by one step;
/// the bound is for one that lies.
const STEPS_IN_FLIGHT: usize = 64;

#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) id: WorkerId,
    pub(super) ring: String,
}

/// The members of a generation by rank, and what they have reported so far.
#[derive(Clone, Debug)]
pub struct Membership {
    members: Vec<Member>,
    start: Option<Committed>,
    evaluate_first: bool,
    ring_key: [u8; 32],
    steps: BTreeMap<u64, BTreeMap<usize, StepDone>>,
    evals: BTreeMap<u64, BTreeMap<usize, Vec<EvalSum>>>,
    pub(super) parts: BTreeMap<u64, BTreeMap<usize, Vec<File>>>,
    /// Steps whose manifest is being stored.
    pub(super) sealing: BTreeSet<u64>,
    stopped: BTreeMap<usize, u64>,
}

impl Membership {
    pub(super) fn new(
        members: Vec<Member>,
        start: Option<Committed>,
        evaluate_first: bool,
        ring_key: [u8; 32],
    ) -> Self {
        Self {
            members,
            start,
            evaluate_first,
            ring_key,
            steps: BTreeMap::new(),
            evals: BTreeMap::new(),
            parts: BTreeMap::new(),
            sealing: BTreeSet::new(),
            stopped: BTreeMap::new(),
        }
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &WorkerId> {
        self.members.iter().map(|m| &m.id)
    }

    pub(super) fn size(&self) -> usize {
        self.members.len()
    }

    pub(super) fn rank(&self, id: &WorkerId) -> Option<usize> {
        self.members.iter().position(|m| m.id == *id)
    }

    /// A member is on a new stream; its ring address is what it was.
    pub(super) fn moved(&mut self, id: &WorkerId, ring: &str) {
        if let Some(rank) = self.rank(id) {
            self.members[rank].ring = ring.to_owned();
        }
    }

    pub(super) fn train(&self, id: &WorkerId, run: &Run) -> Option<Train> {
        let rank = self.rank(id)?;
        let key = |c: Committed| proto::key::manifest(&run.id, c.lineage, c.step);
        Some(Train {
            load: run.load(),
            generation: run.generation,
            lineage: run.lineage,
            rank: rank.try_into().expect("ranks are few"),
            members: self.members.iter().map(|m| m.ring.clone()).collect(),
            ring_key: self.ring_key,
            checkpoint: self.start.map(key),
            evaluate_first: self.evaluate_first,
            stop: run.stop,
        })
    }

    pub(super) fn all_stopped(&self) -> bool {
        self.stopped.len() == self.size()
    }
}

impl Run {
    /// The membership, if a report of `worker` from `place` belongs to it.
    pub(super) fn place(
        &mut self,
        worker: &WorkerId,
        place: &Place,
    ) -> Option<(&mut Membership, usize)> {
        if place.generation != self.generation || place.lineage != self.lineage {
            return None;
        }
        let Phase::Training(m) = &mut self.phase else {
            return None;
        };
        let rank = m.rank(worker)?;
        Some((m, rank))
    }

    pub(super) fn step_done(
        &mut self,
        now: Duration,
        worker: &WorkerId,
        place: &Place,
        done: StepDone,
        out: &mut Vec<Command>,
    ) {
        let Some((m, rank)) = self.place(worker, place) else {
            return;
        };
        let step = done.step;
        m.steps.entry(step).or_default().insert(rank, done);
        if m.steps.len() > STEPS_IN_FLIGHT {
            m.steps.pop_first();
        }
        let size = m.size();
        if m.steps.get(&step).is_none_or(|ranks| ranks.len() < size) {
            return;
        }
        let ranks = m.steps.remove(&step).expect("just counted");
        let since = self.last_step_at.replace(now);
        let figures = &ranks[&0];
        self.step = step + 1;
        if self.step > self.best_step {
            self.best_step = self.step;
            self.fruitless = 0;
        }
        self.loss = Some(figures.loss);
        let tokens: u64 = ranks.values().map(|r| r.tokens).sum();
        let elapsed = match since {
            Some(since) => now.saturating_sub(since),
            None => ranks.values().map(|r| r.compute + r.reduce_wait).max().unwrap_or_default(),
        };
        let digest = ranks.values().fold(0u64, |d, r| d.wrapping_add(r.samples_digest));
        let notice = Notice::Step {
            step: self.step,
            steps: self.steps,
            loss: figures.loss,
            lr: figures.learning_rate,
            grad_norm: figures.grad_norm,
            applied: figures.applied,
            samples: ranks.values().map(|r| r.samples).sum(),
            samples_digest: format!("{digest:016x}"),
            tokens,
            trained_tokens: ranks.values().map(|r| r.trained_tokens).sum(),
            tokens_per_second: tokens as f64 / elapsed.as_secs_f64().max(1e-3),
            world_size: size,
            lineage: self.lineage.0,
            compute_ms: longest(ranks.values().map(|r| r.compute)),
            reduce_wait_ms: longest(ranks.values().map(|r| r.reduce_wait)),
        };
        out.push(Command::Notify { run: self.id.clone(), notice });
    }

    pub(super) fn evaluated(
        &mut self,
        worker: &WorkerId,
        place: &Place,
        step: u64,
        sums: Vec<EvalSum>,
        out: &mut Vec<Command>,
    ) {
        let sources = self.settings.sources;
        let Some((m, rank)) = self.place(worker, place) else {
            return;
        };
        m.evals.entry(step).or_default().insert(rank, sums);
        if m.evals.len() > STEPS_IN_FLIGHT {
            m.evals.pop_first();
        }
        let size = m.size();
        if m.evals.get(&step).is_none_or(|ranks| ranks.len() < size) {
            return;
        }
        let ranks = m.evals.remove(&step).expect("just counted");
        let mut totals = vec![(0f64, 0f64); sources];
        for sum in ranks.into_values().flatten() {
            if let Some((loss, weight)) = totals.get_mut(sum.source as usize) {
                *loss += sum.loss_sum;
                *weight += sum.weight;
            }
        }
        let mean = |(loss, weight): (f64, f64)| (weight > 0.0).then(|| loss / weight);
        let all = totals.iter().fold((0.0, 0.0), |a, t| (a.0 + t.0, a.1 + t.1));
        let Some(loss) = mean(all) else { return };
        let by_source: Vec<_> = totals.into_iter().map(mean).collect();
        self.evals.insert(step, loss);
        let flat = by_source.iter().map(|l| l.unwrap_or(f64::NAN)).collect();
        self.journal(vec![History::Evaluated { step, loss, by_source: flat }], out);
        let notice = Notice::Eval { step, loss, by_source };
        out.push(Command::Notify { run: self.id.clone(), notice });
    }

    pub(super) fn member_stopped(&mut self, id: &WorkerId, generation: Generation, step: u64) {
        if generation != self.generation {
            return;
        }
        if let Phase::Training(m) = &mut self.phase
            && let Some(rank) = m.rank(id)
        {
            m.stopped.insert(rank, step);
        }
    }

    /// A member must go: all leave their step and gather anew without it.
    pub(super) fn member_leaves(&mut self, id: &WorkerId, out: &mut Vec<Command>) {
        let Phase::Training(m) = &self.phase else {
            return;
        };
        if m.rank(id).is_some() && !self.stop {
            self.incident(Some(id), "it was told to leave".into(), out);
            self.gather(Duration::ZERO);
        }
    }

    pub(super) fn worker_lost(
        &mut self,
        now: Duration,
        id: &WorkerId,
        why: &str,
        in_order: bool,
        out: &mut Vec<Command>,
    ) {
        match &mut self.phase {
            Phase::Sharding(s) => s.release(id),
            Phase::Training(m) => {
                let Some(rank) = m.rank(id) else { return };
                if in_order && m.stopped.contains_key(&rank) {
                    return;
                }
                let step = self.step;
                let message =
                    format!("worker {id} (rank {rank}) was lost after step {step}: {why}");
                self.incident(Some(id), message, out);
                self.regroup(now, out);
            }
            Phase::Queued
            | Phase::Surveying
            | Phase::Planning
            | Phase::Gathering { .. }
            | Phase::Reattaching { .. }
            | Phase::Publishing
            | Phase::Paused
            | Phase::Cancelled
            | Phase::Failed(_)
            | Phase::Succeeded { .. } => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one trouble, field by field")]
    pub(super) fn trouble(
        &mut self,
        now: Duration,
        id: &WorkerId,
        generation: Generation,
        step: u64,
        cause: Cause,
        message: String,
        out: &mut Vec<Command>,
    ) {
        if self.phase.ended() || generation.0 != 0 && generation != self.generation {
            return;
        }
        let kind = match cause {
            Cause::Data => Failure::Data,
            Cause::Model => Failure::User,
            Cause::Storage => Failure::Infrastructure,
            Cause::Peer | Cause::Internal => {
                let Phase::Training(m) = &self.phase else {
                    return self.incident(Some(id), message, out);
                };
                let Some(rank) = m.rank(id) else { return };
                let message =
                    format!("worker {id} (rank {rank}) stopped at step {step}: {message}");
                self.incident(Some(id), message, out);
                return self.regroup(now, out);
            }
        };
        self.fail(Fault { kind, message }, out);
    }

    /// The membership is over. A run that was stopping has nothing more to wait for.
    fn regroup(&mut self, now: Duration, out: &mut Vec<Command>) {
        if self.stop {
            self.pause(out);
        } else {
            self.gather(now);
        }
    }

    pub(super) fn advance_training(&mut self, out: &mut Vec<Command>) {
        let newest = self.checkpoints.last().copied();
        let Phase::Training(m) = &self.phase else {
            return;
        };
        if !m.all_stopped() {
            return;
        }
        let at = m.stopped.values().copied().max().unwrap_or(0);
        let saved = newest.is_some_and(|c| c.step == at);
        let complete = at >= self.steps;
        let evaluated = !self.settings.evaluates || self.evals.contains_key(&at);
        if complete && saved && evaluated {
            let lineage = newest.map(|c| c.lineage).expect("it is saved");
            self.phase = Phase::Publishing;
            out.push(Command::Publish { run: self.id.clone(), lineage, step: at });
        } else if !complete && (saved || at == 0) {
            self.pause(out);
        }
    }
}

fn longest(times: impl Iterator<Item = Duration>) -> u64 {
    times.max().unwrap_or_default().as_millis().try_into().unwrap_or(u64::MAX)
}

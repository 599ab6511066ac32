//! Records what was actually trained, stored and journaled, and checks the invariants at every moment.

use coordinator::core::Retained;
use proto::event::Fact;
use proto::id::{CheckpointId, Lineage, RunId, WorkerId};
use std::collections::{BTreeMap, BTreeSet};

/// Steps of every run.
pub(crate) const STEPS: u64 = 24;

/// A membership as it was journaled, and the steps that its ranks committed together.
pub(crate) struct Generation {
    pub(crate) members: Vec<WorkerId>,
    /// The checkpoint from which it starts: lineage and step.
    pub(crate) start: Option<(u64, u64)>,
    next: u64,
    /// Steps whose gradient was not finite, counted from 1.
    skipped: Vec<u64>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) journal: Vec<Fact>,
    /// Number of entries in the journal, which is the number of the next one.
    pub(crate) entries: usize,
    /// Generations by lineage; the two rise together here.
    pub(crate) generations: BTreeMap<u64, Generation>,
    /// Lineage, step and rank of every part in storage.
    parts: BTreeSet<(u64, u64, u32)>,
    committed: BTreeSet<(u64, u64)>,
    pruned: BTreeSet<(u64, u64)>,
    /// The checkpoint that was published as the model.
    published: Option<(u64, u64)>,
    /// Lineage, step and rank of every step record that reached a live coordinator.
    reported: BTreeSet<(u64, u64, usize)>,
    /// Steps that the run's receipt names as skipped.
    pub(crate) receipt: Vec<u64>,
}

impl Ledger {
    pub(crate) fn journal(&mut self, events: Vec<Fact>) {
        self.entries += 1;
        for event in events {
            let last = self.journal.iter().rfind(|e| !matches!(e, Fact::Claimed { .. }));
            let over = matches!(last, Some(Fact::Succeeded { .. } | Fact::Cancelled));
            assert!(!over, "{event:?} after the end");
            match &event {
                Fact::Generation { generation, lineage, step, members } => {
                    let newest = self.generations.keys().next_back();
                    assert!(newest < Some(&generation.0), "generation {generation} is not new");
                    assert_eq!(generation.0, lineage.0, "every regroup restores");
                    let start = self.newest();
                    assert_eq!(*step, start.map_or(0, |c| c.1), "it starts where a checkpoint is");
                    let members = members.clone();
                    let generation =
                        Generation { members, start, next: *step, skipped: Vec::new() };
                    self.generations.insert(lineage.0, generation);
                }
                Fact::Checkpointed { lineage, step, .. } => {
                    let newest = self.generations.keys().next_back();
                    assert_eq!(Some(&lineage.0), newest, "a fenced generation's checkpoint");
                    self.assert_whole(lineage.0, *step);
                    self.committed.insert((lineage.0, *step));
                }
                _ => {}
            }
            self.journal.push(event);
        }
    }

    fn newest(&self) -> Option<(u64, u64)> {
        self.committed.last().copied()
    }

    /// Checks a directive to train.
    pub(crate) fn announced(&self, run: &RunId, train: &proto::protocol::Train) {
        let generation = self.generations.get(&train.generation.0).expect("journaled before");
        assert_eq!(train.members.len(), generation.members.len());
        let key = |(l, s)| proto::key::manifest(run, Lineage(l), s);
        let manifest = train.checkpoint.as_ref().map(|start| start.manifest.clone());
        assert_eq!(manifest, generation.start.map(key), "all begin at the same place");
        let pruned = generation.start.is_some_and(|c| self.pruned.contains(&c));
        assert!(!pruned, "where it begins is no longer there");
    }

    /// Records that all ranks of a generation committed a step.
    pub(crate) fn stepped(&mut self, lineage: u64, step: u64, finite: bool) {
        let generation = self.generations.get_mut(&lineage).expect("announced after journaled");
        assert_eq!(step, generation.next, "lineage {lineage} skips or repeats a step");
        generation.next += 1;
        generation.skipped.extend((!finite).then_some(generation.next));
    }

    /// The skipped steps from the base to `step` of `lineage`.
    pub(crate) fn skipped_until(&self, lineage: u64, step: u64) -> Vec<u64> {
        let mut skipped = Vec::new();
        let mut at = Some((lineage, step));
        while let Some((lineage, until)) = at {
            let generation = &self.generations[&lineage];
            skipped.extend(generation.skipped.iter().rev().filter(|step| **step <= until));
            at = generation.start;
        }
        skipped.reverse();
        skipped
    }

    /// Records that a step record of `worker` has reached a coordinator.
    pub(crate) fn reported(&mut self, worker: &WorkerId, lineage: Lineage, step: u64) {
        let generation = self.generations.get(&lineage.0).expect("announced after journaled");
        let rank = generation.members.iter().position(|member| member == worker);
        self.reported.insert((lineage.0, step, rank.expect("only members train")));
    }

    pub(crate) fn stored(&mut self, lineage: u64, step: u64, rank: u32) {
        self.parts.insert((lineage, step, rank));
    }

    /// Checks that the parts of all ranks are stored and that the step was reached.
    pub(crate) fn assert_whole(&self, lineage: u64, step: u64) {
        let generation = &self.generations[&lineage];
        assert!(generation.next >= step, "a checkpoint of what was not trained");
        for rank in (0..).take(generation.members.len()) {
            assert!(self.parts.contains(&(lineage, step, rank)), "rank {rank}'s part is missing");
        }
    }

    pub(crate) fn retained(&mut self, retained: &Retained) {
        let place = |id: CheckpointId| (id.lineage.0, id.step);
        let kept: BTreeSet<_> = retained.kept.iter().copied().map(place).collect();
        assert_eq!(Some(place(retained.latest)), self.newest());
        assert!(kept.contains(&place(retained.latest)), "the newest checkpoint stays");
        assert!(kept.is_subset(&self.committed) && kept.is_disjoint(&self.pruned));
        self.pruned.extend(self.committed.difference(&kept));
    }

    pub(crate) fn discarded(&mut self, lineage: u64, step: u64) {
        assert!(!self.committed.contains(&(lineage, step)), "what was committed stays");
    }

    pub(crate) fn published(&mut self, lineage: u64, step: u64) {
        assert!(self.committed.contains(&(lineage, step)), "what is published was committed");
        assert!(!self.pruned.contains(&(lineage, step)), "what is published is there");
        self.published = Some((lineage, step));
    }

    /// Checks that every step from the base to the published model was committed exactly once and reported by every
    /// rank, and that the receipt names the skipped steps.
    pub(crate) fn assert_every_step_once(&self, seed: u64) {
        let skipped = self.published.map(|(lineage, step)| self.skipped_until(lineage, step));
        assert_eq!(Some(&self.receipt), skipped.as_ref(), "seed {seed}: skipped");
        let mut steps = Vec::new();
        let mut at = self.published;
        while let Some((lineage, until)) = at {
            let generation = &self.generations[&lineage];
            let from = generation.start.map_or(0, |c| c.1);
            assert!(generation.next >= until, "seed {seed}: lineage {lineage} got that far");
            for (step, rank) in
                (from..until).flat_map(|s| (0..generation.members.len()).map(move |rank| (s, rank)))
            {
                let reported = self.reported.contains(&(lineage, step, rank));
                assert!(reported, "seed {seed}: step {step} of lineage {lineage} by rank {rank}");
            }
            steps.splice(0..0, from..until);
            at = generation.start;
        }
        assert_eq!(steps, (0..STEPS).collect::<Vec<_>>(), "seed {seed}");
    }
}

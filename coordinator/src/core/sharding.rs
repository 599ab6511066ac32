//! The raw shards of a run that prepares data. They are leased to workers, and leased again if a worker is lost.
//!
//! The cost of an event grows with the number of workers or with what it changes, not with the number of shards.

use super::Notice;
use super::turn::Turn;
use super::workers::{Worker, Workers};
use proto::id::{RunId, WorkerId};
use proto::manifest::{self, Origin, PreparedShard};
use proto::protocol::{RawShard, ShardOutcome};
use proto::receipt::Receipt;
use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of raw shards that a worker holds. It is large enough that a worker need not wait for the next one,
/// and small enough that fast workers can take more of the rest and that directives stay small.
const LEASES: usize = 4;

/// Whether a shard's data is to blame for a worker's failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another worker tries the shard first.
    Undecided,
    /// No worker can prepare it.
    DataIsWrong,
}

/// The state of all raw shards of a run. Every shard is free, held by one worker, or done.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharding {
    fingerprint: String,
    /// All shards; a shard's index is its position here.
    shards: Vec<RawShard>,
    free: BTreeSet<u32>,
    held: BTreeMap<WorkerId, BTreeSet<u32>>,
    done: BTreeMap<u32, ShardOutcome>,
    /// Workers that found a shard's data wrong.
    failed: BTreeMap<u32, BTreeSet<WorkerId>>,
    /// Number of shards that were done in the last notice.
    announced: Option<usize>,
}

impl Sharding {
    pub(super) fn new(fingerprint: String, shards: Vec<RawShard>) -> Self {
        let free = shards.iter().map(|shard| shard.index).collect();
        Self { fingerprint, shards, free, ..Self::default() }
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) fn detail(&self) -> String {
        format!("{} of {} shards prepared", self.done.len(), self.shards.len())
    }

    /// Leases free shards and announces how many are done. Returns whether all are.
    pub(super) fn advance(&mut self, turn: &mut Turn<'_>) -> bool {
        let changed = self.lease(turn.workers, turn.run);
        turn.workers.mark_stale(changed);
        let (done, shards) = (self.done.len(), self.shards.len());
        if self.announced != Some(done) {
            self.announced = Some(done);
            turn.notify(Notice::Preparing { done, shards });
        }
        done == shards
    }

    /// Leases free shards to workers, each to the one that has the fewest bytes to prepare, until every worker has
    /// enough. Returns the workers whose leases have changed.
    fn lease(&mut self, workers: &Workers, run: &RunId) -> BTreeSet<WorkerId> {
        // A worker between two streams keeps its shards and gets no new ones.
        let keeps = |w: &Worker| !w.leaving && !w.waits(run);
        let gone = self.held.keys().filter(|w| !workers.get(w).is_some_and(keeps));
        let mut changed: BTreeSet<_> = gone.cloned().collect();
        for worker in &changed {
            self.release(worker);
        }
        if self.free.is_empty() {
            return changed;
        }
        let able = |(_, w): &(&WorkerId, &Worker)| w.is_able() && !w.waits(run);
        // Workers that can take more shards, by the bytes that they have.
        let mut hungry: BTreeSet<(u64, WorkerId)> = workers
            .iter()
            .filter(able)
            .filter(|(id, _)| self.held.get(id).is_none_or(|held| held.len() < LEASES))
            .map(|(id, _)| (self.bytes_of(id), id.clone()))
            .collect();
        let mut taken = Vec::new();
        for shard in &self.free {
            if hungry.is_empty() {
                break;
            }
            let failed = self.failed.get(shard);
            // If every worker that is left has failed on the shard, one of them tries again and its verdict counts.
            let failed =
                failed.filter(|f| !workers.iter().filter(able).all(|(w, _)| f.contains(w)));
            let may = |w: &WorkerId| failed.is_none_or(|failed| !failed.contains(w));
            let Some(next) = hungry.iter().find(|(_, worker)| may(worker)).cloned() else {
                continue;
            };
            hungry.remove(&next);
            let (bytes, worker) = next;
            let held = self.held.entry(worker.clone()).or_default();
            held.insert(*shard);
            if held.len() < LEASES {
                hungry.insert((
                    bytes + self.shards.get(*shard as usize).map_or(0, bytes_in),
                    worker.clone(),
                ));
            }
            taken.push(*shard);
            changed.insert(worker);
        }
        for shard in taken {
            self.free.remove(&shard);
        }
        changed
    }

    /// Takes back the shards that a worker holds.
    pub(super) fn release(&mut self, worker: &WorkerId) {
        self.free.extend(self.held.remove(worker).unwrap_or_default());
    }

    /// Notes that a worker has prepared a shard. Returns false if it does not hold that shard.
    pub(super) fn complete(
        &mut self,
        worker: &WorkerId,
        shard: u32,
        outcome: ShardOutcome,
    ) -> bool {
        let held = self.held.get_mut(worker).is_some_and(|held| held.remove(&shard));
        if held {
            self.done.insert(shard, outcome);
        }
        held
    }

    /// Notes that a worker found the data of its shard wrong. This counts once a second worker reports the same, or if
    /// no other worker is connected. Returns `None` if the worker does not hold the shard.
    pub(super) fn fail(
        &mut self,
        worker: &WorkerId,
        shard: u32,
        workers: &Workers,
    ) -> Option<Verdict> {
        self.held.get_mut(worker)?.remove(&shard).then_some(())?;
        self.free.insert(shard);
        let failed = self.failed.entry(shard).or_default();
        failed.insert(worker.clone());
        let mut able = workers.iter().filter(|(_, w)| w.is_able());
        if failed.len() > 1 || able.all(|(id, _)| failed.contains(id)) {
            return Some(Verdict::DataIsWrong);
        }
        Some(Verdict::Undecided)
    }

    pub(super) fn held_by(&self, worker: &WorkerId) -> Vec<RawShard> {
        let held = self.held.get(worker).into_iter().flatten();
        held.filter_map(|shard| self.shards.get(*shard as usize)).cloned().collect()
    }

    fn bytes_of(&self, worker: &WorkerId) -> u64 {
        let held = self.held.get(worker).into_iter().flatten();
        held.filter_map(|shard| self.shards.get(*shard as usize)).map(bytes_in).sum()
    }

    /// The table of contents of the prepared data set, once all shards are done. It depends on the outcomes only, not
    /// on who prepared them in which order. Line numbers continue from one range of an object to the next.
    pub(super) fn contents(&self) -> manifest::Prepared {
        let mut receipt = Receipt::default();
        let (mut objects, mut shards) = (Vec::new(), Vec::new());
        let mut starts_after = 0;
        for (shard, outcome) in self.shards.iter().zip(self.done.values()) {
            if shard.range.start == 0 {
                starts_after = 0;
                let RawShard { url, bytes, etag, modified_ms, .. } = shard.clone();
                objects.push(Origin { url, bytes, etag, modified_ms });
            }
            receipt.merge(outcome.receipt.clone().shifted(starts_after));
            shards.push(PreparedShard { starts_after, parts: outcome.parts.clone() });
            starts_after += outcome.positions;
        }
        manifest::Prepared { objects, shards, receipt }
    }
}

fn bytes_in(shard: &RawShard) -> u64 {
    shard.range.end - shard.range.start
}

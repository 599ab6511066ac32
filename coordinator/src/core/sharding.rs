//! The raw shards of a run that is preparing: leased to workers, and leased anew when one dies.
//!
//! What an event costs here grows with the workers or with what it changes, never with the shards.

use super::Notice;
use super::turn::Turn;
use super::workers::{Worker, Workers};
use proto::id::{RunId, WorkerId};
use proto::manifest::{self, Origin, PreparedShard};
use proto::protocol::{RawShard, ShardOutcome};
use proto::receipt::Receipt;
use std::collections::{BTreeMap, BTreeSet};

/// Raw shards that a worker holds at a time: enough that it never waits for the next, and few, so that those who are
/// done early take from the rest and a directive stays small.
const LEASES: usize = 4;

/// Whether a shard's data is to blame for a worker's failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Another worker is asked first.
    Undecided,
    /// No worker can prepare it.
    DataIsWrong,
}

/// Who prepares what. Every shard is free, held by one worker, or done.
#[derive(Clone, Debug, Default)]
pub(super) struct Sharding {
    fingerprint: String,
    /// A shard's index is its place here.
    shards: Vec<RawShard>,
    free: BTreeSet<u32>,
    held: BTreeMap<WorkerId, BTreeSet<u32>>,
    done: BTreeMap<u32, ShardOutcome>,
    /// Workers that found a shard's data wrong.
    failed: BTreeMap<u32, BTreeSet<WorkerId>>,
    /// Shards that were done when that was announced last.
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

    /// Leases what is free and announces what is done; whether that is every shard.
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

    /// Gives free shards to the worker with the fewest bytes to do, until everybody has enough; whose leases that
    /// changes.
    fn lease(&mut self, workers: &Workers, run: &RunId) -> BTreeSet<WorkerId> {
        // A worker between two streams keeps what it has, and gets nothing new.
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
        // Those that have not enough, by what they have.
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
            // Where all that are left have failed on it, they try once more: the last of them is believed.
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

    /// Takes back what a worker holds.
    pub(super) fn release(&mut self, worker: &WorkerId) {
        self.free.extend(self.held.remove(worker).unwrap_or_default());
    }

    /// A worker has prepared a shard; false where it does not hold it.
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

    /// A worker found the data of its shard wrong. That counts once another one reports the same, or no other is there
    /// to ask; none where it does not hold the shard.
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

    /// The table of contents once all is done: a function of the outcomes, whoever prepared what and when. A range's
    /// lines are counted on from those of the ranges before it.
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

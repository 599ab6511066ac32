//! From sources to a plan: raw shards are leased to workers, and leased anew when one dies.

use super::run::{Cache, Goal, Phase, Run};
use super::workers::{Worker, Workers};
use super::{Command, Fault, Notice, PlanOutline, Turn};
use proto::event::Event as History;
use proto::id::{RunId, WorkerId};
use proto::manifest;
use proto::manifest::PreparedShard;
use proto::protocol::{Duty, Prepare, RawShard, ShardOutcome};
use proto::receipt::Receipt;
use std::collections::{BTreeMap, BTreeSet};

/// Raw shards that a worker holds at a time: enough that it never waits for the next, and few, so that those who are
/// done early take from the rest and a directive stays small.
const LEASES: usize = 4;

/// What the sources hold.
#[derive(Clone, Debug)]
pub struct Survey {
    /// Names the prepared data set: everything that changes a token is in it.
    pub fingerprint: String,
    /// What there is to prepare.
    pub shards: Vec<RawShard>,
    /// The same was prepared before.
    pub cached: bool,
}

/// The raw shards of a run that is preparing.
#[derive(Clone, Debug)]
pub struct Sharding {
    fingerprint: String,
    shards: Vec<RawShard>,
    leases: BTreeMap<u32, WorkerId>,
    done: BTreeMap<u32, ShardOutcome>,
    /// Workers that found a shard's data wrong.
    failed: BTreeMap<u32, BTreeSet<WorkerId>>,
}

impl Sharding {
    fn outstanding(&self) -> impl Iterator<Item = &RawShard> {
        self.shards.iter().filter(|s| !self.done.contains_key(&s.index))
    }

    /// Gives free shards to the worker with the fewest bytes to do, until everybody has enough; whether that changes
    /// anything.
    pub(super) fn lease(&mut self, workers: &Workers, run: &RunId) -> bool {
        let before = self.leases.len();
        // A worker between two streams keeps what it has, and gets nothing new.
        self.leases.retain(|_, w| workers.get(w).is_some_and(|w| !w.leaving && !w.waits(run)));
        let mut changed = self.leases.len() < before;
        let able = |(_, w): &(&WorkerId, &Worker)| w.is_able() && !w.waits(run);
        let mut load: BTreeMap<_, Load> =
            workers.iter().filter(able).map(|(id, _)| (id, Load::default())).collect();
        let mut free: Vec<_> = self.outstanding().cloned().collect();
        free.retain(|s| {
            let holder = self.leases.get(&s.index);
            if let Some(load) = holder.and_then(|w| load.get_mut(w)) {
                load.add(s);
            }
            holder.is_none()
        });
        for shard in free {
            if load.values().all(|load| load.shards >= LEASES) {
                break;
            }
            let failed = self.failed.get(&shard.index);
            // Where all that are left have failed on it, they try once more: the last of them is believed.
            let all_failed = failed.is_some_and(|f| load.keys().all(|worker| f.contains(*worker)));
            let may = |w: &WorkerId| all_failed || failed.is_none_or(|failed| !failed.contains(w));
            let hungry = load.iter_mut().filter(|(w, load)| load.shards < LEASES && may(w));
            let Some((worker, load)) = hungry.min_by_key(|(worker, load)| (load.bytes, **worker))
            else {
                continue;
            };
            load.add(&shard);
            self.leases.insert(shard.index, (*worker).clone());
            changed = true;
        }
        changed
    }

    pub(super) fn release(&mut self, worker: &WorkerId) {
        self.leases.retain(|_, w| w != worker);
    }

    /// Notes that a worker found the data of its shard wrong, and whether that counts: once another one says the same,
    /// or no other is there to ask.
    pub(super) fn fails(
        &mut self,
        worker: &WorkerId,
        shard: u32,
        able: &BTreeSet<WorkerId>,
    ) -> Option<bool> {
        if self.leases.get(&shard) != Some(worker) {
            return None;
        }
        self.leases.remove(&shard);
        let failed = self.failed.entry(shard).or_default();
        failed.insert(worker.clone());
        Some(failed.len() > 1 || able.is_subset(failed))
    }

    /// The table of contents once all is done: a function of the outcomes, whoever prepared what and when. A range's
    /// lines are counted on from those of the ranges before it.
    fn contents(&self) -> manifest::Prepared {
        let mut receipt = Receipt::default();
        let mut shards = Vec::new();
        let mut starts_after = 0;
        for (shard, outcome) in self.shards.iter().zip(self.done.values()) {
            if shard.range.start == 0 {
                starts_after = 0;
            }
            receipt.merge(outcome.receipt.clone().shifted(starts_after));
            shards.push(PreparedShard { starts_after, parts: outcome.parts.clone() });
            starts_after += outcome.positions;
        }
        manifest::Prepared { shards, receipt }
    }

    pub(super) fn progress(&self) -> String {
        format!("{} of {} shards prepared", self.done.len(), self.shards.len())
    }
}

/// What a worker has to do.
#[derive(Default)]
struct Load {
    shards: usize,
    bytes: u64,
}

impl Load {
    fn add(&mut self, shard: &RawShard) {
        self.shards += 1;
        self.bytes += shard.range.end - shard.range.start;
    }
}

impl Run {
    pub(super) fn surveyed(&mut self, outcome: Result<Survey, Fault>, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Surveying) {
            return;
        }
        match outcome {
            Err(fault) => self.fail(fault, turn),
            Ok(survey) => self.enter(Phase::Listed { survey, cache: Cache::Known }),
        }
    }

    /// It was looked again whether the data set is prepared.
    pub(super) fn found_prepared(&mut self, found: bool) {
        if let Phase::Listed { survey, cache: cache @ Cache::Asked } = &mut self.phase {
            survey.cached = found;
            *cache = Cache::Known;
        }
    }

    /// Its turn has come.
    pub(super) fn prepare(&mut self, out: &mut Vec<Command>) {
        let Phase::Listed { survey, cache } = &mut self.phase else { return };
        if !survey.cached && *cache != Cache::Known {
            if *cache == Cache::Stale {
                *cache = Cache::Asked;
                let fingerprint = survey.fingerprint.clone();
                out.push(Command::FindPrepared { run: self.id.clone(), fingerprint });
            }
            return;
        }
        match survey.clone() {
            Survey { fingerprint, cached: true, .. } => self.plan(fingerprint, None, out),
            Survey { fingerprint, shards, cached: false } => {
                self.enter(Phase::Sharding(Sharding {
                    fingerprint,
                    shards,
                    leases: BTreeMap::new(),
                    done: BTreeMap::new(),
                    failed: BTreeMap::new(),
                }));
                self.unannounced = true;
            }
        }
    }

    pub(super) fn shard_prepared(
        &mut self,
        turn: &mut Turn<'_>,
        worker: &WorkerId,
        shard: u32,
        outcome: ShardOutcome,
    ) {
        let Phase::Sharding(s) = &mut self.phase else { return };
        if s.leases.get(&shard) != Some(worker) {
            return;
        }
        s.done.insert(shard, outcome);
        self.unannounced = true;
        self.revision += 1;
        if turn.workers.get(worker).is_some_and(|worker| worker.setback.is_some()) {
            turn.workers.change(worker, |worker| worker.setback.take_if(|s| s.run.is_some()));
        }
    }

    /// Goes on to planning once every shard is done.
    pub(super) fn advance_sharding(&mut self, out: &mut Vec<Command>) {
        let Phase::Sharding(s) = &self.phase else {
            return;
        };
        if std::mem::take(&mut self.unannounced) {
            let notice = Notice::Preparing { done: s.done.len(), shards: s.shards.len() };
            out.push(Command::Notify { run: self.id.clone(), notice });
        }
        if s.outstanding().next().is_some() {
            return;
        }
        let (fingerprint, prepared) = (s.fingerprint.clone(), s.contents());
        self.plan(fingerprint, Some(prepared), out);
    }

    fn plan(
        &mut self,
        fingerprint: String,
        prepared: Option<manifest::Prepared>,
        out: &mut Vec<Command>,
    ) {
        self.enter(Phase::Planning);
        self.fingerprint = Some(fingerprint.clone());
        self.cached = prepared.is_none();
        out.push(Command::Plan { run: self.id.clone(), fingerprint, prepared });
    }

    pub(super) fn planned(&mut self, outcome: Result<PlanOutline, Fault>, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Planning) {
            return;
        }
        let plan = match outcome {
            Err(fault) => return self.fail(fault, turn),
            Ok(plan) => plan,
        };
        let fingerprint = self.fingerprint.clone().unwrap_or_default();
        self.journal(
            vec![
                History::Prepared { fingerprint: fingerprint.clone() },
                History::Planned { digest: plan.digest.clone(), steps: plan.steps },
            ],
            turn.out,
        );
        self.plan_digest = plan.digest;
        self.steps = plan.steps;
        let (cached, receipt) = (self.cached, plan.receipt);
        let notices = [
            Notice::Prepared { fingerprint, cached, receipt },
            Notice::Planned { steps: plan.steps, summary: plan.summary },
        ];
        let run = || self.id.clone();
        turn.out.extend(notices.map(|notice| Command::Notify { run: run(), notice }));
        match self.settings.goal {
            Goal::Plan => self.pause(turn),
            Goal::Model => self.gather(),
        }
    }

    pub(super) fn prepare_duty(&self, worker: &WorkerId) -> Duty {
        let Phase::Sharding(s) = &self.phase else {
            return Duty::Idle;
        };
        let mine = |x: &&RawShard| s.leases.get(&x.index) == Some(worker);
        let shards: Vec<_> = s.outstanding().filter(mine).cloned().collect();
        if shards.is_empty() {
            return Duty::Idle;
        }
        Duty::Prepare(Prepare {
            run: self.id.clone(),
            spec_yaml: self.spec_yaml.clone(),
            fingerprint: s.fingerprint.clone(),
            shards,
        })
    }
}

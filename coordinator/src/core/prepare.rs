//! From sources to a plan.

use super::run::{Cache, Goal, Phase, Run};
use super::sharding::Sharding;
use super::turn::Turn;
use super::{Command, Fault, Notice, PlanOutline};
use proto::event::Fact;
use proto::id::WorkerId;
use proto::manifest;
use proto::protocol::{Duty, Prepare, RawShard, ShardOutcome};

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
    pub(super) fn prepare(&mut self, turn: &mut Turn<'_>) {
        let Phase::Listed { survey, cache } = &mut self.phase else { return };
        if !survey.cached && *cache != Cache::Known {
            if *cache == Cache::Stale {
                *cache = Cache::Asked;
                let fingerprint = survey.fingerprint.clone();
                turn.out.push(Command::FindPrepared { run: self.id.clone(), fingerprint });
            }
            return;
        }
        match survey.clone() {
            Survey { fingerprint, cached: true, .. } => self.plan(fingerprint, None, turn),
            Survey { fingerprint, shards, cached: false } => {
                self.enter(Phase::Sharding(Sharding::new(fingerprint, shards)));
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
        if !s.complete(worker, shard, outcome) {
            return;
        }
        self.unannounced = true;
        turn.workers.stale.insert(worker.clone());
        if turn.workers.get(worker).is_some_and(|worker| worker.setback.is_some()) {
            turn.workers.change(worker, |worker| worker.setback.take_if(|s| s.run.is_some()));
        }
    }

    /// Leases what is free, and goes on to planning once every shard is done.
    pub(super) fn advance_sharding(&mut self, turn: &mut Turn<'_>) {
        let Phase::Sharding(s) = &mut self.phase else { return };
        let changed = s.lease(turn.workers, &self.id);
        turn.workers.stale.extend(changed);
        let (done, shards) = s.counts();
        if std::mem::take(&mut self.unannounced) {
            turn.notify(Notice::Preparing { done, shards });
        }
        if done == shards {
            let (fingerprint, prepared) = (s.fingerprint().to_owned(), s.contents());
            self.plan(fingerprint, Some(prepared), turn);
        }
    }

    fn plan(
        &mut self,
        fingerprint: String,
        prepared: Option<manifest::Prepared>,
        turn: &mut Turn<'_>,
    ) {
        self.enter(Phase::Planning);
        self.fingerprint = Some(fingerprint.clone());
        self.cached = prepared.is_none();
        turn.out.push(Command::Plan { run: self.id.clone(), fingerprint, prepared });
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
        turn.journal([
            Fact::Prepared { fingerprint: fingerprint.clone() },
            Fact::Planned { digest: plan.digest.clone(), steps: plan.steps },
        ]);
        self.plan_digest = plan.digest;
        self.steps = plan.steps;
        let (cached, receipt) = (self.cached, plan.receipt);
        turn.notify(Notice::Prepared { fingerprint, cached, receipt });
        turn.notify(Notice::Planned { steps: plan.steps, summary: plan.summary });
        match self.settings.goal {
            Goal::Plan => self.pause(turn),
            Goal::Model => self.gather(),
        }
    }

    pub(super) fn prepare_duty(&self, worker: &WorkerId) -> Duty {
        let Phase::Sharding(s) = &self.phase else {
            return Duty::Idle;
        };
        let shards = s.held_by(worker);
        if shards.is_empty() {
            return Duty::Idle;
        }
        Duty::Prepare(Prepare {
            run: self.id.clone(),
            spec_yaml: self.spec_yaml.clone(),
            fingerprint: s.fingerprint().to_owned(),
            shards,
        })
    }
}

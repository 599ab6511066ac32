//! The phases from a run's sources to its plan.

use super::{Phase, Run};
use crate::core::listed::Listed;
use crate::core::planning::Planning;
use crate::core::settings::Goal;
use crate::core::sharding::Sharding;
use crate::core::turn::Turn;
use crate::core::{Command, Fault, PlanOutline, Survey};
use proto::id::WorkerId;
use proto::protocol::ShardOutcome;

impl Run {
    pub(crate) fn survey(&mut self, turn: &mut Turn<'_>) {
        self.enter(Phase::Surveying);
        turn.out.push(Command::Survey { run: self.id.clone() });
    }

    pub(crate) fn is_unlisted(&self) -> bool {
        matches!(self.phase, Phase::Queued) && !self.stop
    }

    pub(crate) fn surveyed(&mut self, outcome: Result<Survey, Fault>, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Surveying) {
            return;
        }
        match outcome {
            Err(fault) => self.fail(fault, turn),
            Ok(survey) => self.enter(Phase::Listed(Listed::new(survey))),
        }
    }

    /// Notes that another run has the workers.
    pub(crate) fn wait(&mut self) {
        if let Phase::Listed(listed) = &mut self.phase {
            listed.wait();
        }
    }

    /// Notes whether the data set is prepared, after a repeated check.
    pub(crate) fn found_prepared(&mut self, found: bool) {
        if let Phase::Listed(listed) = &mut self.phase {
            listed.found(found);
        }
    }

    pub(super) fn advance_listed(&mut self, turn: &mut Turn<'_>) {
        let Phase::Listed(listed) = &mut self.phase else { return };
        let Some(survey) = listed.begin(turn) else { return };
        self.enter(if survey.cached {
            Phase::Planning(Planning::begin(survey.fingerprint, None, turn))
        } else {
            Phase::Sharding(Sharding::new(survey.fingerprint, survey.shards))
        });
    }

    pub(crate) fn shard_prepared(
        &mut self,
        worker: &WorkerId,
        shard: u32,
        outcome: ShardOutcome,
        turn: &mut Turn<'_>,
    ) {
        let Phase::Sharding(sharding) = &mut self.phase else { return };
        if !sharding.complete(worker, shard, outcome) {
            return;
        }
        turn.workers.mark_stale([worker.clone()]);
        turn.workers.mend(worker, |setback| setback.run.is_some());
    }

    /// Begins planning once every shard is done.
    pub(super) fn advance_sharding(&mut self, turn: &mut Turn<'_>) {
        let Phase::Sharding(sharding) = &mut self.phase else { return };
        if sharding.advance(turn) {
            let fingerprint = sharding.fingerprint().to_owned();
            let prepared = Some(sharding.contents());
            self.enter(Phase::Planning(Planning::begin(fingerprint, prepared, turn)));
        }
    }

    pub(crate) fn planned(&mut self, outcome: Result<PlanOutline, Fault>, turn: &mut Turn<'_>) {
        let Phase::Planning(planning) = &self.phase else { return };
        let outline = match outcome {
            Err(fault) => return self.fail(fault, turn),
            Ok(outline) => outline,
        };
        self.plan = Some(planning.clone().end(outline, turn));
        match self.settings.goal {
            Goal::Plan => self.pause(turn),
            Goal::Model => self.gather(),
        }
    }
}

//! The duties of workers towards a run.

use super::{Phase, Run};
use crate::core::membership::Membership;
use crate::core::workers::Worker;
use proto::id::WorkerId;
use proto::protocol::{Duty, Load, Prepare, Train};

impl Run {
    /// The duty of a worker. `None` leaves its last duty as it is: the members of a generation that outlived a
    /// coordinator keep training while they reconnect.
    pub(crate) fn duty(&self, id: &WorkerId, worker: &Worker) -> Option<Duty> {
        let away = worker.leaving || worker.waits(&self.id);
        Some(match &self.phase {
            Phase::Reattaching(_) => return None,
            Phase::Training(m) => match m.rank(id) {
                Some(rank) => Duty::Train(self.train(m, rank)),
                None if away => Duty::Idle,
                None => Duty::Load(self.load()),
            },
            _ if away => Duty::Idle,
            Phase::Sharding(sharding) => {
                let shards = sharding.held_by(id);
                if shards.is_empty() {
                    return Some(Duty::Idle);
                }
                Duty::Prepare(Prepare {
                    run: self.id.clone(),
                    spec_yaml: self.spec_yaml.clone(),
                    fingerprint: sharding.fingerprint().to_owned(),
                    shards,
                })
            }
            Phase::Gathering(_) => Duty::Load(self.load()),
            Phase::Queued
            | Phase::Surveying
            | Phase::Listed(_)
            | Phase::Planning(_)
            | Phase::Publishing
            | Phase::Ended(_) => Duty::Idle,
        })
    }

    fn load(&self) -> Load {
        let plan = self.plan.as_ref().expect("workers load only once there is a plan");
        Load {
            run: self.id.clone(),
            spec_yaml: self.spec_yaml.clone(),
            fingerprint: plan.fingerprint.clone(),
            plan_digest: plan.digest.clone(),
        }
    }

    fn train(&self, m: &Membership, rank: usize) -> Train {
        Train {
            load: self.load(),
            generation: self.generation,
            lineage: self.lineage,
            rank: rank.try_into().expect("ranks are few"),
            members: m.rings().map(str::to_owned).collect(),
            ring_key: m.ring_key(),
            checkpoint: self.checkpoints.start(&self.id),
            evaluate_first: m.evaluates_first(),
            stop: self.stop || m.is_draining(),
            base_digest: self.base.digest().cloned(),
        }
    }
}

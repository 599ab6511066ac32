//! One run: its phase, and how it moves from one to the next.
//!
//! ```text
//! Queued -> Surveying -> Listed -> Sharding -> Planning -> Gathering <-> Training -> Publishing -> Ended
//!           (its sources are listed,        (preparing)                 Reattaching (after a coordinator's restart)
//!            whosever turn it is)
//! ```

use super::checkpoints::Checkpoints;
use super::membership::Membership;
use super::prepare::Survey;
use super::progress::Progress;
use super::sharding::Sharding;
use super::trouble::Accusations;
use super::turn::Turn;
use super::workers::{Worker, Workers};
use super::{Fault, Incident, Notice, Timing};
use proto::event::{Fact, Failure};
use proto::id::{Generation, Lineage, RunId, WorkerId};
use proto::protocol::{Duty, Load};
use std::collections::BTreeSet;
use std::time::Duration;

/// What a run is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Goal {
    /// To see its data and its plan: it pauses before a worker loads the base.
    Plan,
    /// To have its model.
    Model,
}

/// What the core needs of a spec.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// As the user named it.
    pub name: String,
    /// Tells one spec from another, whatever day it is submitted on.
    pub identity: String,
    /// When it has done its work.
    pub goal: Goal,
    /// Members at least.
    pub min_workers: usize,
    /// Members at most.
    pub max_workers: usize,
    /// Checkpoints to keep besides the best and the latest.
    pub keep: usize,
    /// There is a held-out set.
    pub evaluates: bool,
    /// It is measured before the first step.
    pub evaluate_at_start: bool,
    /// Names of the sources that are trained on, in the spec's order.
    pub trained: Vec<String>,
    /// Of those whose held-out packs are evaluated, likewise.
    pub evaluated: Vec<String>,
}

/// What a survey says of prepared data, in the course of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// What it found holds.
    Known,
    /// Another run has had the workers since, and may have prepared the same.
    Stale,
    /// It is being looked for again.
    Asked,
}

/// Where a run stands.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Not its turn yet.
    Queued,
    /// Its sources are being listed.
    Surveying,
    /// They are listed; it waits for its turn.
    Listed {
        /// What they hold.
        survey: Survey,
        /// Whether the survey can still tell if the data set is prepared.
        cache: Cache,
    },
    /// Its raw shards are being tokenized.
    Sharding(Sharding),
    /// Its plan is being made.
    Planning,
    /// Waiting for members.
    Gathering {
        /// When there were enough.
        enough_since: Option<Duration>,
    },
    /// Waiting for the members of a generation that outlived a coordinator; what they report counts already.
    Reattaching {
        /// Until then.
        until: Duration,
        /// As far as it is known again.
        membership: Membership,
        /// Members that are back.
        back: BTreeSet<WorkerId>,
    },
    /// A generation is at work.
    Training(Membership),
    /// The finished model is being put in its place.
    Publishing,
    /// Stopped in order; goes on when it is resumed.
    Paused,
    /// Ended by a user.
    Cancelled,
    /// Ended by an error.
    Failed(Fault),
    /// Ended well.
    Succeeded {
        /// Where the model lies.
        model: String,
    },
    /// It goes on, or not, under another coordinator, which took it over.
    Lost(String),
}

impl Phase {
    /// Nothing will happen to the run any more.
    pub fn ended(&self) -> bool {
        match self {
            Self::Paused
            | Self::Cancelled
            | Self::Failed(_)
            | Self::Succeeded { .. }
            | Self::Lost(_) => true,
            Self::Queued
            | Self::Surveying
            | Self::Listed { .. }
            | Self::Sharding(_)
            | Self::Planning
            | Self::Gathering { .. }
            | Self::Reattaching { .. }
            | Self::Training(_)
            | Self::Publishing => false,
        }
    }

    /// The generation at work, where there is one.
    pub(super) fn membership(&self) -> Option<&Membership> {
        let (Self::Reattaching { membership, .. } | Self::Training(membership)) = self else {
            return None;
        };
        Some(membership)
    }

    pub(super) fn membership_mut(&mut self) -> Option<&mut Membership> {
        let (Self::Reattaching { membership, .. } | Self::Training(membership)) = self else {
            return None;
        };
        Some(membership)
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Queued | Self::Listed { .. } => "queued",
            Self::Surveying | Self::Sharding(_) | Self::Planning => "preparing",
            Self::Gathering { .. } | Self::Reattaching { .. } => "gathering",
            Self::Training(_) => "training",
            Self::Publishing => "finishing",
            Self::Paused => "paused",
            Self::Cancelled => "cancelled",
            Self::Failed(_) => "failed",
            Self::Succeeded { .. } => "succeeded",
            Self::Lost(_) => "lost",
        }
    }
}

pub(super) struct Run {
    pub(super) id: RunId,
    pub(super) spec_yaml: String,
    pub(super) settings: Settings,
    /// 1, or more for a run that was resumed after an end.
    pub(super) attempt: u64,
    pub(super) phase: Phase,
    /// Rises with everything that may change what all workers should be doing.
    pub(super) revision: u64,
    /// It has the workers, and too few are there: since then.
    pub(super) starved_since: Option<Duration>,
    /// The digest of the base, once a generation has begun with it.
    pub(super) base: Option<String>,
    pub(super) fingerprint: Option<String>,
    /// The data set was prepared by an earlier run.
    pub(super) cached: bool,
    pub(super) plan_digest: String,
    pub(super) steps: u64,
    pub(super) generation: Generation,
    pub(super) lineage: Lineage,
    pub(super) checkpoints: Checkpoints,
    pub(super) progress: Progress,
    /// Who accuses whom among the members of the newest generation.
    pub(super) accusations: Accusations,
    /// A user wants it to stop in order.
    pub(super) stop: bool,
    pub(super) unannounced: bool,
    pub(super) last_waiting: String,
    pub(super) last_incident: Option<Incident>,
}

impl Run {
    pub(super) fn new(id: RunId, spec_yaml: String, settings: Settings) -> Self {
        Self {
            id,
            spec_yaml,
            settings,
            attempt: 1,
            phase: Phase::Queued,
            revision: 0,
            starved_since: None,
            base: None,
            fingerprint: None,
            cached: false,
            plan_digest: String::new(),
            steps: 0,
            generation: Generation::default(),
            lineage: Lineage::default(),
            checkpoints: Checkpoints::default(),
            progress: Progress::default(),
            accusations: Accusations::default(),
            stop: false,
            unannounced: false,
            last_waiting: String::new(),
            last_incident: None,
        }
    }

    pub(super) fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.revision += 1;
    }

    /// Moves on as far as the facts allow, with the workers.
    pub(super) fn advance(&mut self, turn: &mut Turn<'_>) {
        if self.stop && !matches!(self.phase, Phase::Training(_) | Phase::Publishing) {
            return self.pause(turn);
        }
        if matches!(self.phase, Phase::Listed { .. }) {
            self.prepare(turn);
        }
        if matches!(self.phase, Phase::Sharding(_)) {
            self.advance_sharding(turn);
        }
        if matches!(self.phase, Phase::Gathering { .. }) {
            self.advance_gathering(turn);
        }
        if matches!(self.phase, Phase::Training(_)) {
            self.advance_training(turn);
        }
    }

    /// Whether it could do something with the workers that are there.
    pub(super) fn can_start(&self, workers: &Workers) -> bool {
        match &self.phase {
            Phase::Listed { survey, .. } => survey.cached || workers.usable(&self.id) > 0,
            Phase::Sharding(_) => workers.usable(&self.id) > 0,
            Phase::Gathering { .. } => workers.usable(&self.id) >= self.settings.min_workers,
            Phase::Planning | Phase::Training(_) | Phase::Publishing => true,
            Phase::Queued
            | Phase::Surveying
            | Phase::Reattaching { .. }
            | Phase::Paused
            | Phase::Cancelled
            | Phase::Failed(_)
            | Phase::Succeeded { .. }
            | Phase::Lost(_) => false,
        }
    }

    /// How long it keeps the workers while there are too few of them and another run could go on.
    pub(super) fn hold(&self, timing: &Timing) -> Duration {
        if self.generation == Generation::default() {
            timing.start_hold
        } else {
            timing.regroup_hold
        }
    }

    /// What a worker should be doing for this run; nothing is said to members on their way back, who keep training.
    pub(super) fn duty(&self, id: &WorkerId, worker: &Worker) -> Option<Duty> {
        let away = worker.leaving || worker.waits(&self.id);
        Some(match &self.phase {
            Phase::Reattaching { .. } => return None,
            Phase::Training(m) => match m.train(id, self) {
                Some(train) => Duty::Train(train),
                None if away => Duty::Idle,
                None => Duty::Load(self.load()),
            },
            _ if away => Duty::Idle,
            Phase::Sharding(_) => self.prepare_duty(id),
            Phase::Gathering { .. } => Duty::Load(self.load()),
            Phase::Queued
            | Phase::Surveying
            | Phase::Listed { .. }
            | Phase::Planning
            | Phase::Publishing
            | Phase::Paused
            | Phase::Cancelled
            | Phase::Failed(_)
            | Phase::Succeeded { .. }
            | Phase::Lost(_) => Duty::Idle,
        })
    }

    pub(super) fn load(&self) -> Load {
        Load {
            run: self.id.clone(),
            spec_yaml: self.spec_yaml.clone(),
            fingerprint: self.fingerprint.clone().unwrap_or_default(),
            plan_digest: self.plan_digest.clone(),
        }
    }

    pub(super) fn deadline(&self, timing: &Timing) -> Option<Duration> {
        match &self.phase {
            // Not for a time.
            Phase::Gathering { .. } if self.checkpoints.expected().is_some() => None,
            Phase::Gathering { enough_since } => enough_since.map(|t| t + timing.last_call),
            Phase::Reattaching { until, .. } => Some(*until),
            Phase::Queued
            | Phase::Surveying
            | Phase::Listed { .. }
            | Phase::Sharding(_)
            | Phase::Planning
            | Phase::Training(_)
            | Phase::Publishing
            | Phase::Paused
            | Phase::Cancelled
            | Phase::Failed(_)
            | Phase::Succeeded { .. }
            | Phase::Lost(_) => None,
        }
    }

    /// Nobody is late by the time that this process spent paused.
    pub(super) fn forgive(&mut self, pause: Duration) {
        if let Phase::Reattaching { until, .. } = &mut self.phase {
            *until += pause;
        }
    }

    /// Ends it at once, wherever it stands, and whether or not its turn has come; an error where that is no longer up
    /// to this coordinator.
    pub(super) fn cancel(&mut self, turn: &mut Turn<'_>) -> Result<(), String> {
        match &self.phase {
            Phase::Lost(message) => return Err(message.clone()),
            Phase::Cancelled | Phase::Failed(_) | Phase::Succeeded { .. } => {}
            Phase::Queued
            | Phase::Surveying
            | Phase::Listed { .. }
            | Phase::Sharding(_)
            | Phase::Planning
            | Phase::Gathering { .. }
            | Phase::Reattaching { .. }
            | Phase::Training(_)
            | Phase::Publishing
            | Phase::Paused => {
                self.end(Phase::Cancelled, Fact::Cancelled, Notice::Cancelled, turn);
            }
        }
        Ok(())
    }

    pub(super) fn published(&mut self, outcome: Result<String, String>, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Publishing) {
            return;
        }
        match outcome {
            Ok(model) => {
                let notice = Notice::Finished { model: model.clone(), steps: self.steps };
                let history = Fact::Succeeded { model: model.clone() };
                self.end(Phase::Succeeded { model }, history, notice, turn);
            }
            Err(message) => self.fail(Fault { kind: Failure::Infrastructure, message }, turn),
        }
    }

    pub(super) fn fail(&mut self, fault: Fault, turn: &mut Turn<'_>) {
        let history = Fact::Failed { kind: fault.kind, message: fault.message.clone() };
        let notice = Notice::Failed { kind: fault.kind, message: fault.message.clone() };
        self.end(Phase::Failed(fault), history, notice, turn);
    }

    pub(super) fn pause(&mut self, turn: &mut Turn<'_>) {
        let step = self.checkpoints.newest().map_or(0, |c| c.step);
        self.end(Phase::Paused, Fact::Paused { step }, Notice::Paused { step }, turn);
    }

    fn end(&mut self, phase: Phase, event: Fact, notice: Notice, turn: &mut Turn<'_>) {
        turn.journal([event]);
        self.enter(phase);
        turn.notify(notice);
    }

    pub(super) fn incident(
        &mut self,
        worker: Option<&WorkerId>,
        message: String,
        turn: &mut Turn<'_>,
    ) {
        turn.journal([Fact::Incident { worker: worker.cloned(), message: message.clone() }]);
        self.last_incident = Some(Incident { at: Some(turn.now), message: message.clone() });
        turn.notify(Notice::Incident { worker: worker.cloned(), message });
    }
}

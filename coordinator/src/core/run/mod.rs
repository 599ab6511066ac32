//! One run: its parts, its phase, and how it moves from one phase to the next.
//!
//! ```text
//! Queued -> Surveying -> Listed -> Sharding -> Planning -> Gathering <-> Training -> Publishing -> Ended
//!           (before its turn)               (preparing)                 Reattaching (after a coordinator's restart)
//! ```
//!
//! Every part owns its state, and its methods return the consequences. A part does not know the run; only this module
//! and its submodules know all parts.

mod duties;
mod phase;
mod preparing;
mod replay;
mod reports;
mod status;
mod training;
mod trouble;

use phase::End;
pub(super) use phase::Phase;

use super::accusations::Accusations;
use super::base::Base;
use super::checkpoints::Checkpoints;
use super::planning::Plan;
use super::progress::Progress;
use super::settings::Settings;
use super::timing::Timing;
use super::turn::Turn;
use super::workers::Workers;
use super::{Fault, Incident, Notice};
use proto::event::{Action, Fact, Failure};
use proto::id::{Generation, Lineage, RunId, WorkerId};
use std::time::Duration;

pub(super) struct Run {
    id: RunId,
    spec_yaml: String,
    settings: Settings,
    /// The name in the credentials of the user who submitted it; `None` if none were asked for.
    submitter: Option<String>,
    /// 1, or more for a run that was resumed after an end.
    attempt: u64,
    phase: Phase,
    /// Rises with every change that may affect the duties of all workers.
    revision: u64,
    /// Since when the run has had the workers, but too few of them.
    starved_since: Option<Duration>,
    /// Whether the run is to stop gracefully, since the coordinator closes.
    stop: bool,
    base: Base,
    /// `None` before it is made.
    plan: Option<Plan>,
    generation: Generation,
    lineage: Lineage,
    progress: Progress,
    checkpoints: Checkpoints,
    /// Accusations among the members of the newest generation.
    accusations: Accusations,
    last_incident: Option<Incident>,
}

impl Run {
    pub(super) fn new(id: RunId, spec_yaml: String, settings: Settings) -> Self {
        Self {
            id,
            spec_yaml,
            settings,
            submitter: None,
            attempt: 1,
            phase: Phase::Queued,
            revision: 0,
            starved_since: None,
            stop: false,
            base: Base::default(),
            plan: None,
            generation: Generation::default(),
            lineage: Lineage::default(),
            progress: Progress::default(),
            checkpoints: Checkpoints::default(),
            accusations: Accusations::default(),
            last_incident: None,
        }
    }

    pub(super) fn id(&self) -> &RunId {
        &self.id
    }

    /// Identifies its spec.
    pub(super) fn identity(&self) -> &str {
        &self.settings.identity
    }

    /// Notes who has submitted it.
    pub(super) fn submitted_by(self, submitter: Option<String>) -> Self {
        Self { submitter, ..self }
    }

    /// Who has submitted it.
    pub(super) fn submitter(&self) -> Option<&str> {
        self.submitter.as_deref()
    }

    /// The first facts of its history.
    pub(super) fn submitted(&self) -> Vec<Fact> {
        let mut facts = vec![Fact::Submitted { spec_yaml: self.spec_yaml.clone() }];
        facts.extend(requested(Action::Submit, self.submitter.clone()));
        facts
    }

    pub(super) fn phase(&self) -> &Phase {
        &self.phase
    }

    pub(super) fn ended(&self) -> bool {
        matches!(self.phase, Phase::Ended(_))
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn step(&self) -> u64 {
        self.progress.step()
    }

    /// Why a worker that has read the base with this digest cannot be a member, if so.
    pub(super) fn differs(&self, base: &str) -> Option<String> {
        self.base.differs(base)
    }

    /// Advances as far as the facts allow, as the run that has the workers.
    pub(super) fn advance(&mut self, turn: &mut Turn<'_>) {
        if self.stop && !matches!(self.phase, Phase::Training(_) | Phase::Publishing) {
            return self.pause(turn);
        }
        self.advance_listed(turn);
        self.advance_sharding(turn);
        self.advance_gathering(turn);
        self.advance_training(turn);
    }

    /// Whether the run could do something now with the connected workers.
    pub(super) fn can_start(&self, workers: &Workers) -> bool {
        match &self.phase {
            Phase::Listed(listed) => listed.is_prepared() || workers.usable(&self.id) > 0,
            Phase::Sharding(_) => workers.usable(&self.id) > 0,
            Phase::Gathering(_) => workers.usable(&self.id) >= self.settings.min_workers,
            Phase::Planning(_) | Phase::Training(_) | Phase::Publishing => true,
            Phase::Queued | Phase::Surveying | Phase::Reattaching(_) | Phase::Ended(_) => false,
        }
    }

    /// Whether the run is in a phase in which it waits for workers.
    pub(super) fn wants_workers(&self) -> bool {
        matches!(self.phase, Phase::Listed(_) | Phase::Sharding(_) | Phase::Gathering(_))
    }

    /// Minimum number of workers that the run needs in its present phase.
    fn needs(&self) -> usize {
        if matches!(self.phase, Phase::Gathering(_)) { self.settings.min_workers } else { 1 }
    }

    /// Notes that the run now has the workers.
    pub(super) fn begin_turn(&mut self) {
        self.starved_since = None;
    }

    /// Notes since when it has had too few workers.
    pub(super) fn note_starving(&mut self, now: Duration, workers: &Workers) {
        // Workers with a setback do not count, even while they are tried again. Otherwise a run that none of them can
        // work for would keep them forever.
        let too_few = workers.sound(&self.id) < self.needs();
        if self.wants_workers() && too_few {
            self.starved_since.get_or_insert(now);
        } else {
            self.starved_since = None;
        }
    }

    /// Until when the run keeps too few workers while another run could go on.
    pub(super) fn held_until(&self, timing: &Timing) -> Option<Duration> {
        let first = self.generation == Generation::default();
        let hold = if first { timing.start_hold } else { timing.regroup_hold };
        Some(self.starved_since? + hold)
    }

    /// The next deadline of the run, if it has the workers.
    pub(super) fn deadline(&self, timing: &Timing) -> Option<Duration> {
        if let Phase::Gathering(gathering) = &self.phase {
            // The wait for a checkpoint has no deadline.
            return gathering.deadline(timing).filter(|_| self.checkpoints.expected().is_none());
        }
        self.reattaches_until()
    }

    /// Until when the run waits for the members of a generation that outlived a coordinator.
    pub(super) fn reattaches_until(&self) -> Option<Duration> {
        let Phase::Reattaching(reattaching) = &self.phase else { return None };
        Some(reattaching.until())
    }

    /// Extends the deadline of a reattachment by the time that this process was paused.
    pub(super) fn forgive(&mut self, pause: Duration) {
        if let Phase::Reattaching(reattaching) = &mut self.phase {
            reattaching.forgive(pause);
        }
    }

    pub(super) fn stop(&mut self) {
        self.stop = true;
        self.revision += 1;
    }

    /// Ends the run at once in any phase. Does nothing if it has ended already, unless it was only paused.
    ///
    /// # Errors
    /// The reason, if another coordinator has taken over the run.
    pub(super) fn cancel(&mut self, by: Option<String>, turn: &mut Turn<'_>) -> Result<(), String> {
        if let Phase::Ended(End::Lost(message)) = &self.phase {
            return Err(message.clone());
        }
        if !self.ended() || matches!(self.phase, Phase::Ended(End::Paused)) {
            turn.journal(cancelled(by));
            self.enter(Phase::Ended(End::Cancelled));
            turn.notify(Notice::Cancelled);
        }
        Ok(())
    }

    /// Drops the run, which another coordinator has taken over, without writing anything more to its journal.
    pub(super) fn lose(&mut self, message: String, turn: &mut Turn<'_>) {
        if !self.ended() {
            self.enter(Phase::Ended(End::Lost(message.clone())));
            turn.notify(Notice::Lost { message });
        }
    }

    /// Notes that the finished model is published or could not be, which ends the run.
    pub(super) fn published(&mut self, outcome: Result<String, String>, turn: &mut Turn<'_>) {
        if !matches!(self.phase, Phase::Publishing) {
            return;
        }
        match outcome {
            Ok(model) => {
                let notice = Notice::Finished { model: model.clone(), steps: self.steps() };
                let fact = Fact::Succeeded { model: model.clone() };
                self.end(End::Succeeded(model), fact, notice, turn);
            }
            Err(message) => self.fail(Fault { kind: Failure::Infrastructure, message }, turn),
        }
    }

    /// Journals and announces that something went wrong and is being dealt with.
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

    /// Number of planned optimizer steps; 0 before there is a plan.
    fn steps(&self) -> u64 {
        self.plan.as_ref().map_or(0, |plan| plan.steps)
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.revision += 1;
    }

    fn fail(&mut self, fault: Fault, turn: &mut Turn<'_>) {
        let fact = Fact::Failed { kind: fault.kind, message: fault.message.clone() };
        let notice = Notice::Failed { kind: fault.kind, message: fault.message.clone() };
        self.end(End::Failed(fault), fact, notice, turn);
    }

    fn pause(&mut self, turn: &mut Turn<'_>) {
        let step = self.checkpoints.newest().map_or(0, |c| c.step);
        self.end(End::Paused, Fact::Paused { step }, Notice::Paused { step }, turn);
    }

    fn end(&mut self, end: End, fact: Fact, notice: Notice, turn: &mut Turn<'_>) {
        turn.journal([fact]);
        self.enter(Phase::Ended(end));
        turn.notify(notice);
    }
}

/// The fact that a user asked for something; `None` if it is not known who.
fn requested(action: Action, by: Option<String>) -> Option<Fact> {
    by.map(|by| Fact::Requested { action, by })
}

/// The facts of a cancellation.
pub(super) fn cancelled(by: Option<String>) -> Vec<Fact> {
    requested(Action::Cancel, by).into_iter().chain([Fact::Cancelled]).collect()
}

//! The consequences of events: which run has the workers, how it advances, and what every worker should be doing.
//!
//! One run has the workers at a time: the first in the queue that has a use for the connected ones. It keeps them
//! until it ends, or until it has had too few of them for some time while another run could go on. Listing sources
//! needs no workers, so waiting runs do it too.

use super::run::{Phase, Run};
use super::{Command, Core};
use proto::id::RunId;
use proto::protocol::{Directive, Dismissal, Duty};
use std::time::Duration;

/// Maximum number of runs whose sources are listed at the same time.
const SURVEYS: usize = 4;

impl Core {
    /// The run that has the workers.
    pub(super) fn current(&self) -> Option<&RunId> {
        self.current.as_ref()
    }

    /// Whether a run has something to do because a deadline has passed.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        self.runs_deadline().is_some_and(|at| at <= now)
    }

    pub(super) fn runs_deadline(&self) -> Option<Duration> {
        let current = self.current.as_ref().and_then(|id| self.runs.get(id));
        let own = current.and_then(|run| run.deadline(&self.timing));
        let back = self.runs.values().filter_map(Run::reattaches_until).min();
        let held = current.filter(|run| self.could_yield(run));
        let hold = held.and_then(|run| run.held_until(&self.timing));
        [own, back, hold].into_iter().flatten().min()
    }

    /// Advances runs, then sends directives to the workers whose duties have changed.
    pub(super) fn settle(&mut self, now: Duration, out: &mut Vec<Command>) {
        self.survey(now, out);
        self.reattach(now, out);
        if self.closing {
            self.stop_waiting(now, out);
        }
        loop {
            self.choose(now);
            let Some(id) = self.current.clone() else { break };
            self.with(now, &id, out, |run, turn| run.advance(turn));
            let Some(run) = self.runs.get_mut(&id) else { continue };
            run.note_starving(now, &self.workers);
            let goes_on = |run: &Run| !run.ended() && !self.must_yield(now, run);
            if self.runs.get(&id).is_some_and(goes_on) {
                break;
            }
        }
        self.retire();
        self.note_waiting();
        self.direct(out);
    }

    /// Notes the runs whose surveys may be outdated when their turn comes.
    fn note_waiting(&mut self) {
        for (id, run) in &mut self.runs {
            if self.current.as_ref() != Some(id) {
                run.wait();
            }
        }
    }

    /// Starts surveys of the first runs in the queue that have none.
    fn survey(&mut self, now: Duration, out: &mut Vec<Command>) {
        let listing = |run: &&Run| matches!(run.phase(), Phase::Surveying);
        let free = SURVEYS.saturating_sub(self.runs.values().filter(listing).count());
        let unlisted = |id: &&RunId| self.runs.get(*id).is_some_and(Run::is_unlisted);
        let next: Vec<_> = self.queue.iter().filter(unlisted).take(free).cloned().collect();
        for id in next {
            self.with(now, &id, out, |run, turn| run.survey(turn));
        }
    }

    /// Goes on with generations that outlived a coordinator, or gives them up, even if another run has the workers.
    fn reattach(&mut self, now: Duration, out: &mut Vec<Command>) {
        let reattaching =
            |(_, run): &(&RunId, &Run)| matches!(run.phase(), Phase::Reattaching { .. });
        let ids: Vec<_> = self.runs.iter().filter(reattaching).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.with(now, &id, out, |run, turn| run.advance_reattaching(turn));
        }
    }

    /// Pauses the runs that wait for their turn, since the coordinator closes.
    fn stop_waiting(&mut self, now: Duration, out: &mut Vec<Command>) {
        for id in self.queue.clone() {
            if self.current.as_ref() != Some(&id) {
                self.with(now, &id, out, |run, turn| run.advance(turn));
            }
        }
    }

    /// Chooses the run that has the workers.
    fn choose(&mut self, now: Duration) {
        let stays = |run: &Run| !run.ended() && !self.must_yield(now, run);
        let current = self.current.as_ref().and_then(|id| self.runs.get(id));
        let current = current.filter(|run| stays(run));
        let mut queued = self.queue.iter().filter_map(|id| self.runs.get(id));
        let working = |run: &&Run| matches!(run.phase(), Phase::Training(_) | Phase::Publishing);
        let reattaching = |run: &&Run| matches!(run.phase(), Phase::Reattaching { .. });
        let chosen = match current {
            Some(run) if !reattaching(&run) && !run.wants_workers() => Some(run),
            // A generation that outlived a coordinator keeps its members: no other run takes them.
            Some(run) if !self.runs.values().any(|r| working(&r) || reattaching(&r)) => Some(run),
            Some(_) | None => {
                let first = |wanted: &dyn Fn(&&Run) -> bool| {
                    self.queue.iter().filter_map(|id| self.runs.get(id)).find(|run| wanted(run))
                };
                first(&working)
                    .or_else(|| first(&reattaching))
                    .or_else(|| queued.find(|run| run.can_start(&self.workers)))
                    .or_else(|| first(&|run: &&Run| run.wants_workers()))
            }
        };
        let chosen = chosen.map(|run| run.id().clone());
        if chosen != self.current {
            if let Some(run) = chosen.as_ref().and_then(|id| self.runs.get_mut(id)) {
                run.begin_turn();
            }
            self.current = chosen;
        }
        self.workers.work_for(self.current.as_ref());
    }

    /// Whether this run has too few workers and another one could go on with them.
    fn could_yield(&self, run: &Run) -> bool {
        let others = self.queue.iter().filter(|id| *id != run.id());
        run.held_until(&self.timing).is_some()
            && others.filter_map(|id| self.runs.get(id)).any(|other| other.can_start(&self.workers))
    }

    fn must_yield(&self, now: Duration, run: &Run) -> bool {
        let over = |until| now >= until;
        run.held_until(&self.timing).is_some_and(over) && self.could_yield(run)
    }

    /// Drops runs that have ended, of which only the status stays in memory.
    fn retire(&mut self) {
        let ended = |id: &&RunId| self.runs.get(*id).is_some_and(Run::ended);
        let ended: Vec<_> = self.queue.iter().filter(ended).cloned().collect();
        for id in ended {
            if let Some(run) = self.runs.remove(&id) {
                let status = run.status(&self.workers);
                self.workers.forget_setbacks_of(&id);
                self.ended.insert(id, status);
            }
        }
        self.queue.retain(|id| self.runs.contains_key(id));
    }

    /// What a coordinator that closes tells its workers: how its run has ended, if it had one only.
    fn outcome(&self) -> Dismissal {
        let [run] = &self.all[..] else { return Dismissal::Closing };
        self.ended.get(run).map_or(Dismissal::Closing, |status| status.outcome)
    }

    /// Sends a directive to every worker whose duty has changed.
    fn direct(&mut self, out: &mut Vec<Command>) {
        let current = self.current.as_ref().and_then(|id| self.runs.get(id));
        let revision = current.map(|run| (run.id().clone(), run.revision()));
        if revision != self.settled {
            self.settled = revision;
            self.workers.all_stale();
        }
        let idle = self.closing && current.is_none();
        for id in self.workers.take_stale() {
            let Some(worker) = self.workers.get(&id) else { continue };
            let Some(stream) = worker.stream else { continue };
            let duty = match current {
                None if idle => {
                    let reason = "the coordinator is closing".into();
                    Some(Duty::Dismissed { reason, why: self.outcome() })
                }
                None => Some(Duty::Idle),
                Some(run) => run.duty(&id, worker),
            };
            let Some(duty) = duty.filter(|duty| worker.last_duty.as_ref() != Some(duty)) else {
                continue;
            };
            self.workers.note_duty(&id, duty.clone());
            // Without a current run, workers can forget all steps that they have reported.
            let heard = current.map_or(u64::MAX, Run::step);
            let beat = self.timing.beat_with(&duty);
            let directive = Directive { epoch: self.epoch, beat, duty, heard };
            out.push(Command::Direct { stream, directive });
        }
    }
}

//! What a run is handed to act: the time, the workers, and where its commands go.

use super::timing::Timing;
use super::workers::{Reach, Setback, Workers};
use super::{Command, Notice};
use proto::event::Fact;
use proto::id::{RunId, WorkerId};
use proto::protocol::Cause;
use std::time::Duration;

/// One run's turn to act.
pub(super) struct Turn<'a> {
    pub(super) run: &'a RunId,
    pub(super) now: Duration,
    pub(super) timing: &'a Timing,
    /// Seeds ring keys.
    pub(super) secret: &'a [u8; 32],
    pub(super) workers: &'a mut Workers,
    pub(super) out: &'a mut Vec<Command>,
}

impl Turn<'_> {
    /// Appends to the run's journal.
    pub(super) fn journal(&mut self, facts: impl Into<Vec<Fact>>) {
        self.out.push(Command::Journal { run: self.run.clone(), events: facts.into() });
    }

    /// Notifies those that watch the run.
    pub(super) fn notify(&mut self, notice: Notice) {
        self.out.push(Command::Notify { run: self.run.clone(), notice });
    }

    /// Something keeps a worker from working for the run: it waits before it is tried again.
    pub(super) fn set_back(&mut self, worker: &WorkerId, cause: Cause, message: String) {
        let setback = Setback::new(Some(self.run.clone()), cause, message);
        self.workers.set_back(worker, self.now, setback);
    }

    /// Has a worker's ring address dialled again: until it answers the worker is no candidate.
    pub(super) fn dial(&mut self, id: &WorkerId) {
        let dialled = self.workers.change(id, |worker| {
            worker.reach = Reach::Dialling;
            worker.dial(id)
        });
        self.out.extend(dialled);
    }
}

/// What `act` returns when it is a run's turn, and what it commands.
#[cfg(test)]
pub(super) fn take<R>(act: impl FnOnce(&mut Turn<'_>) -> R) -> (R, Vec<Command>) {
    let (run, timing) = (RunId::new("r"), Timing::default());
    let mut workers = Workers::default();
    let mut out = Vec::new();
    let result = act(&mut Turn {
        run: &run,
        now: Duration::ZERO,
        timing: &timing,
        secret: &[0; 32],
        workers: &mut workers,
        out: &mut out,
    });
    (result, out)
}

//! The context in which a run acts: the time, the workers, and the list that its commands go to.

use super::timing::Timing;
use super::workers::{Reach, Setback, Workers};
use super::{Command, Notice};
use proto::event::Fact;
use proto::id::{RunId, WorkerId};
use proto::protocol::Cause;
use std::time::Duration;

/// The context in which one run acts.
pub(super) struct Turn<'a> {
    pub(super) run: &'a RunId,
    pub(super) now: Duration,
    pub(super) timing: &'a Timing,
    /// The seed of the ring keys.
    pub(super) secret: &'a [u8; 32],
    pub(super) workers: &'a mut Workers,
    pub(super) out: &'a mut Vec<Command>,
}

impl Turn<'_> {
    /// Appends to the run's journal.
    pub(super) fn journal(&mut self, facts: impl Into<Vec<Fact>>) {
        self.out.push(Command::Journal { run: self.run.clone(), events: facts.into() });
    }

    /// Notifies the watchers of the run.
    pub(super) fn notify(&mut self, notice: Notice) {
        self.out.push(Command::Notify { run: self.run.clone(), notice });
    }

    /// Sets a worker back that cannot work for the run: it waits before it is tried again.
    pub(super) fn set_back(&mut self, worker: &WorkerId, cause: Cause, message: String) {
        let setback = Setback::new(Some(self.run.clone()), cause, message);
        self.workers.set_back(worker, self.now, setback);
    }

    /// Has a worker's ring address dialled again. Until it answers, the worker cannot become a member.
    pub(super) fn dial(&mut self, id: &WorkerId) {
        let dialled = self.workers.change(id, |worker| {
            worker.reach = Reach::Dialling;
            worker.dial(id)
        });
        self.out.extend(dialled);
    }
}

/// Calls `act` with a turn of a run, and returns its result and its commands.
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

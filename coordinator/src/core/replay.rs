//! Restarts: the state of a coordinator is the fold of its journals, so it starts by replaying them.

use super::run::Run;
use super::status::Status;
use super::{Command, Core, Settings, Ticket};
use proto::event::{Fact, PoolEvent};
use proto::id::{Lineage, RunId};
use std::time::Duration;

/// A run as recorded in its journal.
#[derive(Clone, Debug)]
pub struct Past {
    /// The run.
    pub run: RunId,
    /// The settings of its spec.
    pub settings: Settings,
    /// The facts of its journal, in order.
    pub history: Vec<Fact>,
}

impl Core {
    /// Takes over a run with a history. A run with a generation at work waits for its members to reconnect. If
    /// `resume`, it gathers workers at once instead, and a paused or failed run goes on too.
    pub fn adopt(
        &mut self,
        now: Duration,
        past: Past,
        idempotency_key: Option<String>,
        resume: bool,
    ) -> Vec<Command> {
        let Past { run: id, settings, history } = past;
        if let Some(key) = idempotency_key {
            self.keys.insert(key, (id.clone(), settings.identity.clone()));
        }
        let (run, before) = Run::replayed(id.clone(), settings, history, resume);
        let mut out = Vec::new();
        if !run.ended() {
            let events = vec![self.claim()];
            out.push(Command::Journal { run: id.clone(), events });
        }
        // A run whose claim came too late is adopted twice.
        if !self.all.contains(&id) {
            self.all.push(id.clone());
        }
        self.ended.remove(&id);
        self.queue.retain(|queued| *queued != id);
        self.queue.push(id.clone());
        self.runs.insert(id.clone(), run);
        self.with(now, &id, &mut out, |run, turn| run.go_on(before, resume, turn));
        self.settle(now, &mut out);
        out
    }

    /// Begins another attempt of a run that has ended without success. It goes on from its newest checkpoint, and is
    /// queued behind the runs that wait. `beginning` is journaled first: [`Fact::Resumed`], then the checkpoints that
    /// the last attempt sealed but did not journal.
    pub fn resume(
        &mut self,
        now: Duration,
        ticket: Ticket,
        mut past: Past,
        beginning: Vec<Fact>,
    ) -> Vec<Command> {
        let id = past.run.clone();
        past.history.extend_from_slice(&beginning);
        let mut out = self.adopt(now, past, None, true);
        if let Some(Command::Journal { events, .. }) = out.first_mut() {
            events.splice(0..0, beginning);
        }
        let answer = Command::Answer { ticket, answer: Ok(id.clone()) };
        out.splice(1..1, [Command::JournalPool(PoolEvent::Resumed { run: id }), answer]);
        out
    }

    /// Checks that another attempt of the run may begin.
    ///
    /// # Errors
    /// The reason why not, for the user.
    pub fn may_resume(&self, id: &RunId) -> Result<(), String> {
        let Some(status) = self.ended.get(id) else {
            return Err(match self.runs.get(id) {
                Some(run) => format!("run `{id}` has not ended: it is {}", run.phase().name()),
                None => format!("there is no run `{id}`"),
            });
        };
        match status.phase {
            "paused" | "cancelled" | "failed" => Ok(()),
            phase => Err(format!(
                "run `{id}` cannot be resumed: it is {phase}\nhint: `coordinator submit` starts another run"
            )),
        }
    }

    /// Lists a run whose journal cannot be read, with the reason. All other runs go on.
    pub fn unreadable(&mut self, id: RunId, idempotency_key: Option<String>, reason: String) {
        if let Some(key) = idempotency_key {
            // The identity of its spec is unknown, since it is in the same journal.
            self.keys.insert(key, (id.clone(), String::new()));
        }
        if !self.all.contains(&id) {
            self.all.push(id.clone());
        }
        let status = Status::unreadable(id.clone(), reason);
        self.ended.insert(id, status);
    }

    /// Notes that the run's steps up to `step` of `lineage` are recorded, so that they need not be reported again.
    pub fn recorded(&mut self, id: &RunId, lineage: Lineage, step: u64) {
        if let Some(run) = self.runs.get_mut(id) {
            run.recorded(lineage, step);
        }
    }
}

/// Number of attempts in a history.
pub fn attempts(history: &[Fact]) -> u64 {
    let of = |event: &Fact| match event {
        Fact::Resumed { attempt, .. } => Some(*attempt),
        _ => None,
    };
    history.iter().filter_map(of).max().unwrap_or(1)
}

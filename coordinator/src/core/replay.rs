//! A coordinator's past: state is the fold of journals, so a start is a replay.

use super::run::Run;
use super::status::Status;
use super::{Command, Core, Settings, Ticket};
use proto::event::{Fact, PoolEvent};
use proto::id::{Lineage, RunId};
use std::time::Duration;

/// A run as its journal has it.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its name.
    pub run: RunId,
    /// What its spec asks for.
    pub settings: Settings,
    /// The journal's facts, in order.
    pub history: Vec<Fact>,
}

impl Core {
    /// Takes over a run with a history. A run that was under way waits for its members; one that was stopped
    /// gracefully goes on at once when `resume` says so.
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
        // One whose claim came too late is taken over anew.
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

    /// Begins another attempt of a run that has ended without success; it goes on from its newest checkpoint, behind
    /// the runs that wait. `beginning` is journaled first: [`Fact::Resumed`], and the checkpoints that the last
    /// attempt did not live to commit.
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

    /// Whether another attempt of the run may begin, and why not.
    ///
    /// # Errors
    /// In words, with the hint.
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
                "run `{id}` cannot go on: it is {phase}\nhint: `coordinator submit` starts another"
            )),
        }
    }

    /// A run whose journal cannot be read is listed, with the reason; every other run goes on.
    pub fn unreadable(&mut self, id: RunId, idempotency_key: Option<String>, reason: String) {
        if let Some(key) = idempotency_key {
            // What was submitted cannot be read either.
            self.keys.insert(key, (id.clone(), String::new()));
        }
        if !self.all.contains(&id) {
            self.all.push(id.clone());
        }
        let status = Status::unreadable(id.clone(), reason);
        self.ended.insert(id, status);
    }

    /// The run's steps up to `step` of `lineage` are recorded: they need not be reported again.
    pub fn recorded(&mut self, id: &RunId, lineage: Lineage, step: u64) {
        if let Some(run) = self.runs.get_mut(id) {
            run.recorded(lineage, step);
        }
    }
}

/// Attempts that a history knows of.
pub fn attempts(history: &[Fact]) -> u64 {
    let of = |event: &Fact| match event {
        Fact::Resumed { attempt, .. } => Some(*attempt),
        _ => None,
    };
    history.iter().filter_map(of).max().unwrap_or(1)
}

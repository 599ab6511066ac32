//! The workers that are connected: their leases, and what each should be doing.

use super::run::Run;
use super::{Command, Core, Stream};
use proto::id::{Incarnation, RunId, WorkerId};
use proto::protocol::{Attachment, Duty, Hello, Report};
use std::time::Duration;

/// A worker whose lease runs.
pub(super) struct Worker {
    pub(super) incarnation: Incarnation,
    /// None between two streams.
    pub(super) stream: Option<Stream>,
    pub(super) ring: String,
    pub(super) lease_until: Duration,
    /// Has base and data of this run in memory, and no training state.
    pub(super) loaded: Option<RunId>,
    /// It was told to go and takes no further duty.
    pub(super) leaving: bool,
    /// What it was training when it connected.
    pub(super) attachment: Option<Attachment>,
    /// What it was told last.
    pub(super) told: Option<Duty>,
}

impl Worker {
    /// What this worker should be doing, from the whole state.
    pub(super) fn duty(&self, id: &WorkerId, active: Option<&Run>, closed: bool) -> Option<Duty> {
        if closed {
            let reason = "the coordinator is closing".into();
            return Some(Duty::Dismissed { reason, refused: false });
        }
        active.map_or(Some(Duty::Idle), |run| run.duty(id, self.leaving))
    }
}

impl Core {
    pub(super) fn reported(
        &mut self,
        now: Duration,
        stream: Stream,
        report: Report,
        out: &mut Vec<Command>,
    ) {
        if let Report::Hello(hello) = report {
            return self.hello(now, stream, hello, out);
        }
        // Only a live stream may speak, and only for itself.
        let Some((id, worker)) = self.workers.iter_mut().find(|(_, w)| w.stream == Some(stream))
        else {
            return;
        };
        worker.lease_until = now + self.timing.lease;
        let id = id.clone();
        match report {
            Report::Hello(_) | Report::Beat { .. } => {}
            Report::Loaded { run, .. } => worker.loaded = Some(run),
            Report::Leaving { .. } => {
                worker.leaving = true;
                if let Some(run) = self.active().cloned() {
                    self.with(&run, out, |r, out| r.member_leaves(&id, out));
                }
            }
            Report::ShardPrepared { run, shard, outcome } => {
                self.with(&run, out, |r, _| r.shard_prepared(&id, shard, outcome));
            }
            Report::StepDone(place, done) => {
                self.with(&place.run.clone(), out, |r, out| {
                    r.step_done(now, &id, &place, done, out);
                });
            }
            Report::Skipped(place, skipped) => {
                self.with(&place.run.clone(), out, |r, out| {
                    r.step_skipped(&id, &place, skipped, out);
                });
            }
            Report::Evaluated(place, step, sums) => {
                self.with(&place.run.clone(), out, |r, out| {
                    r.evaluated(&id, &place, step, sums, out);
                });
            }
            Report::PartBegun(place, step) => {
                self.with(&place.run.clone(), out, |r, _| r.part_begun(&id, &place, step));
            }
            Report::PartSaved(place, step, part) => {
                self.with(&place.run.clone(), out, |r, out| {
                    r.part_saved(&id, &place, step, part.files, out);
                });
            }
            Report::PartFailed(place, step, message) => {
                let leaving = worker.leaving;
                self.with(&place.run.clone(), out, |r, out| {
                    r.part_failed(&id, leaving, &place, step, &message, out);
                });
            }
            Report::Stopped { run, generation, step } => {
                self.with(&run, out, |r, _| r.member_stopped(&id, generation, step));
            }
            Report::Trouble { run, generation, step, cause, message, .. } => {
                let limit = self.timing.fruitless_generations;
                let Some(r) = self.runs.get_mut(&run) else { return };
                if r.trouble(limit, &id, (generation, step), cause, message, out) {
                    self.workers.get_mut(&id).expect("it has just spoken").told = None;
                }
            }
        }
    }

    fn hello(&mut self, now: Duration, stream: Stream, hello: Hello, out: &mut Vec<Command>) {
        if hello.protocol != proto::PROTOCOL {
            let reason = format!(
                "this worker speaks protocol {}, the coordinator {}\nhint: run the same version of both",
                hello.protocol,
                proto::PROTOCOL,
            );
            out.push(Command::Direct {
                stream,
                directive: proto::protocol::Directive {
                    epoch: self.epoch,
                    beat: self.timing.beat,
                    duty: Duty::Dismissed { reason, refused: true },
                    heard: 0,
                },
            });
            out.push(Command::Close { stream });
            return;
        }
        // Another process in the same slot: the one before is dead. The same process on a new stream goes on.
        if let Some(before) = self.workers.get(&hello.worker) {
            if let Some(stream) = before.stream {
                out.push(Command::Close { stream });
            }
            if before.incarnation != hello.incarnation {
                self.lost(&hello.worker, "another process took its place", out);
            }
        }
        if let (Some(attachment), Some(run)) = (&hello.attachment, self.active().cloned()) {
            self.with(&run, out, |r, _| r.attached(&hello.worker, &hello, attachment));
        }
        self.workers.insert(
            hello.worker,
            Worker {
                incarnation: hello.incarnation,
                stream: Some(stream),
                ring: hello.ring,
                lease_until: now + self.timing.lease,
                loaded: None,
                leaving: false,
                attachment: hello.attachment,
                told: None,
            },
        );
    }

    /// A stream ended: its process is dead, or it is back within a second.
    pub(super) fn hangup(&mut self, now: Duration, stream: Stream, out: &mut Vec<Command>) {
        let Some((id, worker)) = self.workers.iter_mut().find(|(_, w)| w.stream == Some(stream))
        else {
            return;
        };
        worker.stream = None;
        worker.lease_until = worker.lease_until.min(now + self.timing.hangup_grace);
        if worker.leaving {
            let id = id.clone();
            self.lost(&id, "it left", out);
        }
    }

    /// Ends what workers that have been silent for a whole lease were part of.
    pub(super) fn expire(&mut self, now: Duration, out: &mut Vec<Command>) {
        let silent =
            |(id, w): (&WorkerId, &Worker)| (w.lease_until <= now).then(|| (id.clone(), w.stream));
        for (id, stream) in self.workers.iter().filter_map(silent).collect::<Vec<_>>() {
            let why = match stream {
                Some(stream) => {
                    out.push(Command::Close { stream });
                    "it was silent for a whole lease"
                }
                None => "its connection closed",
            };
            self.lost(&id, why, out);
        }
    }

    fn lost(&mut self, id: &WorkerId, why: &str, out: &mut Vec<Command>) {
        self.workers.remove(id);
        if let Some(run) = self.active().cloned() {
            self.with(&run, out, |r, out| r.worker_lost(id, why, out));
        }
    }

    /// Time that this process spent paused (stopped, starved, asleep) does not count against workers, whose beats
    /// lie unread in the queue.
    pub(super) fn forgive_own_pause(&mut self, now: Duration) {
        let due = self.next_deadline().unwrap_or(now).max(self.last_tick + self.timing.beat);
        let late = now.saturating_sub(due);
        if late >= self.timing.beat {
            // For all that is known here, the clock stood still since the last event.
            let pause = now - self.last_tick;
            for worker in self.workers.values_mut() {
                worker.lease_until += pause;
            }
            for run in self.runs.values_mut() {
                run.forgive(pause);
            }
        }
        self.last_tick = now;
    }
}

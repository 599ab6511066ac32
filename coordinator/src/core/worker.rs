//! Reports of workers, and the ends of their streams and leases.

use super::losses::Loss;
use super::report::{Complaint, Reporter};
use super::workers::{Reach, Setback, Woken, Worker};
use super::{Command, Core, Stream};
use proto::id::{Incarnation, RunId, WorkerId};
use proto::protocol::{Cause, Directive, Dismissal, Duty, Hello, Report};
use std::time::Duration;

impl Core {
    /// A beat says only that its worker lives.
    pub(super) fn beat(&mut self, now: Duration, stream: Stream) {
        if let Some(id) = self.workers.on(stream).cloned() {
            self.workers.renew(&id, now, now + self.timing.lease);
        }
    }

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
        // Reports count only on the current stream of a worker, and only for that worker.
        let Some(id) = self.workers.on(stream).cloned() else { return };
        self.workers.renew(&id, now, now + self.timing.lease);
        match report {
            Report::Hello(_) | Report::Beat { .. } => {}
            Report::Loaded { run, base_digest } => self.loaded(now, &id, run, base_digest),
            Report::Leaving { deadline } => {
                self.workers.change(&id, |worker| worker.leaving = true);
                if let Some(run) = self.current().cloned() {
                    self.with(now, &run, out, |r, turn| r.member_leaves(&id, deadline, turn));
                }
            }
            Report::ShardPrepared { run, shard, outcome } => {
                self.with(now, &run, out, |r, turn| r.shard_prepared(&id, shard, outcome, turn));
            }
            Report::StepDone(place, done) => {
                let from = Reporter { worker: &id, place: &place };
                self.with(now, &place.run, out, |r, turn| r.step_done(from, done, turn));
            }
            Report::Skipped(place, skipped) => {
                let from = Reporter { worker: &id, place: &place };
                self.with(now, &place.run, out, |r, turn| r.step_skipped(from, skipped, turn));
            }
            Report::Evaluated(place, step, sums) => {
                let from = Reporter { worker: &id, place: &place };
                self.with(now, &place.run, out, |r, turn| r.evaluated(from, step, sums, turn));
            }
            Report::PartBegun(place, step) => {
                let from = Reporter { worker: &id, place: &place };
                self.with(now, &place.run, out, |r, _| r.part_begun(from, step));
            }
            Report::PartSaved(place, step, part) => {
                let from = Reporter { worker: &id, place: &place };
                self.with(now, &place.run, out, |r, turn| r.part_saved(from, step, part, turn));
            }
            Report::PartFailed(place, step, message) => {
                let from = Reporter { worker: &id, place: &place };
                self.with(now, &place.run, out, |r, turn| {
                    r.part_failed(from, step, &message, turn);
                });
            }
            Report::Stopped { run, generation, step } => {
                self.with(now, &run, out, |r, _| r.member_stopped(&id, generation, step));
            }
            Report::Trouble { run, generation, step, cause, message, shard, accusation } => {
                let complaint = Complaint { generation, step, cause, message, shard, accusation };
                self.with(now, &run, out, |r, turn| r.trouble(&id, complaint, turn));
            }
        }
    }

    /// Notes that a worker has the base and the data of the run in memory. A worker with a different base cannot be a
    /// member, since replicas of different models would be averaged.
    fn loaded(&mut self, now: Duration, id: &WorkerId, run: RunId, base: String) {
        if let Some(message) = self.runs.get(&run).and_then(|run| run.differs(&base)) {
            let setback = Setback::new(Some(run), Cause::Model, message);
            return self.workers.set_back(id, now, setback);
        }
        self.workers.change(id, |worker| {
            // A setback caused by unreachable peers or by a different base ends only once the worker has trained.
            let mended = |s: &mut Setback| {
                s.run.as_ref() == Some(&run) && !matches!(s.cause, Cause::Peer | Cause::Model)
            };
            worker.setback.take_if(mended);
            worker.loaded = Some((run, base));
        });
    }

    fn hello(&mut self, now: Duration, stream: Stream, hello: Hello, out: &mut Vec<Command>) {
        if hello.protocol != proto::PROTOCOL {
            let reason = format!(
                "this worker speaks protocol {}, the coordinator {}\n\
                 hint: run the same version of both",
                hello.protocol,
                proto::PROTOCOL,
            );
            return self.refuse(stream, reason, out);
        }
        if let Some(reason) = self.differs_from_others(&hello) {
            return self.refuse(stream, reason, out);
        }
        if let Some(before) = self.workers.get(&hello.worker) {
            match before.stream {
                // Two processes of the same name would replace each other again and again. If the connected one is
                // dead, its lease ends, and the other one is accepted then.
                Some(_) if before.incarnation != hello.incarnation => {
                    let reason = format!(
                        "another process is connected as worker `{}`\n\
                         hint: give every node a name of its own with --name",
                        hello.worker
                    );
                    return self.turn_away(stream, Duty::NotNow { reason }, out);
                }
                Some(stream) => out.push(Command::Close { stream }),
                None => {}
            }
            if before.incarnation != hello.incarnation {
                self.lost(now, &hello.worker, Loss::Replaced, out);
            }
        }
        if let Some(attachment) = &hello.attachment {
            let run = attachment.place.run.clone();
            self.with(now, &run, out, |r, _| r.attached(&hello.worker, &hello, attachment));
        }
        if let (Some(end), Some(run)) = (&hello.last_end, self.current().cloned()) {
            self.with(now, &run, out, |r, turn| r.came_back(&hello.worker, end, turn));
        }
        let before = self.workers.remove(&hello.worker);
        let before = before.filter(|w| w.incarnation == hello.incarnation && w.ring == hello.ring);
        let (reach, setback) = match before {
            Some(before) => (before.reach, before.setback),
            None => (Reach::Dialling, None),
        };
        let worker = Worker {
            incarnation: hello.incarnation,
            stream: Some(stream),
            device: hello.device,
            ring: hello.ring,
            reach,
            lease_until: now + self.timing.lease,
            heard_at: now,
            loaded: None,
            leaving: false,
            setback,
            last_duty: None,
        };
        if worker.reach == Reach::Dialling {
            out.push(worker.dial(&hello.worker));
        }
        self.workers.insert(hello.worker, worker);
    }

    /// Why a worker cannot compute with the others, if its device is of another kind.
    fn differs_from_others(&self, hello: &Hello) -> Option<String> {
        // Those that are not connected may be about to come back with other libraries, too.
        let differs = |id: &WorkerId, w: &Worker| {
            *id != hello.worker && w.stream.is_some() && w.device != hello.device
        };
        let (id, other) = self.workers.iter().find(|(id, w)| differs(id, w))?;
        Some(format!(
            "this worker computes on `{}`, but worker `{id}` on `{}`, and their results differ\n\
             hint: all workers of a pool need the same kind of device and the same libraries; `worker devices` shows \
             them",
            hello.device, other.device,
        ))
    }

    /// Dismisses a process that does not fit.
    fn refuse(&self, stream: Stream, reason: String, out: &mut Vec<Command>) {
        self.turn_away(stream, Duty::Dismissed { reason, why: Dismissal::Refused }, out);
    }

    /// Sends a process a duty that makes it leave, and closes its stream.
    fn turn_away(&self, stream: Stream, duty: Duty, out: &mut Vec<Command>) {
        let directive = Directive { epoch: self.epoch, beat: self.timing.beat, duty, heard: 0 };
        out.push(Command::Direct { stream, directive });
        out.push(Command::Close { stream });
    }

    /// Notes whether a connection to a worker's ring address could be made.
    pub(super) fn dialled(
        &mut self,
        now: Duration,
        id: &WorkerId,
        incarnation: &Incarnation,
        outcome: Result<(), String>,
    ) {
        let Some(worker) = self.workers.get(id).filter(|w| w.incarnation == *incarnation) else {
            return;
        };
        match outcome {
            Ok(()) => {
                self.workers.change(id, |worker| {
                    worker.reach = Reach::Reached;
                    worker.setback.take_if(|s| s.run.is_none());
                });
            }
            Err(error) => {
                let message = format!(
                    "its peers cannot connect to it: {} does not answer: {error}\n\
                     hint: open that port between the nodes, or name an address that they reach \
                     with `worker --ring-address HOST:PORT`",
                    worker.ring
                );
                let loaded = worker.loaded.clone();
                self.workers.set_back(id, now, Setback::new(None, Cause::Peer, message));
                // The base and data in its memory are still good.
                self.workers.change(id, |worker| worker.loaded = loaded);
            }
        }
    }

    /// Notes that a worker's stream ended. Unless the worker reconnects within a short grace, it is lost.
    pub(super) fn hangup(&mut self, now: Duration, stream: Stream, out: &mut Vec<Command>) {
        let Some(id) = self.workers.on(stream).cloned() else { return };
        let grace = now + self.timing.hangup_grace;
        let leaving = self.workers.change(&id, |worker| {
            worker.stream = None;
            worker.lease_until = worker.lease_until.min(grace);
            worker.leaving
        });
        if leaving == Some(true) {
            self.lost(now, &id, Loss::Left, out);
        }
    }

    /// Removes workers whose leases have ended, and tries again those that have waited long enough after a setback.
    /// Returns whether there were any.
    pub(super) fn wake(&mut self, now: Duration, out: &mut Vec<Command>) -> bool {
        let Woken { silent, retried } = self.workers.wake(now);
        let any = !silent.is_empty() || !retried.is_empty();
        for id in silent {
            let why = match self.workers.get(&id).and_then(|worker| worker.stream) {
                Some(stream) => {
                    out.push(Command::Close { stream });
                    Loss::Silent
                }
                None => Loss::Disconnected,
            };
            self.lost(now, &id, why, out);
        }
        for id in retried {
            let worker = self.workers.get(&id).filter(|worker| worker.reach == Reach::Dialling);
            out.extend(worker.map(|worker| worker.dial(&id)));
        }
        any
    }

    fn lost(&mut self, now: Duration, id: &WorkerId, loss: Loss, out: &mut Vec<Command>) {
        if let Some(worker) = self.workers.remove(id) {
            self.losses.count(loss, now.saturating_sub(worker.heard_at));
        }
        let runs: Vec<_> = self.runs.keys().cloned().collect();
        for run in runs {
            self.with(now, &run, out, |r, turn| r.worker_lost(id, loss.why(), turn));
        }
    }

    /// Extends leases and deadlines if this process was paused (stopped, starved or asleep), since the workers' beats
    /// of that time are still unread in the queue.
    pub(super) fn forgive_own_pause(&mut self, now: Duration) {
        let due = self.next_deadline().unwrap_or(now).max(self.last_tick + self.timing.beat);
        let late = now.saturating_sub(due);
        if late >= self.timing.beat {
            // The pause may have begun right after the last event.
            let pause = now - self.last_tick;
            self.workers.forgive(pause);
            for run in self.runs.values_mut() {
                run.forgive(pause);
            }
        }
        self.last_tick = now;
    }
}

//! The workers whose leases have not ended: whether their peers can reach them, and what keeps them from working.
//!
//! Queries that are made at every event do not walk through all workers: which worker a stream belongs to, how many
//! can work, which are ready, and when the next lease or wait may end.

use super::{Command, Stream};
use proto::id::{Incarnation, RunId, WorkerId};
use proto::protocol::{Cause, Duty};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The wait after a worker's first setback; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Whether a worker's peers can connect to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its ring address is being dialled.
    Dialling,
    /// A connection to its ring address was made.
    Reached,
}

/// Why a worker is not used for now.
#[derive(Clone, Debug)]
pub(super) struct Setback {
    /// The run that the worker could not work for; `None` if it cannot work for any.
    pub(super) run: Option<RunId>,
    pub(super) cause: Cause,
    pub(super) message: String,
    /// Number of consecutive setbacks.
    pub(super) count: u32,
    /// When the worker is tried again.
    pub(super) until: Duration,
    /// Whether the wait is over and the worker is being tried again.
    pub(super) retrying: bool,
}

/// A worker whose lease has not ended.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) incarnation: Incarnation,
    /// `None` between two streams.
    pub(super) stream: Option<Stream>,
    /// The kind of its device, with the libraries that compute there.
    pub(super) device: String,
    pub(super) ring: String,
    pub(super) reach: Reach,
    pub(super) lease_until: Duration,
    /// When it last sent something.
    pub(super) heard_at: Duration,
    /// The run whose base and data it has in memory, and the digest of that base; `None` once it trains.
    pub(super) loaded: Option<(RunId, String)>,
    /// It has to leave and takes no further duty.
    pub(super) leaving: bool,
    /// What keeps it from working, or did and is not yet shown to be over.
    pub(super) setback: Option<Setback>,
    /// The duty of its last directive; `None` if the next duty is to be sent in any case.
    pub(super) last_duty: Option<Duty>,
}

impl Setback {
    /// A first setback that concerns the run, or every run if `None`.
    pub(super) fn new(run: Option<RunId>, cause: Cause, message: String) -> Self {
        Self { run, cause, message, count: 1, until: Duration::ZERO, retrying: false }
    }

    /// Whether the setback concerns the run.
    fn concerns(&self, run: &RunId) -> bool {
        self.run.as_ref().is_none_or(|of| of == run)
    }
}

impl Worker {
    /// A command to dial the ring address of this worker, whose name is `id`.
    pub(super) fn dial(&self, id: &WorkerId) -> Command {
        let (incarnation, ring) = (self.incarnation.clone(), self.ring.clone());
        Command::Dial { worker: id.clone(), incarnation, ring }
    }

    /// Whether the worker is connected and not leaving.
    pub(super) fn is_able(&self) -> bool {
        !self.leaving && self.stream.is_some()
    }

    /// Whether the worker waits before it is tried again with the run.
    pub(super) fn waits(&self, run: &RunId) -> bool {
        self.setback.as_ref().is_some_and(|s| !s.retrying && s.concerns(run))
    }

    /// Whether the worker has a setback that concerns the run.
    pub(super) fn is_troubled(&self, run: &RunId) -> bool {
        self.setback.as_ref().is_some_and(|s| s.concerns(run))
    }

    /// The end of its wait, if it waits before it is tried again.
    fn waits_until(&self) -> Option<Duration> {
        self.setback.as_ref().filter(|s| !s.retrying).map(|s| s.until)
    }

    /// When its lease or its wait ends, whichever is first.
    fn wakes_at(&self) -> Duration {
        self.waits_until().map_or(self.lease_until, |until| until.min(self.lease_until))
    }

    /// Whether the worker can become a member of the run now.
    fn is_ready(&self, run: &RunId) -> bool {
        let loaded = self.loaded.as_ref().is_some_and(|(loaded, _)| loaded == run);
        loaded && self.is_able() && self.reach == Reach::Reached && !self.waits(run)
    }
}

/// All workers whose leases have not ended.
#[derive(Debug, Default)]
pub(super) struct Workers {
    list: BTreeMap<WorkerId, Worker>,
    streams: BTreeMap<Stream, WorkerId>,
    /// No lease and no wait ends before this time.
    quiet_until: Option<Duration>,
    able: usize,
    /// The run that has the workers.
    run: Option<RunId>,
    /// Workers that can become members of that run.
    ready: BTreeSet<WorkerId>,
    /// Workers with a setback.
    troubled: BTreeSet<WorkerId>,
    /// Workers whose duty may have changed.
    stale: BTreeSet<WorkerId>,
}

impl Workers {
    pub(super) fn get(&self, id: &WorkerId) -> Option<&Worker> {
        self.list.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.list.iter()
    }

    pub(super) fn on(&self, stream: Stream) -> Option<&WorkerId> {
        self.streams.get(&stream)
    }

    /// Number of workers that are connected and not leaving.
    pub(super) fn able(&self) -> usize {
        self.able
    }

    /// Number of able workers that need not wait before they try the run.
    pub(super) fn usable(&self, run: &RunId) -> usize {
        let waiting = self.troubled().filter(|(_, w)| w.is_able() && w.waits(run));
        self.able - waiting.count()
    }

    /// Number of able workers without a setback that concerns the run.
    pub(super) fn sound(&self, run: &RunId) -> usize {
        self.able - self.troubled().filter(|(_, w)| w.is_able() && w.is_troubled(run)).count()
    }

    /// Removes the setbacks that concern only this run, which has ended.
    pub(super) fn forget_setbacks_of(&mut self, run: &RunId) {
        let of = |w: &Worker| w.setback.as_ref().is_some_and(|s| s.run.as_ref() == Some(run));
        let concerned = self.troubled().filter(|(_, w)| of(w)).map(|(id, _)| id.clone());
        for id in concerned.collect::<Vec<_>>() {
            self.change(&id, |worker| worker.setback = None);
        }
    }

    /// Workers with a setback.
    pub(super) fn troubled(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.troubled.iter().filter_map(|id| self.list.get_key_value(id))
    }

    /// Workers that can become members of the run that has the workers.
    pub(super) fn ready(&self) -> &BTreeSet<WorkerId> {
        &self.ready
    }

    /// Number of workers that can become members of `run`; 0 if it does not have the workers.
    pub(super) fn ready_for(&self, run: &RunId) -> usize {
        if self.run.as_ref() == Some(run) { self.ready.len() } else { 0 }
    }

    /// Extends a worker's lease, as every message from it does.
    pub(super) fn renew(&mut self, id: &WorkerId, now: Duration, until: Duration) {
        if let Some(worker) = self.list.get_mut(id) {
            worker.heard_at = now;
            worker.lease_until = until;
        }
    }

    /// Adds or replaces a worker.
    pub(super) fn insert(&mut self, id: WorkerId, worker: Worker) {
        self.remove(&id);
        if let Some(stream) = worker.stream {
            self.streams.insert(stream, id.clone());
        }
        self.wake_by(worker.lease_until);
        self.list.insert(id.clone(), worker);
        self.count(&id);
    }

    pub(super) fn remove(&mut self, id: &WorkerId) -> Option<Worker> {
        self.discount(id);
        self.stale.remove(id);
        let worker = self.list.remove(id)?;
        if let Some(stream) = worker.stream {
            self.streams.remove(&stream);
        }
        Some(worker)
    }

    /// Changes a worker, and marks its duty as possibly changed.
    pub(super) fn change<R>(
        &mut self,
        id: &WorkerId,
        change: impl FnOnce(&mut Worker) -> R,
    ) -> Option<R> {
        self.discount(id);
        let worker = self.list.get_mut(id)?;
        let before = worker.stream;
        let result = change(worker);
        let wake = worker.wakes_at();
        let after = worker.stream;
        if before != after {
            before.map(|stream| self.streams.remove(&stream));
            after.map(|stream| self.streams.insert(stream, id.clone()));
        }
        self.wake_by(wake);
        self.count(id);
        Some(result)
    }

    /// Notes that a worker becomes a member and trains on what it has loaded. Returns its ring address.
    pub(super) fn join(&mut self, id: &WorkerId) -> Option<String> {
        self.change(id, |worker| {
            worker.loaded = None;
            worker.ring.clone()
        })
    }

    /// Notes the duty that is sent to a worker. Unlike `change`, this does not mark its duty as possibly changed.
    pub(super) fn note_duty(&mut self, id: &WorkerId, duty: Duty) {
        if let Some(worker) = self.list.get_mut(id) {
            worker.last_duty = Some(duty);
        }
    }

    /// Sets a worker back. It waits before it is tried again, longer each time.
    pub(super) fn set_back(&mut self, id: &WorkerId, now: Duration, setback: Setback) {
        self.change(id, |worker| {
            let before = worker.setback.as_ref().filter(|s| s.run == setback.run);
            let count = before.map_or(0, |s| s.count) + 1;
            let wait = FIRST_WAIT.saturating_mul(1 << (count - 1).min(16)).min(LONGEST_WAIT);
            worker.loaded = None;
            worker.setback = Some(Setback { count, until: now + wait, ..setback });
        });
    }

    /// Removes a worker's setback if `mended` returns true for it.
    pub(super) fn mend(&mut self, id: &WorkerId, mended: impl FnOnce(&mut Setback) -> bool) {
        if self.list.get(id).is_some_and(|worker| worker.setback.is_some()) {
            self.change(id, |worker| worker.setback.take_if(mended));
        }
    }

    /// Ends the waits that are over, and returns their workers and those whose leases have ended.
    pub(super) fn wake(&mut self, now: Duration) -> Woken {
        let mut woken = Woken::default();
        if self.quiet_until.is_none_or(|until| now < until) {
            return woken;
        }
        for (id, worker) in &self.list {
            if worker.lease_until <= now {
                woken.silent.push(id.clone());
            } else if worker.waits_until().is_some_and(|until| until <= now) {
                woken.retried.push(id.clone());
            }
        }
        for id in &woken.retried {
            self.change(id, |worker| {
                if let Some(setback) = &mut worker.setback {
                    setback.retrying = true;
                }
                // The same duty is sent again.
                worker.last_duty = None;
            });
        }
        self.quiet_until = self.list.values().map(Worker::wakes_at).min();
        woken
    }

    /// When to call [`Self::wake`] again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.quiet_until
    }

    /// Extends all leases by the time that this process was paused.
    pub(super) fn forgive(&mut self, pause: Duration) {
        for worker in self.list.values_mut() {
            worker.lease_until += pause;
        }
        self.quiet_until = self.quiet_until.map(|until| until + pause);
    }

    /// Notes which run has the workers.
    pub(super) fn work_for(&mut self, run: Option<&RunId>) {
        if self.run.as_ref() == run {
            return;
        }
        self.run = run.cloned();
        self.ready = match run {
            None => BTreeSet::new(),
            Some(run) => {
                let ready = self.list.iter().filter(|(_, w)| w.is_ready(run));
                ready.map(|(id, _)| id.clone()).collect()
            }
        };
        self.all_stale();
    }

    /// Marks the duties of these workers as possibly changed.
    pub(super) fn mark_stale(&mut self, workers: impl IntoIterator<Item = WorkerId>) {
        self.stale.extend(workers);
    }

    /// Returns the workers whose duties may have changed since the last call.
    pub(super) fn take_stale(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.stale)
    }

    /// Marks the duties of all workers as possibly changed.
    pub(super) fn all_stale(&mut self) {
        self.stale = self.list.keys().cloned().collect();
    }

    fn wake_by(&mut self, at: Duration) {
        self.quiet_until = Some(self.quiet_until.map_or(at, |until| until.min(at)));
    }

    fn discount(&mut self, id: &WorkerId) {
        if let Some(worker) = self.list.get(id) {
            self.able -= usize::from(worker.is_able());
            self.ready.remove(id);
            self.troubled.remove(id);
        }
    }

    fn count(&mut self, id: &WorkerId) {
        let Some(worker) = self.list.get(id) else { return };
        self.able += usize::from(worker.is_able());
        if self.run.as_ref().is_some_and(|run| worker.is_ready(run)) {
            self.ready.insert(id.clone());
        }
        if worker.setback.is_some() {
            self.troubled.insert(id.clone());
        }
        self.stale.insert(id.clone());
    }
}

/// The workers whose leases or waits have ended.
#[derive(Debug, Default)]
pub(super) struct Woken {
    /// Workers whose leases have ended.
    pub(super) silent: Vec<WorkerId>,
    /// Workers that have waited long enough after a setback.
    pub(super) retried: Vec<WorkerId>,
}

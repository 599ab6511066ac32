//! The workers that are connected: their leases, whether their peers reach them, and what keeps them from working.
//!
//! Everything that is asked at every event is answered without walking through all workers: which one speaks on a
//! stream, how many can work, who is ready, when the next lease or the next wait may be over.

use super::{Command, Stream};
use proto::id::{Incarnation, RunId, WorkerId};
use proto::protocol::{Cause, Duty};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The wait after a worker's first trouble; it doubles with each one that follows.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// Whether a worker's peers can connect to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Its ring address is being dialled.
    Dialling,
    /// Somebody has reached it.
    Reached,
}

/// Why a worker is not used for now.
#[derive(Clone, Debug)]
pub(super) struct Setback {
    /// The run that it could not work for; none where it concerns every run.
    pub(super) run: Option<RunId>,
    pub(super) cause: Cause,
    pub(super) message: String,
    /// Troubles in a row.
    pub(super) count: u32,
    /// It is tried again then.
    pub(super) until: Duration,
    /// Its time has come: it is being tried again.
    pub(super) retrying: bool,
}

/// A worker whose lease runs.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) incarnation: Incarnation,
    /// None between two streams.
    pub(super) stream: Option<Stream>,
    pub(super) ring: String,
    pub(super) reach: Reach,
    pub(super) lease_until: Duration,
    /// The run whose base and data it has in memory, without training state, and the digest of that base.
    pub(super) loaded: Option<(RunId, String)>,
    /// It was told to go and takes no further duty.
    pub(super) leaving: bool,
    /// What keeps it from working, or did until it is seen to work again.
    pub(super) setback: Option<Setback>,
    /// What it was told last.
    pub(super) told: Option<Duty>,
}

impl Setback {
    /// What keeps a worker from working for the run, or for any.
    pub(super) fn new(run: Option<RunId>, cause: Cause, message: String) -> Self {
        Self { run, cause, message, count: 1, until: Duration::ZERO, retrying: false }
    }

    /// It keeps a worker from working for the run, or did.
    fn concerns(&self, run: &RunId) -> bool {
        self.run.as_ref().is_none_or(|of| of == run)
    }
}

impl Worker {
    /// Has the ring address dialled of the worker with this name.
    pub(super) fn dial(&self, id: &WorkerId) -> Command {
        let (incarnation, ring) = (self.incarnation.clone(), self.ring.clone());
        Command::Dial { worker: id.clone(), incarnation, ring }
    }

    /// It is connected and wants to work.
    pub(super) fn is_able(&self) -> bool {
        !self.leaving && self.stream.is_some()
    }

    /// It waits before it is tried again, with the run or with any.
    pub(super) fn waits(&self, run: &RunId) -> bool {
        self.setback.as_ref().is_some_and(|s| !s.retrying && s.concerns(run))
    }

    /// Something keeps it from working for the run, or did until it is seen to work again.
    pub(super) fn is_troubled(&self, run: &RunId) -> bool {
        self.setback.as_ref().is_some_and(|s| s.concerns(run))
    }

    /// Until when it waits before it is tried again.
    fn waits_until(&self) -> Option<Duration> {
        self.setback.as_ref().filter(|s| !s.retrying).map(|s| s.until)
    }

    /// When its lease is over, or its wait.
    fn wakes_at(&self) -> Duration {
        self.waits_until().map_or(self.lease_until, |until| until.min(self.lease_until))
    }

    /// Whether it can be a member of the run now.
    fn is_ready(&self, run: &RunId) -> bool {
        let loaded = self.loaded.as_ref().is_some_and(|(loaded, _)| loaded == run);
        loaded && self.is_able() && self.reach == Reach::Reached && !self.waits(run)
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Workers {
    list: BTreeMap<WorkerId, Worker>,
    streams: BTreeMap<Stream, WorkerId>,
    /// Before this no lease is over and no wait.
    quiet_until: Option<Duration>,
    able: usize,
    /// The run that has the workers, for which `ready` holds.
    run: Option<RunId>,
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

    /// Workers that are connected and want to work.
    pub(super) fn able(&self) -> usize {
        self.able
    }

    /// Workers that are connected, want to work and need not wait before they try the run.
    pub(super) fn usable(&self, run: &RunId) -> usize {
        let waiting = self.troubled().filter(|(_, w)| w.is_able() && w.waits(run));
        self.able - waiting.count()
    }

    /// Workers that are connected, want to work and have no trouble with the run.
    pub(super) fn sound(&self, run: &RunId) -> usize {
        self.able - self.troubled().filter(|(_, w)| w.is_able() && w.is_troubled(run)).count()
    }

    /// The run has ended: what kept workers from working for it does not concern them any more.
    pub(super) fn forget_setbacks_of(&mut self, run: &RunId) {
        let of = |w: &Worker| w.setback.as_ref().is_some_and(|s| s.run.as_ref() == Some(run));
        let concerned = self.troubled().filter(|(_, w)| of(w)).map(|(id, _)| id.clone());
        for id in concerned.collect::<Vec<_>>() {
            self.change(&id, |worker| worker.setback = None);
        }
    }

    /// Workers that something keeps from working, or did until it is seen to work again.
    pub(super) fn troubled(&self) -> impl Iterator<Item = (&WorkerId, &Worker)> {
        self.troubled.iter().filter_map(|id| self.list.get_key_value(id))
    }

    /// Workers that can be members of the run that has them.
    pub(super) fn ready(&self) -> &BTreeSet<WorkerId> {
        &self.ready
    }

    /// How many of them can be members of `run`.
    pub(super) fn ready_for(&self, run: &RunId) -> usize {
        if self.run.as_ref() == Some(run) { self.ready.len() } else { 0 }
    }

    /// Prolongs a lease: what every message does.
    pub(super) fn renew(&mut self, id: &WorkerId, until: Duration) {
        if let Some(worker) = self.list.get_mut(id) {
            worker.lease_until = until;
        }
    }

    /// Adds a worker, or replaces it.
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

    /// Changes a worker; its duty may change by it.
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

    /// A worker becomes a member: what it has loaded is its to train on. Returns where its peers reach it.
    pub(super) fn join(&mut self, id: &WorkerId) -> Option<String> {
        self.change(id, |worker| {
            worker.loaded = None;
            worker.ring.clone()
        })
    }

    /// Notes what a worker was told; nothing follows from it.
    pub(super) fn tell(&mut self, id: &WorkerId, duty: Duty) {
        if let Some(worker) = self.list.get_mut(id) {
            worker.told = Some(duty);
        }
    }

    /// Something keeps a worker from working. It waits, longer each time.
    pub(super) fn set_back(&mut self, id: &WorkerId, now: Duration, setback: Setback) {
        self.change(id, |worker| {
            let before = worker.setback.as_ref().filter(|s| s.run == setback.run);
            let count = before.map_or(0, |s| s.count) + 1;
            let wait = FIRST_WAIT.saturating_mul(1 << (count - 1).min(16)).min(LONGEST_WAIT);
            worker.loaded = None;
            worker.setback = Some(Setback { count, until: now + wait, ..setback });
        });
    }

    /// Ends a worker's setback where it is seen to have overcome it.
    pub(super) fn mend(&mut self, id: &WorkerId, mended: impl FnOnce(&mut Setback) -> bool) {
        if self.list.get(id).is_some_and(|worker| worker.setback.is_some()) {
            self.change(id, |worker| worker.setback.take_if(mended));
        }
    }

    /// Whose lease is over. Also ends the waits whose time has come, and says who may be dialled again.
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
                // The same duty is given again.
                worker.told = None;
            });
        }
        self.quiet_until = self.list.values().map(Worker::wakes_at).min();
        woken
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Option<Duration> {
        self.quiet_until
    }

    /// Time that this process spent paused does not count against anybody.
    pub(super) fn forgive(&mut self, pause: Duration) {
        for worker in self.list.values_mut() {
            worker.lease_until += pause;
        }
        self.quiet_until = self.quiet_until.map(|until| until + pause);
    }

    /// Another run has the workers now, or none.
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

    /// The duties of these workers may have changed.
    pub(super) fn mark_stale(&mut self, workers: impl IntoIterator<Item = WorkerId>) {
        self.stale.extend(workers);
    }

    /// The workers whose duty may have changed since this was asked last.
    pub(super) fn take_stale(&mut self) -> BTreeSet<WorkerId> {
        std::mem::take(&mut self.stale)
    }

    /// Every worker's duty may have changed.
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

/// What time has brought.
#[derive(Debug, Default)]
pub(super) struct Woken {
    /// Workers whose lease is over.
    pub(super) silent: Vec<WorkerId>,
    /// Workers that have waited long enough after a trouble.
    pub(super) retried: Vec<WorkerId>,
}

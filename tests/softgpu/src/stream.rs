//! Streams and events: one thread for each stream carries out its items one by one.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::{Actor, Clock};
use crate::history::{Stamp, Touched};
use crate::ops::{self, Draft, Op, Work};
use crate::protection;
use crate::report::violation;
use crate::world::{Device, world};

/// The most items that wait in a stream; the caller then blocks, as on a real device.
const MAX_QUEUED: usize = 1 << 14;
const MAX_DELAY_US: u64 = 300;

/// A point in a stream: reached or not, and what it orders.
#[derive(Debug)]
pub(crate) struct Point {
    pub clock: Clock,
    reached: Mutex<Option<Instant>>,
    changed: Condvar,
}

impl Point {
    pub(crate) fn reached(&self) -> Option<Instant> {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait(&self) {
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(reached, |at| at.is_none());
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    fn reach(&self) {
        let mut reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        *reached = Some(Instant::now());
        self.changed.notify_all();
    }
}

enum Item {
    Work(Op, Work),
    Reach(Arc<Point>),
    Wait(Arc<Point>),
}

#[derive(Default)]
struct State {
    queue: VecDeque<Item>,
    clock: Clock,
    enqueued: u64,
    finished: u64,
    closed: bool,
}

/// A stream of one device.
pub(crate) struct Stream {
    pub actor: Actor,
    pub name: Arc<str>,
    pub device: Arc<Device>,
    state: Mutex<State>,
    changed: Condvar,
}

impl Stream {
    /// Makes a stream and starts its thread.
    pub(crate) fn start(device: &Arc<Device>, actor: Actor) -> Arc<Self> {
        let stream = Arc::new(Self {
            actor,
            name: ops::name(format!("stream {} of device {}", actor.0, device.index)),
            device: Arc::clone(device),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let runner = Arc::clone(&stream);
        std::thread::Builder::new()
            .name(format!("softgpu-{}", actor.0))
            .spawn(move || runner.run())
            .expect("the system has room for a thread");
        stream
    }

    /// Adds an operation, ordered after everything that the host and the stream know.
    pub(crate) fn enqueue(&self, draft: Draft) {
        let map = world().memory().snapshot();
        let mut state = self.room();
        let count = self.advance(&mut state);
        let stamp = Stamp {
            actor: self.actor,
            count,
            name: ops::name(draft.name),
            stream: Arc::clone(&self.name),
        };
        let op = Op::new(stamp, state.clock.clone(), map, draft.plan);
        self.push(state, Item::Work(op, draft.work));
    }

    /// Marks the current end of the stream.
    pub(crate) fn record(&self) -> Arc<Point> {
        let mut state = self.room();
        self.advance(&mut state);
        let point = Arc::new(Point {
            clock: state.clock.clone(),
            reached: Mutex::new(None),
            changed: Condvar::new(),
        });
        self.push(state, Item::Reach(Arc::clone(&point)));
        point
    }

    /// Makes later items wait for a point of another stream.
    pub(crate) fn wait_for(&self, point: &Arc<Point>) {
        let mut state = self.room();
        state.clock.join(&point.clock);
        self.push(state, Item::Wait(Arc::clone(point)));
    }

    /// Waits until all present items are finished, which the host then knows.
    pub(crate) fn synchronize(&self) {
        let state = self.state();
        let target = state.enqueued;
        let clock = state.clock.clone();
        let waited = self.changed.wait_while(state, |state| state.finished < target);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
        world().host_learns(&clock);
    }

    /// Waits like `synchronize`, but the host learns nothing: the order was not asked for.
    pub(crate) fn drain(&self) {
        let state = self.state();
        let target = state.enqueued;
        let waited = self.changed.wait_while(state, |state| state.finished < target);
        drop(waited.unwrap_or_else(PoisonError::into_inner));
    }

    /// Whether all items are finished; if so the host knows it.
    pub(crate) fn query(&self) -> bool {
        let state = self.state();
        if state.finished < state.enqueued {
            return false;
        }
        let clock = state.clock.clone();
        drop(state);
        world().host_learns(&clock);
        true
    }

    /// Lets the thread end when its items are finished.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn room(&self) -> MutexGuard<'_, State> {
        let waited = self.changed.wait_while(self.state(), |state| state.queue.len() >= MAX_QUEUED);
        waited.unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, state: &mut State) -> u64 {
        state.clock.join(&world().host_clock());
        state.clock.tick(self.actor)
    }

    fn push(&self, mut state: MutexGuard<'_, State>, item: Item) {
        if state.closed {
            drop(state);
            let names = [("stream", self.name.to_string())];
            return violation("stream.destroyed", "a destroyed stream was given work", &names);
        }
        state.queue.push_back(item);
        state.enqueued += 1;
        self.changed.notify_all();
    }

    fn next(&self) -> Option<Item> {
        let waited =
            self.changed.wait_while(self.state(), |state| state.queue.is_empty() && !state.closed);
        let item = waited.unwrap_or_else(PoisonError::into_inner).queue.pop_front();
        self.changed.notify_all();
        item
    }

    fn run(&self) {
        protection::open();
        let mut delays =
            world().settings.delays.map(|seed| Random::new(seed ^ u64::from(self.actor.0)));
        while let Some(item) = self.next() {
            if let Some(random) = &mut delays {
                std::thread::sleep(Duration::from_micros(random.below(MAX_DELAY_US)));
            }
            match item {
                Item::Reach(point) => point.reach(),
                Item::Wait(point) => point.wait(),
                Item::Work(op, work) => {
                    if self.device.sticky().is_none()
                        && let Err(code) = op.carry_out(work)
                    {
                        self.device.fail(code);
                    }
                }
            }
            self.state().finished += 1;
            self.changed.notify_all();
        }
    }
}

/// A draft of an operation whose bytes are all known beforehand.
pub(crate) fn planned(
    name: impl Into<String>,
    plan: Touched,
    act: impl FnOnce() + Send + 'static,
) -> Draft {
    let work: Work = Box::new(move |_| {
        act();
        Ok(Touched::default())
    });
    Draft { name: name.into(), plan, work }
}

/// A small generator of random numbers (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below the bound.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// Shuffles a list.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last as u64 + 1) as usize);
        }
    }
}

//! Where a step's time goes: a tracing subscriber that adds up the time inside spans, by name.
//!
//! Operations open a span for each of their phases on the thread that calls them; the kernels' threads open none, and
//! phases do not nest. What is under no span is `other`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

type Totals = BTreeMap<&'static str, Duration>;

/// The sums so far.
#[derive(Clone, Default)]
pub(super) struct Clock {
    totals: Arc<Mutex<Totals>>,
    next: Arc<AtomicU64>,
    /// The name of each open span.
    names: Arc<Mutex<BTreeMap<u64, &'static str>>>,
}

thread_local! {
    static ENTERED: RefCell<Vec<Instant>> = const { RefCell::new(Vec::new()) };
}

impl Clock {
    pub(super) fn install() -> Self {
        let clock = Self::default();
        tracing::subscriber::set_global_default(clock.clone()).expect("set once, by main");
        clock
    }

    pub(super) fn reset(&self) {
        lock(&self.totals).clear();
    }

    /// A line per phase, the longest first, and what `seconds` in all leaves over.
    pub(super) fn print(&self, seconds: f64, steps: usize) {
        let totals = lock(&self.totals);
        let mut phases: Vec<_> = totals
            .iter()
            .map(|(name, time)| (*name, time.as_secs_f64()))
            .collect();
        phases.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let known: f64 = phases.iter().map(|(_, time)| time).sum();
        phases.push(("other", seconds - known));
        for (name, time) in phases {
            let milliseconds = time * 1e3 / steps as f64;
            println!(
                "{name:24} {milliseconds:8.1} ms  {:5.1} %",
                time / seconds * 100.0
            );
        }
    }
}

impl Subscriber for Clock {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span() && metadata.target().starts_with("worker::ops")
            || metadata.target().starts_with("step")
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
        lock(&self.names).insert(id, span.metadata().name());
        Id::from_u64(id)
    }

    fn enter(&self, _: &Id) {
        ENTERED.with_borrow_mut(|entered| entered.push(Instant::now()));
    }

    fn exit(&self, span: &Id) {
        let Some(start) = ENTERED.with_borrow_mut(Vec::pop) else {
            return;
        };
        if let Some(name) = lock(&self.names).get(&span.into_u64()) {
            *lock(&self.totals).entry(name).or_default() += start.elapsed();
        }
    }

    fn try_close(&self, span: Id) -> bool {
        lock(&self.names).remove(&span.into_u64());
        true
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Where a step's time goes: a tracing subscriber that sums the time inside spans, by name.
//!
//! The decoder and the tape open spans on the thread that runs them; the kernels' threads open none. A span's time
//! does not include the spans inside it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Sums the time of each phase.
#[derive(Clone, Default)]
pub(super) struct Clock {
    totals: Arc<Mutex<BTreeMap<String, Duration>>>,
    /// The name of each open span.
    names: Arc<Mutex<BTreeMap<u64, String>>>,
    last: Arc<AtomicU64>,
}

/// An open span on this thread.
struct Entered {
    at: Instant,
    inside: Duration,
}

thread_local! {
    static ENTERED: RefCell<Vec<Entered>> = const { RefCell::new(Vec::new()) };
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

    /// Prints a line per phase, the longest first, and then the rest of `seconds`, the total time.
    pub(super) fn print(&self, seconds: f64, steps: usize) {
        let totals = lock(&self.totals);
        let mut phases: Vec<_> =
            totals.iter().map(|(name, time)| (name.as_str(), time.as_secs_f64())).collect();
        phases.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        let known: f64 = phases.iter().map(|(_, time)| time).sum();
        phases.push(("other", seconds - known));
        for (name, time) in phases {
            let milliseconds = time * 1e3 / steps as f64;
            println!("{name:32} {milliseconds:8.1} ms  {:5.1} %", time / seconds * 100.0);
        }
    }
}

impl Subscriber for Clock {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
            && ["worker", "step"].iter().any(|own| metadata.target().starts_with(own))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let id = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let mut name = Name(span.metadata().name().to_owned());
        span.record(&mut name);
        lock(&self.names).insert(id, name.0);
        Id::from_u64(id)
    }

    fn enter(&self, _: &Id) {
        let entered = Entered { at: Instant::now(), inside: Duration::ZERO };
        ENTERED.with_borrow_mut(|open| open.push(entered));
    }

    fn exit(&self, span: &Id) {
        let own = ENTERED.with_borrow_mut(|open| {
            let Entered { at, inside } = open.pop()?;
            let whole = at.elapsed();
            if let Some(outer) = open.last_mut() {
                outer.inside += whole;
            }
            Some(whole.saturating_sub(inside))
        });
        if let (Some(own), Some(name)) = (own, lock(&self.names).get(&span.into_u64())) {
            *lock(&self.totals).entry(name.clone()).or_default() += own;
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

/// A span's name, prefixed with its operation.
struct Name(String);

impl Visit for Name {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "op" {
            self.0 = format!("{value} {}", self.0);
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! Where a step's time goes: a tracing subscriber that adds up the time inside spans, by name.
//!
//! The decoder, the tape and the trainer open spans on the thread that takes the step. A span's time does not include
//! the spans inside it. On a GPU, a span takes as long as the work that was launched inside it.

use crate::device::{Device, Moment};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Observes the spans of one thread.
#[derive(Clone)]
pub struct Clock {
    device: Device,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    names: Vec<String>,
    /// The spans that are open, the innermost last.
    open: Vec<usize>,
    spans: Vec<Span>,
}

/// A span that was entered once.
struct Span {
    /// Index of its name.
    name: usize,
    /// The span that it lies in.
    outer: Option<usize>,
    start: Moment,
    end: Option<Moment>,
}

impl Clock {
    /// A clock for work on `device`.
    pub fn new(device: &Device) -> Self {
        Self { device: device.clone(), seen: Arc::default() }
    }

    /// Runs `work` on this thread, and returns its result with the time of each phase, the longest first; what lies in
    /// no span is called `other`.
    pub fn time<T>(&self, work: impl FnOnce() -> T) -> (T, Vec<(String, Duration)>) {
        let start = self.device.moment();
        let result = tracing::subscriber::with_default(self.clone(), work);
        let whole = self.device.moment().since(&start);
        let mut phases = self.seen().phases();
        let known = phases.iter().map(|(_, time)| *time).sum();
        phases.push(("other".to_owned(), whole.saturating_sub(known)));
        phases.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
        (result, phases)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seen {
    fn phases(&mut self) -> Vec<(String, Duration)> {
        let spans = std::mem::take(&mut self.spans);
        let time =
            |span: &Span| span.end.as_ref().map_or(Duration::ZERO, |end| end.since(&span.start));
        let times: Vec<Duration> = spans.iter().map(time).collect();
        let mut own = times.clone();
        for (span, time) in spans.iter().zip(&times) {
            if let Some(outer) = span.outer {
                own[outer] = own[outer].saturating_sub(*time);
            }
        }
        let mut totals: BTreeMap<&str, Duration> = BTreeMap::new();
        for (span, own) in spans.iter().zip(own) {
            *totals.entry(&self.names[span.name]).or_default() += own;
        }
        totals.into_iter().map(|(name, time)| (name.to_owned(), time)).collect()
    }
}

impl Subscriber for Clock {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_span()
            && ["worker", "step"].iter().any(|own| metadata.target().starts_with(own))
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut name = Name(span.metadata().name().to_owned());
        span.record(&mut name);
        let mut seen = self.seen();
        seen.names.push(name.0);
        Id::from_u64(seen.names.len() as u64)
    }

    fn enter(&self, id: &Id) {
        let start = self.device.moment();
        let mut seen = self.seen();
        let name = id.into_u64() as usize - 1;
        let outer = seen.open.last().copied();
        let span = seen.spans.len();
        seen.spans.push(Span { name, outer, start, end: None });
        seen.open.push(span);
    }

    fn exit(&self, _: &Id) {
        let end = self.device.moment();
        let mut seen = self.seen();
        if let Some(span) = seen.open.pop() {
            seen.spans[span].end = Some(end);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn time_belongs_to_the_innermost_span() {
        let spin = |milliseconds| {
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(milliseconds) {}
        };
        let (result, phases) = Clock::new(&Device::Host).time(|| {
            let _outer = tracing::trace_span!("outer").entered();
            spin(2);
            for _ in 0..2 {
                let _inner = tracing::trace_span!("inner", op = "add").entered();
                spin(20);
            }
            7
        });
        let of = |name: &str| phases.iter().find(|(phase, _)| phase == name).expect("a phase").1;
        assert_eq!(result, 7);
        assert_eq!(phases[0].0, "add inner", "the longest comes first");
        assert!(of("add inner") >= Duration::from_millis(40));
        assert!(of("outer") >= Duration::from_millis(2) && of("outer") < of("add inner"));
        assert!(of("other") < of("add inner"));
    }
}

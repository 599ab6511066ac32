//! The race detector between streams and the host.
//!
//! For each byte it keeps the last writer and the readers since. A new access must know, by its
//! vector clock, that the earlier ones it conflicts with have finished. Operations run in an order
//! that their clocks allow, so looking backward is enough: of two unordered accesses, whichever
//! runs second is reported, on every run.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::clock::{Actor, Clock};
use crate::memory::Span;
use crate::report::violation;

/// One operation: who did it, which of the actor's operations it was, and what to call it.
#[derive(Debug, Clone)]
pub(crate) struct Stamp {
    pub actor: Actor,
    pub count: u64,
    pub name: Arc<str>,
    pub stream: Arc<str>,
}

impl PartialEq for Stamp {
    fn eq(&self, other: &Self) -> bool {
        (self.actor, self.count) == (other.actor, other.count)
    }
}

/// Bytes that an operation read and wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    pub reads: Vec<Span>,
    pub writes: Vec<Span>,
}

#[derive(Debug, Clone, PartialEq)]
struct Segment {
    end: u64,
    write: Option<Stamp>,
    reads: Vec<Stamp>,
}

#[derive(Debug, Default)]
struct History {
    segments: BTreeMap<u64, Segment>,
}

fn history() -> &'static Mutex<History> {
    static HISTORY: OnceLock<Mutex<History>> = OnceLock::new();
    HISTORY.get_or_init(Mutex::default)
}

/// Checks an operation's accesses against the earlier ones, and remembers them.
pub(crate) fn apply(stamp: &Stamp, clock: &Clock, touched: &Touched) {
    let mut conflicts = Vec::new();
    {
        let mut history = history().lock().unwrap_or_else(PoisonError::into_inner);
        let reads = Access { stamp, clock, writes: false };
        for span in &touched.reads {
            history.touch(*span, &reads, &mut conflicts);
        }
        let writes = Access { writes: true, ..reads };
        for span in &touched.writes {
            history.touch(*span, &writes, &mut conflicts);
        }
    }
    let mut reported: Vec<Stamp> = Vec::new();
    for conflict in conflicts {
        if !reported.contains(&conflict.earlier) {
            conflict.report(stamp);
            reported.push(conflict.earlier);
        }
    }
}

/// Forgets all accesses to a range, whose memory has been freed.
pub(crate) fn forget(span: Span) {
    let mut history = history().lock().unwrap_or_else(PoisonError::into_inner);
    history.split(span.start);
    history.split(span.end);
    let inside: Vec<u64> =
        history.segments.range(span.start..span.end).map(|(at, _)| *at).collect();
    for at in inside {
        history.segments.remove(&at);
    }
}

/// How an operation touches some bytes.
#[derive(Clone, Copy)]
struct Access<'a> {
    stamp: &'a Stamp,
    clock: &'a Clock,
    writes: bool,
}

struct Conflict {
    span: Span,
    earlier: Stamp,
    earlier_wrote: bool,
    later_wrote: bool,
}

impl Conflict {
    fn report(&self, later: &Stamp) {
        let verb = |wrote: bool| if wrote { "write" } else { "read" };
        let pinned = later.actor == crate::clock::HOST || self.earlier.actor == crate::clock::HOST;
        let kind = if pinned { "race.host" } else { "race.stream" };
        let hint = if pinned { " (pinned buffer reused too early)" } else { "" };
        let message = format!(
            "the {} of `{}` on {} and the {} of `{}` on {} are not ordered{hint}",
            verb(self.earlier_wrote),
            self.earlier.name,
            self.earlier.stream,
            verb(self.later_wrote),
            later.name,
            later.stream,
        );
        let names = [
            ("first", self.earlier.name.to_string()),
            ("first_stream", self.earlier.stream.to_string()),
            ("second", later.name.to_string()),
            ("second_stream", later.stream.to_string()),
            ("range", format!("{:#x}..{:#x}", self.span.start, self.span.end)),
        ];
        violation(kind, &message, &names);
    }
}

impl History {
    fn touch(&mut self, span: Span, access: &Access<'_>, conflicts: &mut Vec<Conflict>) {
        let Access { stamp, clock, writes } = *access;
        if span.is_empty() {
            return;
        }
        self.split(span.start);
        self.split(span.end);
        self.fill(span);
        let unordered = |earlier: &Stamp| {
            earlier.actor != stamp.actor && earlier.count > clock.knows(earlier.actor)
        };
        for (start, segment) in self.segments.range_mut(span.start..span.end) {
            let mut conflict = |earlier: &Stamp, earlier_wrote: bool| {
                conflicts.push(Conflict {
                    span: Span { start: *start, end: segment.end },
                    earlier: earlier.clone(),
                    earlier_wrote,
                    later_wrote: writes,
                });
            };
            if let Some(earlier) = segment.write.as_ref().filter(|earlier| unordered(earlier)) {
                conflict(earlier, true);
            }
            if writes {
                for earlier in segment.reads.iter().filter(|earlier| unordered(earlier)) {
                    conflict(earlier, false);
                }
                segment.write = Some(stamp.clone());
                segment.reads.clear();
            } else {
                segment.reads.retain(|earlier| unordered(earlier));
                segment.reads.push(stamp.clone());
            }
        }
        self.merge(span);
    }

    /// Makes a segment begin at this address if one covers it.
    fn split(&mut self, at: u64) {
        let Some((start, segment)) = self.segments.range_mut(..at).next_back() else { return };
        if segment.end <= at || *start == at {
            return;
        }
        let rest = segment.clone();
        segment.end = at;
        self.segments.insert(at, rest);
    }

    /// Adds empty segments so that the range is covered.
    fn fill(&mut self, span: Span) {
        let mut gaps = Vec::new();
        let mut at = span.start;
        for (start, segment) in self.segments.range(span.start..span.end) {
            if at < *start {
                gaps.push(Span { start: at, end: *start });
            }
            at = segment.end;
        }
        if at < span.end {
            gaps.push(Span { start: at, end: span.end });
        }
        for gap in gaps {
            let segment = Segment { end: gap.end, write: None, reads: Vec::new() };
            self.segments.insert(gap.start, segment);
        }
    }

    /// Joins neighbours with the same past.
    fn merge(&mut self, span: Span) {
        let before = self.segments.range(..span.start).next_back().map(|(start, _)| *start);
        let mut starts: Vec<u64> = before.into_iter().collect();
        starts.extend(self.segments.range(span.start..=span.end).map(|(start, _)| *start));
        let mut last: Option<u64> = None;
        for start in starts {
            let joined = last.is_some_and(|previous| {
                let (one, two) = (&self.segments[&previous], &self.segments[&start]);
                one.end == start && one.write == two.write && one.reads == two.reads
            });
            if joined {
                let removed = self.segments.remove(&start).expect("the start was just listed");
                let previous = last.expect("joined has a previous segment");
                self.segments.get_mut(&previous).expect("it was just compared").end = removed.end;
            } else {
                last = Some(start);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(actor: u32, count: u64) -> Stamp {
        let name = Arc::from("work");
        Stamp { actor: Actor(actor), count, name: Arc::clone(&name), stream: name }
    }

    /// Touches `start..end` and returns the ranges that conflict.
    fn touch(
        history: &mut History,
        (start, end): (u64, u64),
        (actor, clock): (u32, &Clock),
        writes: bool,
    ) -> Vec<(u64, u64)> {
        let mut conflicts = Vec::new();
        let access = Access { stamp: &stamp(actor, 1), clock, writes };
        history.touch(Span { start, end }, &access, &mut conflicts);
        conflicts.iter().map(|conflict| (conflict.span.start, conflict.span.end)).collect()
    }

    #[test]
    fn unordered_writes_conflict_where_they_overlap() {
        let mut history = History::default();
        let clock = Clock::default();
        assert!(touch(&mut history, (0, 100), (1, &clock), true).is_empty());
        assert_eq!(touch(&mut history, (50, 150), (2, &clock), true), [(50, 100)]);
    }

    #[test]
    fn a_write_conflicts_with_every_unordered_reader() {
        let mut history = History::default();
        let clock = Clock::default();
        assert!(touch(&mut history, (0, 8), (1, &clock), false).is_empty());
        assert!(touch(&mut history, (0, 8), (2, &clock), false).is_empty());
        let mut knows_one = Clock::default();
        knows_one.tick(Actor(1));
        assert_eq!(touch(&mut history, (0, 8), (3, &knows_one), true), [(0, 8)]);
    }

    #[test]
    fn neighbours_with_one_past_are_joined() {
        let mut history = History::default();
        let clock = Clock::default();
        for start in [0, 20, 10] {
            touch(&mut history, (start, start + 10), (1, &clock), true);
        }
        assert_eq!(history.segments.len(), 1);
    }
}

//! PURE: a worker's reports of its current membership, in order, and how many of them the current stream has taken.
//!
//! Facts are few, and the coordinator must not miss one. Step records are many: beyond [`RECORDS_BYTES`] the oldest
//! are dropped. Nothing else is dropped, since a record that a stream has taken may not have been stored by the
//! coordinator.

use proto::protocol::{Place, Report, SourceSum, StepDone};
use std::collections::VecDeque;

/// Memory for step records: enough for about sixty thousand steps.
const RECORDS_BYTES: usize = 16 << 20;

/// Reports of the current membership, numbered consecutively.
#[derive(Default)]
pub(super) struct Log {
    facts: VecDeque<(u64, Report)>,
    records: VecDeque<(u64, Place, StepDone)>,
    /// Memory used by `records`.
    bytes: usize,
    /// The number of the next report.
    next: u64,
    /// The current stream has taken all facts numbered below `facts_from`, and all records below `records_from`.
    facts_from: u64,
    records_from: u64,
    /// A record was dropped before any stream took it, and this was logged.
    incomplete: bool,
}

impl Log {
    /// Adds something that the coordinator must not miss.
    pub(super) fn fact(&mut self, report: Report) {
        self.facts.push_back((self.next, report));
        self.next += 1;
    }

    /// Adds the record of a step.
    pub(super) fn record(&mut self, place: Place, done: StepDone) {
        self.bytes += bytes(&place, &done);
        self.records.push_back((self.next, place, done));
        self.next += 1;
        while self.bytes > RECORDS_BYTES {
            let Some((number, place, done)) = self.records.pop_front() else { return };
            self.bytes -= bytes(&place, &done);
            if number >= self.records_from && !std::mem::replace(&mut self.incomplete, true) {
                tracing::warn!(
                    run = %place.run,
                    step = done.step,
                    "the coordinator does not take the step records; the oldest are dropped"
                );
            }
        }
    }

    /// Starts another membership. Records of the previous one no longer mean anything; its facts are kept only if no
    /// stream has taken them.
    pub(super) fn renew(&mut self) {
        self.records.clear();
        (self.bytes, self.incomplete) = (0, false);
        let had = self.facts.partition_point(|(number, _)| *number < self.facts_from);
        self.facts.drain(..had);
    }

    /// Starts over on a new stream: resends everything except records of steps before `recorded`.
    pub(super) fn rewind(&mut self, recorded: u64) {
        let known = self.records.partition_point(|(_, _, done)| done.step < recorded);
        self.facts_from = 0;
        self.records_from = self.records.get(known).map_or(self.next, |(number, ..)| *number);
    }

    pub(super) fn has_more(&self) -> bool {
        self.next_fact().is_some() || self.next_record().is_some()
    }

    /// The next report that the current stream has not taken yet.
    pub(super) fn next(&mut self) -> Option<Report> {
        let (fact, record) = (self.next_fact(), self.next_record());
        match (fact, record) {
            (Some((number, report)), record) if record.is_none_or(|(n, ..)| number < n) => {
                let (number, report) = (*number, report.clone());
                self.facts_from = number + 1;
                Some(report)
            }
            (_, Some((number, place, done))) => {
                let (number, report) = (*number, Report::StepDone(place.clone(), done.clone()));
                self.records_from = number + 1;
                Some(report)
            }
            (_, None) => None,
        }
    }

    fn next_fact(&self) -> Option<&(u64, Report)> {
        let had = self.facts.partition_point(|(number, _)| *number < self.facts_from);
        self.facts.get(had)
    }

    fn next_record(&self) -> Option<&(u64, Place, StepDone)> {
        let had = self.records.partition_point(|(number, ..)| *number < self.records_from);
        self.records.get(had)
    }
}

/// Memory used by a record.
fn bytes(place: &Place, done: &StepDone) -> usize {
    size_of::<(u64, Place, StepDone)>()
        + place.run.as_str().len()
        + done.sources.len() * size_of::<SourceSum>()
}

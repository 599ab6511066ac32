//! The data of every run: two objects, cut into ranges, and the result of preparing each range.

use proto::manifest::{Prepared, PreparedShard};
use proto::protocol::{RawShard, ShardOutcome};
use proto::receipt::{Counts, Example, Place, Reason, Receipt};

/// Number of ranges of both objects together.
pub(crate) const SHARDS: u32 = 9;
/// The first range of the second object.
const SECOND: u32 = 5;
/// Range `i` has this number of lines plus `i`.
const LINES: u64 = 10;

pub(crate) fn raw_shard(index: u32) -> RawShard {
    let (object, first, ranges) =
        if index < SECOND { (0, 0, SECOND) } else { (1, SECOND, SHARDS - SECOND) };
    let start = u64::from(index - first);
    RawShard {
        index,
        source: 0,
        url: format!("file:///{object}.jsonl"),
        bytes: u64::from(ranges),
        etag: None,
        modified_ms: 0,
        range: start..start + 1,
    }
}

/// The result of a range: its second line is malformed, and the others are samples, in two parts.
pub(crate) fn outcome(index: u32) -> ShardOutcome {
    let lines = LINES + u64::from(index);
    let mut counts = Counts { read: lines - 1, eligible: lines - 1, ..Counts::default() };
    let object = raw_shard(index).url;
    let example = Example { object, place: Place::line(2), reason: "bad".into() };
    counts.drop_record(Reason::Malformed, example, 0);
    let receipt = Receipt::of("source", counts);
    ShardOutcome { receipt, positions: lines, parts: vec![LINES - 1, lines - LINES] }
}

/// Checks that every range is present once, in order, and that every line is accounted for.
pub(crate) fn assert_whole(prepared: &Prepared) {
    let before = |index: u32| {
        let first = if index < SECOND { 0 } else { SECOND };
        (first..index).map(|i| LINES + u64::from(i)).sum()
    };
    let shard = |index| PreparedShard { starts_after: before(index), parts: outcome(index).parts };
    assert_eq!(prepared.shards, (0..SHARDS).map(shard).collect::<Vec<_>>());
    let total = prepared.receipt.total();
    assert!(total.is_balanced());
    assert_eq!(total.read, (0..SHARDS).map(|i| LINES + u64::from(i)).sum::<u64>());
    let malformed = &total.dropped[&Reason::Malformed];
    let lines: Vec<Place> = malformed.examples.iter().map(|e| e.place).collect();
    assert_eq!(lines, (0..SECOND).map(|i| Place::line(before(i) + 2)).collect::<Vec<_>>());
}

//! Ranges of one object, which are leased like other shards, and whose line numbers are joined at the end.

use super::*;
use proto::manifest::PreparedShard;
use proto::receipt::{Counts, Example, Place as Where, Reason};

/// A survey of two ranges of one object and of another object.
fn survey() -> Event {
    let cut = |index: u32, range: std::ops::Range<u64>| RawShard { range, ..shard(index) };
    let shards = vec![cut(0, 0..4), cut(1, 4..10), cut(2, 0..10)];
    let outcome = Ok(Survey { fingerprint: "f".into(), shards, cached: false });
    Event::Surveyed { run: run(), outcome }
}

/// A report that `shard` is prepared: it has ten lines, of which line `bad` is malformed.
fn outcome(shard: u32, bad: u64) -> Report {
    let mut counts = Counts { read: 9, eligible: 9, ..Counts::default() };
    let (object, reason) = (format!("o{}", shard / 2), "bad".to_owned());
    counts.drop_record(Reason::Malformed, Example { object, place: Where::line(bad), reason }, 0);
    let outcome = ShardOutcome {
        receipt: Receipt::of("s", counts),
        positions: 10,
        parts: vec![6, u64::from(shard)],
    };
    Report::ShardPrepared { run: run(), shard, outcome }
}

/// The table of contents after these reports, given as (stream, report), in this order.
fn contents(reports: [(u64, Report); 3]) -> manifest::Prepared {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.report(2, hello(2));
    b.submit();
    b.handle(survey());
    let commands: Vec<_> =
        reports.into_iter().flat_map(|(stream, report)| b.report(stream, report)).collect();
    let prepared = commands.into_iter().find_map(|command| match command {
        Command::Plan { prepared, .. } => prepared,
        _ => None,
    });
    prepared.expect("a plan once all is prepared")
}

#[test]
fn ranges_of_an_object_continue_its_line_numbers_whichever_is_done_first() {
    // The first worker prepares the first range and the other object, the second worker the second range.
    let forward = contents([(1, outcome(0, 3)), (2, outcome(1, 4)), (1, outcome(2, 5))]);
    let backward = contents([(1, outcome(2, 5)), (2, outcome(1, 4)), (1, outcome(0, 3))]);
    assert_eq!(forward, backward);
    let shard = |starts_after, last| PreparedShard { starts_after, parts: vec![6, last] };
    assert_eq!(forward.shards, [shard(0, 0), shard(10, 1), shard(0, 2)]);
    let total = forward.receipt.total();
    assert!(total.is_balanced());
    let places: Vec<_> =
        total.dropped[&Reason::Malformed].examples.iter().map(ToString::to_string).collect();
    assert_eq!(places, ["o0, line 3: bad", "o0, line 14: bad", "o1, line 5: bad"]);
}

#[test]
fn no_worker_holds_more_shards_than_keep_it_busy() {
    let mut b = Bench::new();
    b.report(1, hello(1));
    b.submit();
    let out = b.handle(surveyed(6));
    assert_eq!(out.last(), Some(&direct(1, prepare(&[0, 1, 2, 3]))));
    assert_eq!(b.report(2, hello(2)), [direct(2, prepare(&[4, 5]))], "the rest is free");
    let out = b.report(1, prepared(0));
    assert_eq!(out.last(), Some(&direct(1, prepare(&[1, 2, 3]))));
}

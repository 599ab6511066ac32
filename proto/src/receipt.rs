//! The receipt: what happened to every record that was read.
//!
//! ```text
//! read = eligible + malformed + empty + too long + untrained + no stop + ...
//! ```
//!
//! Records that can be trained on are eligible. Skipped steps are listed separately from the counts, because a
//! record is used in every epoch and only some of these steps may have been skipped.
//!
//! Records that a quality check found but did not drop are eligible, and are counted among the findings. Each
//! reason has a few examples by file and line. Receipts of raw shards are merged into the receipt of the run. The
//! merge is commutative and associative, so that the result does not depend on which worker prepared a shard, or
//! when.

mod detected;
mod histogram;
mod place;
mod skipped;
mod table;
mod unread;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::prepared::Sample;

pub use detected::{Detected, Formats};
pub use histogram::Histogram;
pub use place::{Example, Place};
pub use skipped::{NAMES, Skipped};
pub use unread::{OF_MESSAGES, Unread};

/// The maximum number of examples for each reason of each source.
pub const EXAMPLES: usize = 5;
/// The maximum length in characters of an example's reason, which may quote the record.
pub const REASON: usize = 500;

/// Why a record was not trained on, or what was found in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The record does not match its format, or the chat template refused it.
    Malformed,
    /// The question or the answer is empty.
    Empty,
    /// The record has more tokens than `max_tokens`.
    TooLong,
    /// No token of the record would be trained.
    Untrained,
    /// The record is trained, but the token that ends an answer is never trained.
    NoStop,
    /// Another record has the same content.
    Duplicate,
    /// Another record has nearly the same words.
    NearDuplicate,
    /// Another record has a different answer to the same question.
    Contradictory,
    /// The answer repeats itself until the end.
    Looping,
    /// The answer stops in the middle.
    Incomplete,
    /// The record overlaps with held-out, evaluation or benchmark data.
    Contaminated,
    /// The record was set aside by hand or by policy.
    Quarantined,
    /// The object is broken at this place. The rest of it is lost, and counts as one record.
    BrokenEnd,
    /// A quoted cell of the record contains what look like further rows.
    SwallowedRows,
    /// The record has images, videos or sounds, which a text model cannot see.
    Media,
    /// The answers begin with an empty thinking block, which is part of the prompt.
    EmptyThinking,
    /// The chat template leaves out part of the record.
    LeftOut,
    /// A message contains the text of a special token.
    ControlTokens,
    /// The record's tools or calls contain nulls that its author did not write.
    Nulls,
    /// A token covers the end of the prompt and the start of the completion.
    SharedToken,
    /// The record is a tree of messages, of which only one conversation is read.
    OtherReplies,
}

impl Reason {
    /// The reason's name in texts for people.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Malformed => "malformed",
            Reason::Empty => "empty",
            Reason::TooLong => "too long",
            Reason::Untrained => "untrained",
            Reason::NoStop => "no stop",
            Reason::Duplicate => "duplicate",
            Reason::NearDuplicate => "near duplicate",
            Reason::Contradictory => "contradictory",
            Reason::Looping => "looping",
            Reason::Incomplete => "incomplete",
            Reason::Contaminated => "contaminated",
            Reason::Quarantined => "quarantined",
            Reason::BrokenEnd => "broken end",
            Reason::SwallowedRows => "swallowed rows",
            Reason::Media => "media",
            Reason::EmptyThinking => "empty thinking",
            Reason::LeftOut => "left out",
            Reason::ControlTokens => "control tokens",
            Reason::Nulls => "nulls",
            Reason::SharedToken => "shared token",
            Reason::OtherReplies => "other replies",
        }
    }
}

/// The number of records with the same outcome, the tokens lost, and examples.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Number of records.
    pub records: u64,
    /// Tokens that are not trained because of it. Records that were dropped before they were tokenized count as 0.
    #[serde(default)]
    pub tokens_lost: u64,
    /// The first records by object and place, at most [`EXAMPLES`].
    #[serde(default)]
    pub examples: Vec<Example>,
    /// The lengths of the records, if the reason was their length.
    #[serde(default, skip_serializing_if = "Histogram::is_empty")]
    pub lengths: Histogram,
}

impl Tally {
    /// Counts one record.
    pub fn count(&mut self, example: Example, tokens_lost: u64) {
        self.records += 1;
        self.tokens_lost += tokens_lost;
        self.keep(example);
    }

    fn shift(&mut self, by: u64) {
        for example in &mut self.examples {
            example.place = example.place.shifted(by);
        }
    }

    /// Counts one record without an example, after the first [`EXAMPLES`] records.
    pub fn count_more(&mut self, tokens_lost: u64) {
        self.records += 1;
        self.tokens_lost += tokens_lost;
    }

    fn keep(&mut self, mut example: Example) {
        if let Some((end, _)) = example.reason.char_indices().nth(REASON) {
            example.reason.replace_range(end.., "…");
        }
        let at = self.examples.partition_point(|kept| *kept <= example);
        if at < EXAMPLES {
            self.examples.insert(at, example);
            self.examples.truncate(EXAMPLES);
        }
    }

    fn merge(&mut self, other: Tally) {
        self.records += other.records;
        self.tokens_lost += other.tokens_lost;
        self.lengths.merge(other.lengths);
        for example in other.examples {
            self.keep(example);
        }
    }
}

/// What happened to the records of one source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records that were read.
    pub read: u64,
    /// Records that can be trained on or held out.
    pub eligible: u64,
    /// The formats in which the objects are read.
    #[serde(default, skip_serializing_if = "Formats::is_empty")]
    pub formats: Formats,
    /// Samples made from the eligible records: one or several per conversation, one per chunk of a text.
    pub samples: u64,
    /// Held-out samples.
    #[serde(default)]
    pub held_out: u64,
    /// Tokens of all samples.
    pub tokens: u64,
    /// Tokens that are targets.
    pub trained_tokens: u64,
    /// Histogram of the tokens per sample.
    #[serde(default)]
    pub lengths: Histogram,
    /// Histogram of the targets per sample.
    #[serde(default)]
    pub target_lengths: Histogram,
    /// Records that were truncated to `max_tokens`. They are eligible.
    #[serde(default)]
    pub truncated: Tally,
    /// Records that were dropped, by reason.
    #[serde(default)]
    pub dropped: BTreeMap<Reason, Tally>,
    /// Records in which a check found something, but that were not dropped. They are eligible. A record may have
    /// several findings.
    #[serde(default)]
    pub findings: BTreeMap<Reason, Tally>,
    /// Fields that are not read, with the number of eligible records in which they are not empty.
    #[serde(default, skip_serializing_if = "Unread::is_empty")]
    pub unread: Unread,
}

impl Counts {
    /// Counts a record that was read and dropped.
    pub fn drop_record(&mut self, reason: Reason, example: Example, tokens_lost: u64) {
        self.read += 1;
        let tally = self.dropped.entry(reason).or_default();
        tally.count(example, tokens_lost);
        if reason == Reason::TooLong {
            tally.lengths.add(tokens_lost);
        }
    }

    /// Counts a finding in an eligible record.
    pub fn find(&mut self, reason: Reason, example: Example) {
        self.findings.entry(reason).or_default().count(example, 0);
    }

    /// Counts the samples of an eligible record.
    pub fn add_samples(&mut self, samples: &[Sample]) {
        for sample in samples {
            let (tokens, targets) = (sample.tokens.len() as u64, sample.targets() as u64);
            self.samples += 1;
            self.tokens += tokens;
            self.trained_tokens += targets;
            self.lengths.add(tokens);
            self.target_lengths.add(targets);
        }
    }

    /// Removes an eligible record with its samples, each given as its tokens and targets, and returns the number of
    /// their tokens. The caller must count the record as dropped.
    pub fn withdraw(&mut self, samples: impl Iterator<Item = (u64, u64)>) -> u64 {
        let before = self.tokens;
        self.eligible -= 1;
        for (tokens, targets) in samples {
            self.samples -= 1;
            self.tokens -= tokens;
            self.trained_tokens -= targets;
            self.lengths.remove(tokens);
            self.target_lengths.remove(targets);
        }
        before - self.tokens
    }

    /// The number of records that were dropped for any reason.
    pub fn dropped_records(&self) -> u64 {
        self.dropped.values().map(|tally| tally.records).sum()
    }

    /// Whether every record that was read is accounted for.
    pub fn is_balanced(&self) -> bool {
        self.read == self.eligible + self.dropped_records()
    }

    /// Adds the counts of other records.
    pub fn merge(&mut self, other: Counts) {
        self.read += other.read;
        self.eligible += other.eligible;
        self.formats.merge(other.formats);
        self.samples += other.samples;
        self.held_out += other.held_out;
        self.tokens += other.tokens;
        self.trained_tokens += other.trained_tokens;
        self.lengths.merge(other.lengths);
        self.target_lengths.merge(other.target_lengths);
        self.truncated.merge(other.truncated);
        for (reason, tally) in other.dropped {
            self.dropped.entry(reason).or_default().merge(tally);
        }
        for (reason, tally) in other.findings {
            self.findings.entry(reason).or_default().merge(tally);
        }
        self.unread.merge(other.unread);
    }
}

/// What happened to every record, by source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The counts of each source, by its name.
    pub sources: BTreeMap<String, Counts>,
    /// Skipped steps of the run's lineage, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub skipped: Vec<Skipped>,
}

impl Receipt {
    /// A receipt of one source.
    pub fn of(source: impl Into<String>, counts: Counts) -> Receipt {
        let sources = BTreeMap::from([(source.into(), counts)]);
        Receipt { sources, skipped: Vec::new() }
    }

    /// Converts the receipt of a range, which begins `by` lines or rows into its object, to places that are counted
    /// from the start of the object.
    #[must_use]
    pub fn shifted(mut self, by: u64) -> Receipt {
        for counts in self.sources.values_mut() {
            counts.truncated.shift(by);
            let tallies = counts.dropped.values_mut().chain(counts.findings.values_mut());
            tallies.for_each(|tally| tally.shift(by));
        }
        self
    }

    /// Adds another receipt's records to this one's.
    pub fn merge(&mut self, other: Receipt) {
        for (source, counts) in other.sources {
            self.sources.entry(source).or_default().merge(counts);
        }
        self.skipped.extend(other.skipped);
        self.skipped.sort_by_key(|skipped| skipped.step);
    }

    /// The sum over all sources.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        for counts in self.sources.values() {
            total.merge(counts.clone());
        }
        total
    }

    /// The share of the records read that were dropped for reasons other than the `allowed` ones. It is 0 if
    /// nothing was read.
    pub fn dropped_share(&self, allowed: &[Reason]) -> f64 {
        let total = self.total();
        let dropped = |reason: &Reason| total.dropped.get(reason).map_or(0, |tally| tally.records);
        let allowed: u64 = allowed.iter().map(dropped).sum();
        match total.read {
            0 => 0.0,
            read => (total.dropped_records() - allowed) as f64 / read as f64,
        }
    }

    /// A `max_tokens` with which at most the share `most` of the records would be dropped. It is at most a quarter
    /// above the smallest such value. Returns `None` if no record is too long, or too many are dropped for other
    /// reasons.
    pub fn fitting_max_tokens(&self, most: f64) -> Option<u64> {
        let total = self.total();
        let too_long = total.dropped.get(&Reason::TooLong)?;
        let others = total.dropped_records() - too_long.records;
        let may_go = ((most * total.read as f64) as u64).checked_sub(others)?;
        let must_fit = too_long.records.saturating_sub(may_go);
        // Half a record less, because `below` rounds the share up to whole records.
        too_long.lengths.below((must_fit as f64 - 0.5).max(0.0) / too_long.records as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(lines: &[u64]) -> Counts {
        let mut counts = Counts {
            read: 10,
            eligible: 10,
            samples: 10,
            tokens: 100,
            trained_tokens: 40,
            ..Counts::default()
        };
        for &line in lines {
            let example = Example {
                object: "a.jsonl".into(),
                place: Place::line(line),
                reason: "not valid JSON: expected value at column 1".into(),
            };
            counts.drop_record(Reason::Malformed, example, 0);
        }
        counts
    }

    #[test]
    fn merge_does_not_depend_on_order_and_keeps_the_first_examples() {
        let parts = [&[9u64, 3][..], &[1, 12, 7, 5], &[2]].map(|l| Receipt::of("a", counts(l)));
        let mut forward = Receipt::default();
        parts.iter().for_each(|part| forward.merge(part.clone()));
        let mut backward = Receipt::default();
        let reversed = parts.iter().rev();
        reversed.for_each(|part| backward.merge(part.clone()));
        assert_eq!(forward, backward);
        let total = forward.total();
        assert!(total.is_balanced());
        assert_eq!((total.read, total.eligible), (37, 30));
        let malformed = &total.dropped[&Reason::Malformed];
        let places: Vec<Place> = malformed.examples.iter().map(|e| e.place).collect();
        assert_eq!((malformed.records, places), (7, [1, 2, 3, 5, 7].map(Place::line).to_vec()));
    }

    #[test]
    fn shifted_receipts_count_from_the_start_of_the_object() {
        let mut receipt = Receipt::of("a", counts(&[2]));
        receipt.merge(Receipt::of("a", counts(&[1, 3])).shifted(10));
        let examples = &receipt.total().dropped[&Reason::Malformed].examples;
        let places: Vec<String> = examples.iter().map(|e| e.place.to_string()).collect();
        assert_eq!(places, ["line 2", "line 11", "line 13"]);
        let element = Place::Record { record: 2, line: 5 };
        assert_eq!(element.shifted(7), element);
        assert_eq!(Place::Row { row: 2 }.shifted(7), Place::Row { row: 9 });
    }

    #[test]
    fn places_round_trip_through_json() {
        for (place, json) in [
            (Place::line(3), r#"{"line":3}"#),
            (Place::Record { record: 2, line: 5 }, r#"{"record":2,"line":5}"#),
            (Place::Row { row: 7 }, r#"{"row":7}"#),
        ] {
            assert_eq!(serde_json::to_string(&place).expect("a place serializes"), json);
            let back: Place = serde_json::from_str(json).expect("and reads back");
            assert_eq!(back, place);
        }
    }

    #[test]
    fn a_receipt_is_displayed_as_a_table() {
        let mut counts = counts(&[1, 2, 3, 4, 5]);
        let reason = "role must be `user`, got `\u{1b}[31m`\nhint: name it".into();
        let odd = Example { object: "a.jsonl".into(), place: Place::line(0), reason };
        counts.drop_record(Reason::Malformed, odd, 0);
        counts.formats.add(Detected {
            format: "messages".into(),
            container: "JSON lines".into(),
            why: "as the run spec says".into(),
            objects: 1,
            object: "a.jsonl".into(),
            place: None,
        });
        let receipt = Receipt::of("./a.jsonl", counts);
        let expected = "\
source     read  eligible  held out  cut  malformed  tokens  trained  tokens lost
./a.jsonl    16        10         0    0          6     100       40            0
  format: messages, JSON lines: as the run spec says
  malformed: a.jsonl, line 0: role must be `user`, got `\\u{1b}[31m`
    hint: name it
  malformed: a.jsonl, line 1: not valid JSON: expected value at column 1
  malformed: a.jsonl, line 2: not valid JSON: expected value at column 1
  malformed: a.jsonl, line 3: not valid JSON: expected value at column 1
  malformed: a.jsonl, line 4: not valid JSON: expected value at column 1
  malformed: 1 more
";
        assert_eq!(receipt.to_string(), expected);
    }

    #[test]
    fn a_sufficient_max_tokens_is_found_if_length_is_the_reason() {
        let mut counts = counts(&[1]);
        for tokens in (100..1000).step_by(10) {
            let place = Place::line(tokens);
            let example = Example { object: "a".into(), place, reason: String::new() };
            counts.drop_record(Reason::TooLong, example, tokens);
        }
        // Of 101 records, 10 are eligible, 1 is malformed, and 90 are too long.
        let receipt = Receipt::of("a", counts);
        for most in [0.02, 0.1, 0.5, 0.9] {
            let tokens = receipt.fitting_max_tokens(most).expect("length is the reason");
            let lost = |limit: u64| 1 + (100..1000).step_by(10).filter(|n| *n > limit).count();
            assert!(lost(tokens) as f64 <= most * 101.0, "{most}: {tokens}");
            assert!(lost(tokens * 3 / 4) as f64 > most * 101.0, "{most}: {tokens} is far too much");
        }
        assert_eq!(receipt.fitting_max_tokens(0.001), None, "one record is malformed at any limit");
    }

    #[test]
    fn a_long_reason_is_truncated() {
        let mut tally = Tally::default();
        let reason = "é".repeat(REASON + 1);
        tally.count(Example { object: "a".into(), place: Place::line(1), reason }, 0);
        assert_eq!(tally.examples[0].reason, "é".repeat(REASON) + "…");
        let mut merged = Tally::default();
        merged.merge(tally.clone());
        assert_eq!(merged, tally);
    }

    #[test]
    fn receipts_round_trip_through_json() {
        let receipt = Receipt::of("a", counts(&[4]));
        let json = serde_json::to_string(&receipt).expect("a receipt serializes");
        let back: Receipt = serde_json::from_str(&json).expect("and reads back");
        assert_eq!(receipt, back);
        assert!(json.contains(r#""malformed":{"records":1"#), "{json}");
    }
}

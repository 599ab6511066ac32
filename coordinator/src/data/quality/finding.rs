//! Findings, and how they are entered in the receipt.

use proto::receipt::{Counts, EXAMPLES, Example, Reason, Receipt};

use super::{Pair, Records, Verdict};

/// A finding about a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Finding {
    /// The record's id.
    pub(crate) record: u32,
    /// What was found.
    pub(crate) found: Found,
    /// Whether the record is dropped because of it.
    pub(crate) is_dropped: bool,
}

/// The kinds of findings, with the id of the other record where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// The answer repeats itself to the end.
    Looping,
    /// The answer stops in the middle.
    Incomplete,
    /// The record has the same content as another.
    Duplicate {
        /// The first record with this content.
        of: u32,
    },
    /// The record has nearly the same words as another.
    NearDuplicate {
        /// The most similar record.
        to: u32,
        /// Number of places in which the signatures agree.
        agreeing: u8,
    },
    /// The record has the same question as another, and a different answer.
    Contradictory {
        /// The first record with this question.
        to: u32,
    },
    /// The record overlaps with a record that the model is evaluated on.
    Contaminated {
        /// The record that it overlaps with.
        by: u32,
        /// What the two have in common.
        how: Overlap,
    },
}

/// What two records have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// The whole content.
    Content,
    /// Everything before the answer.
    Question,
    /// Nearly all words.
    Words,
}

impl Found {
    /// The reason that the finding is counted under in a receipt.
    pub(crate) fn reason(self) -> Reason {
        match self {
            Found::Looping => Reason::Looping,
            Found::Incomplete => Reason::Incomplete,
            Found::Duplicate { .. } => Reason::Duplicate,
            Found::NearDuplicate { .. } => Reason::NearDuplicate,
            Found::Contradictory { .. } => Reason::Contradictory,
            Found::Contaminated { .. } => Reason::Contaminated,
        }
    }

    /// A text for users, with the place of the other record.
    fn detail(self, records: &Records) -> String {
        let other = |record: u32| {
            let (object, place) = records.origin(record);
            format!("{object}, {place}")
        };
        match self {
            Found::Looping => "the answer repeats itself to the end".into(),
            Found::Incomplete => "the answer stops in the middle".into(),
            Found::Duplicate { of } => format!("the same as {}", other(of)),
            Found::NearDuplicate { to, agreeing } => {
                let similarity = Pair { first: 0, second: 0, agreeing }.similarity();
                format!("nearly the same as {} (similarity {similarity:.2})", other(to))
            }
            Found::Contradictory { to } => {
                format!("answers the question of {} differently", other(to))
            }
            Found::Contaminated { by, how } => {
                let what = match how {
                    Overlap::Content => "the same as",
                    Overlap::Question => "asks the same as",
                    Overlap::Words => "nearly the same as",
                };
                format!("{what} {}, which the model is evaluated on", other(by))
            }
        }
    }
}

impl Verdict {
    /// Enters the findings in a receipt. `sources` are the names of the receipt's sources in the
    /// order of the run spec; `length` returns the number of tokens of a sample.
    pub(crate) fn settle(
        &self,
        receipt: &mut Receipt,
        records: &Records,
        sources: &[String],
        length: impl Fn(u32) -> u32,
    ) {
        for finding in &self.findings {
            let source = records.source(finding.record) as usize;
            let Some(counts) = sources.get(source).and_then(|name| receipt.sources.get_mut(name))
            else {
                continue;
            };
            finding.enter(counts, records, &length);
        }
    }
}

impl Finding {
    fn enter(&self, counts: &mut Counts, records: &Records, length: impl Fn(u32) -> u32) {
        let reason = self.found.reason();
        let (tally, tokens_lost) = match self.is_dropped {
            true => {
                let samples = records.samples(self.record);
                let sizes = samples.map(|id| (length(id).into(), records.targets(id).into()));
                let lost = counts.withdraw(sizes);
                (counts.dropped.entry(reason).or_default(), lost)
            }
            false => (counts.findings.entry(reason).or_default(), 0),
        };
        // Findings come in the order of the records, so that later ones would not be kept as
        // examples.
        if tally.examples.len() >= EXAMPLES {
            return tally.count_more(tokens_lost);
        }
        let (object, place) = records.origin(self.record);
        let reason = self.found.detail(records);
        tally.count(Example { object: object.to_owned(), place, reason }, tokens_lost);
    }
}

//! What a check found, and how it stands in the receipt.

use proto::receipt::{Counts, EXAMPLES, Example, Reason, Receipt};

use super::{Pair, Records, Verdict};

/// Something found in a record.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Finding {
    /// The record's id.
    pub(crate) record: u32,
    /// What it is.
    pub(crate) found: Found,
    /// Whether the record is left out because of it.
    pub(crate) is_dropped: bool,
}

/// What can be found, with the other record that it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Its answer repeats itself to the end.
    Looping,
    /// Its answer stops in the middle.
    Incomplete,
    /// It has the content of another.
    Duplicate {
        /// The first with it.
        of: u32,
    },
    /// It has nearly the words of another.
    NearDuplicate {
        /// The most similar one.
        to: u32,
        /// In so many places the signatures agree.
        agreeing: u8,
    },
    /// It answers otherwise what another was asked.
    Contradictory {
        /// The first that was asked.
        to: u32,
    },
    /// It overlaps with what the model is judged by.
    Contaminated {
        /// The record that it overlaps with.
        by: u32,
        /// In what.
        how: Overlap,
    },
}

/// What two records have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Overlap {
    /// All of their content.
    Content,
    /// All that precedes the answer.
    Question,
    /// Nearly all words.
    Words,
}

impl Found {
    /// The heading that it is counted under.
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

    /// A sentence for people, with the place of the other record.
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
                format!("answers otherwise what is asked in {}", other(to))
            }
            Found::Contaminated { by, how } => {
                let what = match how {
                    Overlap::Content => "the same as",
                    Overlap::Question => "asks the same as",
                    Overlap::Words => "nearly the same as",
                };
                format!("{what} {}, which the model is judged by", other(by))
            }
        }
    }
}

impl Verdict {
    /// Enters the findings in a receipt, whose sources are named as `sources` are in the run spec;
    /// `length` gives the tokens of a sample.
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
        // Findings come in the order of the records: later ones would not be kept as examples.
        if tally.examples.len() >= EXAMPLES {
            return tally.count_more(tokens_lost);
        }
        let (object, place) = records.origin(self.record);
        let reason = self.found.detail(records);
        tally.count(Example { object: object.to_owned(), place, reason }, tokens_lost);
    }
}

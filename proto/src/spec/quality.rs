//! What is looked for in the data, and what follows from finding it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What follows from a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// It is not looked for.
    Off,
    /// It stands in the receipt, with examples; the samples are trained.
    Report,
    /// The samples are left out, and stand in the receipt as such; `max_dropped` does not count
    /// them.
    Filter,
}

/// What is looked for in the training data before anything is trained. Where several records share
/// a finding, the first of them, in the order of the sources, stays.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Quality")]
pub struct Quality<S> {
    /// A record with the content of another.
    pub duplicates: Check,
    /// A record with nearly the words of another: the Jaccard similarity of their sets of three
    /// consecutive words, estimated by MinHash, is at least `similarity`. System messages do not
    /// count, nor do case and punctuation.
    pub near_duplicates: Check,
    /// A record that answers otherwise what another was asked, under the same system message.
    pub contradictions: Check,
    /// An answer that repeats itself to the end.
    pub loops: Check,
    /// An answer that stops in the middle: in a code block, a bracket, or a sentence.
    pub incomplete: Check,
    /// A record that overlaps with what the model is judged by, held-out samples, evaluation
    /// sources or `benchmarks`: the same content, the same question, or nearly the same words.
    pub contamination: Check,
    /// The similarity from which on words are nearly the same.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub similarity: f64,
    /// Sources that no training sample may overlap with, written like those of `data.train`; they
    /// are never trained.
    #[schemars(length(max = 1000))]
    pub benchmarks: Vec<S>,
}

impl<S> Default for Quality<S> {
    fn default() -> Quality<S> {
        Quality {
            duplicates: Check::Report,
            near_duplicates: Check::Report,
            contradictions: Check::Report,
            loops: Check::Report,
            incomplete: Check::Report,
            contamination: Check::Report,
            similarity: 0.8,
            benchmarks: Vec::new(),
        }
    }
}

impl<S> Quality<S> {
    /// Whether anything is looked for.
    pub fn is_on(&self) -> bool {
        let of_one = [self.loops, self.incomplete];
        let of_many = [self.duplicates, self.contradictions];
        let checks = of_one.into_iter().chain(of_many).chain(self.by_words());
        checks.into_iter().any(|check| check != Check::Off)
    }

    /// Whether records are compared by their words: what is most of the work.
    pub fn compares_words(&self) -> bool {
        self.by_words().into_iter().any(|check| check != Check::Off)
    }

    fn by_words(&self) -> [Check; 2] {
        [self.near_duplicates, self.contamination]
    }

    /// The same checks against other benchmarks.
    pub(super) fn with_benchmarks<T>(&self, benchmarks: Vec<T>) -> Quality<T> {
        Quality {
            duplicates: self.duplicates,
            near_duplicates: self.near_duplicates,
            contradictions: self.contradictions,
            loops: self.loops,
            incomplete: self.incomplete,
            contamination: self.contamination,
            similarity: self.similarity,
            benchmarks,
        }
    }
}

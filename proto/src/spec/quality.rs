//! The quality checks of a spec, and what each does with its findings.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a quality check does with its findings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Check {
    /// The check does not run.
    Off,
    /// The receipt lists the findings, with examples. The samples are trained.
    Report,
    /// The samples are left out. The receipt counts them, but `max_dropped` does not.
    Filter,
}

/// Quality checks on the training data, which run before training. If several records share a finding, such as
/// duplicates, the first in the order of the sources is kept.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Quality")]
pub struct Quality<S> {
    /// Records with the same content as another record.
    pub duplicates: Check,
    /// Records with nearly the same words as another record: the Jaccard similarity of their sets of three
    /// consecutive words, estimated by MinHash, is at least `similarity`. System messages, case and punctuation are
    /// ignored.
    pub near_duplicates: Check,
    /// Records that give different answers to the same question, under the same system message.
    pub contradictions: Check,
    /// Answers that repeat themselves until the end.
    pub loops: Check,
    /// Answers that stop in the middle of a code block, a bracket or a sentence.
    pub incomplete: Check,
    /// Training records that overlap with held-out samples, evaluation sources or `benchmarks`: the same content, the
    /// same question, or nearly the same words.
    pub contamination: Check,
    /// The similarity from which two records count as having nearly the same words.
    #[schemars(range(min = 0.5, max = 1.0))]
    pub similarity: f64,
    /// Sources that no training sample may overlap with, written like those of `data.train`. They are never trained.
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
    /// Whether any check runs.
    pub fn is_on(&self) -> bool {
        let of_one = [self.loops, self.incomplete];
        let of_many = [self.duplicates, self.contradictions];
        let checks = of_one.into_iter().chain(of_many).chain(self.by_words());
        checks.into_iter().any(|check| check != Check::Off)
    }

    /// Whether records are compared by their words, which is most of the work.
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

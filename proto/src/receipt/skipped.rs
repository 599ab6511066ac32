//! Skipped steps, whose update was not applied because their gradient was not finite.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The maximum number of samples of one step that are named. The others are only counted.
pub const NAMES: usize = 10_000;
/// The number of samples that are shown in text.
const SHOWN: usize = 3;

/// A step whose gradient was not finite, so that the model was not updated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// The step's number, from 1: the number of committed steps, including this one.
    pub step: u64,
    /// Its samples by file and line, at most [`NAMES`].
    pub samples: Vec<String>,
    /// The number of its other samples.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unnamed: u64,
}

impl Skipped {
    /// Skipped step number `step`, with the names of all its samples.
    pub fn new(step: u64, mut samples: Vec<String>) -> Skipped {
        let unnamed = samples.len().saturating_sub(NAMES) as u64;
        samples.truncate(NAMES);
        Skipped { step, samples, unnamed }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde requires this signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = &self.samples[..self.samples.len().min(SHOWN)];
        let named = shown.join("; ");
        write!(f, "step {} was skipped, its gradient was not finite: {named}", self.step)?;
        match (self.samples.len() - shown.len()) as u64 + self.unnamed {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skipped_step_names_its_first_samples_and_counts_the_rest() {
        let names = |n: usize| (1..=n).map(|line| format!("a.jsonl, line {line}")).collect();
        assert_eq!(
            Skipped::new(7, names(1)).to_string(),
            "step 7 was skipped, its gradient was not finite: a.jsonl, line 1"
        );
        let all = Skipped::new(7, names(NAMES + 5));
        assert_eq!((all.samples.len(), all.unnamed), (NAMES, 5));
        let end = format!("a.jsonl, line 3; and {} more", NAMES + 2);
        assert!(all.to_string().ends_with(&end), "{all}");
    }
}

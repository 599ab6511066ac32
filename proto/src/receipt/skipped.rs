//! Steps whose update was not made: their samples were seen, and taught nothing.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Samples of one step that are named; of a larger batch the rest is counted.
pub const NAMES: usize = 10_000;
/// Samples that a person is shown at once.
const SHOWN: usize = 3;

/// A step whose gradient was not finite, and whose samples therefore changed nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skipped {
    /// Its number as people count: the steps committed, this one included.
    pub step: u64,
    /// Its samples by file and line, [`NAMES`] at most.
    pub samples: Vec<String>,
    /// Its samples beyond those.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unnamed: u64,
}

impl Skipped {
    /// The step that is number `step`, and the names of its samples.
    pub fn new(step: u64, mut samples: Vec<String>) -> Skipped {
        let unnamed = samples.len().saturating_sub(NAMES) as u64;
        samples.truncate(NAMES);
        Skipped { step, samples, unnamed }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
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

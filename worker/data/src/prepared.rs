//! An eligible record in the form in which it is stored.

use proto::prepared::{Features, Sample};

/// The prepared form of an eligible record.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedRecord {
    /// What the quality checks know about the record.
    pub features: Features,
    /// At least one sample: one for each chunk of a text, one for each trained answer with
    /// `turns: each`, and otherwise one for the whole record.
    pub samples: Vec<Sample>,
}

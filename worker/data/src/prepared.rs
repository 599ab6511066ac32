//! An eligible record as it is stored.

use proto::prepared::{Features, Sample};

/// An eligible record, prepared.
#[derive(Clone, Debug, PartialEq)]
pub struct PreparedRecord {
    /// What the quality checks know of it.
    pub features: Features,
    /// One of a conversation, one of each chunk of a text; at least one.
    pub samples: Vec<Sample>,
}

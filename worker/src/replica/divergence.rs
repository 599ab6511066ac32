//! The error for ranks that may not train together because they hold different states.

use super::Digest;
use std::fmt;

/// What the ranks compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The state of a training that begins with the base model.
    Base,
    /// The state of a training that begins with a checkpoint.
    Checkpoint,
    /// The base model's configuration: models with equal states still differ if, for example, their rotary embeddings
    /// do.
    Configuration,
}

/// The digest with which states are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// The recorded digest of the base model or of the checkpoint.
    Recorded(Digest),
    /// The digest of more than half of the ranks.
    Majority(Digest),
    /// No digest: none is recorded, and none has a majority.
    Unknown,
}

/// The ranks do not hold the expected state. This error is the same on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    pub(super) origin: Origin,
    pub(super) expected: Expected,
    /// The ranks that differ from the expected digest, or all ranks if there is none, with their digests.
    pub(super) ranks: Vec<(usize, Digest)>,
}

impl std::error::Error for Divergence {}

impl fmt::Display for Divergence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.expected, self.origin) {
            (_, Origin::Configuration) => "the ranks do not read the same `config.json`",
            (Expected::Recorded(_), Origin::Base) => {
                "the base is not the one that this run began with"
            }
            (Expected::Recorded(_), Origin::Checkpoint) => {
                "the restored state is not the one that was saved"
            }
            (Expected::Majority(_) | Expected::Unknown, _) => {
                "the ranks do not hold the same state"
            }
        })?;
        let mut separator = ": ";
        for (rank, digest) in &self.ranks {
            write!(f, "{separator}rank {rank} has digest {digest}")?;
            separator = ", ";
        }
        match self.expected {
            Expected::Recorded(digest) => write!(f, ", expected {digest}")?,
            Expected::Majority(digest) => write!(f, ", most ranks have {digest}")?,
            Expected::Unknown => {}
        }
        match self.origin {
            Origin::Base | Origin::Configuration => f.write_str(HINT),
            Origin::Checkpoint => Ok(()),
        }
    }
}

const HINT: &str =
    "\nhint: `model.base` must name the same files on every host, and they must not change";

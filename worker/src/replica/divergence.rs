//! Why ranks may not train together: they hold different states.

use super::Digest;
use std::fmt;

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The state of a training that begins with the base model.
    Base,
    /// The state of a training that begins with a checkpoint.
    Checkpoint,
    /// The base's configuration: equal states are no equal models if, say, their rotary embeddings differ.
    Configuration,
}

/// The digest that states are compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// That of the base or of the checkpoint, as it was recorded.
    Recorded(Digest),
    /// That of more than half of the ranks.
    Majority(Digest),
    /// None: no rank has a better claim than another.
    Unknown,
}

/// The ranks do not hold the state that they should; equal on every rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    pub(super) origin: Origin,
    pub(super) expected: Expected,
    /// The ranks that differ from what is expected, or all of them, with their digests.
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

//! Why a worker could not do what it was directed to.

use proto::id::{Generation, RunId};
use proto::protocol::{Accusation, Cause, Report};

/// A failure, and whose fault it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Whose fault.
    pub cause: Cause,
    /// In words, with the hint.
    pub message: String,
    /// The raw shard that it happened on.
    pub shard: Option<u32>,
    /// The rank that was lost, or could not be reached.
    pub accusation: Option<Accusation>,
}

impl Trouble {
    /// A failure that is about no shard and accuses no rank.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), shard: None, accusation: None }
    }

    /// The same on a raw shard.
    pub fn on_shard(self, shard: u32) -> Self {
        Self { shard: Some(shard), ..self }
    }

    /// As the coordinator hears of it.
    pub(super) fn report(self, run: RunId, generation: Generation, step: u64) -> Report {
        let Self { cause, message, shard, accusation } = self;
        Report::Trouble { run, generation, step, cause, message, shard, accusation }
    }
}

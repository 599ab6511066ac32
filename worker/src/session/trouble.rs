//! Why a worker could not carry out a directive.

use proto::id::{Generation, RunId};
use proto::protocol::{Accusation, Cause, Report};

/// A failure and its cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// Who or what is at fault.
    pub cause: Cause,
    /// Message for people, with a hint where there is one.
    pub message: String,
    /// The raw shard on which it happened.
    pub shard: Option<u32>,
    /// The rank that was lost, or could not be reached.
    pub accusation: Option<Accusation>,
}

impl Trouble {
    /// A failure that concerns no particular shard and accuses no rank.
    pub fn new(cause: Cause, message: impl Into<String>) -> Self {
        Self { cause, message: message.into(), shard: None, accusation: None }
    }

    /// The same failure, attributed to a raw shard.
    pub fn on_shard(self, shard: u32) -> Self {
        Self { shard: Some(shard), ..self }
    }

    /// The report to send to the coordinator.
    pub(super) fn report(self, run: RunId, generation: Generation, step: u64) -> Report {
        let Self { cause, message, shard, accusation } = self;
        Report::Trouble { run, generation, step, cause, message, shard, accusation }
    }
}

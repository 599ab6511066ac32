//! Types in which reports of workers are handed to a run.

use proto::id::{Generation, WorkerId};
use proto::protocol::{Accusation, Cause, Place};

/// The worker that reports, and the membership that the report belongs to.
#[derive(Clone, Copy)]
pub(super) struct Reporter<'a> {
    pub(super) worker: &'a WorkerId,
    pub(super) place: &'a Place,
}

/// A worker's report that something has failed.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    /// The generation in which it failed; 0 outside a membership.
    pub(super) generation: Generation,
    /// Steps committed.
    pub(super) step: u64,
    pub(super) cause: Cause,
    pub(super) message: String,
    /// The raw shard that the worker failed on.
    pub(super) shard: Option<u32>,
    /// The rank that the worker lost or could not reach.
    pub(super) accusation: Option<Accusation>,
}

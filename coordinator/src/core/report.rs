//! What workers report, as a run takes it.

use proto::id::{Generation, WorkerId};
use proto::protocol::{Accusation, Cause, Place};

/// A worker, and the membership under which what it reports happened.
#[derive(Clone, Copy)]
pub(super) struct Reporter<'a> {
    pub(super) worker: &'a WorkerId,
    pub(super) place: &'a Place,
}

/// What a worker reports when something has failed.
#[derive(Clone, Debug)]
pub(super) struct Complaint {
    /// 0: outside a membership.
    pub(super) generation: Generation,
    /// Steps committed.
    pub(super) step: u64,
    pub(super) cause: Cause,
    pub(super) message: String,
    /// The raw shard that it failed on.
    pub(super) shard: Option<u32>,
    /// The rank that it lost, or could not reach.
    pub(super) accusation: Option<Accusation>,
}

//! The phases of a run, each with the state that only it needs.

use crate::core::Fault;
use crate::core::gathering::Gathering;
use crate::core::listed::Listed;
use crate::core::membership::{Membership, Reattaching};
use crate::core::planning::Planning;
use crate::core::sharding::Sharding;
use proto::protocol::Dismissal;

/// The phase of a run.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// It is submitted or resumed, and its sources are not listed yet.
    Queued,
    /// Its sources are being listed.
    Surveying,
    /// Its sources are listed, and it waits for its turn.
    Listed(Listed),
    /// Its raw shards are being prepared.
    Sharding(Sharding),
    /// Its plan is being made.
    Planning(Planning),
    /// It waits for members.
    Gathering(Gathering),
    /// It waits for the members of a generation that outlived a coordinator.
    Reattaching(Reattaching),
    /// A generation is training.
    Training(Membership),
    /// The finished model is being published.
    Publishing,
    /// It has ended.
    Ended(End),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Stopped gracefully. It goes on when it is resumed.
    Paused,
    /// Cancelled by a user.
    Cancelled,
    /// Failed.
    Failed(Fault),
    /// Succeeded, with the path or URL of the model.
    Succeeded(String),
    /// Taken over by another coordinator, with a message that names it.
    Lost(String),
}

impl Phase {
    /// The members of the generation that is training or reattaching.
    pub(super) fn membership(&self) -> Option<&Membership> {
        if let Self::Reattaching(reattaching) = self {
            return Some(reattaching.membership());
        }
        let Self::Training(membership) = self else { return None };
        Some(membership)
    }

    pub(super) fn membership_mut(&mut self) -> Option<&mut Membership> {
        if let Self::Reattaching(reattaching) = self {
            return Some(reattaching.membership_mut());
        }
        let Self::Training(membership) = self else { return None };
        Some(membership)
    }

    /// The phase as the end of a run: `Closing` if it has not ended, or can be continued.
    pub(super) fn outcome(&self) -> Dismissal {
        match self {
            Self::Ended(End::Succeeded(_)) => Dismissal::Succeeded,
            Self::Ended(End::Failed(fault)) => Dismissal::Failed(fault.kind),
            Self::Ended(End::Cancelled) => Dismissal::Cancelled,
            Self::Queued
            | Self::Surveying
            | Self::Listed(_)
            | Self::Sharding(_)
            | Self::Planning(_)
            | Self::Gathering(_)
            | Self::Reattaching(_)
            | Self::Training(_)
            | Self::Publishing
            | Self::Ended(End::Paused | End::Lost(_)) => Dismissal::Closing,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Queued | Self::Listed(_) => "queued",
            Self::Surveying | Self::Sharding(_) | Self::Planning(_) => "preparing",
            Self::Gathering(_) | Self::Reattaching(_) => "gathering",
            Self::Training(_) => "training",
            Self::Publishing => "finishing",
            Self::Ended(End::Paused) => "paused",
            Self::Ended(End::Cancelled) => "cancelled",
            Self::Ended(End::Failed(_)) => "failed",
            Self::Ended(End::Succeeded(_)) => "succeeded",
            Self::Ended(End::Lost(_)) => "lost",
        }
    }
}

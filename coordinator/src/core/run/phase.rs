//! Where a run stands, and what only that phase has.

use crate::core::Fault;
use crate::core::gathering::Gathering;
use crate::core::listed::Listed;
use crate::core::membership::{Membership, Reattaching};
use crate::core::planning::Planning;
use crate::core::sharding::Sharding;

/// Where a run stands.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// Not its turn yet.
    Queued,
    /// Its sources are being listed.
    Surveying,
    /// They are listed; it waits for its turn.
    Listed(Listed),
    /// Its raw shards are being tokenized.
    Sharding(Sharding),
    /// Its plan is being made.
    Planning(Planning),
    /// Waiting for members.
    Gathering(Gathering),
    /// Waiting for the members of a generation that outlived a coordinator.
    Reattaching(Reattaching),
    /// A generation is at work.
    Training(Membership),
    /// The finished model is being put in its place.
    Publishing,
    /// Nothing will happen to it any more.
    Ended(End),
}

/// How a run ended.
#[derive(Clone, Debug)]
pub(crate) enum End {
    /// Stopped gracefully; goes on when it is resumed.
    Paused,
    /// Ended by a user.
    Cancelled,
    /// Ended by an error.
    Failed(Fault),
    /// Ended well; the model lies here.
    Succeeded(String),
    /// It goes on, or not, under another coordinator, which took it over.
    Lost(String),
}

impl Phase {
    /// The generation at work, where there is one.
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

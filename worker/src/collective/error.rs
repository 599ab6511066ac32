//! What ends a collective, and the name of one call.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use proto::protocol::Accusation;

/// Why a collective could not be formed or has ended. Cheap to clone: every pending call gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This rank's [`AbortHandle`](super::AbortHandle) was used, or its collective was dropped.
    #[error("this rank's collective was aborted")]
    Aborted,

    /// A rank is gone; the next generation does without it.
    #[error("lost rank {rank} in {call}")]
    Broken {
        /// The rank that went first, as far as this one can tell.
        rank: usize,
        /// A neighbour to which this rank was linked, other than the lost one.
        met: Option<usize>,
        /// What this rank was in.
        call: Call,
        /// How it showed.
        #[source]
        source: Arc<io::Error>,
    },

    /// Nothing moved for the whole budget.
    #[error("waited {} s for rank {rank} in {call}", stall.as_secs_f64())]
    Timeout {
        /// The rank waited for.
        rank: usize,
        /// A neighbour to which this rank was linked, other than the silent one.
        met: Option<usize>,
        /// What this rank was in.
        call: Call,
        /// The budget without progress.
        stall: Duration,
    },

    /// Ranks made different calls: a fault of the program, not of the network.
    #[error("rank {rank} is in {theirs} and this rank in {ours}")]
    Mismatch {
        /// The rank that disagrees.
        rank: usize,
        /// A neighbour to which this rank was linked, other than the one that disagrees.
        met: Option<usize>,
        /// What it is in.
        theirs: Call,
        /// What this rank is in.
        ours: Call,
    },

    /// The neighbour does not count this rank among its own.
    #[error("rank {rank} at {address} refused this rank: {refusal}")]
    Refused {
        /// The rank that refused.
        rank: usize,
        /// The previous rank, if it had connected by then.
        met: Option<usize>,
        /// Where it was reached.
        address: String,
        /// What it objected to.
        refusal: Refusal,
    },

    /// The next rank could not be connected to in time.
    #[error("no answer from rank {rank} at {address} within {} s", within.as_secs_f64())]
    Unreachable {
        /// The rank that should answer.
        rank: usize,
        /// The previous rank, if it had connected by then.
        met: Option<usize>,
        /// Where it should.
        address: String,
        /// The time it was given.
        within: Duration,
        /// The last attempt's failure.
        #[source]
        source: Arc<io::Error>,
    },

    /// The previous rank did not connect in time.
    #[error("rank {rank} did not connect within {} s{}", within.as_secs_f64(), turned_away(*refused))]
    Absent {
        /// The rank that should connect.
        rank: usize,
        /// The next rank, if it had answered by then.
        met: Option<usize>,
        /// The time it was given.
        within: Duration,
        /// The last stranger's flaw, if strangers came.
        refused: Option<Refusal>,
    },

    /// A rank outside the world was named.
    #[error("there is no rank {rank} in a world of {world_size}")]
    NoSuchRank {
        /// The rank named.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
    },

    /// This host refused something the collective needs.
    #[error("could not {action}")]
    Host {
        /// What was tried.
        action: String,
        /// The system's answer.
        #[source]
        source: Arc<io::Error>,
    },
}

impl Error {
    /// The rank that this error is about, as far as this rank can tell. It may have only heard of a rank that was lost
    /// in a call; a rank to which no connection could be made, it has tried to connect to itself.
    pub fn accusation(&self) -> Option<Accusation> {
        let (rank, connecting, met) = match self {
            Self::Broken { rank, met, .. }
            | Self::Timeout { rank, met, .. }
            | Self::Mismatch { rank, met, .. }
            | Self::Refused { rank, met, .. } => (*rank, false, *met),
            Self::Unreachable { rank, met, .. } | Self::Absent { rank, met, .. } => {
                (*rank, true, *met)
            }
            Self::Aborted | Self::NoSuchRank { .. } | Self::Host { .. } => return None,
        };
        let on_the_wire = |rank: usize| u32::try_from(rank).unwrap_or(u32::MAX);
        let (rank, met) = (on_the_wire(rank), met.map(on_the_wire));
        Some(Accusation { rank, connecting, met })
    }

    /// The same error of a rank whose other neighbour, `neighbour`, was met.
    pub(super) fn having_met(mut self, neighbour: usize) -> Self {
        match &mut self {
            Self::Broken { met, .. }
            | Self::Timeout { met, .. }
            | Self::Mismatch { met, .. }
            | Self::Refused { met, .. }
            | Self::Unreachable { met, .. }
            | Self::Absent { met, .. } => *met = Some(neighbour),
            Self::Aborted | Self::NoSuchRank { .. } | Self::Host { .. } => {}
        }
        self
    }

    pub(super) fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source: Arc::new(source) }
    }
}

fn turned_away(refused: Option<Refusal>) -> String {
    refused.map(|refusal| format!("; another was turned away: {refusal}")).unwrap_or_default()
}

/// One call of a collective, as compared between ranks and named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Calls count from zero in each generation.
    pub number: u64,
    /// What is done.
    pub kind: Kind,
    /// The values that each rank holds.
    pub len: u64,
}

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Sums a bucket of f32.
    Reduce,
    /// Sums a few f64 in rank order.
    Control,
    /// Hands out one rank's f32.
    Broadcast {
        /// The rank that has them.
        root: u32,
    },
    /// Waits for all.
    Barrier,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kind, len } = self;
        match kind {
            Kind::Reduce => write!(f, "call {number} (reduce, {len} values)"),
            Kind::Control => write!(f, "call {number} (control, {len} values)"),
            Kind::Broadcast { root } => {
                write!(f, "call {number} (broadcast from rank {root}, {len} values)")
            }
            Kind::Barrier => write!(f, "call {number} (barrier)"),
        }
    }
}

//! The errors that end a collective, and the description of one call.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Refusal;
use super::nccl::error::Error as NcclError;
use crate::device::Dtype;
use proto::protocol::Accusation;

/// Why a collective could not be formed or has ended. Cheap to clone, since every pending call returns it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// This rank's collective was aborted through its [`AbortHandle`](super::AbortHandle), or dropped.
    #[error("this rank's collective was aborted")]
    Aborted,

    /// A rank is gone; the next generation continues without it.
    #[error("lost rank {rank} {}", moment(*call))]
    Broken {
        /// The rank that was lost first, as far as this one can tell.
        rank: usize,
        /// A neighbour to which this rank was linked, other than the lost one.
        met: Option<usize>,
        /// The call that this rank was in, if it was in one.
        call: Option<Call>,
        /// How the loss was noticed.
        #[source]
        source: Arc<io::Error>,
    },

    /// No byte moved for the whole time limit.
    #[error("waited {} s for rank {rank} in {call}", stall.as_secs_f64())]
    Timeout {
        /// The rank waited for.
        rank: usize,
        /// A neighbour to which this rank was linked, other than the silent one.
        met: Option<usize>,
        /// The call that this rank was in.
        call: Call,
        /// The time limit without progress.
        stall: Duration,
    },

    /// Ranks made different calls: a fault of the program, not of the network.
    #[error("rank {rank} is in {theirs}, but this rank is in {ours}")]
    Mismatch {
        /// The rank that disagrees.
        rank: usize,
        /// A neighbour to which this rank was linked, other than the one that disagrees.
        met: Option<usize>,
        /// The call that the other rank is in.
        theirs: Call,
        /// The call that this rank is in.
        ours: Call,
    },

    /// The next rank does not accept this rank as its neighbour.
    #[error("rank {rank} at {address} refused this rank: {refusal}")]
    Refused {
        /// The rank that refused.
        rank: usize,
        /// The previous rank, if it had connected by then.
        met: Option<usize>,
        /// The address at which it was reached.
        address: String,
        /// The reason it gave.
        refusal: Refusal,
    },

    /// The next rank could not be connected to in time.
    #[error("no answer from rank {rank} at {address} within {} s", within.as_secs_f64())]
    Unreachable {
        /// The rank that should have answered.
        rank: usize,
        /// The previous rank, if it had connected by then.
        met: Option<usize>,
        /// The address at which it should have answered.
        address: String,
        /// The time limit.
        within: Duration,
        /// The error of the last attempt.
        #[source]
        source: Arc<io::Error>,
    },

    /// The previous rank did not connect in time.
    #[error("rank {rank} did not connect within {} s{}", within.as_secs_f64(), turned_away(*refused))]
    Absent {
        /// The rank that should have connected.
        rank: usize,
        /// The next rank, if it had answered by then.
        met: Option<usize>,
        /// The time limit.
        within: Duration,
        /// Why the last unwanted connection was refused, if there was one.
        refused: Option<Refusal>,
    },

    /// NCCL cannot be used, or has failed on this rank.
    #[error(transparent)]
    Nccl(#[from] NcclError),

    /// NCCL did not finish a reduction: a rank did not take part, or a connection is silent.
    #[error("{call} made no progress for {} s", stall.as_secs_f64())]
    Unfinished {
        /// The reduction.
        call: Call,
        /// The time limit without progress.
        stall: Duration,
    },

    /// The root rank is outside the world.
    #[error("there is no rank {rank} in a world of {world_size}")]
    NoSuchRank {
        /// The rank that was asked for.
        rank: usize,
        /// The number of ranks.
        world_size: usize,
    },

    /// The operating system refused something that the collective needs.
    #[error("could not {action}")]
    Host {
        /// What was attempted.
        action: String,
        /// The operating system's error.
        #[source]
        source: Arc<io::Error>,
    },
}

impl Error {
    /// The rank that this error is about, as far as this rank can tell. A rank that was lost in a call may be known
    /// only from another rank's report; a rank that could not be connected to (`connecting`) was tried by this rank
    /// itself.
    pub fn accusation(&self) -> Option<Accusation> {
        let (rank, connecting, met) = match self {
            Self::Broken { rank, met, .. }
            | Self::Timeout { rank, met, .. }
            | Self::Mismatch { rank, met, .. }
            | Self::Refused { rank, met, .. } => (*rank, false, *met),
            Self::Unreachable { rank, met, .. } | Self::Absent { rank, met, .. } => {
                (*rank, true, *met)
            }
            Self::Aborted
            | Self::Nccl(_)
            | Self::Unfinished { .. }
            | Self::NoSuchRank { .. }
            | Self::Host { .. } => return None,
        };
        let on_the_wire = |rank: usize| u32::try_from(rank).unwrap_or(u32::MAX);
        let (rank, met) = (on_the_wire(rank), met.map(on_the_wire));
        Some(Accusation { rank, connecting, met })
    }

    /// The same error, with the note that this rank was connected to its other neighbour, `neighbour`.
    pub(super) fn having_met(mut self, neighbour: usize) -> Self {
        match &mut self {
            Self::Broken { met, .. }
            | Self::Timeout { met, .. }
            | Self::Mismatch { met, .. }
            | Self::Refused { met, .. }
            | Self::Unreachable { met, .. }
            | Self::Absent { met, .. } => *met = Some(neighbour),
            Self::Aborted
            | Self::Nccl(_)
            | Self::Unfinished { .. }
            | Self::NoSuchRank { .. }
            | Self::Host { .. } => {}
        }
        self
    }

    pub(super) fn host(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Host { action, source: Arc::new(source) }
    }
}

fn moment(call: Option<Call>) -> String {
    call.map_or_else(|| "between calls".to_owned(), |call| format!("in {call}"))
}

fn turned_away(refused: Option<Refusal>) -> String {
    refused
        .map(|refusal| format!("; another connection was refused: {refusal}"))
        .unwrap_or_default()
}

/// One call of a collective, as compared between ranks and named in errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call {
    /// Number of the call, counted from zero in each generation.
    pub number: u64,
    /// What the call does.
    pub kind: Kind,
    /// Number of values that each rank holds.
    pub len: u64,
}

/// The operations of a collective.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// All-reduces (sums) a bucket with elements of this type.
    Reduce(Dtype),
    /// All-reduces (sums) a few f64 in rank order.
    Control,
    /// Copies one rank's f32 to all ranks.
    Broadcast {
        /// The rank whose values are copied.
        root: u32,
    },
    /// Waits for all ranks.
    Barrier,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { number, kind, len } = self;
        match kind {
            Kind::Reduce(dtype) => write!(f, "call {number} (reduce, {len} values of {dtype})"),
            Kind::Control => write!(f, "call {number} (control, {len} values)"),
            Kind::Broadcast { root } => {
                write!(f, "call {number} (broadcast from rank {root}, {len} values)")
            }
            Kind::Barrier => write!(f, "call {number} (barrier)"),
        }
    }
}

//! What the core has the runtime do.

use super::{Notice, Stream, Ticket};
use proto::event::{Fact, PoolEvent};
use proto::id::{CheckpointId, Incarnation, Lineage, RunId, WorkerId};
use proto::manifest;
use proto::protocol::Directive;
use proto::receipt::Skipped;

/// What the runtime is to do, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Append to a run's journal; durable before the next command.
    Journal {
        /// The run.
        run: RunId,
        /// In order.
        events: Vec<Fact>,
    },
    /// Append to the pool's journal, where there is one; durable before the next command.
    JournalPool(PoolEvent),
    /// Tell a caller.
    Answer {
        /// The caller.
        ticket: Ticket,
        /// The run, or why not.
        answer: Result<RunId, String>,
    },
    /// Tell a worker.
    Direct {
        /// Its stream.
        stream: Stream,
        /// Its whole duty.
        directive: Directive,
    },
    /// End a stream.
    Close {
        /// The stream.
        stream: Stream,
    },
    /// Connect to a worker's ring address once, to see whether its peers could.
    Dial {
        /// The worker.
        worker: WorkerId,
        /// Its process.
        incarnation: Incarnation,
        /// The address, `host:port`.
        ring: String,
    },
    /// List the sources and look for a prepared data set.
    Survey {
        /// The run.
        run: RunId,
    },
    /// Look once more whether a data set is prepared.
    FindPrepared {
        /// The run.
        run: RunId,
        /// Names the prepared data set.
        fingerprint: String,
    },
    /// Store the table of contents of the prepared data set, then the plan.
    Plan {
        /// The run.
        run: RunId,
        /// Names the prepared data set.
        fingerprint: String,
        /// Its contents, where this run prepared it.
        prepared: Option<manifest::Prepared>,
    },
    /// Store a manifest and the receipt that it names, after checking that everything else it names is there.
    Seal {
        /// The manifest, without the receipt.
        checkpoint: manifest::Checkpoint,
        /// Steps before it that taught nothing, for the receipt.
        skipped: Vec<Skipped>,
    },
    /// Say in the run's receipt that these steps taught nothing, in place of those that it names.
    Receipt {
        /// The run.
        run: RunId,
        /// In order.
        skipped: Vec<Skipped>,
    },
    /// Copy a checkpoint's model to where users look for it.
    Publish {
        /// The run.
        run: RunId,
        /// Its lineage.
        lineage: Lineage,
        /// Steps committed.
        step: u64,
        /// Held-out losses by steps committed, for its card.
        losses: Vec<(u64, f64)>,
    },
    /// Bring the run's checkpoints in storage to what is kept of them.
    Retain {
        /// The run.
        run: RunId,
        /// Which.
        retained: Retained,
    },
    /// Delete what is there of a checkpoint that will not be.
    Discard {
        /// The run.
        run: RunId,
        /// The checkpoint's.
        lineage: Lineage,
        /// Likewise.
        step: u64,
    },
    /// Tell whoever watches the run.
    Notify {
        /// The run.
        run: RunId,
        /// What.
        notice: Notice,
    },
}

/// The checkpoints of a run that stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained {
    /// All of them.
    pub kept: Vec<CheckpointId>,
    /// The newest.
    pub latest: CheckpointId,
    /// The one with the best held-out loss, where that was measured.
    pub best: Option<CheckpointId>,
}

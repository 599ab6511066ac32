//! The commands that the core gives to the runtime.

use super::{Notice, Stream, Ticket};
use proto::event::{Fact, PoolEvent};
use proto::id::{CheckpointId, Incarnation, Lineage, RunId, WorkerId};
use proto::manifest;
use proto::protocol::Directive;
use proto::receipt::Skipped;

/// Something that the runtime does for the core. Commands are executed in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Append to a run's journal. The entry is durable before the next command begins.
    Journal {
        /// The run.
        run: RunId,
        /// The facts, in order.
        events: Vec<Fact>,
    },
    /// Append to the pool's journal, if there is a pool. The entry is durable before the next command begins.
    JournalPool(PoolEvent),
    /// Answer a caller.
    Answer {
        /// The caller's ticket.
        ticket: Ticket,
        /// The run, or why the request was refused.
        answer: Result<RunId, String>,
    },
    /// Send a directive to a worker.
    Direct {
        /// The worker's stream.
        stream: Stream,
        /// The worker's whole duty.
        directive: Directive,
    },
    /// End a stream.
    Close {
        /// The stream.
        stream: Stream,
    },
    /// Connect to a worker's ring address once, to see whether its peers can reach it.
    Dial {
        /// The worker.
        worker: WorkerId,
        /// The worker's process.
        incarnation: Incarnation,
        /// The address, `host:port`.
        ring: String,
    },
    /// List the sources, and check whether the data set was prepared before.
    Survey {
        /// The run.
        run: RunId,
    },
    /// Check again whether a data set is prepared.
    FindPrepared {
        /// The run.
        run: RunId,
        /// The fingerprint of the data set.
        fingerprint: String,
    },
    /// Store the table of contents of the prepared data set, then the plan.
    Plan {
        /// The run.
        run: RunId,
        /// The fingerprint of the data set.
        fingerprint: String,
        /// Its contents, if this run prepared it.
        prepared: Option<manifest::Prepared>,
    },
    /// Check that all files of a checkpoint are stored, then store its receipt and its manifest.
    Seal {
        /// The manifest, without the receipt.
        checkpoint: manifest::Checkpoint,
        /// The skipped steps up to this checkpoint, for the receipt.
        skipped: Vec<Skipped>,
    },
    /// Replace the skipped steps that the run's receipt names.
    Receipt {
        /// The run.
        run: RunId,
        /// The skipped steps, in order.
        skipped: Vec<Skipped>,
    },
    /// Copy a checkpoint's model to where users look for it.
    Publish {
        /// The run.
        run: RunId,
        /// The checkpoint's lineage.
        lineage: Lineage,
        /// Steps committed in the checkpoint.
        step: u64,
        /// Held-out losses by steps committed, for the model card.
        losses: Vec<(u64, f64)>,
    },
    /// Delete the run's checkpoints that are not retained, and name the latest and the best one in storage.
    Retain {
        /// The run.
        run: RunId,
        /// The checkpoints that stay.
        retained: Retained,
    },
    /// Delete the stored files of a checkpoint that was given up.
    Discard {
        /// The run.
        run: RunId,
        /// The checkpoint's lineage.
        lineage: Lineage,
        /// Steps committed in the checkpoint.
        step: u64,
    },
    /// Send a notice to the watchers of the run.
    Notify {
        /// The run.
        run: RunId,
        /// The notice.
        notice: Notice,
    },
}

/// The checkpoints of a run that stay.
#[derive(Clone, Debug, PartialEq)]
pub struct Retained {
    /// All checkpoints that stay.
    pub kept: Vec<CheckpointId>,
    /// The newest checkpoint.
    pub latest: CheckpointId,
    /// The checkpoint with the best held-out loss, if any was evaluated.
    pub best: Option<CheckpointId>,
}

//! What whoever watches a run is told: one object a line, as `--json` prints it.

use super::figures::BySource;
use proto::event::number;
use proto::id::WorkerId;
use serde::{Deserialize, Serialize};

/// Something that happened to a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Notice {
    /// The data set is prepared.
    Prepared {
        /// Names it.
        fingerprint: String,
        /// Found from an earlier run.
        cached: bool,
        /// What became of every record.
        receipt: proto::receipt::Receipt,
    },
    /// Some raw shards are done.
    Preparing {
        /// So many.
        done: usize,
        /// Of so many.
        shards: usize,
    },
    /// The plan is stored.
    Planned {
        /// Optimizer steps.
        steps: u64,
        /// Packs, density, tokens.
        #[serde(flatten)]
        summary: serde_json::Value,
    },
    /// Workers are being waited for.
    Waiting {
        /// In words.
        detail: String,
    },
    /// A membership begins.
    Generation {
        /// Its number.
        generation: u64,
        /// Its lineage.
        lineage: u64,
        /// Members.
        world_size: usize,
        /// By rank.
        workers: Vec<WorkerId>,
        /// Steps committed where it starts.
        step: u64,
        /// Steps that were committed after that and are done again.
        #[serde(default)]
        redone: u64,
    },
    /// A step was committed on every rank.
    Step {
        /// Steps committed, this one included.
        step: u64,
        /// Steps planned.
        steps: u64,
        /// The global batch's.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Learning rate.
        lr: f64,
        /// Before clipping.
        #[serde(deserialize_with = "number")]
        grad_norm: f64,
        /// False: skipped for a non-finite gradient.
        applied: bool,
        /// Samples of this step.
        samples: u64,
        /// Order-independent digest of which they were.
        samples_digest: String,
        /// Tokens of this step.
        tokens: u64,
        /// Targets of this step.
        trained_tokens: u64,
        /// Of all ranks together, over the time since the step before.
        tokens_per_second: f64,
        /// Members.
        world_size: usize,
        /// The lineage.
        lineage: u64,
        /// Slowest rank's forward and backward.
        compute_ms: u64,
        /// Longest wait for a reduction after the last backward.
        reduce_wait_ms: u64,
        /// Of this step, by source.
        #[serde(default, skip_serializing_if = "BySource::is_empty")]
        sources: BySource,
    },
    /// The held-out loss.
    Eval {
        /// Steps committed.
        step: u64,
        /// In all.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// By source, of those that have anything held out.
        #[serde(default, skip_serializing_if = "BySource::is_empty")]
        sources: BySource,
    },
    /// A checkpoint is whole.
    Checkpoint {
        /// Steps committed.
        step: u64,
        /// Its folder under the output.
        path: String,
    },
    /// Something went wrong and is being dealt with.
    Incident {
        /// Who, where it is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<WorkerId>,
        /// What.
        message: String,
    },
    /// Stopped in order.
    Paused {
        /// Steps committed in the newest checkpoint.
        step: u64,
    },
    /// Ended by a user.
    Cancelled,
    /// Ended by an error.
    Failed {
        /// Whose fault: `user`, `data` or `infrastructure`.
        kind: proto::event::Failure,
        /// What, where, and the hint.
        message: String,
    },
    /// Another coordinator took it over; what becomes of it is said there.
    Lost {
        /// Who, and the hint.
        message: String,
    },
    /// Ended well.
    Finished {
        /// Where the model lies.
        model: String,
        /// Steps committed.
        steps: u64,
    },
}

impl Notice {
    /// Nothing comes after it.
    pub fn last(&self) -> bool {
        matches!(
            self,
            Self::Paused { .. }
                | Self::Cancelled
                | Self::Failed { .. }
                | Self::Lost { .. }
                | Self::Finished { .. }
        )
    }
}

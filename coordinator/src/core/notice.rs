//! The notices that the watchers of a run get. `--json` prints each as one object on a line.

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
        /// The data set's fingerprint.
        fingerprint: String,
        /// The data set was prepared by an earlier run.
        cached: bool,
        /// The account of every record.
        receipt: proto::receipt::Receipt,
    },
    /// Some raw shards are prepared.
    Preparing {
        /// Number of raw shards that are prepared.
        done: usize,
        /// Number of all raw shards.
        shards: usize,
    },
    /// The plan is stored.
    Planned {
        /// Number of optimizer steps.
        steps: u64,
        /// Figures such as packs, density and tokens.
        #[serde(flatten)]
        summary: serde_json::Value,
    },
    /// The run waits for workers or for a checkpoint.
    Waiting {
        /// What it waits for, in words.
        detail: String,
    },
    /// A generation begins.
    Generation {
        /// Its number.
        generation: u64,
        /// Its lineage.
        lineage: u64,
        /// Number of members.
        world_size: usize,
        /// Members by rank.
        workers: Vec<WorkerId>,
        /// Steps committed at the checkpoint where it starts.
        step: u64,
        /// Steps that were committed after that checkpoint and are repeated.
        #[serde(default)]
        redone: u64,
    },
    /// A step was committed on every rank.
    Step {
        /// Steps committed, this one included.
        step: u64,
        /// Steps planned.
        steps: u64,
        /// The loss of the global batch.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Learning rate.
        lr: f64,
        /// The gradient norm before clipping.
        #[serde(deserialize_with = "number")]
        grad_norm: f64,
        /// False if the step was skipped because its gradient was not finite.
        applied: bool,
        /// Number of samples of this step.
        samples: u64,
        /// A digest of those samples that does not depend on their order.
        samples_digest: String,
        /// Number of tokens of this step.
        tokens: u64,
        /// Number of targets of this step.
        trained_tokens: u64,
        /// Tokens per second of all ranks together, over the last steps and without stalls.
        tokens_per_second: f64,
        /// Number of members.
        world_size: usize,
        /// The lineage.
        lineage: u64,
        /// Time of the slowest rank's forward and backward.
        compute_ms: u64,
        /// Longest wait of a rank for reductions after its last backward.
        reduce_wait_ms: u64,
        /// Figures of this step, by source.
        #[serde(default, skip_serializing_if = "BySource::is_empty")]
        sources: BySource,
    },
    /// The held-out set was evaluated.
    Eval {
        /// Steps committed.
        step: u64,
        /// The held-out loss over all sources.
        #[serde(deserialize_with = "number")]
        loss: f64,
        /// Figures of each source that has held-out samples.
        #[serde(default, skip_serializing_if = "BySource::is_empty")]
        sources: BySource,
    },
    /// A checkpoint is committed.
    Checkpoint {
        /// Steps committed.
        step: u64,
        /// The checkpoint's folder under the output.
        path: String,
    },
    /// Something went wrong and is being dealt with.
    Incident {
        /// The worker that the incident is about, if known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        worker: Option<WorkerId>,
        /// What happened, in words.
        message: String,
    },
    /// The run stopped gracefully.
    Paused {
        /// Steps committed in the newest checkpoint.
        step: u64,
    },
    /// A user cancelled the run.
    Cancelled,
    /// The run failed.
    Failed {
        /// Where the fault lies: `user`, `data` or `infrastructure`.
        kind: proto::event::Failure,
        /// What went wrong and where, with a hint.
        message: String,
    },
    /// Another coordinator has taken over the run and sends its further notices.
    Lost {
        /// Which coordinator has the run, with a hint.
        message: String,
    },
    /// The run succeeded.
    Finished {
        /// The path or URL of the model.
        model: String,
        /// Steps committed.
        steps: u64,
    },
}

impl Notice {
    /// Whether no notice of this attempt follows.
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

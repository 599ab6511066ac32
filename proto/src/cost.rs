//! What a step costs on one worker: `worker measure` says it, `coordinator plan` asks.

use serde::{Deserialize, Serialize};

/// What was found by training a few micro-batches of made-up tokens, as long as the run's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Parameters of the model.
    pub parameters: u64,
    /// Bytes of one of them in the model's files.
    pub bytes_per_parameter: u64,
    /// Micro-batches that were timed; the fastest counts.
    pub micro_batches: u64,
    /// Tokens of each.
    pub micro_batch_tokens: u64,
    /// Forward and backward of one micro-batch.
    pub micro_batch_seconds: f64,
    /// The optimizer's part of a step.
    pub update_seconds: f64,
    /// The most memory that the process had.
    pub peak_bytes: u64,
}

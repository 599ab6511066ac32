//! The cost of a step on one worker: measured by `worker measure`, used by `coordinator plan`.

use serde::{Deserialize, Serialize};

/// Measurements from training a few micro-batches of random tokens, which are as large as those of the run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Number of parameters of the model.
    pub parameters: u64,
    /// Bytes per parameter in the model's files.
    pub bytes_per_parameter: u64,
    /// Number of micro-batches that were timed. The fastest one counts.
    pub micro_batches: u64,
    /// Tokens per micro-batch.
    pub micro_batch_tokens: u64,
    /// Time for forward and backward of one micro-batch.
    pub micro_batch_seconds: f64,
    /// Time for the optimizer's part of a step.
    pub update_seconds: f64,
    /// Peak memory of the process.
    pub peak_bytes: u64,
}

//! A plan without its packs, in numbers.

use serde::{Deserialize, Serialize};

use super::SourceSummary;

/// A plan in numbers: all that a worker, a progress bar and a receipt need besides the chunks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`super::VERSION`] of the program that planned.
    pub version: u32,
    /// Samples in all, held-out ones included.
    pub samples: u64,
    /// Samples that are kept for evaluation.
    pub held_out: u64,
    /// Packs of the held-out samples.
    pub eval_packs: u64,
    /// The length of a pack.
    pub max_tokens: u32,
    /// Packs per step, at most.
    pub global_batch: u32,
    /// T: the steps that are trained.
    pub steps: u64,
    /// Steps of a whole epoch.
    pub steps_per_epoch: u64,
    /// Packs of a whole epoch.
    pub packs_per_epoch: u64,
    /// Steps of a chunk; an epoch's last one may have fewer.
    pub steps_per_chunk: u64,
    /// The epochs as planned; `max_steps` may end before the last.
    pub epochs: Vec<Epoch>,
    /// The sources, in their order.
    pub sources: Vec<SourceSummary>,
}

/// A whole epoch in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Samples, each as often as it is seen.
    pub samples: u64,
    /// Their tokens.
    pub tokens: u64,
    /// The sum of their target weights: the trained tokens, where each weighs 1.
    pub weight: f64,
}

impl Summary {
    /// Tokens per token of room in the packs of all epochs, 0 to 1.
    pub fn density(&self) -> f64 {
        let tokens: u64 = self.epochs.iter().map(|epoch| epoch.tokens).sum();
        let packs = self.packs_per_epoch * self.epochs.len() as u64;
        tokens as f64 / (packs * u64::from(self.max_tokens)) as f64
    }
}

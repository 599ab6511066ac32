//! The summary of a plan: its totals, without the packs.

use serde::{Deserialize, Serialize};

use super::SourceSummary;

/// The totals of a plan: everything that workers, progress bars and receipts need besides the chunks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// [`super::VERSION`] of the program that made the plan.
    pub version: u32,
    /// All samples, including the held-out ones.
    pub samples: u64,
    /// Held-out samples.
    pub held_out: u64,
    /// Packs of the held-out samples.
    pub eval_packs: u64,
    /// The length of a pack.
    pub max_tokens: u32,
    /// The maximum number of packs per step.
    pub global_batch: u32,
    /// T, the number of steps of the run.
    pub steps: u64,
    /// Steps of a complete epoch.
    pub steps_per_epoch: u64,
    /// Packs of a complete epoch.
    pub packs_per_epoch: u64,
    /// Steps per chunk. The last chunk of an epoch may have fewer.
    pub steps_per_chunk: u64,
    /// All epochs, even if `max_steps` ends the run before the last.
    pub epochs: Vec<Epoch>,
    /// The sources, in their order.
    pub sources: Vec<SourceSummary>,
}

/// Totals of a complete epoch.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Samples, each counted as often as it is used.
    pub samples: u64,
    /// Their tokens.
    pub tokens: u64,
    /// The sum of their target weights. If every weight is 1, this is the number of trained tokens.
    pub weight: f64,
}

impl Summary {
    /// The share of the packs' capacity that is filled with tokens, over all epochs, 0 to 1.
    pub fn density(&self) -> f64 {
        let tokens: u64 = self.epochs.iter().map(|epoch| epoch.tokens).sum();
        let packs = self.packs_per_epoch * self.epochs.len() as u64;
        tokens as f64 / (packs * u64::from(self.max_tokens)) as f64
    }
}

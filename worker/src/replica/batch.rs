//! One rank's share of a global batch.

use crate::ops::{Documents, Target};

/// Documents that go through the model together, laid end to end.
pub struct MicroBatch {
    /// Of all documents.
    pub tokens: Vec<u32>,
    /// Where each begins.
    pub documents: Documents,
    /// The source of each.
    pub sources: Vec<u32>,
    /// What is trained.
    pub targets: Vec<Target>,
}

impl MicroBatch {
    /// The sum of its targets' weights.
    pub fn weight(&self) -> f64 {
        self.targets.iter().map(|t| f64::from(t.weight)).sum()
    }
}

/// What one rank does in one step; nothing, where there are more ranks than packs.
pub struct Batch {
    /// The step.
    pub step: u64,
    /// This rank's packs.
    pub micro_batches: Vec<MicroBatch>,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// W(s): the sum of weights over all ranks, as the plan has it.
    pub planned_weight: f64,
    /// The sum of this rank's weights.
    pub weight: f64,
    /// This rank's samples.
    pub samples: u64,
    /// Which they are, whatever their order.
    pub samples_digest: u64,
}

impl Batch {
    /// This rank's tokens.
    pub fn tokens(&self) -> u64 {
        self.micro_batches.iter().map(|m| m.tokens.len() as u64).sum()
    }

    /// This rank's targets.
    pub fn trained_tokens(&self) -> u64 {
        self.micro_batches.iter().map(|m| m.targets.len() as u64).sum()
    }
}

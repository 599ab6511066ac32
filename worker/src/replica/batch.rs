//! One rank's share of a global batch.

use crate::ops::{Documents, Target};

/// Documents that go through the model together, concatenated.
pub struct MicroBatch {
    /// The tokens of all documents.
    pub tokens: Vec<u32>,
    /// The boundaries of the documents.
    pub documents: Documents,
    /// The source of each document.
    pub sources: Vec<u32>,
    /// The tokens to predict.
    pub targets: Vec<Target>,
}

impl MicroBatch {
    /// Documents of `length` tokens, the last `trained` of which are to be predicted. Any tokens would do; neighbours
    /// differ, so that caching does not make them cheaper than real ones.
    pub fn synthetic(documents: usize, length: usize, trained: usize, vocabulary: usize) -> Self {
        let tokens: Vec<u32> = (0..documents * length)
            .map(|i| (i.wrapping_mul(2_654_435_761) % vocabulary) as u32)
            .collect();
        // The last row of a document predicts nothing.
        let rows = (1..=documents).flat_map(|n| n * length - 1 - trained..n * length - 1);
        let target = |row| Target { row: row as u32, token: tokens[row + 1], weight: 1.0 };
        Self {
            targets: rows.map(target).collect(),
            sources: vec![0; documents],
            documents: Documents::of_lengths(std::iter::repeat_n(length, documents)),
            tokens,
        }
    }

    /// The sum of the weights of the targets.
    pub fn weight(&self) -> f64 {
        self.targets.iter().map(|t| f64::from(t.weight)).sum()
    }
}

/// One rank's share of one step; it is empty if there are more ranks than packs.
pub struct Batch {
    /// Number of the step.
    pub step: u64,
    /// This rank's packs.
    pub micro_batches: Vec<MicroBatch>,
    /// The step's learning rate.
    pub learning_rate: f64,
    /// W(s): the sum of weights over all ranks according to the plan.
    pub planned_weight: f64,
    /// The sum of this rank's weights.
    pub weight: f64,
    /// Number of this rank's samples.
    pub samples: u64,
    /// A digest of the samples that does not depend on their order.
    pub samples_digest: u64,
}

impl Batch {
    /// Step `step` of a world of one rank with a single micro-batch.
    pub fn of(step: u64, micro_batch: MicroBatch, learning_rate: f64) -> Self {
        let weight = micro_batch.weight();
        Self {
            step,
            micro_batches: vec![micro_batch],
            learning_rate,
            planned_weight: weight,
            weight,
            samples: 0,
            samples_digest: 0,
        }
    }

    /// Number of this rank's tokens.
    pub fn tokens(&self) -> u64 {
        self.micro_batches.iter().map(|m| m.tokens.len() as u64).sum()
    }

    /// Number of this rank's targets.
    pub fn trained_tokens(&self) -> u64 {
        self.micro_batches.iter().map(|m| m.targets.len() as u64).sum()
    }
}

//! One rank's share of a global batch.

use crate::ops::{Documents, Target};

/// Documents that go through the model together, concatenated.
pub struct MicroBatch {
    /// The tokens of all documents.
    pub tokens: Vec<u32>,
    /// The boundaries of the documents.
    pub documents: Documents,
    /// The source of each document; documents beyond these are padding.
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

    /// Appends documents that predict nothing, of up to `length` tokens each, so that there are `rows` tokens. On a
    /// GPU, all micro-batches then take the same memory.
    pub fn padded(mut self, rows: usize, length: usize) -> Self {
        let missing = rows.saturating_sub(self.tokens.len());
        let added = (0..missing).step_by(length.max(1)).map(|at| length.min(missing - at));
        let lengths = self.documents.iter().map(|rows| rows.len()).chain(added);
        self.documents = Documents::of_lengths(lengths);
        // Many rows of one token would have to be added up one after another.
        let tokens: Vec<u32> = self.tokens.iter().copied().chain([0]).collect();
        self.tokens.extend(tokens.iter().cycle().take(missing));
        self
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

    /// Number of this rank's tokens, without padding.
    pub fn tokens(&self) -> u64 {
        let of =
            |m: &MicroBatch| m.documents.iter().take(m.sources.len()).map(|rows| rows.len()).sum();
        self.micro_batches.iter().map(of).map(|tokens: usize| tokens as u64).sum()
    }

    /// Number of this rank's targets.
    pub fn trained_tokens(&self) -> u64 {
        self.micro_batches.iter().map(|m| m.targets.len() as u64).sum()
    }
}

//! How much of each source an epoch sees.
//!
//! ```text
//! repeat   r times its samples                       r as given
//! share    a part of the trained tokens              r = c * share / trained tokens, the same c for all
//! ```
//!
//! Laid end to end for ever, a source's samples are cut at r, 2r, 3r... of its whole, and epoch e
//! sees the e-th piece: with r = 0.5 one half and then the other, with r = 2 every sample twice. So
//! over the epochs no sample is seen more than once oftener than another. A repeat is cut by
//! samples, a share by trained tokens: samples are whole, so a piece is right to within one.
//!
//! Of shares, c is the largest with which no source is seen twice in an epoch: nothing is repeated
//! that nobody asked to repeat, and what is left of the others has its turn in the next epochs. It
//! is `first_exhausted` of Hugging Face's `interleave_datasets` in what it stops at, and loses
//! nothing over the epochs.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::random::Random;
use super::{Error, Meta, STREAM_SOURCE, Source, ranges};

/// How much of a source an epoch sees.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// So many times, above 0.
    Repeat(f64),
    /// This part of the trained tokens, relative to the other sources' parts; above 0, and then on
    /// every source.
    Share(f64),
}

/// What an epoch sees of one source, in numbers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSummary {
    /// Samples that are trained on: the held-out ones are not among them.
    pub samples: u64,
    /// The sum of their target weights: the trained tokens, where each weighs 1.
    pub weight: f64,
    /// How often an epoch sees them.
    pub repeat: f64,
    /// Its part of all that an epoch trains on, 0 to 1.
    pub share: f64,
}

/// A source's repeat is counted in so many parts: exact to a sample for 2^32 samples.
const PARTS: u128 = 1_000_000_000_000;

/// One source, cut into what each epoch sees.
#[derive(Clone, Debug)]
pub(super) struct Mixed {
    samples: u128,
    weight: f64,
    /// In [`PARTS`].
    repeat: u128,
    /// By epoch: where its piece begins in the samples laid end to end; and where the last one ends.
    cuts: Vec<u128>,
}

impl Mixed {
    /// What an epoch sees: where it starts among the source's samples, and how many follow.
    pub(super) fn slice(&self, epoch: u32) -> (u128, u128) {
        let (start, end) = (self.cuts[epoch as usize], self.cuts[epoch as usize + 1]);
        (start % self.samples.max(1), end - start)
    }
}

/// Cuts every source for so many epochs; `trainable` names a source's samples, less the held out.
///
/// # Errors
/// A share of nothing.
pub(super) fn mix(
    samples: &[Meta],
    sources: &[Source],
    epochs: u32,
    seed: u64,
    trainable: impl Fn(Range<usize>) -> Vec<u32>,
) -> Result<Vec<Mixed>, Error> {
    let weight = |ids: &[u32]| ids.iter().map(|&id| f64::from(samples[id as usize].weight)).sum();
    let mut mixed = Vec::with_capacity(sources.len());
    for (range, _) in ranges(sources) {
        let ids = trainable(range);
        let (samples, weight) = (ids.len() as u128, weight(&ids));
        mixed.push(Mixed { samples, weight, repeat: 0, cuts: Vec::new() });
    }
    // Trained tokens per unit of share; where they are fewest a source is exhausted first.
    let mut unit = f64::INFINITY;
    for (index, (source, mixed)) in sources.iter().zip(&mixed).enumerate() {
        if let Amount::Share(share) = source.amount {
            if mixed.weight == 0.0 {
                return Err(Error::EmptyShare { index });
            }
            unit = unit.min(mixed.weight / share);
        }
    }
    for (index, (range, source)) in ranges(sources).enumerate() {
        let mixed = &mut mixed[index];
        let repeat = match source.amount {
            Amount::Repeat(repeat) => repeat,
            Amount::Share(share) => unit * share / mixed.weight,
        };
        mixed.repeat = (repeat * PARTS as f64).round() as u128;
        let ends = (0..=u128::from(epochs)).map(|epoch| epoch * mixed.repeat);
        let whole = mixed.repeat.is_multiple_of(PARTS);
        mixed.cuts = match source.amount {
            Amount::Share(_) if !whole => {
                let mut ids = trainable(range);
                shuffle(&mut ids, seed, index);
                let weights = ids.iter().map(|&id| f64::from(samples[id as usize].weight));
                cut_by_weight(ends.collect(), weights, mixed.weight)
            }
            Amount::Repeat(_) | Amount::Share(_) => {
                ends.map(|end| end * mixed.samples / PARTS).collect()
            }
        };
    }
    Ok(mixed)
}

/// The order of a source that no epoch sees as a whole: the same in every epoch, so that each goes
/// on where the one before ended.
pub(super) fn shuffle(ids: &mut [u32], seed: u64, source: usize) {
    Random::new(&[seed, STREAM_SOURCE, source as u64]).shuffle(ids);
}

/// Turns ends in parts of the whole into numbers of samples: the first that begins at or behind the
/// end is not before it.
fn cut_by_weight(
    ends: Vec<u128>,
    weights: impl ExactSizeIterator<Item = f64>,
    total: f64,
) -> Vec<u128> {
    let samples = weights.len() as u128;
    let mut order: Vec<usize> = (0..ends.len()).collect();
    order.sort_by_key(|&end| ends[end] % PARTS);
    let mut cuts = vec![0; ends.len()];
    let (mut weights, mut begin, mut passed) = (weights, 0.0, 0);
    for end in order {
        let at = (ends[end] % PARTS) as f64 / PARTS as f64 * total;
        while begin < at
            && let Some(weight) = weights.next()
        {
            begin += weight;
            passed += 1;
        }
        cuts[end] = ends[end] / PARTS * samples + passed;
    }
    cuts
}

/// The sources in numbers, of an epoch like the average one.
pub(super) fn summaries(mixed: &[Mixed]) -> Vec<SourceSummary> {
    let repeat = |mixed: &Mixed| mixed.repeat as f64 / PARTS as f64;
    let all: f64 = mixed.iter().map(|mixed| repeat(mixed) * mixed.weight).sum();
    let summary = |mixed: &Mixed| SourceSummary {
        samples: mixed.samples as u64,
        weight: mixed.weight,
        repeat: repeat(mixed),
        share: repeat(mixed) * mixed.weight / all,
    };
    mixed.iter().map(summary).collect()
}

#[cfg(test)]
mod tests;

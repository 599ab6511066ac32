//! How much of each source an epoch uses.
//!
//! ```text
//! repeat   r times its samples                       r as given
//! share    a part of the trained tokens              r = c * share / trained tokens, the same c for all
//! ```
//!
//! Imagine a source's samples repeated endlessly, and cut after r, 2r, 3r... passes. Epoch e uses the e-th piece:
//! with r = 0.5, one half and then the other; with r = 2, every sample twice. So the numbers of times that two
//! samples of a source have been used never differ by more than one. A repeat is cut by samples, a share by trained
//! tokens; because samples are not divided, a piece is exact to within one sample.
//!
//! For shares, c is the largest value with which no source is repeated within an epoch. The samples of the other
//! sources that an epoch does not use follow in the next epochs. An epoch ends where `first_exhausted` of Hugging
//! Face's `interleave_datasets` would stop, but no sample is lost over the epochs.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::random::Random;
use super::{Error, Meta, STREAM_SOURCE, Source, ranges};

/// How much of a source an epoch uses.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Amount {
    /// A number of repetitions, above 0.
    Repeat(f64),
    /// A part of the trained tokens, above 0 and relative to the parts of the other sources. If one source has a
    /// share, all have one.
    Share(f64),
}

/// Totals of one source, and how much of it an epoch uses.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SourceSummary {
    /// Samples that are trained on, without the held-out ones.
    pub samples: u64,
    /// The sum of their target weights. If every weight is 1, this is the number of trained tokens.
    pub weight: f64,
    /// How often an epoch repeats them.
    pub repeat: f64,
    /// The source's part of the weight of an epoch, 0 to 1.
    pub share: f64,
}

/// The fixed-point denominator of a source's repeat: exact to a sample for 2^32 samples.
const PARTS: u128 = 1_000_000_000_000;

/// One source, cut into a piece for each epoch.
#[derive(Clone, Debug)]
pub(super) struct Mixed {
    samples: u128,
    weight: f64,
    /// The repeat, in units of 1 / [`PARTS`].
    repeat: u128,
    /// The beginning of each epoch's piece in the endlessly repeated samples, and the end of the last piece.
    cuts: Vec<u128>,
}

impl Mixed {
    /// The piece of an epoch: the index of its first sample in the source, and its number of samples.
    pub(super) fn slice(&self, epoch: u32) -> (u128, u128) {
        let (start, end) = (self.cuts[epoch as usize], self.cuts[epoch as usize + 1]);
        (start % self.samples.max(1), end - start)
    }
}

/// Cuts every source into pieces for `epochs` epochs; `trainable` returns the ids of a source that are trained on.
///
/// # Errors
/// [`Error::EmptyShare`] if a source with a share has nothing to train on.
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
    // Trained tokens per unit of share. The source with the fewest is exhausted first.
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

/// Shuffles a source that is used in parts. The order is the same in every epoch, so that each epoch continues where
/// the one before ended.
pub(super) fn shuffle(ids: &mut [u32], seed: u64, source: usize) {
    Random::new(&[seed, STREAM_SOURCE, source as u64]).shuffle(ids);
}

/// Converts ends of pieces, in units of 1 / [`PARTS`] of the source, to numbers of samples: a sample is before an
/// end if it begins before it.
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

/// The totals of each source, and how much of it an average epoch uses.
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

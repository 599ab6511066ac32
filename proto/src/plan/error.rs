//! What cannot be planned.

/// Why there is no plan.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// An option outside its bounds.
    #[error("{name} must be {wanted}, got {found}")]
    Option {
        /// Its name.
        name: &'static str,
        /// Its bounds.
        wanted: &'static str,
        /// Its value.
        found: f64,
    },
    /// The sources do not add up to the samples.
    #[error("sources of {expected} samples, got {found}")]
    Sources {
        /// The sum over the sources.
        expected: u64,
        /// The samples given.
        found: u64,
    },
    /// A sample that no pack holds, or that has nothing to learn.
    #[error(
        "sample {id} must have 1 to {max_tokens} tokens and a weight above 0, \
         got {length} and {weight}"
    )]
    Sample {
        /// Its index.
        id: u64,
        /// Its tokens.
        length: u32,
        /// Its weight.
        weight: f32,
        /// The length of a pack.
        max_tokens: u32,
    },
    /// More than an id can count.
    #[error("an epoch of {0} samples, more than 2^32\nhint: lower `repeat`, or split the run")]
    TooManySamples(u64),
    /// A part of the trained tokens that cannot be had.
    #[error(
        "data.train[{index}] has a `share`, and no sample is left of it to train on\n\
         hint: see the receipt for what was dropped and held out, or leave the source out"
    )]
    EmptyShare {
        /// The source's.
        index: usize,
    },
    /// Nothing to train on.
    #[error(
        "no sample is left to train on, of {samples}\n\
         hint: see the receipt for what was dropped and held out"
    )]
    Nothing {
        /// The samples given, all held out.
        samples: u64,
    },
    /// A fraction of too little.
    #[error(
        "epoch {epoch} has {samples} samples for {steps} steps\n\
         hint: raise `repeat`, `epochs`, or `global_batch`"
    )]
    EpochTooSmall {
        /// Which epoch, from 0.
        epoch: u32,
        /// What it has.
        samples: u64,
        /// What it needs.
        steps: u64,
    },
}

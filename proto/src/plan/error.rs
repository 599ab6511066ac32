//! Errors of planning.

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
    #[error("the sources have {expected} samples in all, got {found}")]
    Sources {
        /// The sum over the sources.
        expected: u64,
        /// The samples given.
        found: u64,
    },
    /// A sample that does not fit into a pack, or that has no trained token.
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
    /// More samples than a 32-bit id can number.
    #[error(
        "{0} samples in an epoch, more than 4294967295\nhint: lower `repeat`, or train on fewer samples"
    )]
    TooManySamples(u64),
    /// A source with a share, but without samples.
    #[error(
        "`data.train[{index}]` has a `share`, but none of its samples is left to train on\n\
         hint: see the receipt for what was dropped and held out, or leave the source out"
    )]
    EmptyShare {
        /// The source's index.
        index: usize,
    },
    /// Nothing to train on.
    #[error(
        "no sample is left to train on, out of {samples}\n\
         hint: see the receipt for what was dropped and held out"
    )]
    Nothing {
        /// The number of samples given.
        samples: u64,
    },
    /// An epoch with fewer samples than steps, which a fractional `repeat` of little data can cause.
    #[error(
        "epoch {epoch} has {samples} samples for {steps} steps\n\
         hint: raise `repeat`, `epochs`, or `global_batch`"
    )]
    EpochTooSmall {
        /// The epoch's number, from 0.
        epoch: u32,
        /// The number of its samples.
        samples: u64,
        /// The number of its steps.
        steps: u64,
    },
}

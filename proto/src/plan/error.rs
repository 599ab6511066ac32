//! What cannot be planned.

use super::{Amount, Meta, Options, Source};

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

/// Checks the input of a plan.
pub(super) fn check(samples: &[Meta], sources: &[Source], options: &Options) -> Result<(), Error> {
    let at_least_one = [
        ("max_tokens", u64::from(options.max_tokens)),
        ("global_batch", options.global_batch.into()),
        ("epochs", options.epochs.into()),
        ("max_steps", options.max_steps.unwrap_or(1)),
    ];
    for (name, value) in at_least_one {
        check_option(name, value as f64, value >= 1, "1 or more")?;
    }
    for source in sources {
        let Source { amount, holdout, .. } = *source;
        match amount {
            Amount::Repeat(repeat) => {
                let fits = (0.000_001..=100.0).contains(&repeat);
                check_option("repeat", repeat, fits, "from 0.000001 to 100")?;
            }
            Amount::Share(share) => {
                check_option("share", share, share > 0.0 && share.is_finite(), "above 0")?;
            }
        }
        check_option("holdout", holdout, (0.0..=0.5).contains(&holdout), "from 0 to 0.5")?;
    }
    let expected: u64 = sources.iter().map(|source| u64::from(source.samples)).sum();
    let found = samples.len() as u64;
    if expected != found {
        return Err(Error::Sources { expected, found });
    }
    if found > u64::from(u32::MAX) {
        return Err(Error::TooManySamples(found));
    }
    if found == 0 {
        return Err(Error::Nothing { samples: found });
    }
    let fits = |sample: &Meta| {
        (1..=options.max_tokens).contains(&sample.length)
            && sample.weight.is_finite()
            && sample.weight > 0.0
    };
    match samples.iter().position(|sample| !fits(sample)) {
        None => Ok(()),
        Some(id) => Err(Error::Sample {
            id: id as u64,
            length: samples[id].length,
            weight: samples[id].weight,
            max_tokens: options.max_tokens,
        }),
    }
}

fn check_option(
    name: &'static str,
    found: f64,
    fits: bool,
    wanted: &'static str,
) -> Result<(), Error> {
    match fits {
        true => Ok(()),
        false => Err(Error::Option { name, wanted, found }),
    }
}

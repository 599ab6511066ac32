//! Checks that there is something to plan and that every option is within its bounds.

use super::{Amount, Error, Meta, Options, Source};

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

//! The digest of a training state. Replicas are equal bit by bit or not at all, so one number distinguishes them.
//!
//! ```text
//! xxh3-128 of: the number of updates; then for every parameter the xxh3-128 of each chunk of its elements and,
//!              once there were updates, of each chunk of its two moments
//! ```
//!
//! Chunks have a fixed size, so that a large embedding is hashed by all threads while the result does not depend on
//! their number. Before the first update, moments are zero and left out, so the digest of a base model is that of the
//! training state that begins with it.

use crate::device::Buffer;
use crate::model::Model;
use crate::ops::ParamId;
use rayon::prelude::*;
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// Number of elements per chunk: 4 MiB.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// The digest of a whole state. Its text form has 32 lower-case hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(pub(super) u128);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Digest {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u128::from_str_radix(text, 16).map(Self)
    }
}

/// The digest of a training state that begins with `model`.
pub fn of_base(model: &Model) -> Digest {
    let none = Buffer::from(Vec::<f32>::new());
    of(model, 0, |_| [&none, &none])
}

/// The digest of a model's configuration, comparable between programs of the same version.
pub fn of_configuration(model: &Model) -> Digest {
    Digest(xxh3_128(format!("{:?}", model.config()).as_bytes()))
}

/// The digest of a model after this number of updates; `moments` returns the moments of a parameter.
pub(super) fn of<'a>(
    model: &Model,
    updates: u64,
    moments: impl Fn(ParamId) -> [&'a Buffer; 2] + Sync,
) -> Digest {
    let parameters = model.parameters();
    let ids: Vec<_> = parameters.ids().collect();
    let chunks: Vec<[Vec<u128>; 3]> = ids
        .into_par_iter()
        .map(|p| {
            let of_moments = |moment: &Buffer| match updates {
                0 => Vec::new(),
                _ => of_chunks(&moment.read()),
            };
            let [m, v] = moments(p).map(of_moments);
            [of_chunks(&parameters.values(p).read()), m, v]
        })
        .collect();
    let mut all = Xxh3Default::new();
    all.update(&updates.to_le_bytes());
    for digest in chunks.iter().flatten().flatten() {
        all.update(&digest.to_le_bytes());
    }
    Digest(all.digest128())
}

fn of_chunks(values: &[f32]) -> Vec<u128> {
    let chunks = values.par_chunks(CHUNK_ELEMENTS);
    chunks.map(|chunk| xxh3_128(bytemuck::cast_slice(chunk))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::fixture::{flip, state};
    use crate::replica::state::Part;

    #[test]
    fn a_digest_survives_formatting_and_parsing() {
        let digest = Digest(0x00ff);
        assert_eq!(digest.to_string(), format!("{}ff", "0".repeat(30)));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("no digest".parse::<Digest>().is_err());
    }

    #[test]
    fn a_training_state_begins_with_the_digest_of_its_base() {
        let state = state();
        assert_eq!(state.digest(), of_base(state.model()));
    }

    #[test]
    fn one_flipped_bit_anywhere_changes_the_digest() {
        let mut state = state();
        state.set_updates(1);
        let mut seen = vec![state.digest()];
        let last = state.ids().last().expect("it has parameters");
        for p in [ParamId(0), last] {
            for part in Part::ALL {
                flip(state.part_mut(part, p), 1);
                let digest = state.digest();
                assert!(!seen.contains(&digest));
                seen.push(digest);
            }
        }
        state.set_updates(2);
        assert!(!seen.contains(&state.digest()));
    }
}

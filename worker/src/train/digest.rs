//! What a training state is known by. Replicas are equal bit by bit or not at all, so one number tells them apart.
//!
//! ```text
//! xxh3-128 of: updates, then for every parameter the xxh3-128 of each chunk of its elements, and once there were
//!              updates those of its two moments
//! ```
//!
//! Chunks have a fixed size, so that a large embedding is hashed by all threads, and the result depends on none of
//! them. Before the first update moments are zero and are left out: the digest of a base is that of the training that
//! begins with it.

use super::Trainer;
use crate::model::Model;
use rayon::prelude::*;
use std::fmt;
use std::str::FromStr;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// Elements that one thread hashes at once: 4 MiB.
const CHUNK_ELEMENTS: usize = 1 << 20;

/// The digest of a whole state; as text, 32 lower-case hexadecimal digits.
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

/// The digest of a training that begins with `model`.
pub fn of_base(model: &Model) -> Digest {
    of(model, 0, |_| [&[], &[]])
}

/// The digest of a model's configuration, to compare between programs of one version.
pub fn of_configuration(model: &Model) -> Digest {
    Digest(xxh3_128(format!("{:?}", model.config()).as_bytes()))
}

impl Trainer {
    /// The digest of the whole state.
    pub fn digest(&self) -> Digest {
        of(&self.model, self.updates, |p| {
            if self.updates == 0 { [&[], &[]] } else { [&self.m[p], &self.v[p]] }
        })
    }
}

fn of<'a>(model: &Model, updates: u64, moments: impl Fn(usize) -> [&'a [f32]; 2] + Sync) -> Digest {
    let parameters = model.parameters();
    let ids: Vec<_> = parameters.ids().collect();
    let chunks: Vec<[Vec<u128>; 3]> = ids
        .into_par_iter()
        .map(|p| {
            let [m, v] = moments(p.0);
            [parameters.read(p, of_chunks), of_chunks(m), of_chunks(v)]
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
    use crate::train::fixture::{flip, trainer};

    #[test]
    fn a_digest_is_read_as_it_is_written() {
        let digest = Digest(0x00ff);
        assert_eq!(digest.to_string(), format!("{}ff", "0".repeat(30)));
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("no digest".parse::<Digest>().is_err());
    }

    #[test]
    fn a_training_begins_with_the_digest_of_its_base() {
        let trainer = trainer();
        assert_eq!(trainer.digest(), of_base(trainer.model()));
    }

    #[test]
    fn one_bit_anywhere_makes_another_digest() {
        let mut trainer = trainer();
        trainer.updates = 1;
        let mut seen = vec![trainer.digest()];
        let last = trainer.m.len() - 1;
        for change in [
            |t: &mut Trainer, p: usize| {
                t.model.parameters_mut().write(crate::ops::ParamId(p), |w| flip(&mut w[1]));
            },
            |t: &mut Trainer, p: usize| flip(&mut t.m[p][1]),
            |t: &mut Trainer, p: usize| flip(&mut t.v[p][1]),
            |t: &mut Trainer, _| t.updates += 1,
        ] {
            for p in [0, last] {
                change(&mut trainer, p);
                let digest = trainer.digest();
                assert!(!seen.contains(&digest));
                seen.push(digest);
            }
        }
    }
}

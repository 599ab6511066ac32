//! What a training state is known by. Replicas are equal bit by bit or not at all, so one number tells them apart.
//!
//! ```text
//! xxh3-128 of: updates, then for every parameter the xxh3-128 of its elements, and once there were updates
//!              those of its two moments
//! ```
//!
//! Before the first update moments are zero and are left out: the digest of a base is that of the training that begins
//! with it.

use super::Trainer;
use crate::model::Model;
use rayon::prelude::*;
use xxhash_rust::xxh3::{Xxh3Default, xxh3_128};

/// The digest of a training that begins with `model`, in lower-case hex.
pub fn of_base(model: &Model) -> String {
    digest(model, 0, |_| [&[], &[]])
}

impl Trainer {
    /// The digest of the whole state, in lower-case hex.
    pub fn digest(&self) -> String {
        digest(&self.model, self.updates, |p| {
            if self.updates == 0 { [&[], &[]] } else { [&self.m[p], &self.v[p]] }
        })
    }
}

fn digest<'a>(
    model: &Model,
    updates: u64,
    moments: impl Fn(usize) -> [&'a [f32]; 2] + Sync,
) -> String {
    let parameters = model.parameters();
    let ids: Vec<_> = parameters.ids().collect();
    let of = |values: &[f32]| xxh3_128(bytemuck::cast_slice(values));
    let digests: Vec<[u128; 3]> = ids
        .into_par_iter()
        .map(|p| {
            let [m, v] = moments(p.0);
            [parameters.read(p, of), of(m), of(v)]
        })
        .collect();
    let mut all = Xxh3Default::new();
    all.update(&updates.to_le_bytes());
    for digest in digests.iter().flatten() {
        all.update(&digest.to_le_bytes());
    }
    format!("{:032x}", all.digest128())
}

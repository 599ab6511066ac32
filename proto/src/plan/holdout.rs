//! Chooses the held-out samples.
//!
//! The samples with the k smallest content hashes of each source are held out, where k = share x distinct contents,
//! rounded, and at least 1 if there are two or more. A hash serves as a random number that is tied to the content:
//! the choice does not depend on order or file, and hardly changes as the data grows. Samples with equal contents
//! are either all held out or all trained, even if they come from different sources.

use super::{Meta, Source, ranges};

/// The ids of the held-out samples, ascending. `samples` are ordered by source.
pub fn held_out(samples: &[Meta], sources: &[Source]) -> Vec<u32> {
    let mut chosen: Vec<u64> = Vec::new();
    for (range, source) in ranges(sources) {
        if source.holdout > 0.0 {
            let mut hashes: Vec<u64> = samples[range].iter().map(|sample| sample.hash).collect();
            hashes.sort_unstable();
            hashes.dedup();
            hashes.truncate(kept(hashes.len(), source.holdout));
            chosen.append(&mut hashes);
        }
    }
    chosen.sort_unstable();
    chosen.dedup();
    let Some(&last) = chosen.last() else {
        return Vec::new();
    };
    let ids = (0u32..).zip(samples);
    let ids = ids.filter(|(_, sample)| {
        // Most hashes are above the last chosen one and need no search.
        sample.hash <= last && chosen.binary_search(&sample.hash).is_ok()
    });
    ids.map(|(id, _)| id).collect()
}

/// k, for a number of distinct contents. At least one content remains for training.
fn kept(distinct: usize, share: f64) -> usize {
    if distinct < 2 {
        return 0;
    }
    ((share * distinct as f64).round() as usize).clamp(1, distinct - 1)
}

//! Which samples are kept for evaluation.
//!
//! Of each source the k smallest content hashes, k = share x distinct contents, rounded, and at
//! least 1 of two. A hash is as good as a random number that belongs to the content: the choice
//! does not depend on order or file, hardly changes as the data grows, and equal contents fall on
//! one side, those of another source included.

use super::{Meta, Source, ranges};

/// The ids of the samples that a plan holds out, ascending; the samples lie source by source.
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
        // Most are above the last one, and need no search.
        sample.hash <= last && chosen.binary_search(&sample.hash).is_ok()
    });
    ids.map(|(id, _)| id).collect()
}

/// k of so many distinct contents; one always stays to be trained.
fn kept(distinct: usize, share: f64) -> usize {
    if distinct < 2 {
        return 0;
    }
    ((share * distinct as f64).round() as usize).clamp(1, distinct - 1)
}

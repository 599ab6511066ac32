//! The MinHash signature of a record's words.
//!
//! The elements are all runs of three consecutive words. The sketch is that of Dahlgaard, Knudsen
//! and Thorup, Fast Similarity Sketching (FOCS 2017, arXiv:1704.04370): an element falls into a
//! place, as in one-permutation hashing, and places that stay empty are filled by the same elements
//! in further rounds. The estimate is as good as that of 128 hash functions however small the set
//! is, unlike that of densified one-permutation hashing. A large set takes one round: one hash per
//! element.

use proto::prepared::{SIGNATURE, Signature};

use super::words::Word;

/// The number of consecutive words in an element.
const CONSECUTIVE: usize = 3;

/// The signature of a text's words. `content` stands for a text that has none.
pub(super) fn signature(words: &[Word], content: u64) -> Signature {
    let mut elements: Vec<u64> = match words.len() {
        0 => vec![content],
        1..CONSECUTIVE => vec![element(words)],
        _ => words.windows(CONSECUTIVE).map(element).collect(),
    };
    // A text that repeats itself is a small set, in which each element counts once.
    elements.sort_unstable();
    elements.dedup();
    sketch(&elements)
}

/// A hash of words in their order.
pub(super) fn element(words: &[Word]) -> u64 {
    words.iter().fold(words.len() as u64, |hash, word| mix(hash.rotate_left(7) ^ word.hash))
}

fn sketch(elements: &[u64]) -> Signature {
    // The least rank in each place: the round comes first, then the element's hash in that round.
    let mut least = [u64::MAX; SIGNATURE];
    for round in 0..2 * SIGNATURE as u64 {
        for &element in elements {
            let hash = mix(element.wrapping_add(round.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let place = match round.checked_sub(SIGNATURE as u64) {
                None => hash >> (u64::BITS - SIGNATURE.ilog2()),
                // Chance may leave a place empty for long, so from here on each place gets a round.
                Some(place) => place,
            };
            let rank = (round << 56) | (hash & ((1 << 56) - 1));
            let least = &mut least[place as usize];
            *least = rank.min(*least);
        }
        if !least.contains(&u64::MAX) {
            break;
        }
    }
    // Ranks differ long before their last byte, so that byte is as good as a separate hash.
    Signature(least.map(|rank| rank as u8))
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of `x`.
pub(super) fn mix(x: u64) -> u64 {
    let x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ x >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreeing(a: &Signature, b: &Signature) -> u32 {
        a.0.iter().zip(&b.0).filter(|(a, b)| a == b).count() as u32
    }

    /// Two sets of `size` elements, `shared` of which they have in common.
    fn sets(size: u64, shared: u64, seed: u64) -> (Vec<u64>, Vec<u64>) {
        let element = |n: u64| mix(seed << 32 | n);
        let a = (0..size).map(element).collect();
        let b = (size - shared..2 * size - shared).map(element).collect();
        (a, b)
    }

    #[test]
    fn estimate_is_unbiased_and_as_close_as_that_of_128_hash_functions() {
        for (size, shared) in [(3, 2), (9, 8), (20, 15), (100, 89), (400, 200), (2000, 1778)] {
            let exact = shared as f64 / (2 * size - shared) as f64;
            let trials = 400;
            let errors: Vec<f64> = (0..trials)
                .map(|seed| {
                    let (a, b) = sets(size, shared, seed);
                    let agreeing = agreeing(&sketch(&a), &sketch(&b));
                    f64::from(Signature::similarity(agreeing)) - exact
                })
                .collect();
            let mean = errors.iter().sum::<f64>() / trials as f64;
            let deviation = (errors.iter().map(|e| e * e).sum::<f64>() / trials as f64).sqrt();
            // For 128 independent bytes: agreement p = J + (1 - J) / 256.
            let p = exact + (1.0 - exact) / 256.0;
            let expected = (p * (1.0 - p) / 128.0).sqrt();
            println!("{size} elements, J {exact:.3}: off by {mean:+.4} +- {deviation:.4}");
            // The mean of 400 trials is within 4 of its standard deviations.
            assert!(mean.abs() < 4.0 * expected / 20.0, "{size} {exact}: biased by {mean}");
            assert!(deviation < 1.15 * expected, "{size} {exact}: {deviation} > {expected}");
        }
    }

    #[test]
    fn signature_does_not_depend_on_the_order_of_elements() {
        let (a, _) = sets(50, 0, 7);
        let mut reversed = a.clone();
        reversed.reverse();
        assert_eq!(sketch(&a), sketch(&reversed));
    }

    #[test]
    fn signature_of_this_format_version_stays_the_same() {
        // This changes only together with the version of the prepared format.
        let Signature(bytes) = sketch(&[1, 2, 3]);
        assert_eq!(xxhash_rust::xxh3::xxh3_64(&bytes), 3_521_033_494_233_100_648);
    }
}

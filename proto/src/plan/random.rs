//! The random number generator SplitMix64. It is implemented here because plans and initial weights must be the
//! same on every machine and with every version of every dependency.
//!
//! Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators (2014), with Stafford's variant of
//! `mix64` that the Java library and the authors of xoshiro use. It is not cryptographically secure.

/// The odd constant of SplitMix64: its multiples visit every 64-bit number.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The output number `place`, from 0, of the generator that starts with `state`, computed without the outputs
/// before it.
pub fn at(state: u64, place: u64) -> u64 {
    mix(state.wrapping_add(GOLDEN.wrapping_mul(place.wrapping_add(1))))
}

/// A stream of random numbers. Equal keys yield equal streams.
pub(super) struct Random(u64);

impl Random {
    /// The stream for a key, such as a seed and an epoch.
    pub(super) fn new(key: &[u64]) -> Random {
        let state = key.iter().fold(0, |state, &word| mix(mix(word.wrapping_add(GOLDEN)) ^ state));
        Random(state)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        mix(self.0)
    }

    /// A number below `bound`. The distribution is slightly uneven: probabilities differ by less than one in a
    /// million for bounds below 4096, and by less than `bound` in 2^32 in general. That does not matter for
    /// shuffling samples.
    fn below(&mut self, bound: u32) -> u32 {
        (((self.next() >> 32) * u64::from(bound)) >> 32) as u32
    }

    /// Fisher and Yates' shuffle of at most 2^32 items.
    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            let other = self.below(last as u32 + 1) as usize;
            items.swap(last, other);
        }
    }
}

/// A bijection of 64-bit numbers in which every input bit affects every output bit.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_is_splitmix64() {
        // The reference implementation's first outputs for the seed 1234567 (prng.di.unimi.it,
        // splitmix64.c).
        let mut random = Random(1_234_567);
        let expected = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!([(); 5].map(|()| random.next()), expected);
        assert_eq!([0, 1, 2, 3, 4].map(|place| at(1_234_567, place)), expected);
    }

    #[test]
    fn every_order_of_three_is_about_as_likely() {
        let mut random = Random::new(&[7]);
        let mut seen = std::collections::BTreeMap::new();
        for _ in 0..60_000 {
            let mut items = [0, 1, 2];
            random.shuffle(&mut items);
            *seen.entry(items).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 6);
        // Expected are 10,000 each; five standard deviations of the binomial distribution are 456.
        assert!(seen.values().all(|&n| (9_500..10_500).contains(&n)), "{seen:?}");
    }
}

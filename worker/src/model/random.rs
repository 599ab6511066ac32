//! Counter-based random numbers: the n-th number of a stream does not depend on whether the others are drawn.
//!
//! Initial weights are therefore the same for any number of threads, and a parameter keeps its values when another
//! one is added.

use proto::plan::random;

/// A stream of SplitMix64 numbers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stream(u64);

impl Stream {
    /// The stream identified by `seed` and `name`.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        Self(random::mix(seed ^ xxhash_rust::xxh3::xxh3_64(name.as_bytes())))
    }

    /// The number at `place`, uniform in [0, 1).
    pub(super) fn uniform(self, place: u64) -> f64 {
        // 53 bits are the most that an f64 below 1 can distinguish.
        (self.bits(place) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The number at `place`, normal with mean 0 and standard deviation 1 (the first of a Box-Muller pair).
    pub(super) fn normal(self, place: u64) -> f64 {
        // One minus a number below 1 is never 0, whose logarithm is infinite. The functions are computed in software,
        // since the host's math library may round differently.
        let radius = (-2.0 * libm::log(1.0 - self.uniform(2 * place))).sqrt();
        radius * libm::cos(std::f64::consts::TAU * self.uniform(2 * place + 1))
    }

    fn bits(self, place: u64) -> u64 {
        random::at(self.0, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_same_bits_on_every_host() {
        let stream = Stream::new(7, "golden");
        let bits: Vec<_> = (0..4).map(|place| stream.normal(place).to_bits()).collect();
        let golden: [u64; 4] = [
            0xbfef_eebf_7b0b_614c,
            0x4000_e654_5bc0_2597,
            0xc001_3abe_def8_1baa,
            0xbfe6_06e4_df43_b766,
        ];
        assert_eq!(bits, golden);
    }

    #[test]
    fn normal_numbers_have_the_normal_moments() {
        let stream = Stream::new(7, "moments");
        let n = 100_000;
        let mean_of = |power: i32| {
            (0..n).map(|place| stream.normal(place).powi(power)).sum::<f64>() / n as f64
        };
        // Five standard errors of each mean: sqrt(1/n), sqrt(2/n), sqrt(96/n).
        assert!(mean_of(1).abs() < 0.016);
        assert!((mean_of(2) - 1.0).abs() < 0.023);
        assert!((mean_of(4) - 3.0).abs() < 0.155);
    }
}

//! Numbers drawn by place rather than in turn: the n-th number of a stream does not depend on who
//! draws the others.
//!
//! So fresh weights are the same whatever the threads, and a parameter keeps its values when
//! another one is added.

/// The odd constant of SplitMix64: its multiples visit every 64-bit number.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A stream of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators",
/// 2014).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Stream(u64);

impl Stream {
    /// The stream that `seed` and `name` stand for.
    pub(super) fn new(seed: u64, name: &str) -> Self {
        Self(mix(seed ^ xxhash_rust::xxh3::xxh3_64(name.as_bytes())))
    }

    /// The number at `place`, uniform in [0, 1).
    pub(super) fn uniform(self, place: u64) -> f64 {
        // 53 bits, the most that an f64 can tell apart below 1.
        (self.bits(place) >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// The number at `place`, normal with mean 0 and deviation 1 (Box and Muller, one of the pair).
    pub(super) fn normal(self, place: u64) -> f64 {
        // One minus a number below 1 is never 0, whose logarithm is no number.
        let radius = (-2.0 * (1.0 - self.uniform(2 * place)).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform(2 * place + 1)).cos()
    }

    fn bits(self, place: u64) -> u64 {
        mix(self.0.wrapping_add(GOLDEN.wrapping_mul(place.wrapping_add(1))))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stream_is_splitmix64() {
        // The first outputs for state 1234567 in the reference implementation,
        // prng.di.unimi.it/splitmix64.c.
        let stream = Stream(1234567);
        let outputs = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        assert_eq!([0, 1, 2].map(|place| stream.bits(place)), outputs);
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

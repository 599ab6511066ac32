//! A digest of the samples that were trained on, for comparison with the plan.

use serde::{Deserialize, Serialize};

use super::random::mix;

/// The number of samples that were trained on, and a digest of which, independent of their order and of the ranks.
///
/// Each (epoch, sample) adds a well-mixed 64-bit number. Two different sets have equal counts and sums only with a
/// probability of 2^-64. A sample that is used twice is added twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumed {
    /// Samples, each counted as often as it was used.
    pub samples: u64,
    /// Sum of the mixed numbers, modulo 2^64.
    pub digest: u64,
}

impl Consumed {
    /// Adds a sample of an epoch.
    pub fn add(&mut self, epoch: u32, sample: u32) {
        self.samples += 1;
        // `mix(0)` is 0. Without the added 1, epoch 0's sample 0 would not change the digest.
        let key = (u64::from(epoch) << 32 | u64::from(sample)).wrapping_add(1);
        self.digest = self.digest.wrapping_add(mix(key));
    }

    /// Adds all samples of an epoch's pack.
    pub fn add_all(&mut self, epoch: u32, samples: &[u32]) {
        samples.iter().for_each(|&sample| self.add(epoch, sample));
    }

    /// Adds the samples of another rank or another step.
    pub fn merge(&mut self, other: Consumed) {
        self.samples += other.samples;
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_rank_do_not_matter_but_epoch_and_count_do() {
        let of = |epoch, samples: &[u32]| {
            let mut consumed = Consumed::default();
            consumed.add_all(epoch, samples);
            consumed
        };
        let mut parts = of(0, &[5, 1]);
        parts.merge(of(0, &[9]));
        assert_eq!(parts, of(0, &[9, 5, 1]));
        assert_ne!(of(0, &[5]), of(1, &[5]));
        assert_ne!(of(0, &[5]), of(0, &[5, 5]));
        assert_ne!(of(0, &[0]).digest, 0);
    }
}

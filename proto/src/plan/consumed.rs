//! A fingerprint of what was trained on, to be compared with what was planned.

use serde::{Deserialize, Serialize};

use super::random::mix;

/// How many samples were trained on, and which, whatever their order and whoever trained them.
///
/// Each (epoch, sample) adds a well-mixed 64-bit number, so two sets with equal counts and sums are
/// the same set but for a chance of 2^-64; a sample that is seen twice adds twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Consumed {
    /// Samples, each as often as it was seen.
    pub samples: u64,
    /// Sum of the mixed numbers, modulo 2^64.
    pub digest: u64,
}

impl Consumed {
    /// Adds a sample of an epoch.
    pub fn add(&mut self, epoch: u32, sample: u32) {
        self.samples += 1;
        // The added constant keeps (0, 0), which mixes to 0, from going unseen.
        let key = (u64::from(epoch) << 32 | u64::from(sample)).wrapping_add(1);
        self.digest = self.digest.wrapping_add(mix(key));
    }

    /// Adds all samples of an epoch's pack.
    pub fn add_all(&mut self, epoch: u32, samples: &[u32]) {
        samples.iter().for_each(|&sample| self.add(epoch, sample));
    }

    /// Adds what another rank, or another step, trained on.
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

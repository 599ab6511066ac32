//! Seeded randomness for uids, generated names and tokens.

/// Letters and digits of generated names: no vowels and no look-alikes, as `k8s.io/apimachinery/pkg/util/rand` has.
const NAME_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A splitmix64 generator (G. Steele et al., "Fast splittable pseudorandom number generators").
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A version 4 UUID.
    pub(crate) fn uuid(&mut self) -> String {
        let (high, low) = (self.next(), self.next());
        let (time, node) = (high >> 32, low & 0xffff_ffff_ffff);
        let (middle, version) = (high >> 16 & 0xffff, (high & 0x0fff) | 0x4000);
        let variant = (low >> 48 & 0x3fff) | 0x8000;
        format!("{time:08x}-{middle:04x}-{version:04x}-{variant:04x}-{node:012x}")
    }

    /// The random end of a generated name.
    pub(crate) fn suffix(&mut self, length: usize) -> String {
        let letter = |_| {
            let index = usize::try_from(self.next() % NAME_ALPHABET.len() as u64).unwrap_or(0);
            char::from(NAME_ALPHABET[index])
        };
        (0..length).map(letter).collect()
    }
}

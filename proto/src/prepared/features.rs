//! Features of a record for the quality checks, which compare it with millions of others without reading its text.
//!
//! They are computed from the text before the chat template is applied, and stored with the samples. They do not
//! depend on the settings of the checks, so that prepared data can be reused when these settings change.

/// The length of a [`Signature`] in bytes.
pub const SIGNATURE: usize = 128;

/// Features of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Hash of the whole content as it is written. Exact duplicates have equal hashes.
    pub content: u64,
    /// Hashes of question and answer, or `None` for plain text.
    pub exchange: Option<Exchange>,
    /// Flaws of its last answer.
    pub flaws: Flaws,
    /// Signature of its words. Near duplicates have similar signatures.
    pub signature: Signature,
}

/// Hashes of a record's last answer and of everything before it, ignoring case, white space and punctuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Hash of the system message and the tools.
    pub setting: u64,
    /// Hash of the messages before the answer, without the setting.
    pub instruction: u64,
    /// Hash of the answer.
    pub answer: u64,
}

/// Flaws of an answer that can be seen without comparing it to others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// The answer repeats itself until the end.
    pub looping: bool,
    /// The answer stops in the middle.
    pub incomplete: bool,
}

impl Flaws {
    const LOOPING: u8 = 1;
    const INCOMPLETE: u8 = 2;

    pub(super) fn to_bits(self) -> u8 {
        u8::from(self.looping) * Self::LOOPING + u8::from(self.incomplete) * Self::INCOMPLETE
    }

    /// The inverse of [`to_bits`](Self::to_bits). Returns `None` if unknown bits are set.
    pub(super) fn from_bits(bits: u8) -> Option<Flaws> {
        let flaws =
            Flaws { looping: bits & Self::LOOPING != 0, incomplete: bits & Self::INCOMPLETE != 0 };
        (flaws.to_bits() == bits).then_some(flaws)
    }
}

/// A MinHash signature of a set, with one byte of each of 128 hashes. A place of the signatures of two sets with
/// Jaccard similarity J agrees with probability J + (1 - J) / 256.
///
/// Source: Li and König, b-Bit Minwise Hashing (WWW 2010). At J = 0.8, the standard deviation of the estimate is
/// 0.036, the same as with 128 complete hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE]);

impl Signature {
    /// The estimated Jaccard similarity of two sets whose signatures agree in `agreeing` places.
    pub fn similarity(agreeing: u32) -> f32 {
        let chance = 1.0 / 256.0;
        let share = agreeing as f32 / SIGNATURE as f32;
        ((share - chance) / (1.0 - chance)).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_flaws_are_refused() {
        for bits in 0..=u8::MAX {
            assert_eq!(Flaws::from_bits(bits).map(Flaws::to_bits), (bits < 4).then_some(bits));
        }
    }

    #[test]
    fn the_estimate_corrects_for_agreement_by_chance() {
        assert_eq!(Signature::similarity(128), 1.0);
        assert_eq!(Signature::similarity(0), 0.0);
        // The signatures of unrelated sets agree in half a place of 128 on average.
        assert!(Signature::similarity(1) < 0.005);
    }
}

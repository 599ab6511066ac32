//! What the quality checks know of a record: enough to compare it with millions of others without
//! its text.
//!
//! Computed where the text is at hand, before the chat template, and stored beside the samples. No
//! check's setting decides about them, so a run that changes its mind about a check finds its data
//! prepared.

/// The length of a [`Signature`].
pub const SIGNATURE: usize = 128;

/// What is known of one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Features {
    /// Of the whole content, as it is written: what an exact duplicate shares.
    pub content: u64,
    /// Question and answer; none for a text, which asks nothing.
    pub exchange: Option<Exchange>,
    /// What is wrong with its last answer.
    pub flaws: Flaws,
    /// Of its words: what a near duplicate mostly shares.
    pub signature: Signature,
}

/// Hashes of a record's last answer and of all that comes before it, whatever their case, white
/// space and punctuation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// What frames the question: system message and tools.
    pub setting: u64,
    /// What is said before the answer, without the setting.
    pub instruction: u64,
    /// The answer.
    pub answer: u64,
}

/// What is wrong with an answer by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flaws {
    /// It repeats itself to the end.
    pub looping: bool,
    /// It stops in the middle.
    pub incomplete: bool,
}

impl Flaws {
    const LOOPING: u8 = 1;
    const INCOMPLETE: u8 = 2;

    pub(super) fn to_bits(self) -> u8 {
        u8::from(self.looping) * Self::LOOPING + u8::from(self.incomplete) * Self::INCOMPLETE
    }

    /// The inverse of [`to_bits`](Self::to_bits); none for bits without a meaning.
    pub(super) fn from_bits(bits: u8) -> Option<Flaws> {
        let flaws =
            Flaws { looping: bits & Self::LOOPING != 0, incomplete: bits & Self::INCOMPLETE != 0 };
        (flaws.to_bits() == bits).then_some(flaws)
    }
}

/// A MinHash of a set, cut to a byte a place: two sets of Jaccard similarity J agree in a place
/// with probability J + (1 - J) / 256.
///
/// Li and König, b-Bit Minwise Hashing (WWW 2010): at J = 0.8 the estimate's standard deviation is
/// 0.036, as that of 128 whole hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature(pub [u8; SIGNATURE]);

impl Signature {
    /// The Jaccard similarity of two sets whose signatures agree in so many places.
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
    fn unknown_flaws_are_none() {
        for bits in 0..=u8::MAX {
            assert_eq!(Flaws::from_bits(bits).map(Flaws::to_bits), (bits < 4).then_some(bits));
        }
    }

    #[test]
    fn estimate_takes_chance_agreement_out() {
        assert_eq!(Signature::similarity(128), 1.0);
        assert_eq!(Signature::similarity(0), 0.0);
        // Of unrelated sets, half a place in 128 agrees.
        assert!(Signature::similarity(1) < 0.005);
    }
}

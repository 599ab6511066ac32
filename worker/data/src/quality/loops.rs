//! Answers that repeat themselves to the end, as a model does that found no way out.

use super::words::Word;

/// How often a block of words stands at the end, at least.
const REPEATS: usize = 4;
/// How many words that takes, at least.
const WORDS: usize = 40;

/// Whether the words end in a block that is repeated; its last copy may be cut.
///
/// A block without a letter is none: rules and tables of zeros are meant.
pub(super) fn is_looping(words: &[Word]) -> bool {
    (1..=words.len() / REPEATS).any(|block| {
        let tail = WORDS.max(REPEATS * block);
        let Some(start) = words.len().checked_sub(tail) else {
            return false;
        };
        let tail = &words[start..];
        // From the end: there most blocks fail at once.
        let pairs = tail.iter().rev().zip(tail.iter().rev().skip(block));
        pairs.into_iter().all(|(word, before)| word == before)
            && tail[tail.len() - block..].iter().any(|word| word.has_letter)
    })
}

#[cfg(test)]
mod tests {
    use super::super::words::words;
    use super::*;

    fn loops(text: &str) -> bool {
        let mut out = Vec::new();
        words(text, &mut out);
        is_looping(&out)
    }

    #[test]
    fn a_block_repeated_to_the_end_is_a_loop_even_if_its_last_copy_is_cut() {
        let sentence = "I am sorry, but I cannot answer this question. ";
        assert!(loops(&format!("Well. {}", sentence.repeat(6))));
        assert!(loops(&format!("Well. {}I am sorry, but I", sentence.repeat(6))));
        assert!(loops(&"very ".repeat(60)));
        assert!(loops(&"我不知道。".repeat(12)));
    }

    #[test]
    fn what_goes_on_ends_otherwise_or_is_short_is_no_loop() {
        let sentence = "I am sorry, but I cannot answer this question. ";
        assert!(!loops(&format!("{}But I can help.", sentence.repeat(9))));
        assert!(!loops(&sentence.repeat(3)));
        assert!(!loops("Ha ha ha ha ha ha ha ha!"));
        let table: String = (0..40).map(|n| format!("| row {n} | yes | no |\n")).collect();
        assert!(!loops(&table));
    }

    #[test]
    fn rules_and_zeros_are_no_loops() {
        assert!(!loops(&format!("The end\n{}", "-".repeat(80))));
        assert!(!loops(&"0, ".repeat(100)));
    }
}

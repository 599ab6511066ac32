//! Finds answers that repeat themselves to the end, as a model does when it finds no way out.

use super::words::Word;

/// The fewest copies of a block of words at the end.
const REPEATS: usize = 4;
/// The fewest words in all copies together.
const WORDS: usize = 40;

/// Whether the words end in a repeated block, the last copy of which may be cut.
///
/// A block without a letter does not count, because rules and tables of zeros are intended.
pub(super) fn is_looping(words: &[Word]) -> bool {
    (1..=words.len() / REPEATS).any(|block| {
        let tail = WORDS.max(REPEATS * block);
        let Some(start) = words.len().checked_sub(tail) else {
            return false;
        };
        let tail = &words[start..];
        // Compared from the end, where most blocks fail at once.
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
    fn a_repetition_that_ends_varies_or_is_short_is_not_a_loop() {
        let sentence = "I am sorry, but I cannot answer this question. ";
        assert!(!loops(&format!("{}But I can help.", sentence.repeat(9))));
        assert!(!loops(&sentence.repeat(3)));
        assert!(!loops("Ha ha ha ha ha ha ha ha!"));
        let table: String = (0..40).map(|n| format!("| row {n} | yes | no |\n")).collect();
        assert!(!loops(&table));
    }

    #[test]
    fn rules_and_zeros_are_not_loops() {
        assert!(!loops(&format!("The end\n{}", "-".repeat(80))));
        assert!(!loops(&"0, ".repeat(100)));
    }
}

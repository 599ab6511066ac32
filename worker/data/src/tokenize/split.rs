//! Cuts text into words, which merges never cross. The known regexes are scanners here.
//!
//! Byte-level tokenizers use only a few regexes, and each of these matches any text without gaps.
//! So each is a function from where a word starts to where it ends. Backtracking is rewritten as
//! the equivalent lookahead; the tests compare each scanner with its regex.

mod cl100k;
mod gpt2;
mod o200k;
mod space;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::classes::Text;

/// A way of cutting text into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Splitter {
    /// Separates numbers from everything else: each digit by itself, or runs of digits.
    Digits {
        /// Whether each digit is a word by itself.
        individual: bool,
    },
    /// GPT-2 and most tokenizers before 2023; also `ByteLevel` with `use_regex`.
    Gpt2,
    /// GPT-4 and similar tokenizers: Llama 3, Qwen.
    Cl100k {
        /// The most digits in a word.
        digits: usize,
        /// Whether combining marks belong to words.
        marks: bool,
    },
    /// GPT-4o and similar tokenizers: Mistral's Tekken.
    O200k {
        /// The most digits in a word.
        digits: usize,
        /// Whether `'s` and the like belong to the word before.
        contractions: bool,
    },
}

/// The regexes as they are written in files, each with its scanner.
pub(super) const REGEXES: [(&str, Splitter); 6] = [
    (r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+", Splitter::Gpt2),
    (
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        Splitter::Cl100k { digits: 3, marks: false },
    ),
    (
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        Splitter::Cl100k { digits: 1, marks: false },
    ),
    (
        concat!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}|",
            r" ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        Splitter::Cl100k { digits: 1, marks: true },
    ),
    (
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|",
            r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        Splitter::O200k { digits: 3, contractions: true },
    ),
    (
        concat!(
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|",
            r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|",
            r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        ),
        Splitter::O200k { digits: 1, contractions: false },
    ),
];

impl Splitter {
    /// The scanner for a regex, if the regex is known.
    pub(super) fn of_regex(regex: &str) -> Option<Splitter> {
        let known = REGEXES.iter().find(|(known, _)| *known == regex)?;
        Some(known.1)
    }

    /// The end of the word that starts at `at`, which is before the text's end.
    #[inline]
    fn end(self, text: Text<'_>, at: usize) -> usize {
        match self {
            Splitter::Digits { individual } => digits(text, at, individual),
            Splitter::Gpt2 => gpt2::end(text, at),
            Splitter::Cl100k { digits, marks } => cl100k::end(text, at, digits, marks),
            Splitter::O200k { digits, contractions } => o200k::end(text, at, digits, contractions),
        }
    }
}

/// Passes the words of `text[range]`, cut by one splitter after another, to `each` until it returns
/// none.
pub(super) fn words<F>(
    splitters: &[Splitter],
    text: &str,
    range: Range<usize>,
    each: &mut F,
) -> Option<()>
where
    F: FnMut(Range<usize>) -> Option<()>,
{
    let Some((first, rest)) = splitters.split_first() else {
        return each(range);
    };
    // No scanner looks at what precedes a word, so only what follows the range must be cut off.
    let classed = Text::new(&text[..range.end]);
    let mut at = range.start;
    while at < range.end {
        let end = first.end(classed, at);
        words(rest, text, at..end, each)?;
        at = end;
    }
    Some(())
}

/// Cuts as `tokenizers` does: by the standard library's definition of numbers, not by a regex's.
fn digits(text: Text<'_>, at: usize, individual: bool) -> usize {
    let mut chars = text.from(at).char_indices();
    let is_number = chars.next().is_some_and(|(_, c)| c.is_numeric());
    let ends = |&(_, c): &(usize, char)| (individual && is_number) || c.is_numeric() != is_number;
    chars.find(ends).map_or(text.len(), |(index, _)| at + index)
}

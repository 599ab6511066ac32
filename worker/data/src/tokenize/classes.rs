//! The classes of characters that the regexes of pre-tokenizers use, as one table.
//!
//! The table is filled from `regex-syntax`, which also defines Unicode classes for those regexes.
//! So a scanner and the regex that it replaces agree, whatever the version of Unicode.

use std::sync::LazyLock;

use regex_syntax::hir::{Class, HirKind};

/// `\p{L}`.
pub(super) const LETTER: u8 = 1 << 0;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 1 << 1;
/// `\s`.
pub(super) const SPACE: u8 = 1 << 2;
/// `[\r\n]`.
pub(super) const NEWLINE: u8 = 1 << 3;
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`: what a capitalized word starts with, in any script.
pub(super) const UPPER: u8 = 1 << 4;
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`: what a word continues with, in any script.
pub(super) const LOWER: u8 = 1 << 5;
/// `\w`.
pub(super) const WORD: u8 = 1 << 6;

/// `[\p{L}\p{M}]`.
pub(super) const LETTER_OR_MARK: u8 = UPPER | LOWER;

const CLASSES: [(u8, &str); 7] = [
    (LETTER, r"\p{L}"),
    (NUMBER, r"\p{N}"),
    (SPACE, r"\s"),
    (NEWLINE, r"[\r\n]"),
    (UPPER, r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"),
    (LOWER, r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"),
    (WORD, r"\w"),
];

type Table = [u8; char::MAX as usize + 1];

/// Indexed by code point. Planes without characters are never written to, so they cost no memory.
static TABLE: LazyLock<Box<Table>> = LazyLock::new(|| {
    let mut table: Box<Table> =
        vec![0; size_of::<Table>()].try_into().expect("the length is the array's");
    for (class, regex) in CLASSES {
        let hir = regex_syntax::parse(regex).expect("the classes above are valid");
        let HirKind::Class(Class::Unicode(set)) = hir.kind() else {
            unreachable!("each regex above is a class of characters");
        };
        for range in set.ranges() {
            for entry in &mut table[range.start() as usize..=range.end() as usize] {
                *entry |= class;
            }
        }
    }
    table
});

/// The classes of a character, one bit each.
pub(super) fn classes(c: char) -> u8 {
    TABLE[c as usize]
}

/// A text, seen as the classes of its characters; positions are bytes.
#[derive(Clone, Copy)]
pub(super) struct Text<'a> {
    text: &'a str,
    table: &'static Table,
}

impl<'a> Text<'a> {
    pub(super) fn new(text: &'a str) -> Text<'a> {
        Text { text, table: &TABLE }
    }

    pub(super) fn len(self) -> usize {
        self.text.len()
    }

    /// The text from a position on.
    pub(super) fn from(self, at: usize) -> &'a str {
        &self.text[at..]
    }

    /// The byte at a position; none at the end.
    pub(super) fn byte(self, at: usize) -> Option<u8> {
        self.text.as_bytes().get(at).copied()
    }

    /// The classes of the character at a position, and where it ends; none at the end.
    #[inline]
    pub(super) fn class(self, at: usize) -> Option<(u8, usize)> {
        let byte = self.byte(at)?;
        if byte.is_ascii() {
            return Some((self.table[usize::from(byte)], at + 1));
        }
        let c = self.text[at..].chars().next()?;
        Some((self.table[c as usize], at + c.len_utf8()))
    }

    /// Whether the character at a position is in one of the classes; the end is in none.
    pub(super) fn is(self, at: usize, classes: u8) -> bool {
        self.class(at).is_some_and(|(class, _)| class & classes != 0)
    }

    /// Whether there is a character at a position that is in none of the classes.
    pub(super) fn is_not(self, at: usize, classes: u8) -> bool {
        self.class(at).is_some_and(|(class, _)| class & classes == 0)
    }

    /// Where a run of characters in one of the classes ends.
    #[inline]
    pub(super) fn run(self, at: usize, classes: u8) -> usize {
        self.run_while(at, |class| class & classes != 0)
    }

    /// Where a run of characters in none of the classes ends.
    #[inline]
    pub(super) fn run_outside(self, at: usize, classes: u8) -> usize {
        self.run_while(at, |class| class & classes == 0)
    }

    #[inline]
    fn run_while(self, mut at: usize, goes_on: impl Fn(u8) -> bool) -> usize {
        while let Some((class, next)) = self.class(at) {
            if !goes_on(class) {
                break;
            }
            at = next;
        }
        at
    }
}

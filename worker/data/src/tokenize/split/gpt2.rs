//! `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

use super::space::{contraction, space};
use crate::tokenize::classes::{LETTER, NUMBER, SPACE, Text};

/// The end of the word that starts at `at`.
#[inline]
pub(super) fn end(text: Text<'_>, at: usize) -> usize {
    if let Some(end) = contraction(text, at) {
        return end;
    }
    let word = at + usize::from(text.byte(at) == Some(b' '));
    match text.class(word) {
        Some((class, next)) if class & LETTER != 0 => text.run(next, LETTER),
        Some((class, next)) if class & NUMBER != 0 => text.run(next, NUMBER),
        Some((class, next)) if class & SPACE == 0 => {
            text.run_outside(next, SPACE | LETTER | NUMBER)
        }
        _ => space(text, at),
    }
}

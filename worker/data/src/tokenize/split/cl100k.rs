//! `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|`
//! `\s*[\r\n]+|\s+(?!\S)|\s+`

use super::space::{contraction_in_any_case, lines_or_space, numbers};
use crate::tokenize::classes::{LETTER, LETTER_OR_MARK, NEWLINE, NUMBER, SPACE, Text};

/// The end of the word that starts at `at`. With `marks`, the regex has `\p{M}` beside every
/// `\p{L}` but the first.
#[inline]
pub(super) fn end(text: Text<'_>, at: usize, digits: usize, marks: bool) -> usize {
    if let Some(end) = contraction_in_any_case(text, at) {
        return end;
    }
    let Some((class, next)) = text.class(at) else {
        return at;
    };
    let letters = if marks { LETTER_OR_MARK } else { LETTER };
    // A mark may precede the letters or be the first of them: the word ends at the same place
    // either way.
    if class & letters != 0 {
        return text.run(next, letters);
    }
    if class & (NEWLINE | NUMBER) == 0 && text.is(next, letters) {
        return text.run(next, letters);
    }
    if class & NUMBER != 0 {
        return numbers(text, at, digits);
    }
    let sign = at + usize::from(text.byte(at) == Some(b' '));
    if text.is_not(sign, SPACE | letters | NUMBER) {
        return text.run(text.run_outside(sign, SPACE | letters | NUMBER), NEWLINE);
    }
    lines_or_space(text, at)
}

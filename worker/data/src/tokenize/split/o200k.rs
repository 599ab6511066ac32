//! With `U` for `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]` and `L` for `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`:
//! `[^\r\n\p{L}\p{N}]?U*L+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|`
//! `[^\r\n\p{L}\p{N}]?U+L*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|`
//! `\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`

use super::space::{contraction_in_any_case, lines_or_space, numbers};
use crate::tokenize::classes::{LETTER, LOWER, NEWLINE, NUMBER, SPACE, Text, UPPER, classes};

/// The end of the word that starts at `at`.
#[inline]
pub(super) fn end(text: Text<'_>, at: usize, digits: usize, contractions: bool) -> usize {
    let Some((class, next)) = text.class(at) else {
        return at;
    };
    let prefixed = (class & (NEWLINE | LETTER | NUMBER) == 0).then_some(next);
    let starts = || prefixed.into_iter().chain([at]);
    let word = starts().find_map(|start| ending_low(text, start));
    let word = word.or_else(|| starts().find_map(|start| starting_high(text, start)));
    if let Some(end) = word {
        let contracted = contractions.then(|| contraction_in_any_case(text, end)).flatten();
        return contracted.unwrap_or(end);
    }
    if class & NUMBER != 0 {
        return numbers(text, at, digits);
    }
    let sign = at + usize::from(text.byte(at) == Some(b' '));
    if text.is_not(sign, SPACE | LETTER | NUMBER) {
        let mut end = text.run_outside(sign, SPACE | LETTER | NUMBER);
        while let Some(b'\r' | b'\n' | b'/') = text.byte(end) {
            end += 1;
        }
        return end;
    }
    lines_or_space(text, at)
}

/// `U*L+`: if no `L` follows the run of `U`, the last character of the run that is both is the `L`.
fn ending_low(text: Text<'_>, start: usize) -> Option<usize> {
    let high = text.run(start, UPPER);
    let low = text.run(high, LOWER);
    if low > high {
        return Some(low);
    }
    let run = &text.from(start)[..high - start];
    let mut backwards = run.char_indices().rev();
    let (index, last) = backwards.find(|&(_, c)| classes(c) & LOWER != 0)?;
    Some(start + index + last.len_utf8())
}

/// `U+L*`.
fn starting_high(text: Text<'_>, start: usize) -> Option<usize> {
    let high = text.run(start, UPPER);
    (high > start).then(|| text.run(high, LOWER))
}

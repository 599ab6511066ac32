//! The parts that the regexes have in common: white space, contractions, runs of digits.

use crate::tokenize::classes::{NUMBER, SPACE, Text};

/// `\s+(?!\S)|\s+` at white space: a run of it, without its last character if a word follows.
pub(super) fn space(text: Text<'_>, at: usize) -> usize {
    let end = text.run(at, SPACE);
    if end == text.len() {
        return end;
    }
    let last = text.from(at)[..end - at].char_indices().next_back();
    match last {
        Some((index, _)) if index > 0 => at + index,
        _ => end,
    }
}

/// `\s*[\r\n]+|\s+(?!\S)|\s+` at white space: through the last line end in it, if there is one.
pub(super) fn lines_or_space(text: Text<'_>, at: usize) -> usize {
    let run = &text.from(at)[..text.run(at, SPACE) - at];
    match run.rfind(['\r', '\n']) {
        Some(index) => at + index + 1,
        None => space(text, at),
    }
}

/// `\p{N}{1,max}` at a number.
pub(super) fn numbers(text: Text<'_>, mut at: usize, max: usize) -> usize {
    for _ in 0..max {
        match text.class(at) {
            Some((class, next)) if class & NUMBER != 0 => at = next,
            _ => break,
        }
    }
    at
}

/// `'s|'t|'re|'ve|'m|'ll|'d`.
pub(super) fn contraction(text: Text<'_>, at: usize) -> Option<usize> {
    if text.byte(at)? != b'\'' {
        return None;
    }
    match (text.byte(at + 1)?, text.byte(at + 2)) {
        (b's' | b't' | b'm' | b'd', _) => Some(at + 2),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(at + 3),
        _ => None,
    }
}

/// `(?i:'s|'t|'re|'ve|'m|'ll|'d)`.
pub(super) fn contraction_in_any_case(text: Text<'_>, at: usize) -> Option<usize> {
    if text.byte(at)? != b'\'' {
        return None;
    }
    let next = text.byte(at + 2);
    match (text.byte(at + 1)?, next) {
        (b's' | b'S' | b't' | b'T' | b'm' | b'M' | b'd' | b'D', _) => Some(at + 2),
        (b'r' | b'R' | b'v' | b'V', Some(b'e' | b'E')) => Some(at + 3),
        (b'l' | b'L', Some(b'l' | b'L')) => Some(at + 3),
        // The long s, which is an s in another case.
        _ if text.from(at + 1).starts_with('ſ') => Some(at + 3),
        _ => None,
    }
}

//! Finds where a JSON value ends while its bytes stream by. Brackets are matched and strings are
//! skipped, without recursion. Whether the value is valid JSON is left to the parser.

use memchr::memchr2;

/// The most brackets that may be open; the parser gives up long before.
const DEEPEST: usize = 1 << 20;

/// A value whose end has not been seen yet.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// The brackets that must close, innermost last.
    open: Vec<u8>,
    state: State,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    /// Before the value's first byte.
    #[default]
    Before,
    /// Inside brackets.
    Between,
    /// Inside a string.
    String,
    /// After a backslash in a string.
    Escape,
    /// Inside a number or a word.
    Bare,
}

/// What was found in a chunk of bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The whole chunk belongs to the value, which continues.
    More,
    /// The value ends after this number of bytes.
    End(usize),
    /// The byte after this number of bytes is invalid there, with the reason.
    Bad(usize, String),
}

impl Scan {
    /// Looks at the value's next bytes.
    pub(super) fn see(&mut self, chunk: &[u8]) -> Seen {
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            match self.state {
                State::Escape => self.state = State::String,
                State::String => match memchr2(b'"', b'\\', &chunk[at..]) {
                    None => return Seen::More,
                    Some(skipped) => {
                        at += skipped;
                        if chunk[at] == b'\\' {
                            self.state = State::Escape;
                        } else if self.open.is_empty() {
                            return Seen::End(at + 1);
                        } else {
                            self.state = State::Between;
                        }
                    }
                },
                State::Bare => {
                    if byte.is_ascii_whitespace() || b",]}".contains(&byte) {
                        return Seen::End(at);
                    }
                }
                State::Before | State::Between => {
                    if let Err(reason) = self.step(byte) {
                        return Seen::Bad(at, reason);
                    }
                    if self.state == State::Between && self.open.is_empty() {
                        return Seen::End(at + 1);
                    }
                }
            }
            at += 1;
        }
        Seen::More
    }

    /// Whether the value is complete if nothing follows.
    pub(super) fn may_end(&self) -> bool {
        self.state == State::Bare
    }

    fn step(&mut self, byte: u8) -> Result<(), String> {
        match byte {
            b'"' => self.state = State::String,
            b'[' | b'{' => {
                if self.open.len() == DEEPEST {
                    return Err(format!("more than {DEEPEST} brackets are open"));
                }
                self.open.push(if byte == b'[' { b']' } else { b'}' });
                self.state = State::Between;
            }
            b']' | b'}' => match self.open.pop() {
                Some(expected) if expected == byte => {}
                Some(expected) => {
                    let (expected, found) = (char::from(expected), char::from(byte));
                    return Err(format!("expected `{expected}`, got `{found}`"));
                }
                None => return Err(format!("expected a value before `{}`", char::from(byte))),
            },
            b',' if self.state == State::Before => {
                return Err("expected a value before `,`".into());
            }
            _ if self.state == State::Before => self.state = State::Bare,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in `text` in chunks of `size` bytes, with positions from the start of the
    /// text.
    fn seen(text: &str, size: usize) -> Seen {
        let mut scan = Scan::default();
        let mut before = 0;
        for chunk in text.as_bytes().chunks(size) {
            match scan.see(chunk) {
                Seen::More => before += chunk.len(),
                Seen::End(at) => return Seen::End(before + at),
                Seen::Bad(at, reason) => return Seen::Bad(before + at, reason),
            }
        }
        Seen::More
    }

    #[test]
    fn a_value_ends_where_its_brackets_do_however_it_is_cut() {
        for (value, rest) in [
            (r#"{"a": "]}\"", "b": [1, {"c": "\\"}]}"#, ", 2]"),
            (r#""a\\\"b""#, "]"),
            ("-1.5e3", "]"),
            ("null", " ]"),
            ("[]", "]"),
            ("[{}, [[]]]", ","),
        ] {
            for size in 1..value.len() + rest.len() {
                let text = [value, rest].concat();
                assert_eq!(seen(&text, size), Seen::End(value.len()), "{value} by {size}");
            }
        }
    }

    #[test]
    fn mismatched_brackets_are_found_where_they_are() {
        let bad = |at, reason: &str| Seen::Bad(at, reason.to_owned());
        assert_eq!(seen(r#"{"a": [1}"#, 3), bad(8, "expected `]`, got `}`"));
        assert_eq!(seen("]", 1), bad(0, "expected a value before `]`"));
        assert_eq!(seen(", 1", 3), bad(0, "expected a value before `,`"));
        assert_eq!(seen(r#"{"a": "b"#, 2), Seen::More);
        assert!(matches!(seen(&"[".repeat(DEEPEST + 1), 4096), Seen::Bad(DEEPEST, _)));
    }
}

//! Makes text of a data set safe to show: it may contain terminal control sequences or change the direction of text.

use std::borrow::Cow;

/// Escapes characters that would change the state of a terminal or the direction of the following text. Line breaks,
/// tabs, and the marks and joiners that scripts need are kept.
pub fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => out.extend(c.escape_unicode()),
            false => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// Whether `c` is a control character, or one of Unicode's embeddings, overrides and isolates, which can make a
/// text look like another.
fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_escaped_and_scripts_are_unchanged() {
        for plain in ["a\tb\n", "שלום\u{200f} 👩\u{200d}🚀", "<script>"] {
            assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
        }
        assert_eq!(visible("a\u{1b}[31m\r\u{0}"), "a\\u{1b}[31m\\u{d}\\u{0}");
        assert_eq!(visible("\u{202e}txt.exe\u{9b}"), "\\u{202e}txt.exe\\u{9b}");
    }
}

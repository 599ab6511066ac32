//! What a data set says, safe to show: it is not to be trusted with a terminal, nor with the order of letters.

use std::borrow::Cow;

/// The text, with what would change a terminal's state or the direction of what follows written out. Line breaks,
/// tabs, and the marks and joiners that scripts need stay.
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

/// Control characters, and Unicode's embeddings, overrides and isolates, by which a text can pose as another.
fn is_hidden(c: char) -> bool {
    let turns = matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    turns || (c.is_control() && c != '\n' && c != '\t')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_are_written_out_and_scripts_stay() {
        for plain in ["a\tb\n", "שלום\u{200f} 👩\u{200d}🚀", "<script>"] {
            assert!(matches!(visible(plain), Cow::Borrowed(text) if text == plain));
        }
        assert_eq!(visible("a\u{1b}[31m\r\u{0}"), "a\\u{1b}[31m\\u{d}\\u{0}");
        assert_eq!(visible("\u{202e}txt.exe\u{9b}"), "\\u{202e}txt.exe\\u{9b}");
    }
}

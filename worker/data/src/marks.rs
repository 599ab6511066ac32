//! The tag `{% generation %}`, with which a template marks where the model speaks.
//!
//! minijinja has no such tag. Each marker is rewritten, by the lexer's token spans, into tags that
//! minijinja has:
//!
//! ```text
//! {%- generation -%}       {%- filter __trained %}{% with -%}
//! {%- endgeneration -%}    {%- endwith %}{% endfilter -%}
//! ```
//!
//! Only the identifier is replaced, so white-space control stays as written. `with` gives the scope
//! that the tag has in `transformers`. The filter puts its text between two noncharacters, which
//! are removed after rendering: so a mark survives whatever the template does with the text in
//! between, including captures and macros.

mod known;

use std::ops::Range;

use minijinja::Error;
use minijinja::machinery::{Token, WhitespaceConfig, tokenize};
use minijinja::syntax::SyntaxConfig;
use sha2::{Digest, Sha256};

use super::hex::hex;
use known::Known;

/// The filter that a marked block is passed through.
pub(super) const FILTER: &str = "__trained";

// Unicode reserves these for internal use; text that contains them is refused before it is
// rendered.
const OPEN: char = '\u{fdd0}';
const CLOSE: char = '\u{fdd1}';

/// The filter itself: puts a text between marks.
pub(super) fn mark(text: &str) -> String {
    format!("{OPEN}{text}{CLOSE}")
}

/// Whether a text contains characters that marks are made of.
pub(super) fn has_noncharacters(text: &str) -> bool {
    // The two differ in the last byte only, and their first bytes are rare.
    text.contains("\u{fdd0}") || text.contains("\u{fdd1}")
}

/// The source of a known template with marks added; none if the template is not known.
pub(super) fn put_in(source: &str) -> Option<String> {
    let hash = hex(&Sha256::digest(source.trim().as_bytes()));
    Some(Known::find(&hash)?.apply(source))
}

/// The template with its markers rewritten; none if it has no markers.
///
/// # Errors
/// A template that the lexer does not accept.
pub(super) fn rewrite(source: &str) -> Result<Option<String>, Error> {
    let mut out = String::with_capacity(source.len() + 64);
    let mut copied = 0;
    for range in markers(source)? {
        let name = &source[range.clone()];
        out.push_str(&source[copied..range.start]);
        match name {
            "generation" => out.push_str("filter __trained %}{% with"),
            _ => out.push_str("endwith %}{% endfilter"),
        }
        copied = range.end;
    }
    if copied == 0 {
        return Ok(None);
    }
    out.push_str(&source[copied..]);
    Ok(Some(out))
}

/// The template with its markers removed, for engines that do not know the tag.
///
/// # Errors
/// A template that the lexer does not accept.
pub(super) fn without(source: &str) -> Result<String, Error> {
    let mut out = String::with_capacity(source.len());
    let mut copied = 0;
    for range in markers(source)? {
        out.push_str(&source[copied..range.start]);
        // Another tag takes the marker's place, so that white-space control has the same effect.
        out.push_str(if &source[range.clone()] == "generation" { "if true" } else { "endif" });
        copied = range.end;
    }
    out.push_str(&source[copied..]);
    Ok(out)
}

/// The byte ranges of the words `generation` and `endgeneration` where they are tags of their own.
fn markers(source: &str) -> Result<Vec<Range<usize>>, Error> {
    let syntax = SyntaxConfig;
    let tokens: Vec<_> =
        tokenize(source, false, syntax, WhitespaceConfig::default()).collect::<Result<_, _>>()?;
    let marker = |window: &[(Token<'_>, _)]| match window {
        [
            (Token::BlockStart, _),
            (Token::Ident("generation" | "endgeneration"), span),
            (Token::BlockEnd, _),
        ] => {
            let span: &minijinja::machinery::Span = span;
            Some(span.start_offset as usize..span.end_offset as usize)
        }
        _ => None,
    };
    Ok(tokens.windows(3).filter_map(marker).collect())
}

/// Removes the marks from a rendered text and returns where they were. Of nested marks, the
/// outermost counts.
///
/// None if the template tore marks apart.
pub(super) fn take_out(marked: &str) -> Option<(String, Vec<Range<usize>>)> {
    let mut text = String::with_capacity(marked.len());
    let mut spans = Vec::new();
    let mut open = Vec::new();
    let mut rest = marked;
    while let Some(at) = rest.find([OPEN, CLOSE]) {
        text.push_str(&rest[..at]);
        if rest[at..].starts_with(OPEN) {
            open.push(text.len());
        } else {
            let start = open.pop()?;
            if open.is_empty() {
                spans.push(start..text.len());
            }
        }
        rest = &rest[at + OPEN.len_utf8()..];
    }
    text.push_str(rest);
    open.is_empty().then_some((text, spans))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tags_are_rewritten_and_white_space_control_stays() {
        let source = "{# {% generation %} #}{{ '{% generation %}' }}\
                      {% raw %}{% generation %}{% endraw %}\n\
                      {%- if generation %}{% generation -%} a {%- endgeneration +%}{% endif %}";
        let expected = "{# {% generation %} #}{{ '{% generation %}' }}\
                        {% raw %}{% generation %}{% endraw %}\n\
                        {%- if generation %}{% filter __trained %}{% with -%} a \
                        {%- endwith %}{% endfilter +%}{% endif %}";
        assert_eq!(rewrite(source).expect("valid").as_deref(), Some(expected));
        assert_eq!(rewrite("{{ generation }}").expect("valid"), None);
    }

    #[test]
    fn a_template_without_its_marks_is_plain_jinja() {
        let source =
            "{% raw %}{% generation %}{% endraw %}{%- generation -%} a {%- endgeneration +%}";
        let expected = "{% raw %}{% generation %}{% endraw %}{%- if true -%} a {%- endif +%}";
        assert_eq!(without(source).expect("valid"), expected);
        assert_eq!(without("{{ generation }}").expect("valid"), "{{ generation }}");
    }

    #[test]
    fn marks_come_out_as_byte_ranges_of_the_text() {
        let marked = format!("é{}b{}", mark(&format!("ü{}", mark("x"))), mark(""));
        let (text, spans) = take_out(&marked).expect("balanced");
        assert_eq!((text.as_str(), spans), ("éüxb", vec![2..5, 6..6]));
        assert_eq!(take_out(&mark("x")[..4]), None);
    }
}

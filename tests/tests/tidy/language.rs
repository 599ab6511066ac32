//! Comments are idiomatic English: the worst patterns that crept in before, so that they do not come back.

use super::{assert_none, sources};

/// How a fragment begins that leans on the name below it.
const FRAGMENTS: [&str; 7] = ["Of ", "By ", "So many", "So much", "Likewise", "And ", "Nor "];

/// Words, and what to write instead.
const WORDS: [(&str, &str); 7] = [
    ("whoever", "the caller, any process"),
    ("whosever", "whose"),
    ("likewise", "say it again"),
    ("so many", "N, this number of"),
    ("what there is", "what exists"),
    ("is told", "is notified, is given, reports"),
    ("are told", "are notified, are given, report"),
];

/// The text of a comment line, without its marks.
fn comment(line: &str) -> Option<&str> {
    let text = line.trim_start();
    let text = text.strip_prefix("///").or_else(|| text.strip_prefix("//!"));
    let text = text.or_else(|| line.trim_start().strip_prefix("//"))?;
    Some(text.trim())
}

/// All sources but this file, which lists the patterns.
fn others() -> impl Iterator<Item = super::Source> {
    sources().into_iter().filter(|source| !source.path.ends_with("tidy/language.rs"))
}

#[test]
fn a_comment_begins_with_a_sentence_or_a_noun_phrase() {
    let mut found = Vec::new();
    for source in others() {
        let mut before = None;
        for (number, line) in (1..).zip(source.text.lines()) {
            let text = comment(line);
            let begins = before.is_none() && line.trim_start().starts_with("///");
            if begins && FRAGMENTS.iter().any(|word| text.is_some_and(|t| t.starts_with(word))) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
            before = text;
        }
    }
    assert_none(found, "a summary line stands by itself, without the name below it");
}

#[test]
fn comments_use_words_that_engineers_use() {
    let mut found = Vec::new();
    for source in others() {
        for (number, line) in (1..).zip(source.text.lines()) {
            let Some(text) = comment(line).map(str::to_lowercase) else { continue };
            for (word, instead) in WORDS {
                let whole = text.match_indices(word).any(|(at, _)| {
                    let letter = |c: char| c.is_alphanumeric();
                    !text[..at].ends_with(letter) && !text[at + word.len()..].starts_with(letter)
                });
                if whole {
                    found.push(format!("{}:{number}: `{word}`; better: {instead}", source.path));
                }
            }
        }
    }
    assert_none(found, "plain, idiomatic technical English needs no second reading");
}

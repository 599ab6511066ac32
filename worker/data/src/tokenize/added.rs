//! Added tokens, which are found in a text before it is cut into words, in the same way as in
//! `tokenizers` (`tokenizer/added_vocabulary.rs`).

use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::AddedToken;

use super::Unknown;
use super::classes::{SPACE, WORD, classes};

/// A stretch of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    /// An added token, with the range of text that it takes, white space included.
    Token(u32, Range<usize>),
    /// The text between added tokens.
    Text(Range<usize>),
}

/// The added tokens of a tokenizer. Those that are searched for in normalized text come second:
/// they see only what the others have left.
pub(super) struct Added {
    raw: Pass,
    normalized: Pass,
}

struct Pass {
    search: AhoCorasick,
    tokens: Vec<(u32, AddedToken)>,
}

impl Added {
    /// # Errors
    /// More tokens than a search can hold.
    pub(super) fn new(tokens: Vec<(u32, AddedToken)>) -> Result<Added, Unknown> {
        let (normalized, raw) = tokens.into_iter().partition(|(_, token)| token.normalized);
        Ok(Added { raw: Pass::new(raw)?, normalized: Pass::new(normalized)? })
    }

    /// Cuts a text into segments. If normalization matters, the text must be normalized already.
    pub(super) fn segments(&self, text: &str) -> Vec<Segment> {
        let mut segments = Vec::new();
        self.raw.split(text, 0..text.len(), &mut segments);
        if self.normalized.tokens.is_empty() {
            return segments;
        }
        let mut split = Vec::with_capacity(segments.len());
        for segment in segments {
            match segment {
                Segment::Token(..) => split.push(segment),
                Segment::Text(range) => self.normalized.split(text, range, &mut split),
            }
        }
        split
    }
}

impl Pass {
    fn new(tokens: Vec<(u32, AddedToken)>) -> Result<Pass, Unknown> {
        let patterns = tokens.iter().map(|(_, token)| &token.content);
        let search =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(patterns)?;
        Ok(Pass { search, tokens })
    }

    fn split(&self, text: &str, range: Range<usize>, segments: &mut Vec<Segment>) {
        let (base, text) = (range.start, &text[range]);
        let mut done = 0;
        for found in self.search.find_iter(text) {
            let (id, token) = &self.tokens[found.pattern().as_usize()];
            let (before, after) = (&text[..found.start()], &text[found.end()..]);
            if token.single_word
                && (is_word(before.chars().next_back()) || is_word(after.chars().next()))
            {
                continue;
            }
            let (mut start, mut end) = (found.start(), found.end());
            if token.lstrip {
                // White space that an earlier token took stays with that token.
                start = before.trim_end_matches(is_space).len().max(done);
            }
            if token.rstrip {
                end += after.len() - after.trim_start_matches(is_space).len();
            }
            if done < start {
                segments.push(Segment::Text(base + done..base + start));
            }
            segments.push(Segment::Token(*id, base + start..base + end));
            done = end;
        }
        if done < text.len() {
            segments.push(Segment::Text(base + done..base + text.len()));
        }
    }
}

fn is_word(c: Option<char>) -> bool {
    c.is_some_and(|c| classes(c) & WORD != 0)
}

fn is_space(c: char) -> bool {
    classes(c) & SPACE != 0
}

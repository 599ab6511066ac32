//! A complete byte-level BPE tokenizer: it turns text into ids and offsets.
//!
//! ```text
//! text --added--> tokens | text --split--> words --cache, bpe--> tokens --trim, frame--> Tokens
//! ```
//!
//! It either agrees with `tokenizers` in every id and offset, or returns `None` for a text that it
//! cannot handle, which then goes to `tokenizers`.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use foldhash::fast::RandomState;
use thread_local::ThreadLocal;
use unicode_normalization_alignments::is_nfc;

use super::added::{Added, Segment};
use super::bpe::{Bpe, Piece, Scratch};
use super::parts::Parts;
use super::split::{Splitter, words};
use super::{Tokens, Unknown};

/// The number of words that a thread remembers. Most text consists of far fewer.
const CACHED_WORDS: usize = 1 << 16;
/// The longest word that is remembered, in bytes: longer ones seldom occur again.
const CACHED_BYTES: usize = 64;

/// The encoder, which any number of threads can use.
pub(super) struct ByteLevel {
    added: Added,
    nfc: bool,
    splitters: Vec<Splitter>,
    bpe: Bpe,
    trim_offsets: bool,
    /// The tokens before and after a text when special tokens are requested.
    frame: (Vec<u32>, Vec<u32>),
    caches: ThreadLocal<RefCell<Cache>>,
}

#[derive(Default)]
struct Cache {
    words: HashMap<Box<[u8]>, Box<[Piece]>, RandomState>,
    scratch: Scratch,
}

impl std::fmt::Debug for ByteLevel {
    /// Leaves out the vocabulary, which is too large to read.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("ByteLevel");
        shown.field("nfc", &self.nfc).field("splitters", &self.splitters);
        shown.finish_non_exhaustive()
    }
}

impl ByteLevel {
    /// Reads the tokenizer from its file. The added tokens and the frame are taken from
    /// `reference`, which has loaded the same file.
    ///
    /// # Errors
    /// A tokenizer of an unknown kind.
    pub(super) fn new(json: &[u8], reference: &tokenizers::Tokenizer) -> Result<Self, Unknown> {
        let Parts { nfc, splitters, bpe, trim_offsets } = Parts::read(json)?;
        let added = reference.get_added_tokens_decoder();
        if nfc && !added.values().all(|token| is_nfc(&token.content)) {
            return Err(Unknown::Part("added tokens that normalization changes"));
        }
        Ok(ByteLevel {
            added: Added::new(added.into_iter().collect())?,
            nfc,
            splitters,
            bpe,
            trim_offsets,
            frame: frame(reference)?,
            caches: ThreadLocal::new(),
        })
    }

    /// Encodes a text. None if it cannot be encoded here.
    pub(super) fn encode(&self, text: &str, add_special_tokens: bool) -> Option<Tokens> {
        if self.nfc && !is_composed(text) {
            return None;
        }
        let mut cache = self.caches.get_or_default().borrow_mut();
        // More than most text needs, which has about four bytes per token.
        let mut tokens = Tokens::with_capacity(text.len() / 3 + 8);
        if add_special_tokens {
            tokens.extend_without_place(&self.frame.0);
        }
        for segment in self.added.segments(text) {
            match segment {
                Segment::Token(id, range) => {
                    let range = if self.trim_offsets { trimmed(text, range) } else { range };
                    tokens.push(id, range);
                }
                Segment::Text(range) => {
                    words(&self.splitters, text, range, &mut |word| {
                        self.word(text, word, &mut cache, &mut tokens)
                    })?;
                }
            }
        }
        if add_special_tokens {
            tokens.extend_without_place(&self.frame.1);
        }
        // The ids become part of a sample, which is kept.
        tokens.ids.shrink_to_fit();
        Some(tokens)
    }

    #[inline]
    fn word(
        &self,
        text: &str,
        word: Range<usize>,
        cache: &mut Cache,
        tokens: &mut Tokens,
    ) -> Option<()> {
        let bytes = &text.as_bytes()[word.clone()];
        if let Some(pieces) = cache.words.get(bytes) {
            self.place(text, word.start, pieces, tokens);
            return Some(());
        }
        let pieces = self.bpe.encode(bytes, &mut cache.scratch)?;
        self.place(text, word.start, &pieces, tokens);
        if bytes.len() <= CACHED_BYTES {
            if cache.words.len() == CACHED_WORDS {
                cache.words.clear();
            }
            cache.words.insert(bytes.into(), pieces.into());
        }
        Some(())
    }

    /// Adds the tokens of a word. A token that has some of a character's bytes covers the whole
    /// character.
    #[inline]
    fn place(&self, text: &str, start: usize, pieces: &[Piece], tokens: &mut Tokens) {
        let mut start = start;
        for piece in pieces {
            let end = start + piece.bytes;
            let mut range = text.floor_char_boundary(start)..text.ceil_char_boundary(end);
            if self.trim_offsets {
                range = without_spaces(&text.as_bytes()[start..end], range);
            }
            tokens.push(piece.id, range);
            start = end;
        }
    }
}

/// Whether normalization form C leaves the text unchanged. Below U+0300, whose first byte is 0xCC,
/// nothing can be composed.
fn is_composed(text: &str) -> bool {
    text.bytes().all(|byte| byte < 0xcc) || is_nfc(text)
}

/// The special tokens before and after a text.
fn frame(reference: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), Unknown> {
    let encoding = reference.encode("a", true).map_err(Unknown::Reference)?;
    let (ids, special) = (encoding.get_ids(), encoding.get_special_tokens_mask());
    let is_own = |&special: &u32| special == 0;
    let first = special.iter().position(is_own).ok_or(Unknown::Part("a frame without a text"))?;
    let last = special.iter().rposition(is_own).unwrap_or(first);
    Ok((ids[..first].to_vec(), ids[last + 1..].to_vec()))
}

/// The offsets of a token without the spaces at its edges. Its bytes are as the vocabulary spells
/// them, where only a space counts as white space.
fn without_spaces(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let is_space = |byte: &&u8| **byte == b' ';
    let leading = bytes.iter().take_while(is_space).count();
    let trailing = bytes.iter().rev().take_while(is_space).count();
    shrunk(range, leading, trailing)
}

/// Like [`without_spaces`], but for an added token, which stands in the text as it is. As in
/// `tokenizers`, characters are counted but bytes are subtracted.
fn trimmed(text: &str, range: Range<usize>) -> Range<usize> {
    let is_space = |c: &char| *c == 'Ġ' || c.is_whitespace();
    let token = &text[range.clone()];
    let leading = token.chars().take_while(is_space).count();
    let trailing = token.chars().rev().take_while(is_space).count();
    shrunk(range, leading, trailing)
}

fn shrunk(range: Range<usize>, leading: usize, trailing: usize) -> Range<usize> {
    let start = (range.start + leading).min(range.end);
    let end = range.end.checked_sub(trailing).map_or(range.end, |end| end.max(start));
    start..end
}

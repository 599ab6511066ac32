//! Reads a text: one document, in pieces of bounded size that are cut between words where
//! possible.

use std::io::Read;

use memchr::memchr_iter;
use proto::receipt::Place;

use super::block::Block;
use super::unpack::Input;
use super::{ReadError, Records};

/// The most bytes in a piece: shorter documents are tokenized as a whole.
const PIECE_BYTES: usize = 1 << 20;
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A document that is being read.
pub(super) struct Text {
    input: Input,
    /// The bytes that were read and are in no piece yet.
    ahead: Vec<u8>,
    line: u64,
    ended: bool,
}

impl Text {
    pub(super) fn new(input: Input) -> Text {
        Text { input, ahead: Vec::new(), line: 1, ended: false }
    }
}

impl Records for Text {
    fn next(&mut self, block: &mut Block) -> Result<bool, ReadError> {
        let missing = (PIECE_BYTES - self.ahead.len()) as u64;
        let is_first = self.line == 1 && self.ahead.is_empty();
        let read = (&mut self.input).take(missing).read_to_end(&mut self.ahead);
        if is_first && self.ahead.starts_with(BYTE_ORDER_MARK) {
            self.ahead.drain(..BYTE_ORDER_MARK.len());
        }
        let broken = match read {
            Ok(_) => None,
            Err(error) => Some(self.input.explain(error)?),
        };
        self.ended = broken.is_some() || self.ahead.len() < PIECE_BYTES - BYTE_ORDER_MARK.len();
        let cut = if self.ended { self.ahead.len() } else { seam(&self.ahead) };
        let piece = &self.ahead[..cut];
        // An object of nothing but white space is not a document; within a document, white space
        // belongs to it.
        let is_all = is_first && self.ended;
        let is_nothing = if is_all { piece.trim_ascii().is_empty() } else { piece.is_empty() };
        if !is_nothing {
            let mark = block.mark();
            block.extend(piece);
            block.push_text(Place::line(self.line), mark..block.mark());
        }
        self.line += memchr_iter(b'\n', piece).count() as u64;
        self.ahead.drain(..cut);
        if let Some(reason) = broken {
            block.push_cut_off(Place::line(self.line), reason);
        }
        Ok(!self.ended)
    }

    fn positions(&self) -> u64 {
        self.line
    }
}

/// The position to cut at: before the last space between two words, because no tokenizer joins the
/// two sides; else after a line end; else between two characters.
fn seam(text: &[u8]) -> usize {
    let word = |byte: u8| byte.is_ascii_alphanumeric();
    let mut triples = text.windows(3);
    let space = triples.rposition(|t| word(t[0]) && t[1] == b' ' && word(t[2]));
    if let Some(at) = space {
        return at + 1;
    }
    let blank = |byte: u8| byte.is_ascii_whitespace();
    let mut triples = text.windows(3);
    let line = triples.rposition(|t| !blank(t[0]) && t[1] == b'\n' && !blank(t[2]));
    if let Some(at) = line {
        return at + 2;
    }
    let start_of_character = |&at: &usize| (text[at] as i8) >= -0x40;
    (1..text.len()).rev().take(4).find(start_of_character).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_words_if_possible() {
        for (text, expected) in [
            ("one two three", "one two"),
            ("one  two\nthree", "one  two\n"),
            ("日本\n語", "日本\n"),
            ("日本語", "日本"),
            ("ab", "a"),
        ] {
            assert_eq!(&text[..seam(text.as_bytes())], expected, "{text}");
        }
    }
}

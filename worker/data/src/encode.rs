//! Turns text and spans into token ids and weights.

use std::collections::HashSet;
use std::ops::Range;

use proto::receipt::Reason;

use super::folder::Folder;
use super::record::Reject;
use super::spans::Marked;
use super::tokenize::{Tokenizer, Tokens};

/// A tokenizer with the special tokens that matter in training.
#[derive(Debug)]
pub(super) struct Encoder {
    tokenizer: Tokenizer,
    bos: Option<u32>,
    eos: Option<u32>,
    stops: Vec<String>,
    opening: Vec<u32>,
    closing: Vec<u32>,
}

/// Tokens with the weight of each as a target.
pub(super) type Encoded = (Vec<u32>, Vec<f32>);

impl Encoder {
    /// Reads the folder's `tokenizer.json`.
    ///
    /// # Errors
    /// Those of the `tokenizers` crate about the file.
    pub(super) fn new(folder: &Folder) -> Result<Encoder, tokenizers::Error> {
        let tokenizer = Tokenizer::new(&folder.tokenizer)?;
        let reference = tokenizer.reference();
        let special = folder.special_tokens();
        let id = |name: &str| {
            let text = special.get(name)?.as_str()?;
            reference.token_to_id(text)
        };
        let (bos, eos) = (id("bos_token"), id("eos_token"));
        let added = reference.get_added_tokens_decoder();
        let mut stops: Vec<String> = added
            .iter()
            .filter(|(id, token)| token.special || Some(**id) == eos)
            .map(|(_, token)| token.content.clone())
            .collect();
        stops.extend(eos.and_then(|eos| reference.id_to_token(eos)));
        stops.sort();
        stops.dedup();
        let (opening, mut closing) = frame(reference)?;
        if closing.last() != eos.as_ref() {
            closing.extend(eos);
        }
        Ok(Encoder { tokenizer, bos, eos, stops, opening, closing })
    }

    /// The tokenizer itself, as the `tokenizers` crate represents it.
    pub(super) fn tokenizer(&self) -> &tokenizers::Tokenizer {
        self.tokenizer.reference()
    }

    /// The token that ends a text, if the folder names one.
    pub(super) fn eos(&self) -> Option<u32> {
        self.eos
    }

    /// The texts of all special tokens, any of which may end an answer.
    pub(super) fn stops(&self) -> &[String] {
        &self.stops
    }

    /// The special tokens that a text may contain, because each is found in a text as one token.
    pub(super) fn special_texts(&self) -> impl Iterator<Item = String> {
        let added = self.tokenizer().get_added_tokens_decoder().into_values();
        let added: HashSet<String> = added.map(|token| token.content).collect();
        self.stops.iter().filter(move |stop| added.contains(*stop)).cloned()
    }

    /// Encodes a rendered conversation, in which the template has already written the special
    /// tokens.
    ///
    /// As in `transformers`, a token is trained if any of its bytes lies in a span: one that
    /// straddles a span's edge is trained whole, with the span's weight.
    ///
    /// # Errors
    /// A doubled BOS token.
    pub(super) fn conversation(&self, marked: &Marked) -> Result<Encoded, Reject> {
        self.conversation_by(&self.tokenizer, marked)
    }

    /// Encodes a rendered conversation with another tokenizer that has the same ids.
    ///
    /// # Errors
    /// A doubled BOS token.
    pub(super) fn conversation_by(
        &self,
        tokenizer: &Tokenizer,
        marked: &Marked,
    ) -> Result<Encoded, Reject> {
        let Tokens { ids, offsets } = encode(tokenizer, &marked.text, false)?;
        self.refuse_doubled_bos(&ids)?;
        let places = Places::new(&offsets);
        let mut weights = vec![0.0; ids.len()];
        for (span, weight) in &marked.spans {
            weights[places.tokens_of(span)].fill(*weight);
        }
        Ok((ids, without_first(weights)))
    }

    /// Encodes a prompt and its completion as one text between the tokenizer's own first and last
    /// tokens. Also returns the text of the token that has bytes of both, if there is one.
    ///
    /// # Errors
    /// A doubled BOS token.
    pub(super) fn completion(
        &self,
        prompt: &str,
        completion: &str,
    ) -> Result<(Encoded, Option<String>), Reject> {
        let text = [prompt, completion].concat();
        let Tokens { ids, offsets } = self.encode(&text, true)?;
        let first = Places::new(&offsets).tokens_of(&(prompt.len()..text.len())).start;
        let shared =
            offsets.get(first).filter(|(start, end)| (start + 1..*end).contains(&prompt.len()));
        let shared = shared.and_then(|(start, end)| text.get(*start..*end)).map(str::to_owned);
        let tokens = self.closed(ids)?;
        let mut weights = vec![0.0; tokens.len()];
        weights[first..].fill(1.0);
        Ok(((tokens, without_first(weights)), shared))
    }

    /// Encodes a text between the tokenizer's own first and last tokens.
    ///
    /// # Errors
    /// A doubled BOS token.
    pub(super) fn text(&self, text: &str) -> Result<Vec<u32>, Reject> {
        self.closed(self.encode(text, true)?.ids)
    }

    /// The tokens before a text's first piece.
    pub(super) fn opening(&self) -> &[u32] {
        &self.opening
    }

    /// The tokens after a text's last piece.
    pub(super) fn closing(&self) -> &[u32] {
        &self.closing
    }

    /// Encodes a piece of a text, without the tokens that surround the whole text.
    ///
    /// # Errors
    /// Those of the tokenizer.
    pub(super) fn piece(&self, text: &str) -> Result<Vec<u32>, Reject> {
        Ok(self.encode(text, false)?.ids)
    }

    /// Adds the end token, unless the tokenizer has already added it.
    fn closed(&self, mut tokens: Vec<u32>) -> Result<Vec<u32>, Reject> {
        self.refuse_doubled_bos(&tokens)?;
        if tokens.last() != self.eos.as_ref() {
            tokens.extend(self.eos);
        }
        Ok(tokens)
    }

    fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Tokens, Reject> {
        encode(&self.tokenizer, text, add_special_tokens)
    }

    /// Refuses a doubled BOS token.
    ///
    /// # Errors
    /// A text that itself begins with the token that the tokenizer puts before it.
    pub(super) fn refuse_doubled_bos(&self, tokens: &[u32]) -> Result<(), Reject> {
        match (self.bos, tokens) {
            (Some(bos), [first, second, ..]) if bos == *first && bos == *second => {
                let bos = self.tokenizer().id_to_token(bos).unwrap_or_default();
                let detail = format!(
                    "starts with `{bos}` twice: the tokenizer adds it, and the text has it already"
                );
                Err(Reject::new(Reason::Malformed, detail))
            }
            _ => Ok(()),
        }
    }
}

fn encode(tokenizer: &Tokenizer, text: &str, add_special_tokens: bool) -> Result<Tokens, Reject> {
    let encoded = tokenizer.encode(text, add_special_tokens);
    encoded.map_err(|error| Reject::new(Reason::Malformed, format!("tokenizer: {error}")))
}

/// The tokens that a tokenizer puts before and after a text.
fn frame(tokenizer: &tokenizers::Tokenizer) -> Result<(Vec<u32>, Vec<u32>), tokenizers::Error> {
    let framed = tokenizer.encode("a", true)?;
    let bare = tokenizer.encode("a", false)?;
    let (framed, bare) = (framed.get_ids(), bare.get_ids());
    let at = framed.windows(bare.len().max(1)).position(|window| window == bare).unwrap_or(0);
    let behind = framed.get(at + bare.len()..).unwrap_or_default();
    Ok((framed[..at].to_vec(), behind.to_vec()))
}

/// The places of tokens in a text, for searches by byte: a long conversation has many spans, and
/// the offsets alone are not sorted, because some tokenizers give white space an empty range.
struct Places {
    /// For each token, the furthest end of all tokens up to it.
    ends: Vec<usize>,
    /// For each token, the earliest start of all tokens from it on; empty ranges do not count.
    starts: Vec<usize>,
}

impl Places {
    fn new(offsets: &[(usize, usize)]) -> Places {
        let mut furthest = 0;
        let mut ends = Vec::with_capacity(offsets.len());
        for &(_, end) in offsets {
            furthest = end.max(furthest);
            ends.push(furthest);
        }
        let mut earliest = usize::MAX;
        let mut starts = vec![earliest; offsets.len()];
        for (place, &(start, end)) in starts.iter_mut().zip(offsets).rev() {
            if start < end {
                earliest = start.min(earliest);
            }
            *place = earliest;
        }
        Places { ends, starts }
    }

    /// The tokens that have a byte in `span`, and all tokens between the first and the last of
    /// these, whatever their offsets.
    fn tokens_of(&self, span: &Range<usize>) -> Range<usize> {
        let first = self.ends.partition_point(|&end| end <= span.start);
        let past_last = self.starts.partition_point(|&start| start < span.end);
        if first < past_last && !span.is_empty() {
            first..past_last
        } else {
            self.ends.len()..self.ends.len()
        }
    }
}

/// Sets the first weight to 0, because nothing predicts a document's first token.
pub(super) fn without_first(mut weights: Vec<f32>) -> Vec<f32> {
    if let Some(first) = weights.first_mut() {
        *first = 0.0;
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn span_has_the_tokens_that_touch_it_whatever_lies_between() {
        // "a b": white space without a range, a character of two tokens, and one token too many.
        let offsets = [(0, 0), (0, 1), (2, 2), (2, 5), (2, 5), (5, 7), (0, 0)];
        let places = Places::new(&offsets);
        for (span, expected) in [
            (0..1, 1..2),
            (0..3, 1..5),
            (1..2, 7..7),
            (3..4, 3..5),
            (4..7, 3..6),
            (0..7, 1..6),
            (2..2, 7..7),
            (7..9, 7..7),
        ] {
            assert_eq!(places.tokens_of(&span), expected, "{span:?}");
        }
    }
}

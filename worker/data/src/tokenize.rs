//! Text -> token ids, each with the bytes that it covers: exactly what the `tokenizers` crate
//! gives, in a fraction of its time for the tokenizers that most models have.
//!
//! ```text
//! tokenizer.json --tokenizers--> the reference
//!                --parts--> ByteLevel, if every part of it is known and it passes the probe
//! text --ByteLevel--> Tokens;  what it does not know --the reference--> Tokens
//! ```
//!
//! Known are byte-level BPE tokenizers with the pre-tokenizers in [`split`]. Speed comes from three
//! things: regexes are scanners, words that were seen before are looked up, and nothing is written
//! down but ids and offsets. Whether it may be used is not taken on trust: each tokenizer is first
//! held against the reference on texts that are hard to cut.

mod added;
mod bpe;
mod byte_level;
mod classes;
mod parts;
mod probe;
mod split;
#[cfg(test)]
mod tests;

use std::ops::Range;

use byte_level::ByteLevel;

/// Texts that a tokenizer is held against the reference on.
const PROBES: usize = 300;

/// A text's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// In order.
    pub(super) ids: Vec<u32>,
    /// The bytes that each covers; `(0, 0)` for those that stand for nothing in the text.
    pub(super) offsets: Vec<(usize, usize)>,
}

impl Tokens {
    fn with_capacity(capacity: usize) -> Tokens {
        Tokens { ids: Vec::with_capacity(capacity), offsets: Vec::with_capacity(capacity) }
    }

    fn push(&mut self, id: u32, range: Range<usize>) {
        self.ids.push(id);
        self.offsets.push((range.start, range.end));
    }

    fn extend_without_place(&mut self, ids: &[u32]) {
        self.ids.extend(ids);
        self.offsets.resize(self.ids.len(), (0, 0));
    }
}

/// Why the reference does the work.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    /// A part of the file is of another kind.
    #[error(transparent)]
    File(#[from] serde_json::Error),
    /// A part of the file is set in a way that is not known.
    #[error("it has {0}")]
    Part(&'static str),
    /// Too many added tokens to look for.
    #[error(transparent)]
    Added(#[from] aho_corasick::BuildError),
    /// The reference cannot be asked.
    #[error(transparent)]
    Reference(tokenizers::Error),
    /// It gave something else on a probe.
    #[error("it differs on {0:?}")]
    Differs(String),
}

/// A tokenizer.
#[derive(Debug)]
pub(super) struct Tokenizer {
    reference: tokenizers::Tokenizer,
    fast: Option<ByteLevel>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Padding and truncation that it asks for are left out.
    ///
    /// # Errors
    /// What the `tokenizers` crate says of the file.
    pub(super) fn new(json: &[u8]) -> Result<Tokenizer, tokenizers::Error> {
        let mut reference = tokenizers::Tokenizer::from_bytes(json)?;
        reference.with_padding(None);
        reference.with_truncation(None)?;
        let fast = match fast(json, &reference) {
            Ok(fast) => Some(fast),
            Err(error) => {
                let reason: &dyn std::error::Error = &error;
                tracing::debug!(reason, "texts go through the tokenizers crate, which is slower");
                None
            }
        };
        Ok(Tokenizer { reference, fast })
    }

    /// The tokenizer as the `tokenizers` crate has it: for decoding, and for what is asked of its
    /// vocabulary.
    pub(super) fn reference(&self) -> &tokenizers::Tokenizer {
        &self.reference
    }

    /// Encodes a text; `add_special_tokens` puts the tokenizer's own first and last tokens around
    /// it.
    ///
    /// # Errors
    /// What the `tokenizers` crate says of the text.
    pub(super) fn encode(
        &self,
        text: &str,
        add_special_tokens: bool,
    ) -> Result<Tokens, tokenizers::Error> {
        let fast = self.fast.as_ref().and_then(|fast| fast.encode(text, add_special_tokens));
        match fast {
            Some(tokens) => Ok(tokens),
            None => encode_by(&self.reference, text, add_special_tokens),
        }
    }
}

fn encode_by(
    reference: &tokenizers::Tokenizer,
    text: &str,
    add_special_tokens: bool,
) -> Result<Tokens, tokenizers::Error> {
    let encoding = reference.encode(text, add_special_tokens)?;
    Ok(Tokens { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
}

/// The fast way, where it is known to be the same.
fn fast(json: &[u8], reference: &tokenizers::Tokenizer) -> Result<ByteLevel, Unknown> {
    let fast = ByteLevel::new(json, reference)?;
    let added = reference.get_added_tokens_decoder();
    let mut added: Vec<String> = added.into_values().map(|token| token.content).collect();
    added.sort();
    // Reserved tokens come by the hundred, and are alike.
    added.truncate(32);
    for (index, text) in probe::texts(0, PROBES, &added).enumerate() {
        let add_special_tokens = index % 2 == 0;
        let expected = encode_by(reference, &text, add_special_tokens);
        let expected = expected.map_err(Unknown::Reference)?;
        if fast.encode(&text, add_special_tokens).is_some_and(|tokens| tokens != expected) {
            return Err(Unknown::Differs(text));
        }
    }
    Ok(fast)
}

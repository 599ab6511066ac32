//! Turns text into token ids, each with the bytes that it covers: exactly what the `tokenizers`
//! crate returns, but in a fraction of the time for the tokenizers that most models have.
//!
//! ```text
//! tokenizer.json --tokenizers--> the reference
//!                --parts--> ByteLevel, if every part of it is known and it passes the probe
//! text --ByteLevel--> Tokens;  what it does not know --the reference--> Tokens
//! ```
//!
//! The known tokenizers are byte-level BPE with the pre-tokenizers in [`split`]. The speed comes
//! from three things: regexes are scanners, words that were seen before are looked up, and only ids
//! and offsets are produced. That the results are the same is not taken on trust: each tokenizer is
//! first compared with the reference on texts that are hard to cut.

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

/// The number of texts on which a tokenizer is compared with the reference.
const PROBES: usize = 300;

/// A text's tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens {
    /// The ids, in order.
    pub(super) ids: Vec<u32>,
    /// The bytes that each token covers; `(0, 0)` for tokens that stand for nothing in the text.
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

/// Why the reference is used.
#[derive(Debug, thiserror::Error)]
enum Unknown {
    /// A part of the file is of an unknown kind.
    #[error(transparent)]
    File(#[from] serde_json::Error),
    /// A part of the file has unknown settings.
    #[error("it has {0}")]
    Part(&'static str),
    /// There are too many added tokens to search for.
    #[error(transparent)]
    Added(#[from] aho_corasick::BuildError),
    /// The reference itself fails.
    #[error(transparent)]
    Reference(tokenizers::Error),
    /// The fast tokenizer and the reference disagree on a probe.
    #[error("it differs on {0:?}")]
    Differs(String),
}

/// The reference tokenizer, with a fast one that is used where it can be.
#[derive(Debug)]
pub(super) struct Tokenizer {
    reference: tokenizers::Tokenizer,
    fast: Option<ByteLevel>,
}

impl Tokenizer {
    /// Reads a `tokenizer.json`. Its settings for padding and truncation are ignored.
    ///
    /// # Errors
    /// Those of the `tokenizers` crate about the file.
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

    /// The tokenizer of the `tokenizers` crate, for decoding and for questions about its
    /// vocabulary.
    pub(super) fn reference(&self) -> &tokenizers::Tokenizer {
        &self.reference
    }

    /// Encodes a text. `add_special_tokens` puts the tokenizer's own first and last tokens around
    /// it.
    ///
    /// # Errors
    /// Those of the `tokenizers` crate about the text.
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

/// The fast tokenizer, if it is known to give the same results as the reference.
fn fast(json: &[u8], reference: &tokenizers::Tokenizer) -> Result<ByteLevel, Unknown> {
    let fast = ByteLevel::new(json, reference)?;
    let added = reference.get_added_tokens_decoder();
    let mut added: Vec<String> = added.into_values().map(|token| token.content).collect();
    added.sort();
    // Reserved tokens come by the hundred and are alike, so a few of them suffice.
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

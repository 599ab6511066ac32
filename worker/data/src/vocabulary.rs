//! Adds the tokens that a base's `tokenizer.json` lacks: those that only its configuration names,
//! and those that a chat template needs. Every other byte of the file stays as it is.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokenizers::{AddedToken, Tokenizer};

/// A token that the base's tokenizer did not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// The token's id: the next free one, unless the vocabulary already has the token's text.
    pub id: u32,
    /// The token's text.
    pub content: String,
    flags: Flags,
}

/// How a token is matched in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flags {
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl From<&AddedToken> for Flags {
    fn from(token: &AddedToken) -> Flags {
        let AddedToken { content: _, single_word, lstrip, rstrip, normalized, special } = *token;
        Flags { single_word, lstrip, rstrip, normalized, special }
    }
}

impl NewToken {
    /// The token's entry in `tokenizer_config.json`, which lists tokens by id.
    pub fn described(&self) -> Value {
        let Flags { single_word, lstrip, rstrip, normalized, special } = self.flags;
        json!({
            "content": self.content, "single_word": single_word, "lstrip": lstrip,
            "rstrip": rstrip, "normalized": normalized, "special": special,
        })
    }
}

/// A tokenizer with the tokens that the base's lacks.
#[derive(Debug)]
pub(super) struct Grown {
    /// The tokens that were added.
    pub(super) tokens: Vec<NewToken>,
    /// The `tokenizer.json` with these tokens.
    pub(super) file: Vec<u8>,
}

impl Grown {
    /// Adds those of the tokenizer's `own` tokens and of the `wanted` special tokens that
    /// `tokenizer`, which was read from `file`, lacks. None if it has them all.
    ///
    /// # Errors
    /// Those of the `tokenizers` crate; a vocabulary with gaps, in which the next id is taken.
    pub(super) fn new(
        file: &[u8],
        tokenizer: &Tokenizer,
        own: Vec<AddedToken>,
        wanted: &[&str],
    ) -> Result<Option<Grown>, tokenizers::Error> {
        let wanted = wanted.iter().map(|token| AddedToken::from(*token, true));
        let tokens = missing(tokenizer, own.into_iter().chain(wanted))?;
        if tokens.is_empty() {
            return Ok(None);
        }
        let file = with_tokens(file, &tokens)?;
        Ok(Some(Grown { tokens, file }))
    }
}

/// The tokens among `wanted` that the tokenizer does not find in a text as one token, with the ids
/// that every program built on the `tokenizers` crate gives them.
///
/// These include a text that is only in the model's vocabulary, with its old id: without an entry
/// as an added token, it would be cut into pieces.
fn missing(
    tokenizer: &Tokenizer,
    wanted: impl Iterator<Item = AddedToken>,
) -> Result<Vec<NewToken>, tokenizers::Error> {
    let known = tokenizer.get_added_tokens_decoder();
    let mut named: HashSet<String> = known.into_values().map(|known| known.content).collect();
    let lacking: Vec<AddedToken> =
        wanted.filter(|token| named.insert(token.content.clone())).collect();
    if lacking.is_empty() {
        return Ok(Vec::new());
    }
    let mut grown = tokenizer.clone();
    grown.add_tokens(lacking.iter().cloned())?;
    let new = lacking.into_iter().map(|token| {
        let (flags, content) = (Flags::from(&token), token.content);
        let id =
            grown.token_to_id(&content).ok_or_else(|| format!("`{content}` cannot be added"))?;
        match tokenizer.id_to_token(id) {
            Some(taken) if taken != content => {
                Err(format!("`{content}` would get the id {id}, which `{taken}` has").into())
            }
            Some(_) | None => Ok(NewToken { id, content, flags }),
        }
    });
    new.collect()
}

/// The file with `tokens` appended to its list of added tokens.
fn with_tokens(file: &[u8], tokens: &[NewToken]) -> Result<Vec<u8>, tokenizers::Error> {
    /// The only part of the file that changes, as a slice of its text.
    #[derive(Deserialize)]
    struct File<'a> {
        #[serde(borrow)]
        added_tokens: &'a RawValue,
    }
    let text = std::str::from_utf8(file)?;
    let list = serde_json::from_str::<File<'_>>(text)?.added_tokens.get();
    let mut added: Vec<Value> = serde_json::from_str(list)?;
    added.extend(tokens.iter().map(|token| {
        let mut entry = token.described();
        entry["id"] = token.id.into();
        entry
    }));
    // A raw value is a slice of the text that it was read from.
    let start = list.as_ptr() as usize - text.as_ptr() as usize;
    let (before, after) = (&text[..start], &text[start + list.len()..]);
    Ok([before, &serde_json::to_string(&added)?, after].concat().into_bytes())
}

//! The texts of special tokens within messages, such as `<|im_end|>` in a question about templates.
//! In a rendered conversation, the tokenizer takes them for the tokens themselves: an answer ends
//! where it should go on, or a user speaks as the assistant.
//!
//! ```text
//! conversation
//!   --hide-->    one character stands for each such text
//!   --render-->  all special tokens in the text are the template's
//!   --plain-->   one character stands for each of those, and the messages' texts are restored
//!   --a tokenizer that knows its special tokens by these characters-->  ids
//! ```
//!
//! This needs no assumption about how the tokenizer splits the text around special tokens.

use std::collections::HashSet;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use proto::receipt::Reason;
use serde_json::Value;

use super::conversation::Conversation;
use super::record::Reject;
use super::spans::Marked;

/// Unicode's planes for private use: the first stands for tokens, the second for their texts.
const TOKENS: u32 = 0xF_0000;
const TEXTS: u32 = 0x10_0000;
/// The number of characters in each plane; no tokenizer has as many special tokens.
const PLANE: u32 = 0xFFFE;

/// A tokenizer's special tokens, to be searched for in messages.
#[derive(Debug)]
pub(super) struct Controls {
    search: AhoCorasick,
    tokens: Vec<String>,
}

impl Controls {
    /// Keeps those of `tokens` whose text may occur in a message.
    ///
    /// # Errors
    /// More tokens than a search can hold.
    pub(super) fn new(
        tokens: impl IntoIterator<Item = String>,
    ) -> Result<Controls, aho_corasick::BuildError> {
        // A single character, such as a `!` used for padding, is ordinary text first of all.
        let tokens = tokens.into_iter().filter(|token| token.trim().chars().count() > 1);
        let tokens: Vec<String> = tokens.take(PLANE as usize).collect();
        let search =
            AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&tokens)?;
        Ok(Controls { search, tokens })
    }

    /// Describes the first special token whose text the conversation contains.
    pub(super) fn found(&self, conversation: &Conversation) -> Option<String> {
        let token = |value: &Value| {
            let mut found = None;
            each_text(value, &mut |text| {
                found = found.or_else(|| self.search.find(text).map(|found| found.pattern()));
            });
            found.map(|pattern| &self.tokens[pattern.as_usize()])
        };
        for (message, number) in conversation.messages.iter().zip(1..) {
            let mut fields = message.fields.iter().filter(|(name, _)| *name != "role");
            if let Some((name, token)) = fields.find_map(|(name, v)| Some((name, token(v)?))) {
                return Some(format!("`{name}` of message {number} holds `{token}`"));
            }
        }
        let token = token(conversation.tools.as_ref()?)?;
        Some(format!("`tools` holds `{token}`"))
    }

    /// Replaces each such text in the conversation by one character.
    ///
    /// # Errors
    /// A conversation that already contains such characters.
    pub(super) fn hide(&self, mut conversation: Conversation) -> Result<Conversation, Reject> {
        let mut is_taken = false;
        let mut hide = |text: &mut String| {
            is_taken |= text.chars().any(|c| u32::from(c) >= TOKENS);
            if self.search.is_match(text.as_str()) {
                let mut hidden = String::with_capacity(text.len());
                self.search.replace_all_with(text, &mut hidden, |found, _, hidden| {
                    hidden.push(character(TEXTS, found.pattern().as_usize()));
                    true
                });
                *text = hidden;
            }
        };
        for message in &mut conversation.messages {
            let fields = message.fields.iter_mut().filter(|(name, _)| *name != "role");
            fields.for_each(|(_, value)| change_texts(value, &mut hide));
        }
        conversation.tools.iter_mut().for_each(|tools| change_texts(tools, &mut hide));
        if is_taken {
            let detail = "holds a character of Unicode's private-use planes, which are needed \
                          to tell the texts of special tokens from the tokens themselves";
            return Err(Reject::new(Reason::Malformed, detail));
        }
        Ok(conversation)
    }

    /// Prepares the rendered text of a hidden conversation for the tokenizer that [`Self::renamed`]
    /// makes: it has a character for each token, and the messages' texts as they were.
    ///
    /// # Errors
    /// A template that escapes these characters, as `repr` does, or JSON in ASCII.
    pub(super) fn plain(&self, marked: &Marked) -> Result<Marked, Reject> {
        if ["\\U0010", "\\udbc0"].iter().any(|escape| marked.text.contains(escape)) {
            let detail = "the chat template writes the text of a special token with escapes\n\
                          hint: `data.control_tokens: filter` leaves the record out";
            return Err(Reject::new(Reason::Malformed, detail));
        }
        let mut text = String::with_capacity(marked.text.len());
        // Where each piece begins in the old text and in the new one.
        let mut places = vec![(0, 0)];
        let mut done = 0;
        let mut add = |range: Range<usize>, piece: &str| {
            text.push_str(&marked.text[done..range.start]);
            places.push((range.start, text.len()));
            text.push_str(piece);
            places.push((range.end, text.len()));
            done = range.end;
        };
        let hidden = marked.text.char_indices().filter_map(|(at, c)| {
            let token = self.tokens.get(u32::from(c).checked_sub(TEXTS)? as usize)?;
            Some((at..at + c.len_utf8(), token.clone()))
        });
        let tokens = self.search.find_iter(&marked.text).map(|found| {
            (found.range(), character(TOKENS, found.pattern().as_usize()).to_string())
        });
        let mut pieces: Vec<(Range<usize>, String)> = hidden.chain(tokens).collect();
        pieces.sort_by_key(|(range, _)| range.start);
        pieces.into_iter().for_each(|(range, piece)| add(range, &piece));
        text.push_str(&marked.text[done..]);
        let moved = |at: usize| {
            let next = places.partition_point(|(old, _)| *old <= at);
            let (old, new) = places[next - 1];
            let end = places.get(next).map_or(usize::MAX, |(_, new)| *new);
            (new + (at - old)).min(end)
        };
        let spans = marked.spans.iter();
        let spans = spans.map(|(span, weight)| (moved(span.start)..moved(span.end), *weight));
        Ok(Marked { spans: spans.collect(), text, supplied: marked.supplied })
    }

    /// A `tokenizer.json` that knows its special tokens by characters, with the same ids.
    ///
    /// # Errors
    /// A file that is not JSON.
    pub(super) fn renamed(&self, file: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
        let name = |text: &str| {
            let at = self.tokens.iter().position(|token| token == text)?;
            Some(character(TOKENS, at).to_string())
        };
        let rename = |value: &mut Value| {
            if let Some(name) = value.as_str().and_then(name) {
                *value = name.into();
            }
        };
        let mut file: Value = serde_json::from_slice(file)?;
        for token in file["added_tokens"].as_array_mut().into_iter().flatten() {
            rename(&mut token["content"]);
        }
        let merges = file["model"]["merges"].take();
        match &mut file["model"]["vocab"] {
            Value::Object(vocab) => {
                let merged = merged(&merges, &self.tokens);
                for (token, id) in std::mem::take(vocab) {
                    let name = name(&token);
                    // Tokens that merges refer to must stay.
                    if name.is_none() || merged.contains(&token) {
                        vocab.insert(token, id.clone());
                    }
                    vocab.extend(name.map(|name| (name, id)));
                }
            }
            // The vocabulary of Unigram: pieces with their scores.
            Value::Array(vocab) => vocab.iter_mut().for_each(|piece| rename(&mut piece[0])),
            _ => {}
        }
        if !merges.is_null() {
            file["model"]["merges"] = merges;
        }
        if let Some(unknown) = file["model"].get_mut("unk_token") {
            rename(unknown);
        }
        serde_json::to_vec(&file)
    }
}

/// The tokens among `tokens` that merges take or produce.
fn merged(merges: &Value, tokens: &[String]) -> HashSet<String> {
    let tokens: HashSet<&str> = tokens.iter().map(String::as_str).collect();
    let mut merged = HashSet::new();
    for merge in merges.as_array().into_iter().flatten() {
        let pair = match merge {
            Value::String(pair) => pair.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        let Some((left, right)) = pair else { continue };
        let all = [left.to_owned(), right.to_owned(), [left, right].concat()];
        merged.extend(all.into_iter().filter(|token| tokens.contains(token.as_str())));
    }
    merged
}

fn character(plane: u32, index: usize) -> char {
    let code = u32::try_from(index).ok().and_then(|index| char::from_u32(plane + index));
    code.expect("a plane has a character for each token")
}

fn each_text(value: &Value, see: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => see(text),
        Value::Array(items) => items.iter().for_each(|item| each_text(item, see)),
        Value::Object(fields) => fields.values().for_each(|field| each_text(field, see)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn change_texts(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| change_texts(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|field| change_texts(field, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

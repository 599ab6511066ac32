//! Why an object, or a whole run, cannot be prepared.

use proto::receipt::Place;

use super::detect::DetectError;
use super::read::ReadError;
use super::template::TemplateError;

/// The reasons why an object, or a whole run, cannot be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// `tokenizer.json` is not understood.
    #[error("tokenizer.json is not understood\nhint: save it again with a current `tokenizers`")]
    Tokenizer(#[source] tokenizers::Error),
    /// There are conversations, but no template to render them with.
    #[error(
        "the tokenizer has no chat template\n\
         hint: set data.chat_template to chatml, alpaca or a .jinja file"
    )]
    NoTemplate,
    /// There are several templates, but none for records without tools.
    #[error(
        "the tokenizer has the chat templates {0}, and none of them is named default\n\
         hint: set data.chat_template to one of them in a .jinja file, or to chatml or alpaca"
    )]
    NoDefaultTemplate(String),
    /// The chat template is not valid Jinja.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The special tokens are not in the vocabulary and cannot be added to it.
    #[error(
        "the special tokens that the chat template needs cannot be added to the tokenizer\n\
         hint: set data.chat_template to tokenizer, or leave model.add_tokens out"
    )]
    AddTokens(#[source] tokenizers::Error),
    /// Texts and completions need an end token, and the tokenizer names none.
    #[error(
        "the tokenizer names no eos_token to end a text with\n\
         hint: set `eos_token` in tokenizer_config.json"
    )]
    NoEndToken,
    /// Packs of this length hold no target.
    #[error(
        "max_tokens must be at least 2, got {0}\nhint: a sample of one token has nothing to predict"
    )]
    MaxTokens(usize),
    /// The object cannot be read, or cannot be split into records.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The format of the object's records is unknown.
    #[error(transparent)]
    Detect(#[from] DetectError),
    /// `broken_end: fail` is set, and the object ends before its last record does.
    #[error(
        "{object}, {place}: the file is cut off or damaged, and what follows is lost: {reason}\n\
         hint: get the whole file; `data.broken_end: keep` trains on what comes before this place"
    )]
    BrokenEnd {
        /// The object's name.
        object: String,
        /// The place where the last record begins.
        place: Place,
        /// Why nothing can be read from there on.
        reason: String,
    },
    /// `left_out: fail` is set, and the chat template leaves out part of a record.
    #[error("{object}, {place}: {reason}\nhint: set data.left_out to report or drop")]
    LeftOut {
        /// The object's name.
        object: String,
        /// The record's place.
        place: Place,
        /// What is left out, with a hint.
        reason: String,
    },
    /// `too_long: fail` is set, and a record is longer than `max_tokens`.
    #[error(
        "{object}, {place}: {tokens} tokens, more than the {max_tokens} that max_tokens allows\n\
         hint: raise max_tokens, or set too_long to drop or truncate"
    )]
    TooLong {
        /// The object's name.
        object: String,
        /// The record's place.
        place: Place,
        /// The record's length.
        tokens: u64,
        /// The limit.
        max_tokens: usize,
    },
}

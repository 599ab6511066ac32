//! Why nothing of an object, or of a run, can be prepared.

use proto::receipt::Place;

use super::detect::DetectError;
use super::read::ReadError;
use super::template::TemplateError;

/// Why nothing of an object, or of a run, can be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// `tokenizer.json` is not understood.
    #[error("tokenizer.json is not understood\nhint: save it again with a current `tokenizers`")]
    Tokenizer(#[source] tokenizers::Error),
    /// Conversations, and nothing to render them with.
    #[error(
        "the tokenizer has no chat template\n\
         hint: set data.chat_template to chatml, alpaca or a .jinja file"
    )]
    NoTemplate,
    /// Several, and none for records without tools.
    #[error(
        "the tokenizer has the chat templates {0}, and none of them is named default\n\
         hint: set data.chat_template to one of them in a .jinja file, or to chatml or alpaca"
    )]
    NoDefaultTemplate(String),
    /// The template is no Jinja.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// Tokens that are not in the vocabulary, and cannot be added to it.
    #[error(
        "the special tokens that the chat template needs cannot be added to the tokenizer\n\
         hint: set data.chat_template to tokenizer, or leave model.add_tokens out"
    )]
    AddTokens(#[source] tokenizers::Error),
    /// Texts and completions end with a token that is not there.
    #[error(
        "the tokenizer names no eos_token, with which a text ends\n\
         hint: set `eos_token` in tokenizer_config.json"
    )]
    NoEndToken,
    /// Packs that hold no target.
    #[error(
        "max_tokens must be at least 2, got {0}\nhint: a sample of one token has nothing to predict"
    )]
    MaxTokens(usize),
    /// The object cannot be read, or not as records.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Its records' format is unknown.
    #[error(transparent)]
    Detect(#[from] DetectError),
    /// `broken_end: fail`, and the object ends before its records do.
    #[error(
        "{object}, {place}: the file is cut off or damaged, and what follows is lost: {reason}\n\
         hint: get the whole file; `data.broken_end: keep` trains on what comes before this place"
    )]
    BrokenEnd {
        /// The object's name.
        object: String,
        /// Where its last record begins.
        place: Place,
        /// Why nothing can be read from there on.
        reason: String,
    },
    /// `left_out: fail`, and the chat template leaves out something of a record.
    #[error("{object}, {place}: {reason}\nhint: set data.left_out to report or drop")]
    LeftOut {
        /// The object's name.
        object: String,
        /// The record.
        place: Place,
        /// What is left out, with the way out.
        reason: String,
    },
    /// `too_long: fail`, and a record is.
    #[error(
        "{object}, {place}: {tokens} tokens, more than the {max_tokens} that max_tokens allows\n\
         hint: raise max_tokens, or set too_long to drop or truncate"
    )]
    TooLong {
        /// The object's name.
        object: String,
        /// The record.
        place: Place,
        /// Its length.
        tokens: u64,
        /// The limit.
        max_tokens: usize,
    },
}

//! What the user says about data: everything here changes which tokens are trained.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use serde::Serialize;
use serde_json::{Map, Value};

use super::conversation::Role;

/// Holds for all sources of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// The longest sample, and the length of a pack; at least 2.
    pub max_tokens: usize,
    /// What happens to a conversation that is longer.
    pub too_long: TooLong,
    /// Which parts of a conversation are trained.
    pub train_on: TrainOn,
    /// Whether a conversation is one sample, or one for every answer that is trained.
    pub turns: Turns,
    /// Where the chat template comes from.
    pub chat_template: ChatTemplate,
    /// Special tokens that the tokenizer is to have, beside those that the template needs.
    pub add_tokens: Vec<String>,
    /// Handed to the chat template by name.
    pub template_kwargs: Map<String, Value>,
    /// What `strftime_now` answers; pinned, so that a run prepared tomorrow gets today's tokens.
    #[serde(serialize_with = "as_text")]
    pub date: NaiveDate,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_tokens: 1024,
            too_long: TooLong::Drop,
            train_on: TrainOn::Assistant,
            turns: Turns::Whole,
            chat_template: ChatTemplate::Tokenizer,
            add_tokens: Vec::new(),
            template_kwargs: Map::new(),
            date: NaiveDate::default(),
        }
    }
}

fn as_text<S: serde::Serializer>(date: &NaiveDate, out: S) -> Result<S::Ok, S::Error> {
    out.collect_str(date)
}

/// What happens to a sample of more than `max_tokens`; counted in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TooLong {
    /// It is left out.
    Drop,
    /// Its end is cut off.
    Truncate,
    /// The preparation stops.
    Fail,
}

/// Which parts of a conversation are trained; a message's own `train` goes before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TrainOn {
    /// What the assistant says.
    Assistant,
    /// What the assistant says last.
    Last,
    /// Every token.
    All,
}

/// How many samples a conversation makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Turns {
    /// One, rendered as a whole.
    Whole,
    /// One for every answer that is trained, ending with it; `TrainOn::All` knows only wholes.
    Each,
}

/// Where the chat template comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// The tokenizer's own.
    Tokenizer,
    /// `<|im_start|>role ... <|im_end|>`.
    Chatml,
    /// Stanford Alpaca's `### Instruction:`.
    Alpaca,
    /// The content of a `.jinja` file.
    Jinja(String),
}

impl Options {
    /// The special tokens that samples are made with: those of a template that is ours, and those
    /// that are asked for.
    pub(super) fn special_tokens(&self) -> Vec<&str> {
        let own: &[&str] = match self.chat_template {
            ChatTemplate::Chatml => &["<|im_start|>", "<|im_end|>"],
            ChatTemplate::Tokenizer | ChatTemplate::Alpaca | ChatTemplate::Jinja(_) => &[],
        };
        own.iter().copied().chain(self.add_tokens.iter().map(String::as_str)).collect()
    }
}

/// Holds for one source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceOptions {
    /// The shape of its records.
    pub format: Format,
    /// A field's own name in this source, by the format's name for it: `{instruction: prompt}`.
    pub fields: BTreeMap<String, String>,
    /// What a name for a speaker stands for in this source: `{bot: assistant}`.
    pub roles: BTreeMap<String, Role>,
    /// The system message of conversations that have none.
    pub system: Option<String>,
}

/// The shape of a source's records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Found out from the first records.
    #[default]
    Auto,
    /// `instruction`, `input`, `output`; `system` and `history` where they are there.
    Alpaca,
    /// `messages` with `role` and `content`, as OpenAI has them.
    Messages,
    /// `conversations` with `from` and `value`.
    Sharegpt,
    /// `prompt` and `completion`, as texts or as lists of messages.
    Completion,
    /// A text without roles.
    Text,
}

impl Format {
    /// The name in a run spec.
    pub fn name(self) -> &'static str {
        match self {
            Format::Auto => "auto",
            Format::Alpaca => "alpaca",
            Format::Messages => "messages",
            Format::Sharegpt => "sharegpt",
            Format::Completion => "completion",
            Format::Text => "text",
        }
    }
}

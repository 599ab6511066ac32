//! The user's options for data: each of them changes which tokens are trained.

use std::collections::BTreeMap;

use chrono::NaiveDate;
use proto::spec::{
    self, BrokenEnd, ControlTokens, Format, LeftOut, Media, Spec, Think, TooLong, TrainOn, Turns,
};
use serde::Serialize;
use serde_json::{Map, Value};

use super::conversation::Role;

/// Options that hold for all sources of a run.
#[derive(Clone, Debug, Serialize)]
pub struct Options {
    /// The longest sample, and the length of a pack; at least 2.
    pub max_tokens: usize,
    /// What happens to a conversation longer than `max_tokens`.
    pub too_long: TooLong,
    /// What happens to an object that ends before its records do.
    pub broken_end: BrokenEnd,
    /// What happens to records with images, videos or sounds.
    pub media: Media,
    /// What happens to records from which the chat template leaves something out.
    pub left_out: LeftOut,
    /// What happens to conversations whose messages hold the text of a special token.
    pub control_tokens: ControlTokens,
    /// What happens to empty thinking blocks that the prompt would write.
    pub think: Think,
    /// Which parts of a conversation are trained.
    pub train_on: TrainOn,
    /// Whether a conversation becomes one sample, or one sample for every trained answer.
    pub turns: Turns,
    /// Where the chat template comes from.
    pub chat_template: ChatTemplate,
    /// Special tokens to add to the tokenizer, besides those that the template needs.
    pub add_tokens: Vec<String>,
    /// Additional variables for the chat template, by name.
    pub template_kwargs: Map<String, Value>,
    /// The date that `strftime_now` formats; pinned, so that a run prepared tomorrow gets today's
    /// tokens.
    #[serde(serialize_with = "as_text")]
    pub date: NaiveDate,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            max_tokens: 1024,
            too_long: TooLong::Drop,
            broken_end: BrokenEnd::Fail,
            media: Media::Refuse,
            left_out: LeftOut::Report,
            control_tokens: ControlTokens::Report,
            think: Think::Prompt,
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

/// Where the chat template comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatTemplate {
    /// The tokenizer's own template.
    Tokenizer,
    /// ChatML: `<|im_start|>role ... <|im_end|>`.
    Chatml,
    /// Stanford Alpaca's `### Instruction:`.
    Alpaca,
    /// The content of a `.jinja` file.
    Jinja(String),
}

impl Options {
    /// The options that `spec` asks for. `template` is the text of the template file that it names.
    /// None if the spec has no date yet.
    pub fn of(spec: &Spec, template: Option<String>) -> Option<Options> {
        let data = spec.data();
        Some(Options {
            max_tokens: data.max_tokens as usize,
            too_long: data.too_long,
            broken_end: data.broken_end,
            media: data.media,
            left_out: data.left_out,
            control_tokens: data.control_tokens,
            think: data.think,
            train_on: data.train_on,
            turns: data.turns,
            chat_template: match &data.chat_template {
                spec::ChatTemplate::Tokenizer => ChatTemplate::Tokenizer,
                spec::ChatTemplate::Chatml => ChatTemplate::Chatml,
                spec::ChatTemplate::Alpaca => ChatTemplate::Alpaca,
                spec::ChatTemplate::File(_) => ChatTemplate::Jinja(template.unwrap_or_default()),
            },
            add_tokens: spec.model().add_tokens.clone(),
            template_kwargs: data.chat_template_kwargs.clone(),
            date: data.date?,
        })
    }

    /// The special tokens that samples need: those of a built-in template, and those that the user
    /// asks for.
    pub(super) fn special_tokens(&self) -> Vec<&str> {
        let own: &[&str] = match self.chat_template {
            ChatTemplate::Chatml => &["<|im_start|>", "<|im_end|>"],
            ChatTemplate::Tokenizer | ChatTemplate::Alpaca | ChatTemplate::Jinja(_) => &[],
        };
        own.iter().copied().chain(self.add_tokens.iter().map(String::as_str)).collect()
    }
}

/// Options that hold for one source.
#[derive(Clone, Debug, Default, Serialize)]
pub struct SourceOptions {
    /// The format of the source's records.
    pub format: Format,
    /// The source's own name of a field, by the format's name for it: `{instruction: prompt}`.
    pub fields: BTreeMap<String, String>,
    /// The role that a speaker's name stands for in this source: `{bot: assistant}`.
    pub roles: BTreeMap<String, Role>,
    /// The system message for conversations that have none.
    pub system: Option<String>,
}

impl SourceOptions {
    /// The options that the spec gives this source.
    pub fn of(source: &spec::Source) -> SourceOptions {
        let spec::Roles { system, user, assistant, tool } = &source.roles;
        let named = [
            (Role::System, system),
            (Role::User, user),
            (Role::Assistant, assistant),
            (Role::Tool, tool),
        ];
        let roles =
            named.into_iter().flat_map(|(role, names)| names.iter().map(move |n| (n, role)));
        SourceOptions {
            format: source.format,
            fields: source.fields.clone(),
            roles: roles.map(|(name, role)| (name.clone(), role)).collect(),
            system: source.system.clone(),
        }
    }
}

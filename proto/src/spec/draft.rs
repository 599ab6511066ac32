//! What the user typed, with the defaults filled in.
//!
//! These types *are* the interface: their fields, documentation, defaults and limits make the
//! published JSON Schema, and the schema in turn judges what was typed (`check.rs`). A draft may
//! still contradict itself, and its paths are relative; [`Draft::resolve`](super::Draft::resolve)
//! makes a [`Spec`](super::Spec) of it.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::quality::Quality;
use super::value::{
    Adapter, BrokenEnd, Checkpoint, ControlTokens, Dtype, EvalEvery, Format, Init, LeftOut, Media,
    Roles, SaveDtype, Think, TooLong, Train, TrainOn, Turns,
};

/// The longest sample that a run may ask for.
pub const MAX_TOKENS: u32 = 1 << 20;

/// A Muster run: which model is tuned, on which data, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Muster run spec")]
pub struct Draft {
    /// The run's name: lower-case letters, digits and `-`. Left out, it is made from the spec
    /// file's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 52))]
    pub name: Option<String>,
    /// The model to start from.
    pub model: Model,
    /// The samples to train and to evaluate on.
    pub data: Data,
    /// The training itself.
    #[serde(default)]
    pub train: Train,
    /// How many workers the run takes.
    #[serde(default)]
    pub workers: Workers,
    /// When checkpoints are written, and how many stay.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Where the run's folder goes: a folder, or a prefix such as `s3://bucket/prefix`.
    #[serde(default = "default_output")]
    #[schemars(length(min = 1))]
    pub output: String,
}

/// The model to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A Hugging Face folder, `hf://owner/name[@revision]`, `s3://bucket/prefix`, or the model folder
    /// of another run's checkpoint.
    #[schemars(length(min = 1))]
    pub base: String,
    /// Whether the base's weights are used, or only its config and tokenizer.
    #[serde(default)]
    pub init: Init,
    /// Of parameters and activations: `f32`, or `bf16` on an accelerator.
    #[serde(default)]
    pub dtype: Dtype,
    /// Of the weights that are written; left out, the base's.
    #[serde(default)]
    pub save_dtype: Option<SaveDtype>,
    /// The most that one file of the written weights holds: `5GB`, `512MiB`.
    #[serde(default = "default_max_shard_size")]
    pub max_shard_size: String,
    /// Special tokens for the chat template, such as `<|user|>`: those that the tokenizer lacks are
    /// added to it, and the vocabulary grows where their ids need it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub add_tokens: Vec<String>,
    /// Train an adapter beside frozen weights; left out, every parameter is trained.
    #[serde(default)]
    pub adapter: Option<Adapter>,
}

/// The samples to train and to evaluate on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// The sources to train on, in this order.
    #[schemars(length(min = 1, max = 1000))]
    pub train: Vec<Source>,
    /// What the model is evaluated on, and when.
    #[serde(default)]
    pub eval: Eval,
    /// What is looked for in the training data before anything is trained, and what follows from
    /// finding it: `off`, `report` or `filter`.
    #[serde(default)]
    pub quality: Quality<Source>,
    /// The longest sample, and the length of a pack.
    #[serde(default = "default_max_tokens")]
    #[schemars(range(min = 2, max = 1048576))]
    pub max_tokens: u32,
    /// What happens to a sample that is longer than `max_tokens`; always counted in the receipt.
    #[serde(default)]
    pub too_long: TooLong,
    /// What happens to a data file that ends before its records do.
    #[serde(default)]
    pub broken_end: BrokenEnd,
    /// What happens to records with images, videos or sounds.
    #[serde(default)]
    pub media: Media,
    /// If more than this share of the records is lost, the run is refused, naming the `max_tokens`
    /// that fits.
    #[serde(default = "default_max_dropped")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_dropped: f64,
    /// What happens to records of which the chat template leaves something out, such as earlier
    /// thoughts or tools.
    #[serde(default)]
    pub left_out: LeftOut,
    /// What happens to conversations whose messages hold the text of a special token.
    #[serde(default)]
    pub control_tokens: ControlTokens,
    /// What happens to empty thinking blocks that the prompt would write.
    #[serde(default)]
    pub think: Think,
    /// Which messages of a conversation are trained.
    #[serde(default)]
    pub train_on: TrainOn,
    /// Whether a conversation is one sample, or `each` answer that is trained makes one, with what
    /// comes before it as the model sees it then: for templates that drop earlier thinking.
    #[serde(default)]
    pub turns: Turns,
    /// How a conversation becomes text: `tokenizer` (the template that comes with it), `chatml`,
    /// `alpaca`, or a `.jinja` file.
    #[serde(default = "default_chat_template")]
    #[schemars(length(min = 1))]
    pub chat_template: String,
    /// Variables that the chat template sees, such as `enable_thinking: false`.
    #[serde(default)]
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// The day that a chat template is told when it asks with `strftime_now`, such as `2026-11-21`.
    /// Left out, the day on which the run is submitted: a resumed run keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date"))]
    pub date: Option<String>,
}

/// Where samples come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, a glob such as `data/*.jsonl` (`**` crosses folders) or a folder, here or in
    /// `s3://`, `gs://`, `az://`, `hf://datasets/owner/name[@revision][/path]`; or an `https://` file.
    #[schemars(length(min = 1))]
    pub source: String,
    /// How the records are written; `auto` detects it, and shows what it found.
    #[serde(default)]
    pub format: Format,
    /// How often an epoch sees this source; 0.5 is one half in one epoch, the other half in the
    /// next. Left out, 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 100.0))]
    pub repeat: Option<f64>,
    /// This source's part of the trained tokens, relative to the other sources' parts; instead of
    /// `repeat`, and then on every source. An epoch is as long as it can be with no sample seen
    /// twice: one source is seen as a whole, the others in parts that take turns over the epochs.
    /// The plan shows what `repeat` that comes to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000000.0), extend("exclusiveMinimum" = 0.0))]
    pub share: Option<f64>,
    /// Other names for a format's fields: `{instruction: prompt}` reads the instruction from
    /// `prompt`; also inside messages, as in `{role: speaker, content: utterance}`.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Other names for those who speak: `{assistant: [bot], user: [customer]}`.
    #[serde(default, skip_serializing_if = "Roles::is_empty")]
    pub roles: Roles,
    /// A system message for the conversations that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// What the model is evaluated on, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// This share of each training source is held out and never trained. Left out, 0: no
    /// evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub holdout: Option<f64>,
    /// Sources to evaluate on, written like those of `data.train`; instead of `holdout`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub sources: Option<Vec<Source>>,
    /// `checkpoint`, or a number of steps.
    pub every: EvalEvery,
    /// Whether the untrained model is evaluated first.
    pub at_start: bool,
}

impl Default for Eval {
    fn default() -> Eval {
        Eval { holdout: None, sources: None, every: EvalEvery::Checkpoint, at_start: true }
    }
}

/// How many workers the run takes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// Training starts with no fewer. Left out, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub min: Option<u32>,
    /// Training takes no more. Left out, 8, or `min` where that is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub max: Option<u32>,
}

fn default_output() -> String {
    "./runs".into()
}

fn default_max_shard_size() -> String {
    "5GB".into()
}

fn default_max_tokens() -> u32 {
    1024
}

fn default_max_dropped() -> f64 {
    0.01
}

fn default_chat_template() -> String {
    "tokenizer".into()
}

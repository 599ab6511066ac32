//! The spec as the user wrote it, with the defaults filled in.
//!
//! These types *are* the interface: the published JSON Schema is generated from their fields, documentation, defaults
//! and limits, and input is validated against that schema (`check.rs`). A draft may still contradict itself, and its
//! paths are relative; [`Draft::resolve`](super::Draft::resolve) converts it to a [`Spec`](super::Spec).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::dtype::{Dtype, SaveDtype};
use super::quality::Quality;
use super::value::{
    Adapter, BrokenEnd, Checkpoint, ControlTokens, EvalEvery, Format, Init, LeftOut, Media, Ring,
    Roles, Think, TooLong, Train, TrainOn, Turns,
};

/// The largest `max_tokens` that a spec may ask for.
pub const MAX_TOKENS: u32 = 1 << 20;

/// A Muster run: which model is tuned, on which data, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Muster run spec")]
pub struct Draft {
    /// The run's name: lower-case letters, digits and `-`. By default, it is derived from the name of the spec file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 52))]
    pub name: Option<String>,
    /// The model to start from.
    pub model: Model,
    /// The samples to train and to evaluate on.
    pub data: Data,
    /// Hyperparameters of the training.
    #[serde(default)]
    pub train: Train,
    /// How many workers the run uses.
    #[serde(default)]
    pub workers: Workers,
    /// How workers exchange gradients.
    #[serde(default)]
    pub ring: Ring,
    /// When checkpoints are written, and how many are kept.
    #[serde(default)]
    pub checkpoint: Checkpoint,
    /// Where the run's folder is created: a folder, or a prefix such as `s3://bucket/prefix`.
    #[serde(default = "default_output")]
    #[schemars(length(min = 1))]
    pub output: String,
}

/// The model to start from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// A folder in Hugging Face format, `hf://owner/name[@revision]`, `s3://bucket/prefix`, or the model folder of
    /// another run's checkpoint.
    #[schemars(length(min = 1))]
    pub base: String,
    /// Whether the weights of the base model are used, or only its config and tokenizer.
    #[serde(default)]
    pub init: Init,
    /// The type of activations, and of parameters as operations use them: `f32`, or `bf16`, which halves the memory
    /// of activations. The parameters that are trained, and what is saved to resume, are f32 in either case.
    #[serde(default)]
    pub dtype: Dtype,
    /// The type of the weights that are written. By default, that of the base model.
    #[serde(default)]
    pub save_dtype: Option<SaveDtype>,
    /// The maximum size of one file of the written weights, such as `5GB` or `512MiB`.
    #[serde(default = "default_max_shard_size")]
    pub max_shard_size: String,
    /// Special tokens for the chat template, such as `<|user|>`. Those that the tokenizer lacks are added to it,
    /// and the model's vocabulary is enlarged if their ids do not fit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1000), inner(length(min = 1, max = 256)))]
    pub add_tokens: Vec<String>,
    /// Trains an adapter beside frozen weights. By default, every parameter is trained.
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
    /// Quality checks on the data, which run before training. A check is `off`, `report` or `filter`.
    #[serde(default)]
    pub quality: Quality<Source>,
    /// The longest sample, and the length of a pack.
    #[serde(default = "default_max_tokens")]
    #[schemars(range(min = 2, max = 1048576))]
    pub max_tokens: u32,
    /// What happens to a sample that is longer than `max_tokens`. The receipt counts these samples in any case.
    #[serde(default)]
    pub too_long: TooLong,
    /// What happens to a data file that ends before its records do.
    #[serde(default)]
    pub broken_end: BrokenEnd,
    /// What happens to records with images, videos or sounds.
    #[serde(default)]
    pub media: Media,
    /// The largest share of records that may be lost. If more are lost, the run is refused, and the error names a
    /// `max_tokens` that would be enough.
    #[serde(default = "default_max_dropped")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub max_dropped: f64,
    /// What happens to records when the chat template leaves out part of them, such as the thinking in earlier
    /// answers, or tools.
    #[serde(default)]
    pub left_out: LeftOut,
    /// What happens to conversations whose messages contain the text of a special token.
    #[serde(default)]
    pub control_tokens: ControlTokens,
    /// Whether empty thinking blocks belong to the prompt or are trained.
    #[serde(default)]
    pub think: Think,
    /// Which messages of a conversation are trained.
    #[serde(default)]
    pub train_on: TrainOn,
    /// Whether a conversation becomes one sample (`whole`), or every trained answer becomes a sample that ends with
    /// it (`each`), after the earlier messages as the model sees them at that point. Use `each` with templates that
    /// drop the thinking of earlier answers.
    #[serde(default)]
    pub turns: Turns,
    /// The template that turns a conversation into text: `tokenizer` (the tokenizer's own), `chatml`, `alpaca`, or a
    /// `.jinja` file.
    #[serde(default = "default_chat_template")]
    #[schemars(length(min = 1))]
    pub chat_template: String,
    /// Variables that are passed to the chat template, such as `enable_thinking: false`.
    #[serde(default)]
    pub chat_template_kwargs: serde_json::Map<String, serde_json::Value>,
    /// The day that `strftime_now` returns in a chat template, such as `2026-11-21`. By default, the day on which
    /// the run is submitted; a resumed run keeps that day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("format" = "date"))]
    pub date: Option<String>,
}

/// Where samples come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// A file, a folder, or a glob such as `data/*.jsonl` (`**` matches any number of folders). It may be a local
    /// path or a URL: `s3://`, `gs://`, `az://`, `hf://datasets/owner/name[@revision][/path]`, or `https://` for a
    /// single file.
    #[schemars(length(min = 1))]
    pub source: String,
    /// The format of the records. `auto` detects it and reports what it found.
    #[serde(default)]
    pub format: Format,
    /// How often an epoch repeats this source. With 0.5, one epoch uses one half of its samples, and the next epoch
    /// the other half. The default is 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.001, max = 100.0))]
    pub repeat: Option<f64>,
    /// This source's part of the trained tokens, relative to the parts of the other sources. Replaces `repeat`; if
    /// one source has a `share`, all must have one. An epoch is as long as possible without using a sample twice:
    /// it uses one source completely, and of each other source a different part in each epoch. `coordinator plan`
    /// shows the equivalent `repeat`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(max = 1000000.0), extend("exclusiveMinimum" = 0.0))]
    pub share: Option<f64>,
    /// Names of the format's fields in this source. `{instruction: prompt}` reads the instruction from `prompt`.
    /// Fields of messages can be renamed as well: `{role: speaker, content: utterance}`.
    #[serde(default)]
    pub fields: BTreeMap<String, String>,
    /// Additional names for the speakers in this source: `{assistant: [bot], user: [customer]}`.
    #[serde(default, skip_serializing_if = "Roles::is_empty")]
    pub roles: Roles,
    /// A system message for conversations without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system: Option<String>,
}

/// What the model is evaluated on, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Eval {
    /// The share of each training source that is held out for evaluation and never trained. The default is 0: no
    /// evaluation.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 0.5))]
    pub holdout: Option<f64>,
    /// Sources to evaluate on instead of `holdout`, written like those of `data.train`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1000))]
    pub sources: Option<Vec<Source>>,
    /// When the model is evaluated: after every checkpoint (`checkpoint`), or after every N steps (a number).
    pub every: EvalEvery,
    /// Whether the model is also evaluated before the first step.
    pub at_start: bool,
}

impl Default for Eval {
    fn default() -> Eval {
        Eval { holdout: None, sources: None, every: EvalEvery::Checkpoint, at_start: true }
    }
}

/// How many workers the run uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Workers {
    /// Training waits until at least this number of workers is ready. The default is 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 4096))]
    pub min: Option<u32>,
    /// Training uses at most this number of workers. The default is 8, or `min` if that is larger.
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

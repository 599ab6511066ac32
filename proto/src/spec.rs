//! The run spec: from the YAML that a user writes to a value that is known to be valid.
//!
//! ```text
//! YAML --parse--> Draft (typed, defaults filled in) --resolve--> Spec (valid, absolute) --> YAML
//! ```
//!
//! What a key means, its default and its limits stand at the fields of [`draft`] and [`value`]; the
//! published schema is made from them, and judges what was typed. Whether a file exists, or a model
//! is implemented, is for those to say who open it: nothing here touches a disk.

mod bytes;
mod check;
mod derived;
pub mod draft;
pub mod duration;
mod error;
pub mod hub;
mod keys;
pub mod location;
mod quality;
mod resolve;
mod resume;
mod schema;
mod unsupported;
pub mod value;
mod write;
mod yaml;

use std::collections::BTreeMap;
use std::path::Path;

use chrono::NaiveDate;
use serde_json::{Map, Value};

pub use crate::plan::Amount;
pub use draft::Draft;
pub use error::{Error, Problem};
pub use hub::HubName;
pub use location::{Location, Scheme};
pub use quality::{Check, Quality};
pub use resume::compatible_for_resume;
pub use schema::schema;
pub use value::{
    Adapter, AdapterKind, AdapterTargets, BrokenEnd, Checkpoint, ControlTokens, Dtype, EvalEvery,
    Format, Init, LeftOut, Media, MicroBatch, Optimizer, OptimizerKind, Recompute, Roles,
    SaveDtype, Schedule, ScheduleKind, Think, TooLong, Train, TrainOn, Turns,
};

/// The longest text that is read as a spec.
pub const MAX_BYTES: usize = 1 << 20;

/// A valid run spec; only [`Draft::resolve`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    name: String,
    model: Model,
    data: Data,
    train: Train,
    workers: Workers,
    checkpoint: Checkpoint,
    output: Location,
}

/// The model to start from.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Its folder, prefix or name.
    pub base: Location,
    /// Whether its weights are used.
    pub init: Init,
    /// Of parameters and activations in training.
    pub dtype: Dtype,
    /// Of the written weights; none: the base's.
    pub save_dtype: Option<SaveDtype>,
    /// The most that one file of them holds.
    pub max_shard_bytes: u64,
    /// Special tokens that the tokenizer is to have, none of them twice.
    pub add_tokens: Vec<String>,
    /// What is trained instead of the whole model.
    pub adapter: Option<Adapter>,
}

/// The samples to train and to evaluate on.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// At least one source.
    pub train: Vec<Source>,
    /// What the model is evaluated on, and when.
    pub eval: Eval,
    /// What is looked for in them before anything is trained.
    pub quality: Quality<Source>,
    /// The longest sample, and the length of a pack.
    pub max_tokens: u32,
    /// What happens to a longer one.
    pub too_long: TooLong,
    /// What happens to an object that ends before its records do.
    pub broken_end: BrokenEnd,
    /// What happens to records with images, videos or sounds.
    pub media: Media,
    /// The share of records that may be lost, 0 to 1.
    pub max_dropped: f64,
    /// What happens to records of which the chat template leaves something out.
    pub left_out: LeftOut,
    /// What happens to conversations whose messages hold the text of a special token.
    pub control_tokens: ControlTokens,
    /// What happens to empty thinking blocks that the prompt would write.
    pub think: Think,
    /// Which messages are trained.
    pub train_on: TrainOn,
    /// How many samples a conversation makes.
    pub turns: Turns,
    /// How a conversation becomes text.
    pub chat_template: ChatTemplate,
    /// Variables that the template sees, in the order of the spec.
    pub chat_template_kwargs: Map<String, Value>,
    /// What `strftime_now` answers; none until the run is submitted, unless the user named a day.
    pub date: Option<NaiveDate>,
}

/// Where samples come from, and how many of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// A file, a glob, a prefix, or a name in a store.
    pub location: Location,
    /// How its records are written.
    pub format: Format,
    /// How much of it an epoch sees.
    pub amount: Amount,
    /// The format's name of a field, and the records' own.
    pub fields: BTreeMap<String, String>,
    /// The records' own names for those who speak; none under two keys.
    pub roles: Roles,
    /// A system message for conversations without one.
    pub system: Option<String>,
}

/// What the model is evaluated on, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Eval {
    /// The samples.
    pub on: EvalOn,
    /// When.
    pub every: EvalEvery,
    /// Whether the untrained model is evaluated first.
    pub at_start: bool,
}

/// The samples that a model is evaluated on.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalOn {
    /// None: there is no evaluation.
    Nothing,
    /// This share of each training source, above 0, at most 0.5.
    Holdout(f64),
    /// Sources of their own, each seen once.
    Sources(Vec<Source>),
}

/// How a conversation becomes text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplate {
    /// The template that comes with the tokenizer.
    Tokenizer,
    /// `<|im_start|>role ... <|im_end|>`.
    Chatml,
    /// `### Instruction: ... ### Response:`.
    Alpaca,
    /// A Jinja file.
    File(Location),
}

/// How many workers the run takes; `1 <= min <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Training starts with no fewer.
    pub min: u32,
    /// Training takes no more.
    pub max: u32,
}

/// Parses the text of the spec at `place`, a file or an object: relative paths start at its folder,
/// and a missing name is made from its own.
///
/// # Errors
/// As [`parse`], and where `place` is no file.
pub fn parse_at(yaml: &str, place: &Location) -> Result<Spec, Error> {
    let (folder, name) = place.split().ok_or_else(|| Error::NoFile(place.clone()))?;
    Draft::parse(yaml)?.named_after(&name).resolve(&folder)
}

/// Parses a spec; relative paths start at `base`.
///
/// # Errors
/// YAML that is none, or everything that is wrong with the spec, for the user to mend.
pub fn parse(yaml: &str, base: &Path) -> Result<Spec, Error> {
    // Workers read the resolved spec elsewhere: every path in it must be absolute.
    let base = std::path::absolute(base).unwrap_or_else(|_| base.to_owned());
    Draft::parse(yaml)?.resolve(&Location::File(base))
}

impl Spec {
    /// The run's name: 1 to 52 lower-case letters, digits and `-`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The model to start from.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The samples to train and to evaluate on.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The training itself.
    pub fn train(&self) -> &Train {
        &self.train
    }

    /// How many workers the run takes.
    pub fn workers(&self) -> Workers {
        self.workers
    }

    /// When checkpoints are written, and how many stay.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Where the run's folder goes.
    pub fn output(&self) -> &Location {
        &self.output
    }

    /// The spec with every default and every path written out; [`parse`] makes an equal spec of it
    /// anywhere.
    pub fn resolved_yaml(&self) -> String {
        serde_yaml_ng::to_string(&Draft::from(self)).expect("a draft is plain YAML")
    }

    /// What this spec asks for and this version does not do yet, by name; none if it can be run.
    pub fn unsupported(&self) -> Option<Error> {
        let problems = unsupported::list(self);
        (!problems.is_empty()).then_some(Error::Invalid(problems))
    }
}

#[cfg(test)]
mod tests;

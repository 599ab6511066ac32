//! The run spec: parses the YAML that a user writes into a value that is known to be valid.
//!
//! ```text
//! YAML --parse--> Draft (typed, defaults filled in) --resolve--> Spec (valid, absolute) --> YAML
//! ```
//!
//! The fields of [`draft`] and [`value`] define the meaning, default and limits of each key. The published schema is
//! generated from them, and input is validated against it. Whether a file exists or a model is implemented is checked
//! where it is opened.

pub mod bytes;
mod check;
mod derived;
pub mod draft;
mod dtype;
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
pub use dtype::{Dtype, ReduceDtype, SaveDtype};
pub use error::{Error, Problem};
pub use hub::HubName;
pub use location::{Location, Scheme};
pub use quality::{Check, Quality};
pub use resume::compatible_for_resume;
pub use schema::schema;
pub use value::{
    Adapter, AdapterKind, AdapterTargets, BrokenEnd, Checkpoint, ControlTokens, EvalEvery, Format,
    Init, LeftOut, Media, MicroBatch, Optimizer, OptimizerKind, Recompute, Ring, Roles, Schedule,
    ScheduleKind, Think, TooLong, Train, TrainOn, Turns,
};

/// The longest text that is parsed as a spec.
pub const MAX_BYTES: usize = 1 << 20;

/// A valid run spec; only [`Draft::resolve`] makes one.
#[derive(Clone, Debug, PartialEq)]
pub struct Spec {
    name: String,
    model: Model,
    data: Data,
    train: Train,
    workers: Workers,
    ring: Ring,
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
    /// The type of parameters and activations in training.
    pub dtype: Dtype,
    /// The type of the written weights, or `None` for the base's.
    pub save_dtype: Option<SaveDtype>,
    /// The maximum size of one file of written weights.
    pub max_shard_bytes: u64,
    /// Special tokens that the tokenizer must have, without duplicates.
    pub add_tokens: Vec<String>,
    /// The adapter that is trained instead of the whole model.
    pub adapter: Option<Adapter>,
}

/// The samples to train and to evaluate on.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// At least one source.
    pub train: Vec<Source>,
    /// What the model is evaluated on, and when.
    pub eval: Eval,
    /// The quality checks that run on the samples before training.
    pub quality: Quality<Source>,
    /// The longest sample, and the length of a pack.
    pub max_tokens: u32,
    /// What happens to a longer sample.
    pub too_long: TooLong,
    /// What happens to an object that ends before its records do.
    pub broken_end: BrokenEnd,
    /// What happens to records with images, videos or sounds.
    pub media: Media,
    /// The maximum share of records that may be lost, 0 to 1.
    pub max_dropped: f64,
    /// What happens to records when the chat template leaves out part of them.
    pub left_out: LeftOut,
    /// What happens to conversations whose messages contain the text of a special token.
    pub control_tokens: ControlTokens,
    /// Whether empty thinking blocks belong to the prompt or are trained.
    pub think: Think,
    /// Which messages are trained.
    pub train_on: TrainOn,
    /// How many samples a conversation becomes.
    pub turns: Turns,
    /// How a conversation becomes text.
    pub chat_template: ChatTemplate,
    /// Variables passed to the template, in the order of the spec.
    pub chat_template_kwargs: Map<String, Value>,
    /// The day that `strftime_now` returns. `None` until the run is submitted, unless the user named a day.
    pub date: Option<NaiveDate>,
}

/// Where samples come from, and how many are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Source {
    /// A file, a glob, a prefix, or a name in a store.
    pub location: Location,
    /// How its records are written.
    pub format: Format,
    /// How much of it an epoch uses.
    pub amount: Amount,
    /// The name of a field in the format, mapped to its name in the records.
    pub fields: BTreeMap<String, String>,
    /// Names of the speakers in the records. No name has two roles.
    pub roles: Roles,
    /// A system message for conversations without one.
    pub system: Option<String>,
}

/// What the model is evaluated on, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Eval {
    /// The samples to evaluate on.
    pub on: EvalOn,
    /// How often the model is evaluated.
    pub every: EvalEvery,
    /// Whether the untrained model is evaluated first.
    pub at_start: bool,
}

/// The samples that a model is evaluated on.
#[derive(Clone, Debug, PartialEq)]
pub enum EvalOn {
    /// No samples: the model is not evaluated.
    Nothing,
    /// This share of each training source, above 0, at most 0.5.
    Holdout(f64),
    /// Separate sources, each used once.
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

/// How many workers the run uses; `1 <= min <= max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workers {
    /// Training waits until at least this number of workers is ready.
    pub min: u32,
    /// Training uses at most this number of workers.
    pub max: u32,
}

/// Parses the text of the spec at `place`, which is a file or an object. Relative paths start at its folder, and a
/// missing run name is derived from the file name.
///
/// # Errors
/// The errors of [`parse`], and [`Error::NoFile`] if `place` is not a file.
pub fn parse_at(yaml: &str, place: &Location) -> Result<Spec, Error> {
    let (folder, name) = place.split().ok_or_else(|| Error::NoFile(place.clone()))?;
    Draft::parse(yaml)?.named_after(&name).resolve(&folder)
}

/// Parses a spec; relative paths start at `base`.
///
/// # Errors
/// Invalid YAML, or the list of everything that is wrong with the spec, as text for the user.
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

    /// Hyperparameters of the training.
    pub fn train(&self) -> &Train {
        &self.train
    }

    /// How many workers the run uses.
    pub fn workers(&self) -> Workers {
        self.workers
    }

    /// How workers exchange gradients.
    pub fn ring(&self) -> &Ring {
        &self.ring
    }

    /// When checkpoints are written, and how many are kept.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }

    /// Where the run's folder is created.
    pub fn output(&self) -> &Location {
        &self.output
    }

    /// The spec as YAML with all defaults and absolute paths written out. [`parse`] returns an equal spec for it in
    /// any folder.
    pub fn resolved_yaml(&self) -> String {
        serde_yaml_ng::to_string(&Draft::from(self)).expect("a draft is plain YAML")
    }

    /// The features of this spec that are not implemented yet, or `None` if the spec can be run.
    pub fn unsupported(&self) -> Option<Error> {
        let problems = unsupported::list(self);
        (!problems.is_empty()).then_some(Error::Invalid(problems))
    }
}

#[cfg(test)]
mod tests;

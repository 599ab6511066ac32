//! Errors of reading or running a model, with a variant for each kind of reaction.

use std::io;
use std::path::PathBuf;

/// Hint for a folder that was meant to be a model.
pub(super) const NO_MODEL_HINT: &str =
    "a model folder is what `save_pretrained` of transformers writes";

/// Why a model cannot be read or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing or cannot be read.
    #[error("{}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// A file is not valid JSON.
    #[error("{}: not valid JSON of the expected form", .file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// The parser's error, with its position.
        #[source]
        source: serde_json::Error,
    },
    /// The folder lacks a file that makes it a model.
    #[error("{}: {what}\nhint: {hint}", .folder.display())]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// What is missing from it.
        what: String,
        /// A hint at what a model folder is.
        hint: String,
    },
    /// A value in `config.json` is invalid for any model of its type.
    #[error("{}: {what}", .file.display())]
    Config {
        /// The `config.json`.
        file: PathBuf,
        /// The key, the allowed values and the actual value.
        what: String,
    },
    /// The configuration needs arithmetic that this program does not implement; another model is needed.
    #[error("{}: {what}\nhint: {hint}", .file.display())]
    NotImplemented {
        /// The `config.json`.
        file: PathBuf,
        /// The key and its value.
        what: String,
        /// What is supported instead.
        hint: String,
    },
    /// The weights do not match the configuration, or are damaged.
    #[error("{}: {what}\nhint: {hint}", .file.display())]
    Weights {
        /// The file, or the folder if there are several files.
        file: PathBuf,
        /// The actual and the expected tensor or length.
        what: String,
        /// What usually fixes it.
        hint: String,
    },
    /// A prompt cannot be continued, or sampling options are invalid.
    #[error("{what}")]
    Prompt {
        /// The limit and the actual value.
        what: String,
    },
    /// An operation refused its operands.
    #[error(transparent)]
    Ops(#[from] crate::ops::Error),
    /// The tensor library reported an error.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

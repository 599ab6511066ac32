//! What can be wrong with a model folder, in the terms of who must act on it.

use std::io;
use std::path::PathBuf;

/// For a folder that was meant to be a model.
pub(super) const NO_MODEL_HINT: &str =
    "a model folder is what `save_pretrained` of transformers writes";

/// Why a model cannot be read or run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is missing, or the system refuses to read it.
    #[error("{}", .file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// A file that should hold JSON holds something else.
    #[error("{}: not the JSON that it should hold", .file.display())]
    Json {
        /// The file.
        file: PathBuf,
        /// Where it stops being JSON.
        #[source]
        source: serde_json::Error,
    },
    /// The folder lacks a file that makes it a model.
    #[error("{}: {what}\nhint: {hint}", .folder.display())]
    NoModel {
        /// The folder.
        folder: PathBuf,
        /// What is not in it.
        what: String,
        /// What a model folder is.
        hint: String,
    },
    /// A value of `config.json` is none that any model of its type can have.
    #[error("{}: {what}", .file.display())]
    Config {
        /// The `config.json`.
        file: PathBuf,
        /// The key, what it must be, and what it is.
        what: String,
    },
    /// The configuration asks for arithmetic that this program does not have: another model is
    /// needed.
    #[error("{}: {what}\nhint: {hint}", .file.display())]
    NotImplemented {
        /// The `config.json`.
        file: PathBuf,
        /// The key and its value.
        what: String,
        /// What works instead.
        hint: String,
    },
    /// The weights are not those that the configuration describes, or are damaged.
    #[error("{}: {what}\nhint: {hint}", .file.display())]
    Weights {
        /// The file, or the folder where several files are meant.
        file: PathBuf,
        /// The tensor or the length, as it is and as it should be.
        what: String,
        /// What usually mends it.
        hint: String,
    },
    /// A prompt that cannot be continued.
    #[error("{what}")]
    Prompt {
        /// The limit, and what was given.
        what: String,
    },
    /// An operation refused its operands.
    #[error(transparent)]
    Ops(#[from] crate::ops::Error),
    /// The tensor library refused.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
}

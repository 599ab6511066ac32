//! Errors of a spec, which name its keys as the user wrote them.

use super::location::Location;
use std::fmt;
use std::path::PathBuf;

/// Why a text is not a valid run spec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("run spec {} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The location is not a file or object.
    #[error(
        "`{0}` names no run spec\nhint: name a YAML file, or an object such as `s3://bucket/run.yaml`"
    )]
    NoFile(Location),
    /// The text is longer than [`MAX_BYTES`](super::MAX_BYTES).
    #[error(
        "run spec of {bytes} bytes, more than {}\nhint: a spec names data, it does not contain it",
        super::MAX_BYTES
    )]
    TooLarge {
        /// The length of the text.
        bytes: usize,
    },
    /// The text is not valid YAML.
    #[error(
        "run spec is not valid YAML: {what}
hint: {hint}"
    )]
    Syntax {
        /// The parser's message, with line and column.
        what: String,
        /// How to fix the most likely mistake.
        hint: &'static str,
    },
    /// The text is valid YAML, but not a valid spec. Lists all problems.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

impl Error {
    /// An error with a single problem.
    pub(super) fn invalid(problem: Problem) -> Error {
        Error::Invalid(vec![problem])
    }
}

/// One problem of a spec, and how to fix it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's path: `data.train[0].source`.
    pub field: String,
    /// The message, with the field and the value.
    pub what: String,
    /// What to write instead, if known.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a message that begins with the field's name; `what` is the rest, such as ``must be ..., got
    /// ...``.
    pub(super) fn new(field: impl Into<String>, what: impl fmt::Display) -> Problem {
        let field = field.into();
        let what = match field.as_str() {
            "" => format!("the run spec {what}"),
            field => format!("`{field}` {what}"),
        };
        Problem { field, what, hint: None }
    }

    pub(super) fn unknown_key(field: String, hint: String) -> Problem {
        Problem { what: format!("unknown key `{field}`"), hint: Some(hint), field }
    }

    pub(super) fn hint(self, hint: impl Into<String>) -> Problem {
        Problem { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    let texts: Vec<String> = problems.iter().map(Problem::to_string).collect();
    texts.join("\n")
}

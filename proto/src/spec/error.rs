//! What is wrong with a spec, in the words of the person who wrote it.

use super::location::Location;
use std::fmt;
use std::path::PathBuf;

/// Why a text is no valid run spec.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("run spec {} cannot be read", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: std::io::Error,
    },
    /// The place names no file.
    #[error(
        "`{0}` names no run spec\nhint: name a YAML file, or an object such as `s3://bucket/run.yaml`"
    )]
    NoFile(Location),
    /// More text than any spec needs.
    #[error(
        "run spec of {bytes} bytes, more than {}\nhint: a spec names data, it does not contain it",
        super::MAX_BYTES
    )]
    TooLarge {
        /// What was given.
        bytes: usize,
    },
    /// No YAML; the parser's words, with line and column.
    #[error(
        "run spec is no valid YAML: {what}
hint: {hint}"
    )]
    Syntax {
        /// What the parser says.
        what: String,
        /// What usually mends it.
        hint: &'static str,
    },
    /// Valid YAML, but no valid spec: everything that was found, in the order of the text.
    #[error("{}", lines(.0))]
    Invalid(Vec<Problem>),
}

impl Error {
    /// The single problem of a field.
    pub(super) fn invalid(problem: Problem) -> Error {
        Error::Invalid(vec![problem])
    }
}

/// One thing that is wrong, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field's path: `data.train[0].source`.
    pub field: String,
    /// A sentence with the field and the value.
    pub what: String,
    /// What to write instead, where that is known.
    pub hint: Option<String>,
}

impl Problem {
    /// `what` follows the field's name: ``must be ..., got ...``.
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

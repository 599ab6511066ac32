//! What certificates and tokens allow.

use serde::{Deserialize, Serialize};

/// What a certificate or a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// Join as a worker
    Join,
    /// Submit runs, see all runs, and cancel and resume one's own
    Submit,
    /// Do everything that users can do, with the runs of everybody
    Admin,
}

/// The runs that a caller may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Runs {
    /// No run, and it may not see any.
    None,
    /// Runs that it has submitted. It may see all of them.
    Own,
    /// All runs.
    All,
}

/// What a certificate or a token allows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grants {
    /// The beginning of the names of workers that it may join as; `None` if it may not join.
    pub(crate) join: Option<String>,
    pub(crate) runs: Runs,
}

impl Scope {
    /// The scope in one word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Submit => "submit",
            Self::Admin => "admin",
        }
    }

    /// What it allows; `prefix` applies to joining.
    pub(crate) fn grants(self, prefix: &str) -> Grants {
        match self {
            Self::Join => Grants { join: Some(prefix.to_owned()), runs: Runs::None },
            Self::Submit => Grants { join: None, runs: Runs::Own },
            Self::Admin => Grants { join: None, runs: Runs::All },
        }
    }
}

impl Grants {
    /// Everything is allowed.
    pub(crate) fn all() -> Self {
        Self { join: Some(String::new()), runs: Runs::All }
    }

    /// Nothing is allowed.
    pub(crate) fn none() -> Self {
        Self { join: None, runs: Runs::None }
    }

    /// What both allow.
    pub(crate) fn and(&self, other: &Self) -> Self {
        let join = match (&self.join, &other.join) {
            (Some(a), Some(b)) if a.starts_with(b.as_str()) => Some(a.clone()),
            (Some(a), Some(b)) if b.starts_with(a.as_str()) => Some(b.clone()),
            _ => None,
        };
        Self { join, runs: self.runs.min(other.runs) }
    }
}

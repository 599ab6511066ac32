//! What a program says: results on standard output, everything else on standard error.
//!
//! `println!` panics once its reader has gone, as in `coordinator status RUN | head`. Here that is an error, with which
//! a program ends quietly. Standard error is only for people: where nobody reads it, the work goes on.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// How a program ends whose reader has gone: what a shell reports of one that SIGPIPE has ended.
pub const EXIT_UNREAD: u8 = 141;

/// A result that could not be printed.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody reads standard output any more, and nobody has to be told.
    #[error("the reader of standard output has gone")]
    Unread,
    /// Standard output takes nothing more, such as a file on a full disk.
    #[error("standard output cannot be written to")]
    Refused(#[source] std::io::Error),
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::BrokenPipe => Self::Unread,
            _ => Self::Refused(error),
        }
    }
}

/// Prints text on standard output, at once.
///
/// # Errors
/// [`enum@Error`], and the text is lost.
pub fn text(text: impl Display) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints a line on standard output, at once.
///
/// # Errors
/// [`enum@Error`], and the line is lost.
pub fn line(line: impl Display) -> Result<(), Error> {
    text(format_args!("{line}\n"))
}

/// Logs on standard error what the variable `MUSTER_LOG` asks for, else `default`.
///
/// # Panics
/// If it is called twice.
pub fn log(default: &str) {
    let wanted = std::env::var("MUSTER_LOG").unwrap_or_default();
    let (filter, malformed) = match wanted.parse::<EnvFilter>() {
        Ok(filter) if !wanted.trim().is_empty() => (filter, None),
        Ok(_) => (default.into(), None),
        Err(error) => (default.into(), Some(error)),
    };
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_target(false)
        // It would panic where nobody reads standard error any more.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    if let Some(error) = malformed {
        note(format_args!(
            "warning: MUSTER_LOG is `{wanted}`, which is no filter: {error}; logging `{default}`"
        ));
    }
}

/// Prints a line on standard error, if anybody reads it.
pub fn note(line: impl Display) {
    note_text(format_args!("{line}\n"));
}

/// Prints text on standard error, if anybody reads it.
pub fn note_text(text: impl Display) {
    // Nobody may be there to read it.
    let _ = write!(std::io::stderr().lock(), "{text}");
}

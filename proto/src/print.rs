//! Output of the programs: results on standard output, everything else on standard error.
//!
//! `println!` panics if the reader of standard output has gone, as in `coordinator status RUN | head`. The
//! functions here return an error instead, and the program ends quietly. Failures to write to standard error are
//! ignored, so that the work goes on.

mod json;

pub use json::{Place, forget_run, move_run, move_to};

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Write};
use thiserror::Error;
use tracing_subscriber::EnvFilter;

/// The exit code of a program if the reader of its output has gone: the one that a shell reports after a SIGPIPE.
pub const EXIT_UNREAD: u8 = 141;

/// A result that could not be printed.
#[derive(Debug, Error)]
pub enum Error {
    /// The reader of standard output has gone. The program should end without a message.
    #[error("the reader of standard output has gone")]
    Unread,
    /// Standard output cannot be written to, for example because it is a file on a full disk.
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

/// Prints text on standard output and flushes it.
///
/// # Errors
/// [`enum@Error`]; the text is lost.
pub fn text(text: impl Display) -> Result<(), Error> {
    let mut out = std::io::stdout().lock();
    write!(out, "{text}")?;
    Ok(out.flush()?)
}

/// Prints a line on standard output and flushes it.
///
/// # Errors
/// [`enum@Error`]; the line is lost.
pub fn line(line: impl Display) -> Result<(), Error> {
    text(format_args!("{line}\n"))
}

/// Starts logging to standard error, with the filter in the environment variable `MUSTER_LOG`, or `default`. If
/// `MUSTER_LOG_FORMAT` is `json`, every line is a JSON object.
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
    let format = std::env::var("MUSTER_LOG_FORMAT").unwrap_or_default();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(filter)
        .with_target(false)
        // It would panic if the reader of standard error has gone.
        .log_internal_errors(false)
        .with_ansi(std::io::stderr().is_terminal());
    match format.as_str() {
        "json" => subscriber.event_format(json::Json).init(),
        _ => subscriber.init(),
    }
    if !matches!(format.as_str(), "" | "text" | "json") {
        note(format_args!(
            "warning: MUSTER_LOG_FORMAT is `{format}`, and must be `text` or `json`; using `text`"
        ));
    }
    if let Some(error) = malformed {
        note(format_args!(
            "warning: MUSTER_LOG is `{wanted}`, which is not a valid filter: {error}; using `{default}`"
        ));
    }
}

/// Prints a line on standard error, and ignores failures.
pub fn note(line: impl Display) {
    note_text(format_args!("{line}\n"));
}

/// Prints text on standard error, and ignores failures.
pub fn note_text(text: impl Display) {
    let _ = write!(std::io::stderr().lock(), "{text}");
}

//! Workers that a command starts for its own run, and ends with it.
//!
//! Each kind starts, watches and ends its workers in its own way; so far there are local processes.

mod local;

use local::Local;
use std::path::PathBuf;
use thiserror::Error;

/// Why there are no workers.
#[derive(Debug, Error)]
pub enum Error {
    /// The program is nowhere to be found.
    #[error(
        "the `worker` program is not beside `{0}`, nor in the PATH\n\
         hint: build both with `cargo build --release`, or set MUSTER_WORKER"
    )]
    Missing(PathBuf),
    /// It cannot be started.
    #[error("`{program}` cannot be started")]
    Start {
        /// The program.
        program: PathBuf,
        /// The operating system's word.
        #[source]
        source: std::io::Error,
    },
    /// It was told to go by a signal, and not by this program.
    #[error(
        "the workers were told to go\nhint: start it again; `run --resume` goes on from the newest checkpoint"
    )]
    Drained,
    /// It ends again and again.
    #[error("the workers ended with {status}; what they said stands above")]
    Ended {
        /// Of the last one.
        status: std::process::ExitStatus,
    },
}

/// The `worker` program: `MUSTER_WORKER`, else beside this one, else in the PATH.
///
/// # Errors
/// [`Error::Missing`].
pub fn program() -> Result<PathBuf, Error> {
    if let Some(path) = std::env::var_os("MUSTER_WORKER") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.with_file_name("worker");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|folder| folder.join("worker"));
    std::iter::once(beside).chain(in_path).find(|p| p.is_file()).ok_or(Error::Missing(own))
}

/// Workers that were started here.
pub enum Launched {
    /// Processes on this host.
    Local(Local),
}

impl Launched {
    /// Starts `ranks` processes of `program` that share this host's cores.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn locally(program: PathBuf, coordinator: String, ranks: usize) -> Result<Self, Error> {
        Local::start(program, coordinator, ranks).map(Self::Local)
    }

    /// Keeps them running; passes on what they say, line by line. Returns when they were dismissed.
    ///
    /// # Errors
    /// [`Error::Drained`] if they were told to go, [`Error::Ended`] if they will not stay up.
    pub async fn watch(&mut self, say: impl FnMut(&str)) -> Result<(), Error> {
        match self {
            Self::Local(local) => local.watch(say).await,
        }
    }

    /// Waits for dismissed workers to end, and ends them if they do not.
    pub async fn end(self) {
        match self {
            Self::Local(local) => local.end().await,
        }
    }
}

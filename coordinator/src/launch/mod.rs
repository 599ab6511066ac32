//! Workers that a command starts for its own run and that end with it.
//!
//! Each kind starts, watches and ends its workers in its own way. Local processes are the only kind so far.

mod local;

use local::Local;
use std::path::PathBuf;
use thiserror::Error;

/// Why there are no workers.
#[derive(Debug, Error)]
pub enum Error {
    /// The `worker` program was not found.
    #[error(
        "the `worker` program is neither next to `{0}` nor in the PATH\n\
         hint: build both with `cargo build --release`, or set MUSTER_WORKER"
    )]
    Missing(PathBuf),
    /// The program cannot be started.
    #[error("`{program}` cannot be started")]
    Start {
        /// The program.
        program: PathBuf,
        /// The error of the operating system.
        #[source]
        source: std::io::Error,
    },
    /// The workers were stopped by a signal, and not by this program.
    #[error(
        "the workers were stopped by a signal\nhint: `run --resume` goes on from the newest checkpoint"
    )]
    Drained,
    /// The supervisor gave up, or was killed too often.
    #[error("the workers ended with {status}; their output is above")]
    Ended {
        /// The exit status of the last supervisor.
        status: std::process::ExitStatus,
    },
}

/// Finds the `worker` program: `MUSTER_WORKER`, or next to this program, or in the PATH.
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

/// Workers that this process has started.
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

    /// Keeps the workers running, and calls `say` with each line that they print. Returns once they were dismissed and
    /// have exited.
    ///
    /// # Errors
    /// [`Error::Drained`] if they were stopped by a signal, [`Error::Ended`] if they do not stay up.
    pub async fn watch(&mut self, say: impl FnMut(&str)) -> Result<(), Error> {
        match self {
            Self::Local(local) => local.watch(say).await,
        }
    }

    /// Waits for dismissed workers to exit, and kills them if they do not.
    pub async fn end(self) {
        match self {
            Self::Local(local) => local.end().await,
        }
    }
}

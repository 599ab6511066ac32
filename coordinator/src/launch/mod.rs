//! Workers that a command starts for its own run and that end with it.
//!
//! Each kind starts, watches and ends its workers in its own way. Local processes are the only kind so far.

mod local;

pub use local::{Local, Node};
use std::path::{Path, PathBuf};
use thiserror::Error;
use tokio::process::Command;

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
    /// The devices do not exist or cannot be used.
    #[error("{0}")]
    Devices(String),
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

impl Error {
    /// The exit code of the workers, if they ended by themselves.
    pub fn code(&self) -> Option<u8> {
        let Self::Ended { status } = self else { return None };
        status.code().and_then(|code| code.try_into().ok())
    }
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

/// The number of workers that `program` would start on `devices`.
///
/// # Errors
/// [`Error::Start`], or [`Error::Devices`] with what the program says.
pub async fn count(program: &Path, devices: &str) -> Result<u32, Error> {
    let command = Command::new(program).args(["devices", "--count", devices]).output();
    let start = |source| Error::Start { program: program.to_owned(), source };
    let output = command.await.map_err(start)?;
    let said = String::from_utf8_lossy(&output.stdout).trim().parse();
    match said {
        Ok(count) if output.status.success() => Ok(count),
        _ => {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(Error::Devices(error.trim().trim_start_matches("error: ").to_owned()))
        }
    }
}

/// Workers that this process has started.
pub enum Launched {
    /// Processes on this host.
    Local(Local),
}

impl Launched {
    /// Starts the processes of a node on this host.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn locally(node: Node) -> Result<Self, Error> {
        Local::start(node).map(Self::Local)
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

    /// Asks the workers to leave, as SIGTERM does.
    pub fn terminate(&self) {
        match self {
            Self::Local(local) => local.terminate(),
        }
    }

    /// Waits for dismissed workers to exit, and kills them if they do not.
    pub async fn end(self) {
        match self {
            Self::Local(local) => local.end().await,
        }
    }
}

//! Local workers: one supervisor process, which starts a rank for each device and ends with this process.

use super::Error;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// Time for dismissed workers to exit before they are killed.
const EXIT_GRACE: Duration = Duration::from_secs(10);
/// Exit code of a supervisor that was stopped by a signal.
const EXIT_DRAINED: i32 = 75;
/// Number of times that a killed supervisor is started again.
const RESTARTS: u32 = 3;

/// Workers on this machine.
pub struct Local {
    program: PathBuf,
    coordinator: String,
    devices: String,
    child: Child,
    /// The workers exit when this is closed. It is kept here because waiting for a child would close it.
    lifeline: Option<ChildStdin>,
}

impl Local {
    /// Starts a worker process for each of `devices`; they share this machine's cores.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(program: PathBuf, coordinator: String, devices: String) -> Result<Self, Error> {
        let mut child = spawn(&program, &coordinator, &devices)?;
        let lifeline = child.stdin.take();
        Ok(Self { program, coordinator, devices, child, lifeline })
    }

    /// Keeps the supervisor running, and calls `say` with each line that the workers print. Returns once the workers
    /// were dismissed and have exited.
    ///
    /// # Errors
    /// [`Error::Drained`] if the supervisor was stopped by a signal, [`Error::Ended`] if it does not stay up.
    pub async fn watch(&mut self, mut say: impl FnMut(&str)) -> Result<(), Error> {
        for restart in 0.. {
            if let Some(stderr) = self.child.stderr.take() {
                let mut lines = BufReader::new(stderr).lines();
                // The pipe ends when the supervisor and all its ranks are gone.
                while let Ok(Some(line)) = lines.next_line().await {
                    say(&line);
                }
            }
            let status = self.child.wait().await.map_err(|source| self.cannot(source))?;
            if status.success() {
                return Ok(());
            }
            if status.code() == Some(EXIT_DRAINED) {
                return Err(Error::Drained);
            }
            // A supervisor that was killed by a signal is started again, but not one that gave up.
            if status.code().is_some() || restart >= RESTARTS {
                return Err(Error::Ended { status });
            }
            self.child = spawn(&self.program, &self.coordinator, &self.devices)?;
            self.lifeline = self.child.stdin.take();
        }
        Ok(())
    }

    /// Waits for dismissed workers to exit, and kills them if they do not.
    pub async fn end(mut self) {
        // `watch` keeps reading, so that a worker that still prints does not block on a full pipe.
        let ended = tokio::time::timeout(EXIT_GRACE, self.watch(|_| {})).await;
        if ended.is_err() {
            tracing::warn!("dismissed workers did not exit and are killed");
            // An error means that the process has exited in the meantime.
            let _ = self.child.kill().await;
        }
    }

    fn cannot(&self, source: std::io::Error) -> Error {
        Error::Start { program: self.program.clone(), source }
    }
}

fn spawn(program: &PathBuf, coordinator: &str, devices: &str) -> Result<Child, Error> {
    let quiet = std::env::var_os("MUSTER_LOG").is_none().then_some(("MUSTER_LOG", "warn"));
    Command::new(program)
        .args(["--coordinator", coordinator])
        .args(["--devices", devices])
        .args(["--name", "local"])
        .env("MUSTER_LIVES_WITH_PARENT", "1")
        // This program already shows what a worker logs by default.
        .envs(quiet)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })
}

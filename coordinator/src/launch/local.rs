//! Local workers: one supervisor process, which starts a rank for each device and lives no longer than this one.

use super::Error;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// How long dismissed workers have before they are killed.
const FAREWELL: Duration = Duration::from_secs(10);
/// How a supervisor ends that was told to go.
const EXIT_DRAINED: i32 = 75;
/// Supervisors that may die before the launcher gives up.
const RESTARTS: u32 = 3;

/// Workers on this machine.
pub struct Local {
    program: PathBuf,
    coordinator: String,
    ranks: usize,
    child: Child,
    /// Its end is the workers' sign to go; waiting for a child would close it.
    lifeline: Option<ChildStdin>,
}

impl Local {
    /// Starts `ranks` worker processes that share this machine's cores.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(program: PathBuf, coordinator: String, ranks: usize) -> Result<Self, Error> {
        let mut child = spawn(&program, &coordinator, ranks)?;
        let lifeline = child.stdin.take();
        Ok(Self { program, coordinator, ranks, child, lifeline })
    }

    /// Keeps the supervisor running; passes on what the workers say, line by line. Returns when they were dismissed.
    ///
    /// # Errors
    /// [`Error::Drained`] if it was told to go, [`Error::Ended`] if it will not stay up.
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
            // Killed from outside, it is worth another; a supervisor that gave up is not.
            if status.code().is_some() || restart >= RESTARTS {
                return Err(Error::Ended { status });
            }
            self.child = spawn(&self.program, &self.coordinator, self.ranks)?;
            self.lifeline = self.child.stdin.take();
        }
        Ok(())
    }

    /// Waits for dismissed workers to end, and ends them if they do not.
    pub async fn end(mut self) {
        // Reading on keeps a worker that still has something to say from blocking on a full pipe.
        let ended = tokio::time::timeout(FAREWELL, self.watch(|_| {})).await;
        if ended.is_err() {
            tracing::warn!("dismissed workers did not go, and are killed");
            // Gone by itself meanwhile, it is as well.
            let _ = self.child.kill().await;
        }
    }

    fn cannot(&self, source: std::io::Error) -> Error {
        Error::Start { program: self.program.clone(), source }
    }
}

fn spawn(program: &PathBuf, coordinator: &str, ranks: usize) -> Result<Child, Error> {
    let quiet = std::env::var_os("MUSTER_LOG").is_none().then_some(("MUSTER_LOG", "warn"));
    Command::new(program)
        .args(["--coordinator", coordinator])
        .args(["--devices", &format!("cpu:{ranks}")])
        .args(["--name", "local"])
        .env("MUSTER_LIVES_WITH_PARENT", "1")
        // This program shows already what a standing worker would log.
        .envs(quiet)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })
}

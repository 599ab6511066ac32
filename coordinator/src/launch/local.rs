//! Local workers: one supervisor process, which starts a rank for each device and ends with this process.

use super::Error;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// Time for dismissed workers to exit before they are killed.
const EXIT_GRACE: Duration = Duration::from_secs(10);
/// Exit code of a supervisor that was stopped by a signal.
const EXIT_DRAINED: i32 = 75;
/// Number of times that a killed supervisor is started again.
const RESTARTS: u32 = 3;

/// What to start on this machine.
#[derive(Clone, Debug)]
pub struct Node {
    /// The `worker` program.
    pub program: PathBuf,
    /// URL of the coordinator.
    pub coordinator: String,
    /// The devices, such as `cpu:2`; each gets a worker, and they share this machine's cores.
    pub devices: String,
    /// The name of the node.
    pub name: String,
    /// More arguments for the program.
    pub arguments: Vec<String>,
    /// The log filter if the environment names none.
    pub log: &'static str,
}

/// Workers on this machine.
pub struct Local {
    node: Node,
    child: Child,
    /// What the workers print. Kept between two calls of `watch`, so that no line is lost.
    lines: Option<Lines<BufReader<ChildStderr>>>,
    /// The workers exit when this is closed. It is kept here because waiting for a child would close it.
    lifeline: Option<ChildStdin>,
}

impl Local {
    /// Starts a worker process for each of the node's devices.
    ///
    /// # Errors
    /// [`Error::Start`].
    pub fn start(node: Node) -> Result<Self, Error> {
        let mut child = spawn(&node)?;
        let (lifeline, lines) = (child.stdin.take(), lines(&mut child));
        Ok(Self { node, child, lines, lifeline })
    }

    /// Keeps the supervisor running, and calls `say` with each line that the workers print. Returns once the workers
    /// were dismissed and have exited.
    ///
    /// # Errors
    /// [`Error::Drained`] if the supervisor was stopped by a signal, [`Error::Ended`] if it does not stay up.
    pub async fn watch(&mut self, mut say: impl FnMut(&str)) -> Result<(), Error> {
        for restart in 0.. {
            // The pipe ends when the supervisor and all its ranks are gone.
            while let Some(lines) = &mut self.lines {
                match lines.next_line().await {
                    Ok(Some(line)) => say(&line),
                    Ok(None) | Err(_) => self.lines = None,
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
            self.child = spawn(&self.node)?;
            (self.lifeline, self.lines) = (self.child.stdin.take(), lines(&mut self.child));
        }
        Ok(())
    }

    /// Asks the workers to leave.
    pub fn terminate(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        // The process may have exited already.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
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
        Error::Start { program: self.node.program.clone(), source }
    }
}

fn lines(child: &mut Child) -> Option<Lines<BufReader<ChildStderr>>> {
    Some(BufReader::new(child.stderr.take()?).lines())
}

fn spawn(node: &Node) -> Result<Child, Error> {
    let Node { program, coordinator, devices, name, arguments, log } = node;
    let log = std::env::var_os("MUSTER_LOG").is_none().then_some(("MUSTER_LOG", log));
    Command::new(program)
        .args(["--coordinator", coordinator])
        .args(["--devices", devices])
        .args(["--name", name])
        .args(arguments)
        .env("MUSTER_LIVES_WITH_PARENT", "1")
        .envs(log)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|source| Error::Start { program: program.clone(), source })
}

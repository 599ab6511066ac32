//! Container processes: starting them, reading their output, and probing them.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;

use crate::kubelet::report::{Report, Reporter, RunId};
use crate::kubelet::status::Exit;

/// How long output is read after a process has ended, when its children keep the pipes open.
const DRAIN_LIMIT: Duration = Duration::from_secs(1);

/// A running process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: Pid,
}

impl Process {
    /// Asks the process to end.
    pub(crate) fn terminate(&self) {
        // A process that has ended in the meantime needs no signal.
        let _ = rustix::process::kill_process(self.pid, Signal::TERM);
    }

    /// Kills the process and the processes that it started.
    pub(crate) fn kill(&self) {
        // As above.
        let _ = rustix::process::kill_process_group(self.pid, Signal::KILL);
    }
}

/// Starts a process in its own group; its output and its end are reported.
///
/// # Errors
/// The program cannot be started.
pub(crate) fn spawn(mut command: Command, id: RunId, reporter: Reporter) -> io::Result<Process> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let pid = pid.ok_or_else(|| io::Error::other("the process has no id"))?;
    let mut readers = JoinSet::new();
    if let Some(stdout) = child.stdout.take() {
        readers.spawn(read(stdout, id.clone(), reporter.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        readers.spawn(read(stderr, id.clone(), reporter.clone()));
    }
    tokio::spawn(async move {
        let exit = match child.wait().await {
            Ok(status) => {
                status.code().map_or_else(|| Exit::signal(status.signal().unwrap_or(9)), Exit::code)
            }
            Err(_) => Exit::code(255),
        };
        let drained = async { while readers.join_next().await.is_some() {} };
        // Children that keep the pipes open lose their further output.
        let _ = tokio::time::timeout(DRAIN_LIMIT, drained).await;
        reporter.send(Report::Exited(id, exit)).await;
    });
    Ok(Process { pid })
}

async fn read(pipe: impl AsyncRead + Unpin, id: RunId, reporter: Reporter) {
    let mut reader = BufReader::new(pipe);
    let mut line = Vec::new();
    while let Ok(length) = reader.read_until(b'\n', &mut line).await {
        if length == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r']).to_owned();
        reporter.send(Report::Line(id.clone(), text)).await;
        line.clear();
    }
}

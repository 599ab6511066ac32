//! One supervisor per node. It runs a rank process for each device, and starts it again when it dies or leaves
//! without the others.
//!
//! A rank does not outlive its supervisor: its standard input is a pipe that only the supervisor holds open, and end
//! of file tells it to exit, whatever killed the supervisor. On its standard output, a rank prints the coordinator's
//! new address whenever that moves, and the next rank is started with it. Each rank has its own process group, so
//! that Ctrl-C in a terminal reaches only the supervisor, which decides what to do.

use crate::address::RingAddress;
use crate::devices::{self, Device};
use proto::exit;
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wire::credentials::Credentials;

/// Exit code of a rank that the coordinator refused: starting it again changes nothing.
pub const EXIT_REFUSED: u8 = 2;
/// Exit code of a rank that was asked to terminate and left gracefully.
pub const EXIT_DRAINED: u8 = exit::STOPPED;
/// Exit code of a rank whose coordinator closes before the run's end. Unlike one that was asked to terminate alone, it
/// is not started again.
pub const EXIT_CLOSED: u8 = 76;

/// Exit code of a rank whose device can no longer be used by its process, or whose NCCL hangs: another process may.
pub const EXIT_BROKEN: u8 = 70;
/// Exit code of a rank whose device is damaged.
pub const EXIT_DAMAGED: u8 = 71;

/// The allocator's environment variable, and its value for a rank. Memory that the allocator returned to the system
/// would be needed again a moment later, step after step, and the kernel would zero every page of it.
pub const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// A slot is given up after this number of crashes within a minute.
const CRASHES: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// A device is set aside after this number of failures within half an hour, since a rank may train for minutes before
/// it meets the fault again.
const FAILURES: usize = 5;
const FAILURE_WINDOW: Duration = Duration::from_secs(30 * 60);
/// Delay before a dead rank is started again.
const RESTART_AFTER: Duration = Duration::from_millis(200);
/// A rank that is still running this long after its grace is killed.
const OVERDUE: Duration = Duration::from_secs(5);

/// Settings shared by all ranks of a node.
#[derive(Clone, Debug)]
pub struct Node {
    /// URL of the coordinator.
    pub coordinator: String,
    /// How the ranks prove who they are.
    pub credentials: Credentials,
    /// Name of the node: its slots are `NAME-0`, `NAME-1`, ...
    pub name: String,
    /// Compute threads per rank.
    pub threads: usize,
    /// Where peers reach its ranks, if given.
    pub ring_address: Option<RingAddress>,
    /// How long ranks may take to leave after SIGTERM.
    pub grace: Duration,
}

/// Runs a rank process per device until all are done; stops them gracefully once `terminate` resolves.
///
/// # Errors
/// This program cannot start itself.
pub async fn supervise(
    node: &Node,
    devices: &[Device],
    terminate: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        terminate.await;
        stop.send_replace(true);
    });
    let coordinator = watch::Sender::new(node.coordinator.clone());
    let mut ranks = JoinSet::new();
    for (index, device) in devices.iter().enumerate() {
        let slot = Slot {
            node: node.clone(),
            program: program.clone(),
            name: format!("{}-{index}", node.name),
            device: device.clone(),
        };
        let (coordinator, stopping) = (coordinator.clone(), stopping.clone());
        ranks.spawn(async move { keep_running(&slot, coordinator, stopping).await });
    }
    let mut worst = None;
    while let Some(ended) = ranks.join_next().await {
        let code = ended.map_err(std::io::Error::other)??;
        // Exit at once if a slot was refused or given up: the others would fare no better. A damaged device only takes
        // its own slot away.
        if !is_end(code) && ![EXIT_DRAINED, EXIT_DAMAGED].contains(&code) {
            return Ok(code.into());
        }
        let code = if code == EXIT_CLOSED { EXIT_DRAINED } else { code };
        worst = match worst {
            // Damaged devices decide only if there is no other.
            None | Some(EXIT_DAMAGED) => Some(code),
            Some(worst) if code == EXIT_DAMAGED => Some(worst),
            Some(worst) => Some(worst.max(code)),
        };
    }
    Ok(worst.unwrap_or(exit::SUCCEEDED).into())
}

/// Whether a rank with this exit code was dismissed.
fn is_end(code: u8) -> bool {
    let ends = [exit::SUCCEEDED, exit::FAILED_USER, exit::FAILED_DATA, exit::FAILED_INFRASTRUCTURE];
    ends.contains(&code) || [exit::CANCELLED, EXIT_CLOSED].contains(&code)
}

/// One of a node's ranks: its processes follow each other.
struct Slot {
    node: Node,
    program: PathBuf,
    name: String,
    device: Device,
}

/// Keeps one slot filled; returns the exit code of a process that need not be started again.
async fn keep_running(
    this: &Slot,
    coordinator: watch::Sender<String>,
    mut stopping: watch::Receiver<bool>,
) -> std::io::Result<u8> {
    let slot = &this.name;
    let mut crashes = Recent::within(CRASH_WINDOW);
    let mut failures = Recent::within(FAILURE_WINDOW);
    let mut last_end = None;
    loop {
        let mut child = start(this, &coordinator, last_end.as_deref())?;
        // Keeps the pipe open for as long as the rank may live; `wait` would close it.
        let _lifeline = child.stdin.take();
        let status = tokio::select! {
            status = child.wait() => status?,
            () = stop_requested(&mut stopping) => return stop(child, this.node.grace).await,
        };
        let end = describe(status);
        match status.code().and_then(|code| u8::try_from(code).ok()) {
            Some(code) if is_end(code) => return Ok(code),
            Some(EXIT_REFUSED) => return Ok(EXIT_REFUSED),
            Some(EXIT_DAMAGED) => {
                tracing::error!(slot, device = %this.device, "the device is damaged and is set aside");
                return Ok(EXIT_DAMAGED);
            }
            Some(EXIT_DRAINED) => {
                tracing::warn!(slot, "a rank process alone was asked to exit, and is replaced");
                last_end = Some("asked to exit, unlike the other ranks of its node".to_owned());
                continue;
            }
            _ => {}
        }
        let now = Instant::now();
        tracing::warn!(slot, end, "a rank process died");
        last_end = Some(end);
        let broken = status.code() == Some(EXIT_BROKEN.into());
        if broken && failures.count(now) >= FAILURES {
            tracing::error!(
                slot, device = %this.device,
                "the device failed {FAILURES} times within half an hour and is set aside"
            );
            return Ok(EXIT_DAMAGED);
        }
        if crashes.count(now) >= CRASHES {
            tracing::error!(slot, "it died {CRASHES} times within a minute and is given up");
            return Ok(1);
        }
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

/// Counts events of the recent past.
struct Recent {
    within: Duration,
    events: VecDeque<Instant>,
}

impl Recent {
    fn within(within: Duration) -> Self {
        Self { within, events: VecDeque::new() }
    }

    /// Adds an event; returns how many there are.
    fn count(&mut self, now: Instant) -> usize {
        self.events.push_back(now);
        self.events.retain(|then| now.duration_since(*then) < self.within);
        self.events.len()
    }
}

/// Resolves when the ranks should stop.
async fn stop_requested(stopping: &mut watch::Receiver<bool>) {
    // If the sender is gone, no request to stop will ever come.
    if stopping.wait_for(|stopping| *stopping).await.is_err() {
        std::future::pending().await
    }
}

fn start(
    slot: &Slot,
    coordinator: &watch::Sender<String>,
    last_end: Option<&str>,
) -> std::io::Result<Child> {
    let Slot { node, program, name, device } = slot;
    let address = coordinator.borrow().clone();
    let ring_address = node.ring_address.as_ref().map(ToString::to_string);
    let mut command = Command::new(program);
    if *device != Device::Cpu {
        devices::prepare(command.as_std_mut());
    }
    let mut child = command
        .args(["rank", "--coordinator", &address, "--slot", name])
        .args(node.credentials.arguments())
        .args(["--device", &device.argument()])
        .args(["--threads", &node.threads.to_string()])
        .args(["--grace", &format!("{}s", node.grace.as_secs())])
        .args(ring_address.iter().flat_map(|address| ["--ring-address", address]))
        .args(last_end.into_iter().flat_map(|end| ["--last-end", end]))
        .envs(std::env::var_os(KEEP_MEMORY.0).is_none().then_some(KEEP_MEMORY))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(stdout) = child.stdout.take() {
        let coordinator = coordinator.clone();
        tokio::spawn(async move {
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(moved)) = lines.next_line().await {
                coordinator.send_replace(moved);
            }
        });
    }
    Ok(child)
}

/// A human-readable description of how a process ended.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match SIGNALS.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        // Neither code nor signal: it was only stopped or continued, which `wait` does not report.
        (None, None) => status.to_string(),
    }
}

/// Signals that end a process, with their numbers on the usual Linux architectures.
const SIGNALS: [(i32, &str); 14] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (5, "SIGTRAP"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (15, "SIGTERM"),
    (24, "SIGXCPU"),
    (25, "SIGXFSZ"),
];

/// Sends SIGTERM to a rank, and kills it if it does not exit in time.
async fn stop(mut child: Child, grace: Duration) -> std::io::Result<u8> {
    if let Some(pid) = child.id().and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())) {
        // The process may have exited already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    match tokio::time::timeout(grace + OVERDUE, child.wait()).await {
        Ok(status) => Ok(status?.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)),
        Err(_) => {
            child.kill().await?;
            Ok(EXIT_DRAINED)
        }
    }
}

/// Resolves when this process's parent is gone, which closes the pipe on standard input.
pub async fn orphaned() {
    let (closed, closing) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // The receiver is gone if the process is exiting anyway.
        let _ = closed.send(());
    });
    let _ = closing.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_of_long_ago_do_not_count() {
        let start = Instant::now();
        let mut recent = Recent::within(Duration::from_secs(60));
        let counts = [0, 30, 59, 61, 200].map(|at| recent.count(start + Duration::from_secs(at)));
        assert_eq!(counts, [1, 2, 3, 3, 1]);
    }

    #[test]
    fn the_end_of_a_process_is_described_with_its_signal() {
        let raw = ExitStatus::from_raw;
        assert_eq!(describe(raw(9)), "killed by signal 9 (SIGKILL)");
        assert_eq!(describe(raw(11 | 0x80)), "killed by signal 11 (SIGSEGV)", "with a core dump");
        assert_eq!(describe(raw(40)), "killed by signal 40");
        assert_eq!(describe(raw(101 << 8)), "exit code 101");
    }
}

//! One supervisor per node: a rank process for each device, started again when it dies, or goes without the others.
//!
//! A rank lives no longer than its supervisor: its standard input is a pipe that only the supervisor holds, and its
//! end is the sign to go, whatever killed the supervisor. Its standard output says where the coordinator has moved to,
//! which is where the next rank is sent. Each rank has a process group of its own, so that Ctrl-C in a terminal reaches
//! only whoever is in charge.

use crate::address::RingAddress;
use std::collections::VecDeque;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The process was dismissed: its work is done.
pub const EXIT_DONE: u8 = 0;
/// The coordinator refused it: starting it again changes nothing.
pub const EXIT_REFUSED: u8 = 2;
/// It was told to go, and went in order.
pub const EXIT_DRAINED: u8 = 75;

/// The allocator's variable, and its value for a rank: what it has given back it asks for again a moment later, step
/// after step, and the kernel zeroes every page of it.
pub const KEEP_MEMORY: (&str, &str) = ("MIMALLOC_PURGE_DELAY", "-1");

/// A rank that dies so often within [`CRASH_WINDOW`] is given up.
const CRASHES: usize = 5;
const CRASH_WINDOW: Duration = Duration::from_secs(60);
/// Before a dead rank is started again.
const RESTART_AFTER: Duration = Duration::from_millis(200);
/// A rank that has not gone so long after it was told to is killed.
const KILL_AFTER: Duration = Duration::from_secs(25);

/// The devices of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Devices {
    /// Rank processes on the CPU.
    pub cpu: usize,
}

/// A `--devices` that cannot be understood.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("devices must be `cpu` or `cpu:N` with N from 1 to 64, got `{0}`")]
pub struct DevicesError(String);

impl std::str::FromStr for Devices {
    type Err = DevicesError;

    fn from_str(text: &str) -> Result<Self, DevicesError> {
        let count = match text.split_once(':') {
            None if text == "cpu" => Some(1),
            Some(("cpu", n)) => n.parse().ok(),
            _ => None,
        };
        match count {
            Some(cpu @ 1..=64) => Ok(Self { cpu }),
            _ => Err(DevicesError(text.to_owned())),
        }
    }
}

/// What every rank of a node is told.
#[derive(Clone, Debug)]
pub struct Node {
    /// Where the coordinator is.
    pub coordinator: String,
    /// Names the node's slots.
    pub name: String,
    /// Computing threads of a rank.
    pub threads: usize,
    /// Where peers reach its ranks, if that was said.
    pub ring_address: Option<RingAddress>,
}

/// Runs a rank process per device until all are done, or `terminate` is.
///
/// # Errors
/// If this program cannot start itself.
pub async fn supervise(
    node: &Node,
    devices: Devices,
    terminate: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<ExitCode> {
    let program = std::env::current_exe()?;
    let (told, telling) = watch::channel(false);
    tokio::spawn(async move {
        terminate.await;
        told.send_replace(true);
    });
    let coordinator = watch::Sender::new(node.coordinator.clone());
    let mut ranks = JoinSet::new();
    for index in 0..devices.cpu {
        let (node, program, telling) = (node.clone(), program.clone(), telling.clone());
        let coordinator = coordinator.clone();
        ranks
            .spawn(async move { keep_running(&node, &program, index, coordinator, telling).await });
    }
    let mut worst = EXIT_DONE;
    while let Some(ended) = ranks.join_next().await {
        let code = ended.map_err(std::io::Error::other)??;
        // A refused or hopeless slot is a reason to say so at once: its siblings fare no better.
        if code != EXIT_DONE && code != EXIT_DRAINED {
            return Ok(code.into());
        }
        worst = worst.max(code);
    }
    Ok(worst.into())
}

/// Keeps one slot filled; returns the exit code of a process that need not be started again.
async fn keep_running(
    node: &Node,
    program: &std::path::Path,
    index: usize,
    coordinator: watch::Sender<String>,
    mut told: watch::Receiver<bool>,
) -> std::io::Result<u8> {
    let slot = format!("{}-{index}", node.name);
    let mut crashes = VecDeque::new();
    let mut last_end = None;
    loop {
        let mut child = start(node, program, &slot, &coordinator, last_end.as_deref())?;
        // Held for as long as the rank may live; waiting for a child would close it.
        let _lifeline = child.stdin.take();
        let status = tokio::select! {
            status = child.wait() => status?,
            () = go(&mut told) => return stop(child).await,
        };
        let end = describe(status);
        match status.code() {
            Some(code) if code == i32::from(EXIT_DONE) => return Ok(EXIT_DONE),
            Some(code) if code == i32::from(EXIT_REFUSED) => return Ok(EXIT_REFUSED),
            Some(code) if code == i32::from(EXIT_DRAINED) => {
                tracing::warn!(slot, "a rank process was told to go by itself, and is replaced");
                last_end = Some("told to go by itself".to_owned());
                continue;
            }
            _ => {}
        }
        let now = Instant::now();
        crashes.push_back(now);
        crashes.retain(|t| now.duration_since(*t) < CRASH_WINDOW);
        tracing::warn!(slot, end, "a rank process died");
        last_end = Some(end);
        if crashes.len() >= CRASHES {
            tracing::error!(slot, "it died {CRASHES} times within a minute and is given up");
            return Ok(1);
        }
        tokio::time::sleep(RESTART_AFTER).await;
    }
}

/// Done when the ranks are to go.
async fn go(told: &mut watch::Receiver<bool>) {
    // A sender that is gone will never say it.
    if told.wait_for(|told| *told).await.is_err() {
        std::future::pending().await
    }
}

fn start(
    node: &Node,
    program: &std::path::Path,
    slot: &str,
    coordinator: &watch::Sender<String>,
    last_end: Option<&str>,
) -> std::io::Result<Child> {
    let address = coordinator.borrow().clone();
    let ring_address = node.ring_address.as_ref().map(ToString::to_string);
    let mut child = Command::new(program)
        .args(["rank", "--coordinator", &address, "--slot", slot])
        .args(["--threads", &node.threads.to_string()])
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

/// How a process ended, for people.
fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => match SIGNALS.iter().find(|(number, _)| *number == signal) {
            Some((_, name)) => format!("killed by signal {signal} ({name})"),
            None => format!("killed by signal {signal}"),
        },
        // Neither: it was only stopped or continued, which nobody waits for.
        (None, None) => status.to_string(),
    }
}

/// The signals that end processes, as Linux numbers them on the usual architectures.
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

/// Asks a rank to go, and makes sure that it does.
async fn stop(mut child: Child) -> std::io::Result<u8> {
    if let Some(pid) = child.id().and_then(|p| rustix::process::Pid::from_raw(p.cast_signed())) {
        // It may be gone already.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    match tokio::time::timeout(KILL_AFTER, child.wait()).await {
        Ok(status) => Ok(status?.code().and_then(|c| u8::try_from(c).ok()).unwrap_or(1)),
        Err(_) => {
            child.kill().await?;
            Ok(EXIT_DRAINED)
        }
    }
}

/// Done when this process's parent is gone: the pipe on standard input ends.
pub async fn orphaned() {
    let (gone, told) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        // Nobody waits any more if the process is ending anyway.
        let _ = gone.send(());
    });
    let _ = told.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_with_its_signal() {
        let raw = ExitStatus::from_raw;
        assert_eq!(describe(raw(9)), "killed by signal 9 (SIGKILL)");
        assert_eq!(describe(raw(11 | 0x80)), "killed by signal 11 (SIGSEGV)", "with a core dump");
        assert_eq!(describe(raw(40)), "killed by signal 40");
        assert_eq!(describe(raw(101 << 8)), "exit code 101");
    }

    #[test]
    fn devices_are_cpu_and_a_count() {
        assert_eq!("cpu".parse(), Ok(Devices { cpu: 1 }));
        assert_eq!("cpu:3".parse(), Ok(Devices { cpu: 3 }));
        for bad in ["", "gpu", "cpu:0", "cpu:x", "cpu:65", "cuda:1"] {
            assert!(bad.parse::<Devices>().is_err(), "{bad}");
        }
    }
}

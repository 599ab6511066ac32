//! A third-party server: waits while it starts, and stops it at the end of the test.

use crate::process::PATIENCE;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The pause between two checks of a server that is starting.
const POLL: Duration = Duration::from_millis(50);

/// A running server. When this is dropped, the server is stopped and its files are deleted.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    folder: tempfile::TempDir,
}

/// The program that the environment variable names. If it is unset, prints that the test is skipped and returns
/// `None`.
pub(crate) fn program(test: &str, variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("{test}: skipped, {variable} is not set");
    }
    program
}

/// Where a server runs.
pub struct Place {
    /// The address at which this process reaches it.
    pub address: IpAddr,
    /// The beginning of the command line that starts a program there.
    pub enter: Vec<String>,
    /// The port at which it is used; `None` for any free one.
    pub port: Option<u16>,
}

impl Place {
    /// The loopback of this host.
    pub fn here() -> Self {
        Self { address: Ipv4Addr::LOCALHOST.into(), enter: Vec::new(), port: None }
    }

    /// A command that runs a program there.
    pub(crate) fn command(&self, program: &Path) -> Command {
        let Some((first, rest)) = self.enter.split_first() else { return Command::new(program) };
        let mut command = Command::new(first);
        command.args(rest).arg(program);
        command
    }
}

impl Server {
    /// Starts a server whose files are in `folder`.
    pub(crate) fn start(
        name: &'static str,
        command: &mut Command,
        folder: tempfile::TempDir,
    ) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).expect("a temporary folder");
        let stdout = log.try_clone().expect("a file");
        command.stdin(Stdio::null()).stdout(stdout).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name, child, folder }
    }

    /// Waits until the server listens at `address`.
    pub(crate) fn wait_until_listening(&mut self, address: SocketAddr) {
        self.wait("listen", || TcpStream::connect(address).is_ok());
    }

    /// Waits until the condition is true. Panics if the server ends first.
    pub(crate) fn wait(&mut self, what: &str, mut condition: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !condition() {
            let ended = self.child.try_wait().expect("it was started");
            assert!(ended.is_none(), "{} has ended: {}", self.name, self.log());
            assert!(Instant::now() < until, "{} does not {what}: {}", self.name, self.log());
            std::thread::park_timeout(POLL);
        }
    }

    /// What the server has printed.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Different free ports outside of the kernel's ephemeral range, so that they are still free when a server starts or
/// restarts on them.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let taken: [TcpListener; N] = std::array::from_fn(|_| free_port());
    taken.map(|listener| listener.local_addr().expect("an address").port())
}

/// Number of attempts to find a free port; most ports of the range are free.
const PORTS_TRIED: u32 = 1000;

fn free_port() -> TcpListener {
    let bind = |_| {
        let chance = u16::from_str_radix(&proto::id::unique()[..4], 16).expect("it is hexadecimal");
        TcpListener::bind(("127.0.0.1", 20_000 + chance % 12_000)).ok()
    };
    (0..PORTS_TRIED).find_map(bind).expect("most ports are free")
}

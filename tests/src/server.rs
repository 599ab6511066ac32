//! A program of somebody else's that serves: waited for while it starts, and ended with the test.

use crate::process::PATIENCE;
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between two looks at a server that is starting.
const POLL: Duration = Duration::from_millis(50);

/// A server under way; it ends with this, and its files with it.
pub(crate) struct Server {
    name: &'static str,
    child: Child,
    folder: tempfile::TempDir,
}

/// The program that the environment names; none, said on standard output, where it does not.
pub(crate) fn program(test: &str, variable: &str) -> Option<PathBuf> {
    let program = std::env::var_os(variable).map(PathBuf::from);
    if program.is_none() {
        println!("{test}: skipped, {variable} is not set");
    }
    program
}

impl Server {
    /// Starts it; its files are in `folder`.
    pub(crate) fn start(
        name: &'static str,
        command: &mut Command,
        folder: tempfile::TempDir,
    ) -> Self {
        let log = std::fs::File::create(folder.path().join("log")).expect("a temporary folder");
        let said = log.try_clone().expect("a file");
        command.stdin(Stdio::null()).stdout(said).stderr(log);
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}"));
        Self { name, child, folder }
    }

    /// Waits until it listens.
    pub(crate) fn listens(&mut self, port: u16) {
        self.wait("listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
    }

    /// Waits until something is so, and no longer than the server lives.
    pub(crate) fn wait(&mut self, what: &str, mut is_so: impl FnMut() -> bool) {
        let until = Instant::now() + PATIENCE;
        while !is_so() {
            let ended = self.child.try_wait().expect("it was started");
            assert!(ended.is_none(), "{} has ended: {}", self.name, self.log());
            assert!(Instant::now() < until, "{} does not {what}: {}", self.name, self.log());
            std::thread::park_timeout(POLL);
        }
    }

    /// What it has said.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended on its own.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that nobody listens on, all different, and that the kernel gives to nobody who asks for just any: they are
/// still free when a server comes, or comes back, to them.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let taken: [TcpListener; N] = std::array::from_fn(|_| free_port());
    taken.map(|listener| listener.local_addr().expect("an address").port())
}

/// Attempts at finding a free port; most ports of the range are free.
const PORTS_TRIED: u32 = 1000;

fn free_port() -> TcpListener {
    let bind = |_| {
        let chance = u16::from_str_radix(&proto::id::unique()[..4], 16).expect("it is hexadecimal");
        TcpListener::bind(("127.0.0.1", 20_000 + chance % 12_000)).ok()
    };
    (0..PORTS_TRIED).find_map(bind).expect("most ports are free")
}

//! The peer process. It reads a line, does one save or load, and answers with a line.

use super::Took;
use anyhow::{Context, Result};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

pub(super) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Peer {
    /// Starts the peer with parameters of these sizes; `None` if MUSTER_PEER_PYTHON is unset.
    pub(super) fn start(elements: &[usize], folder: &str) -> Result<Option<Self>> {
        let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
            println!("the peer is skipped: MUSTER_PEER_PYTHON is unset");
            return Ok(None);
        };
        let threads = std::thread::available_parallelism()?.to_string();
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/peer/checkpoint.py"))
            .args(["--threads", &threads])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("MUSTER_PEER_PYTHON")?;
        let mut input = child.stdin.take().context("the peer's standard input")?;
        let output = BufReader::new(child.stdout.take().context("the peer's standard output")?);
        writeln!(input, "{}", serde_json::to_string(elements)?)?;
        Ok(Some(Self { child, input, output, folder: PathBuf::from(folder).join("peer") }))
    }

    pub(super) fn ask(&mut self, verb: &str) -> Result<Took> {
        writeln!(self.input, "{verb} {}", self.folder.display())?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the peer answered `{line}`"))
    }

    pub(super) fn clear(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The peer exits when its input ends. A benchmark that failed half-way does not wait for that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

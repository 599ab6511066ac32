//! Asks `transformers` through `tests/peer/render.py`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// A Python that has `transformers`.
pub(crate) struct Peer {
    python: PathBuf,
}

impl Peer {
    /// The peer. If MUSTER_PEER_PYTHON is unset, prints that the test is skipped and returns `None`.
    pub(crate) fn find(test: &str) -> Option<Peer> {
        Some(Peer { python: variable("MUSTER_PEER_PYTHON", test)? })
    }

    /// Returns one answer for each case. A case names its tokenizer by index into `models`.
    pub(crate) fn answers(&self, models: &[PathBuf], cases: &[Value]) -> Result<Vec<Value>> {
        let mut child = Command::new(&self.python)
            .arg(manifest("peer/render.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("MUSTER_PEER_PYTHON does not start")?;
        let request = json!({"models": models, "cases": cases}).to_string();
        let mut stdin = child.stdin.take().context("stdin is piped")?;
        // The script reads all of its input before it writes, so this does not deadlock.
        stdin.write_all(request.as_bytes())?;
        drop(stdin);
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "render.py: {}", output.status);
        let lines = std::str::from_utf8(&output.stdout)?.lines();
        let answers: Vec<Value> = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        ensure!(answers.len() == cases.len(), "{} answers", answers.len());
        Ok(answers)
    }
}

/// The folder that an environment variable names. If it is unset, prints that the test is skipped.
pub(crate) fn variable(name: &str, test: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    if value.is_none() {
        println!("{test}: skipped, {name} is not set");
    }
    value
}

/// A path in the folder of these tests.
pub(crate) fn manifest(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

//! The peer process: for each line of input, it takes a step and writes a line of output.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context;
use safetensors::tensor::TensorView;
use worker::model::{CONFIG_FILE, Dtype, WEIGHTS_FILE};

use super::Step;
use super::ours::Trainer;

pub(super) struct Peer {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// A folder with our random weights, if no folder was given.
    _folder: Option<tempfile::TempDir>,
}

#[derive(serde::Deserialize)]
struct Answer {
    seconds: f64,
    cpu_seconds: f64,
    loss: f64,
    grad_norm: f64,
}

impl Peer {
    /// Starts the peer on the same weights and batch; `None` if MUSTER_PEER_PYTHON is unset.
    pub(super) fn start(
        folder: Option<&Path>,
        ours: &Trainer,
        documents: &[Vec<u32>],
        threads: usize,
    ) -> anyhow::Result<Option<Self>> {
        let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
            println!("MUSTER_PEER_PYTHON is unset: skipping the peer");
            return Ok(None);
        };
        let made = match folder {
            Some(_) => None,
            None => Some(write_folder(ours)?),
        };
        let folder = folder.or(made.as_ref().map(tempfile::TempDir::path));
        let mut child = Command::new(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/peer/step.py"))
            .args(folder)
            .args(["--threads", &threads.to_string()])
            .args(["--dtype", ours.dtype()])
            .env("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("MUSTER_PEER_PYTHON")?;
        let mut input = child.stdin.take().context("the peer's standard input")?;
        let output = BufReader::new(child.stdout.take().context("the peer's standard output")?);
        writeln!(input, "{}", serde_json::to_string(documents)?)?;
        Ok(Some(Self { child, input, output, _folder: made }))
    }

    pub(super) fn step(&mut self) -> anyhow::Result<Step> {
        writeln!(self.input, "step")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let Answer { seconds, cpu_seconds, loss, grad_norm } =
            serde_json::from_str(&line).with_context(|| format!("the peer answered `{line}`"))?;
        Ok(Step { seconds, cpu_seconds, loss, norm: grad_norm })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It exits by itself at the end of its input, but a benchmark that failed half-way does not wait for that.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write_folder(ours: &Trainer) -> anyhow::Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    let parameters = ours.model.parameters();
    let bytes: Vec<_> =
        parameters.ids().map(|p| Dtype::F32.encode(&parameters.values(p).read())).collect();
    let views = parameters.ids().zip(&bytes).map(|(p, bytes)| {
        let view = TensorView::new(Dtype::F32.into(), parameters.shape(p).to_vec(), bytes);
        Ok((parameters.name(p).to_owned(), view?))
    });
    let views = views.collect::<anyhow::Result<Vec<_>>>()?;
    safetensors::serialize_to_file(views, None, &folder.path().join(WEIGHTS_FILE))?;
    std::fs::write(folder.path().join(CONFIG_FILE), &ours.config)?;
    Ok(folder)
}

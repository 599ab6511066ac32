//! `coordinator plan`: shows the steps, tokens, memory and time of a run in advance.

use super::outlook::{Measured, Outlook, ratio};
use super::preview::{Preview, preview};
use super::{Blame, Exit, Outcome, Refusal, devices};
use crate::launch;
use anyhow::{Context, anyhow};
use clap::Args;
use proto::cost::Cost;
use proto::print;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use tokio::io::AsyncWriteExt;

#[derive(Args)]
pub(super) struct Arguments {
    /// The run spec, a YAML file or an object such as s3://bucket/run.yaml
    spec: PathBuf,
    /// Number of worker processes on this machine, to estimate memory and time [default: the spec's workers.min]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: Option<u32>,
    /// Devices of these workers: cpu, cuda:all, or GPUs by number, such as cuda:0,3; the first one is measured
    #[arg(long, default_value = "cpu")]
    devices: String,
    /// Do not train a few micro-batches to measure time, memory and checkpoint size
    #[arg(long)]
    no_measure: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(super) async fn plan(arguments: Arguments) -> Outcome {
    let preview = preview(&arguments.spec).await?;
    let mut outlook = Outlook::new(&preview);
    if !arguments.no_measure {
        let program = launch::program().blame(Exit::Infrastructure)?;
        let (devices, workers) =
            devices::chosen(&arguments.devices, arguments.workers, &preview.spec, &program).await?;
        let cost = measure(&preview, &program, (&devices, workers)).await?;
        outlook.measured = Some(Measured::new(cost, &preview.spec, &outlook, workers));
    }
    if arguments.json {
        print::line(serde_json::to_string(&outlook).expect("numbers are JSON"))?;
    } else {
        print::text(format_args!("{}\n{outlook}", preview.spec.name()))?;
    }
    Ok(Exit::Done)
}

/// Lets a worker train and time a few micro-batches like those of the run.
async fn measure(preview: &Preview, program: &Path, workers: (&str, u32)) -> Result<Cost, Refusal> {
    if std::io::stderr().is_terminal() {
        print::note("measuring a few micro-batches (--no-measure skips this) ...");
    }
    let output = run_worker(preview, program, workers).await.blame(Exit::Infrastructure)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(refusal(&output, &stderr));
    }
    print::note_text(&stderr);
    serde_json::from_slice(&output.stdout)
        .context("the worker's measurement")
        .blame(Exit::Infrastructure)
}

async fn run_worker(
    preview: &Preview,
    program: &Path,
    (devices, workers): (&str, u32),
) -> anyhow::Result<Output> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = (cores / workers as usize).max(1);
    let total = preview.receipt.total();
    let mut child = tokio::process::Command::new(program)
        .args(["measure", "--devices", devices])
        .args(["--threads", &threads.to_string(), "--workers", &workers.to_string()])
        .args(["--tokens-per-sample", &(total.tokens / total.samples.max(1)).max(2).to_string()])
        .args(["--trained-share", &ratio(total.trained_tokens, total.tokens).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("`{}` cannot be started", program.display()))?;
    let mut stdin = child.stdin.take().context("the worker has no input")?;
    stdin.write_all(preview.spec.resolved_yaml().as_bytes()).await?;
    drop(stdin);
    Ok(child.wait_with_output().await?)
}

/// Why nothing was measured: the worker's own error, or its exit status if it printed none.
fn refusal(output: &Output, stderr: &str) -> Refusal {
    let users = output.status.code() == Some(Exit::User as i32);
    let exit = if users { Exit::User } else { Exit::Infrastructure };
    let error = match stderr.split_once("error: ") {
        Some((before, error)) => {
            print::note_text(before);
            anyhow!(error.trim_end().to_owned())
        }
        None => anyhow!(
            "a step cannot be measured: the worker ended with {}\n\
             hint: --no-measure skips the measurement of time and memory",
            output.status
        ),
    };
    Refusal { exit, error }
}

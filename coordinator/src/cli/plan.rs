//! `coordinator plan`: what a run would do, before it does it: steps, tokens, memory, time.

use super::preview::{Preview, preview};
use super::{Blame, Exit, Outcome};
use crate::launch;
use anyhow::Context;
use clap::Args;
use proto::spec::Spec;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::AsyncWriteExt;

#[derive(Args)]
pub(super) struct Arguments {
    /// The run spec, a YAML file
    spec: PathBuf,
    /// Worker processes on this machine, for memory and time [default: the spec's workers.min]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    workers: Option<u32>,
    /// Do not train a few micro-batches to measure memory and time
    #[arg(long)]
    no_measure: bool,
    /// Print one JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(super) async fn plan(arguments: Arguments) -> Outcome {
    let preview = preview(&arguments.spec).await?;
    let workers = arguments.workers.unwrap_or(preview.spec.workers().min);
    let cost = if arguments.no_measure {
        None
    } else {
        Some(measure(&preview, workers).await.blame(Exit::Infrastructure)?)
    };
    let outlook = Outlook::new(&preview, workers, cost);
    if arguments.json {
        println!("{}", serde_json::to_string(&outlook).expect("numbers are JSON"));
    } else {
        print!("{outlook}");
    }
    Ok(Exit::Done)
}

/// What a step costs on one worker, as `worker measure` says.
#[derive(Clone, Debug, Deserialize)]
struct Cost {
    /// Parameters of the model.
    parameters: u64,
    /// Bytes of one of them in the model's files.
    bytes_per_parameter: u64,
    /// Tokens of the micro-batch that was measured.
    micro_batch_tokens: u64,
    /// Forward and backward of one micro-batch.
    micro_batch_seconds: f64,
    /// The optimizer's part of a step.
    update_seconds: f64,
    /// The most memory that the process had.
    peak_bytes: u64,
}

/// Lets a worker train a few micro-batches as the run would, and time them.
async fn measure(preview: &Preview, workers: u32) -> anyhow::Result<Cost> {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let threads = (cores / workers as usize).max(1);
    let total = preview.receipt.total();
    let program = launch::program()?;
    if std::io::stderr().is_terminal() {
        eprintln!("measuring a few micro-batches (--no-measure leaves it out) ...");
    }
    let mut child = tokio::process::Command::new(&program)
        .arg("measure")
        .args(["--threads", &threads.to_string()])
        .args(["--tokens-per-sample", &(total.tokens / total.samples.max(1)).max(2).to_string()])
        .args(["--trained-share", &ratio(total.trained_tokens, total.tokens).to_string()])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("`{}` cannot be started", program.display()))?;
    let mut stdin = child.stdin.take().context("the worker has no input")?;
    stdin.write_all(preview.spec.resolved_yaml().as_bytes()).await?;
    drop(stdin);
    let output = child.wait_with_output().await?;
    anyhow::ensure!(
        output.status.success(),
        "a step cannot be measured; what the worker said stands above\n\
         hint: --no-measure leaves memory and time out"
    );
    serde_json::from_slice(&output.stdout).context("what the worker measured")
}

/// A run in numbers, for people and for programs.
#[derive(Serialize)]
struct Outlook {
    name: String,
    records: u64,
    dropped: u64,
    samples: u64,
    held_out: u64,
    packs_per_epoch: u64,
    max_tokens: u32,
    /// Tokens per token of room in the packs.
    density: f64,
    epochs: usize,
    steps: u64,
    steps_per_epoch: u64,
    packs_per_step: f64,
    samples_per_step: f64,
    tokens_per_step: f64,
    trained_tokens_per_step: f64,
    tokens: u64,
    checkpoints: u64,
    workers: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    measured: Option<Measured>,
}

/// What follows from a measured step.
#[derive(Serialize)]
struct Measured {
    parameters: u64,
    memory_bytes_per_worker: u64,
    tokens_per_second: f64,
    eta_seconds: f64,
    model_bytes: u64,
    checkpoint_bytes: u64,
}

impl Outlook {
    fn new(preview: &Preview, workers: u32, cost: Option<Cost>) -> Self {
        let Preview { spec, receipt, plan, .. } = preview;
        let planned_steps = (plan.steps_per_epoch * plan.epochs.len() as u64).max(1);
        let sum = |of: fn(&proto::plan::EpochSummary) -> f64| -> f64 {
            plan.epochs.iter().map(of).sum::<f64>() / planned_steps as f64
        };
        let tokens_per_step = sum(|epoch| epoch.tokens as f64);
        let tokens = (tokens_per_step * plan.steps as f64).round() as u64;
        let total = receipt.total();
        let packs_per_step = ratio(plan.packs_per_epoch, plan.steps_per_epoch);
        let every = spec.checkpoint().every;
        Self {
            name: spec.name().to_owned(),
            records: total.read,
            dropped: total.dropped_records(),
            samples: plan.samples - plan.held_out,
            held_out: plan.held_out,
            packs_per_epoch: plan.packs_per_epoch,
            max_tokens: plan.max_tokens,
            density: plan.density(),
            epochs: plan.epochs.len(),
            steps: plan.steps,
            steps_per_epoch: plan.steps_per_epoch,
            packs_per_step,
            samples_per_step: sum(|epoch| epoch.samples as f64),
            tokens_per_step,
            trained_tokens_per_step: sum(|epoch| epoch.weight),
            tokens,
            checkpoints: plan.steps.div_ceil(every),
            workers,
            measured: cost.map(|cost| {
                let step = StepShape { packs: packs_per_step, tokens: tokens_per_step, workers };
                Measured::new(&cost, spec, &step, plan.steps)
            }),
        }
    }
}

/// What decides how long a step takes.
struct StepShape {
    packs: f64,
    tokens: f64,
    workers: u32,
}

impl Measured {
    fn new(cost: &Cost, spec: &Spec, step: &StepShape, steps: u64) -> Self {
        // The slowest worker is the one with the most packs; the others wait for it.
        let packs = (step.packs / f64::from(step.workers)).ceil();
        let tokens = packs * step.tokens / step.packs;
        let compute = cost.micro_batch_seconds * tokens / cost.micro_batch_tokens as f64;
        let step_seconds = compute + cost.update_seconds;
        let model_bytes = cost.parameters * save_bytes(spec, cost);
        Self {
            parameters: cost.parameters,
            memory_bytes_per_worker: cost.peak_bytes,
            tokens_per_second: step.tokens / step_seconds,
            eta_seconds: step_seconds * steps as f64,
            model_bytes,
            // Masters and both moments, in f32.
            checkpoint_bytes: model_bytes + cost.parameters * 12,
        }
    }
}

fn save_bytes(spec: &Spec, cost: &Cost) -> u64 {
    use proto::spec::SaveDtype;
    match spec.model().save_dtype {
        None => cost.bytes_per_parameter,
        Some(SaveDtype::F32) => 4,
        Some(SaveDtype::Bf16 | SaveDtype::F16) => 2,
    }
}

impl fmt::Display for Outlook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let o = self;
        writeln!(f, "{}", o.name)?;
        writeln!(
            f,
            "  data        {} records: {} dropped; {} samples to train on, {} held out",
            o.records, o.dropped, o.samples, o.held_out
        )?;
        writeln!(
            f,
            "  an epoch    {} packs of up to {} tokens, {:.1} % full; {} steps",
            o.packs_per_epoch,
            o.max_tokens,
            o.density * 100.0,
            o.steps_per_epoch
        )?;
        writeln!(
            f,
            "  a step      {:.1} packs, {:.1} samples, {:.0} tokens, {:.0} of them trained",
            o.packs_per_step, o.samples_per_step, o.tokens_per_step, o.trained_tokens_per_step
        )?;
        let epochs = if o.epochs == 1 { "1 epoch".into() } else { format!("{} epochs", o.epochs) };
        writeln!(f, "  in all      {} steps of {epochs}; {} tokens", o.steps, o.tokens)?;
        if let Some(m) = &o.measured {
            let workers =
                if o.workers == 1 { "1 worker".into() } else { format!("{} workers", o.workers) };
            writeln!(
                f,
                "  time        about {} with {workers} on this machine, {:.0} tokens/s",
                duration(m.eta_seconds),
                m.tokens_per_second
            )?;
            writeln!(f, "  memory      {} for each worker", bytes(m.memory_bytes_per_worker))?;
            writeln!(
                f,
                "  checkpoint  {} ({} of it the model's), {} in the run",
                bytes(m.checkpoint_bytes),
                bytes(m.model_bytes),
                o.checkpoints
            )?;
        }
        if o.steps < FEW_STEPS {
            writeln!(f, "warning: {}", few_steps())?;
        }
        Ok(())
    }
}

/// Fewer steps than this deserve a warning.
pub(super) const FEW_STEPS: u64 = 50;

pub(super) fn few_steps() -> String {
    format!(
        "fewer than {FEW_STEPS} steps change a model little; a smaller `train.global_batch` gives more"
    )
}

fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// `1.8 GB`, as storage is sold and as `ls -h --si` shows it.
fn bytes(n: u64) -> String {
    const UNITS: [(&str, f64); 4] = [("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let n = n as f64;
    let unit = UNITS.iter().find(|(_, size)| n >= *size);
    unit.map_or_else(|| format!("{n} B"), |(name, size)| format!("{:.1} {name}", n / size))
}

/// `2 h 5 min`, to two parts.
fn duration(seconds: f64) -> String {
    let all = Duration::from_secs_f64(seconds.clamp(0.0, 1e9)).as_secs();
    match (all / 86400, all / 3600 % 24, all / 60 % 60, all % 60) {
        (0, 0, 0, s) => format!("{s} s"),
        (0, 0, m, s) => format!("{m} min {s} s"),
        (0, h, m, _) => format!("{h} h {m} min"),
        (d, h, _, _) => format!("{d} d {h} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_as_people_say_them() {
        assert_eq!([bytes(999), bytes(1_600_000_000)], ["999 B", "1.6 GB"]);
        let said = [4.2, 125.0, 7_500.0, 100_000.0].map(duration);
        assert_eq!(said, ["4 s", "2 min 5 s", "2 h 5 min", "1 d 3 h"]);
    }

    #[test]
    fn a_step_lasts_as_long_as_its_fullest_worker() {
        let cost = Cost {
            parameters: 10,
            bytes_per_parameter: 2,
            micro_batch_tokens: 100,
            micro_batch_seconds: 1.0,
            update_seconds: 0.5,
            peak_bytes: 7,
        };
        let spec = "model: {base: /b}\ndata: {train: [{source: /d.jsonl}]}\n";
        let spec = proto::spec::parse(spec, std::path::Path::new("/")).expect("a spec");
        // 16 packs of 100 tokens on 3 workers: one has 6 of them.
        let step = StepShape { packs: 16.0, tokens: 1600.0, workers: 3 };
        let measured = Measured::new(&cost, &spec, &step, 10);
        assert_eq!(measured.eta_seconds, 65.0);
        assert_eq!((measured.model_bytes, measured.checkpoint_bytes), (20, 140));
    }
}

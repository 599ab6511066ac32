//! `worker measure`: what a step of a run costs on one worker of this machine, found by taking a few.
//!
//! The tokens are made up, their number, their documents and the share of them that is trained are the run's.

use crate::collective::InProcess;
use crate::job::Job;
use crate::model::Model;
use crate::ops::{Documents, Target};
use crate::replica::{Batch, MicroBatch, State, Trainer};
use crate::session::Trouble;
use anyhow::Context;
use clap::Args;
use proto::cost::Cost;
use proto::print;
use proto::protocol::Cause;
use proto::spec::Spec;
use std::io::Read;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Steps that are timed, after one that warms up; the fastest of each kind counts.
const STEPS: u64 = 3;

/// What the data set is like.
#[derive(Args)]
pub struct Arguments {
    /// Computing threads
    #[arg(long)]
    threads: usize,
    /// Tokens of a sample, on average
    #[arg(long)]
    tokens_per_sample: u32,
    /// The share of tokens that are trained
    #[arg(long)]
    trained_share: f64,
}

/// The base model is at fault: the coordinator's own code for what a user can mend.
const EXIT_USER: u8 = 2;
const EXIT_INFRASTRUCTURE: u8 = 1;

/// Reads a resolved spec from standard input and prints what its steps cost, as one JSON object. A base that cannot be
/// read is told as a run would tell it, and whose fault that is by the exit code.
///
/// # Errors
/// Whatever else there is no cost for.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global()?;
    let mut yaml = String::new();
    std::io::stdin().read_to_string(&mut yaml)?;
    let spec = Spec::from_resolved(&yaml)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (model, recipe) = match runtime.block_on(Job::blueprint(&spec)) {
        Ok(blueprint) => blueprint,
        Err(Trouble { cause, message, .. }) => {
            print::note(format_args!("error: {message}"));
            return Ok(exit_code(cause));
        }
    };
    let vocabulary = model.config().vocab_size;
    let of_model = sizes(&model);
    let mut state = State::new(model);
    let mut trainer = Trainer::new(&state, recipe);
    let mut alone = InProcess::world(1, Duration::from_secs(600));
    let collective = alone.first_mut().context("a world of one")?;

    let mut cost = Cost {
        parameters: of_model.0,
        bytes_per_parameter: of_model.1,
        micro_batches: STEPS,
        micro_batch_tokens: 0,
        micro_batch_seconds: f64::INFINITY,
        update_seconds: f64::INFINITY,
        peak_bytes: 0,
    };
    for step in 0..=STEPS {
        let micro_batch = micro_batch(&spec, arguments, vocabulary);
        let weight = micro_batch.weight();
        cost.micro_batch_tokens = micro_batch.tokens.len() as u64;
        let batch = Batch {
            step,
            micro_batches: vec![micro_batch],
            // A rate of zero keeps the model what it is.
            learning_rate: 0.0,
            planned_weight: weight,
            weight,
            samples: 0,
            samples_digest: 0,
        };
        let began = Instant::now();
        let committed = trainer.step(&mut state, collective, &batch, false)?;
        let compute = committed.done.compute.as_secs_f64();
        if step > 0 {
            cost.micro_batch_seconds = cost.micro_batch_seconds.min(compute);
            cost.update_seconds = cost.update_seconds.min(began.elapsed().as_secs_f64() - compute);
        }
    }
    cost.peak_bytes = peak_bytes()?;
    print::line(serde_json::to_string(&cost)?)?;
    Ok(ExitCode::SUCCESS)
}

fn exit_code(cause: Cause) -> ExitCode {
    ExitCode::from(match cause {
        Cause::Model | Cause::Data => EXIT_USER,
        Cause::Peer | Cause::Storage | Cause::Internal | Cause::Checkpoint | Cause::Diverged => {
            EXIT_INFRASTRUCTURE
        }
    })
}

/// Parameters, and the bytes of one of them in the model's files.
fn sizes(model: &Model) -> (u64, u64) {
    let parameters = model.parameters();
    let elements = parameters.ids().map(|p| parameters.elements(p) as u64).sum();
    (elements, model.dtype().size() as u64)
}

/// A micro-batch of the run's size, of documents of its average length.
fn micro_batch(spec: &Spec, arguments: &Arguments, vocabulary: usize) -> MicroBatch {
    let length = arguments.tokens_per_sample.clamp(2, spec.data().max_tokens) as usize;
    let room = Job::micro_batch_packs(spec) * spec.data().max_tokens as usize;
    let documents = (room / length).max(1);
    // Any tokens will do; neighbours differ, so that no cache makes them cheaper than real ones.
    let tokens: Vec<u32> = (0..documents * length)
        .map(|i| (i.wrapping_mul(2_654_435_761) % vocabulary) as u32)
        .collect();
    let trained = ((length - 1) as f64 * arguments.trained_share).round().max(1.0) as usize;
    let mut targets = Vec::new();
    for document in 0..documents {
        let end = (document + 1) * length;
        // An answer stands at the end; the last row predicts nothing.
        for row in end - 1 - trained..end - 1 {
            targets.push(Target { row: row as u32, token: tokens[row + 1], weight: 1.0 });
        }
    }
    MicroBatch {
        sources: vec![0; documents],
        documents: Documents::of_lengths((0..documents).map(|_| length)),
        targets,
        tokens,
    }
}

/// The most memory that this process has had, as the kernel counts it.
fn peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no VmHWM")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

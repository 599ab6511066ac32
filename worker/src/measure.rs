//! `worker measure`: measures what a step of a run costs on one worker of this machine, by running a few.
//!
//! The tokens are synthetic; their number, the length of the documents and the share of trained tokens are the run's.

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

/// Number of timed steps, after a warm-up step; the fastest time of each kind counts.
const STEPS: u64 = 3;

/// Properties of the data set, and the number of threads.
#[derive(Args)]
pub struct Arguments {
    /// Number of compute threads
    #[arg(long)]
    threads: usize,
    /// Average tokens per sample
    #[arg(long)]
    tokens_per_sample: u32,
    /// Share of tokens that are trained, from 0 to 1
    #[arg(long)]
    trained_share: f64,
}

/// Exit code if the base model is at fault; the same as the coordinator's for errors that the user can fix.
const EXIT_USER: u8 = 2;
const EXIT_INFRASTRUCTURE: u8 = 1;

/// Reads a resolved spec from standard input and prints the cost of its steps as one JSON object. A base model that
/// cannot be read is reported with the message of a real run; the exit code says whether the user or the
/// infrastructure is at fault.
///
/// # Errors
/// Any other failure.
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
            // A learning rate of zero leaves the model unchanged.
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

/// Number of parameters, and bytes per parameter in the model's files.
fn sizes(model: &Model) -> (u64, u64) {
    let parameters = model.parameters();
    let elements = parameters.ids().map(|p| parameters.elements(p) as u64).sum();
    (elements, model.dtype().size() as u64)
}

/// A micro-batch of the run's size, with documents of its average length.
fn micro_batch(spec: &Spec, arguments: &Arguments, vocabulary: usize) -> MicroBatch {
    let length = arguments.tokens_per_sample.clamp(2, spec.data().max_tokens) as usize;
    let room = Job::micro_batch_packs(spec) * spec.data().max_tokens as usize;
    let documents = (room / length).max(1);
    // Any tokens will do. Neighbours differ, so that caching does not make them cheaper than real ones.
    let tokens: Vec<u32> = (0..documents * length)
        .map(|i| (i.wrapping_mul(2_654_435_761) % vocabulary) as u32)
        .collect();
    let trained = ((length - 1) as f64 * arguments.trained_share).round().max(1.0) as usize;
    let mut targets = Vec::new();
    for document in 0..documents {
        let end = (document + 1) * length;
        // The trained answer is at the end of the document; the last row predicts nothing.
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

/// Peak resident memory of this process, as counted by the kernel.
fn peak_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|rest| rest.trim().strip_suffix(" kB")).context("no VmHWM")?;
    Ok(kib.trim().parse::<u64>()? * 1024)
}

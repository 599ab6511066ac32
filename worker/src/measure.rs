//! `worker measure`: measures what a step of a run costs on one device of this machine, by running a few.
//!
//! The tokens are synthetic; their number, the length of the documents and the share of trained tokens are the run's.

use crate::available;
use crate::collective::Alone;
use crate::device::Device;
use crate::devices::{self, Devices};
use crate::job::{self, Fit, Job, Sizing};
use crate::model::Model;
use crate::replica::{Batch, MicroBatch, Saved, Setup, State, Trainer};
use crate::session::Trouble;
use clap::Args;
use proto::cost::{Cost, Memory};
use proto::print;
use proto::protocol::Cause;
use proto::spec::Spec;
use std::io::Read;
use std::process::ExitCode;

/// Number of timed steps, after a warm-up step; the fastest time of each kind counts.
const STEPS: u64 = 3;

/// Properties of the data set, and what a worker has.
#[derive(Args)]
pub struct Arguments {
    /// Number of compute threads
    #[arg(long)]
    threads: usize,
    /// Number of workers of the run, all on this machine
    #[arg(long)]
    workers: usize,
    /// Devices of the run; the first one is measured
    #[arg(long)]
    devices: Devices,
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
    if arguments.devices.are_gpus() {
        devices::start_prepared()?;
    }
    rayon::ThreadPoolBuilder::new().num_threads(arguments.threads).build_global()?;
    let mut yaml = String::new();
    std::io::stdin().read_to_string(&mut yaml)?;
    let spec = Spec::from_resolved(&yaml)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let first = runtime.block_on(arguments.devices.ranks())?.remove(0);
    let kernels = devices::open(&first)?.kernels;
    let device = kernels.device().clone();
    let process = available::resident()?;
    let blueprint = runtime.block_on(Job::blueprint(&spec, process, kernels));
    let fitted = blueprint.and_then(|blueprint| fitted(&spec, arguments, process, blueprint));
    let (model, saved, fit) = match fitted {
        Ok(fitted) => fitted,
        Err(Trouble { cause, message, .. }) => {
            print::note(format_args!("error: {message}"));
            return Ok(exit_code(cause));
        }
    };
    let vocabulary = model.config().vocab_size;
    let of_model = sizes(&model);
    let dtype = model.parameters().dtype();
    let recipe = job::recipe(&spec, fit.recompute);
    let checkpoints = Some((arguments.workers, saved)).filter(|_| device == Device::Host);
    let process = if device == Device::Host { process } else { 0 };
    let setup = Setup { config: model.config(), dtype, recipe, device: &device, checkpoints };
    let predicted = setup.memory(micro_batch(&spec, arguments, fit.packs, vocabulary))?;
    let mut state = State::new(model);
    let mut trainer = Trainer::new(&state, recipe);
    let mut alone = Alone::of(1);

    let mut cost = Cost {
        parameters: of_model.0,
        bytes_per_parameter: of_model.1,
        micro_batches: STEPS,
        micro_batch_tokens: 0,
        micro_batch_seconds: f64::INFINITY,
        update_seconds: f64::INFINITY,
        peak_bytes: 0,
        predicted: Memory { process, ..predicted },
    };
    for step in 0..=STEPS {
        let micro_batch = micro_batch(&spec, arguments, fit.packs, vocabulary);
        cost.micro_batch_tokens = micro_batch.tokens.len() as u64;
        // A learning rate of zero leaves the model unchanged.
        let batch = Batch::of(step, micro_batch, 0.0);
        let began = device.moment();
        let committed = trainer.step(&mut state, &mut alone, &batch, false)?;
        let compute = committed.done.compute.as_secs_f64();
        let whole = device.moment().since(&began).as_secs_f64();
        if step > 0 {
            cost.micro_batch_seconds = cost.micro_batch_seconds.min(compute);
            cost.update_seconds = cost.update_seconds.min((whole - compute).max(0.0));
        }
    }
    device.check()?;
    cost.peak_bytes = match &device {
        Device::Cuda(gpu) => gpu.reserved(),
        Device::Host | Device::Rehearsal(_) => available::peak()?,
    };
    print::line(serde_json::to_string(&cost)?)?;
    Ok(ExitCode::SUCCESS)
}

/// Chooses how micro-batches go through the model on its device.
fn fitted(
    spec: &Spec,
    arguments: &Arguments,
    process: u64,
    (model, saved): (Model, Saved),
) -> Result<(Model, Saved, Fit), Trouble> {
    let on_host = arguments.workers as u64;
    let checkpoints = Some((arguments.workers, saved));
    let (config, refused) = (model.config(), u64::MAX);
    let device = model.parameters().kernels().device();
    let sizing = Sizing { spec, config, device, checkpoints, on_host, process, refused };
    let chosen = sizing.reserve()?;
    chosen.warn_if_too_large();
    Ok((model, saved, chosen.fit))
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
fn micro_batch(spec: &Spec, arguments: &Arguments, packs: usize, vocabulary: usize) -> MicroBatch {
    let length = arguments.tokens_per_sample.clamp(2, spec.data().max_tokens) as usize;
    let documents = (packs * spec.data().max_tokens as usize / length).max(1);
    let trained = ((length - 1) as f64 * arguments.trained_share).round().max(1.0) as usize;
    MicroBatch::synthetic(documents, length, trained, vocabulary)
}

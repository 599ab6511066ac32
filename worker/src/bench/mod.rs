//! `worker bench`: how fast steps of a model are on this host, and how fast they could be on a GPU.
//!
//! ```text
//! shapes.rs   models to measure          ranks.rs    the ranks, as threads
//! gpus.rs     what GPUs can do at most   phases.rs   where the time goes
//! report.rs   the result
//! ```
//!
//! Weights are random and tokens are synthetic, since neither changes what a step costs. A measured step is a whole
//! one: forward, backward, sums over ranks, clipping, AdamW.

mod gpus;
mod phases;
mod ranks;
mod report;
mod shapes;

pub use phases::Clock;

use crate::available;
use crate::collective::Alone;
use crate::device::cuda::Counts;
use crate::device::{Device, Dtype, Ledger};
use crate::devices::{self, Devices};
use crate::kernels::{self, Account, Kernels};
use crate::model::{Config, Model};
use crate::ops::Recompute;
use crate::replica::optimizer::AdamW;
use crate::replica::{BUCKET_ELEMENTS, Batch, MicroBatch, Recipe, Setup, State, Trainer};
use clap::{Args, ValueEnum};
use gpus::Known;
use proto::cost::Memory;
use proto::print;
use ranks::Rank;
use report::{Estimate, Measured, Phase, Report};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// Steps that are taken before any is measured: they allocate memory, and libraries choose their kernels.
const WARM_UP: usize = 2;

/// Exit code for options that cannot be used here; the same as clap's.
const EXIT_OPTIONS: u8 = 2;

/// Tokens of a pack, unless an option sets them.
const SEQUENCE: usize = 1024;

/// The optimizer's settings, which do not change what a step costs.
const ADAMW: AdamW = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
const LEARNING_RATE: f64 = 1e-5;

/// The model, the size of a step, and where it is measured.
#[derive(Args)]
pub struct Arguments {
    /// Shape of the model: smollm2-135m, smollm2-360m, smollm2-1.7b, qwen2.5-0.5b, qwen2.5-7b, llama-3.2-1b,
    /// llama-3.1-8b, or a model's folder or config.json
    #[arg(default_value = "smollm2-135m")]
    model: String,
    /// Devices to measure on, as in `worker --devices`; each is a rank
    #[arg(long, default_value = "cpu")]
    devices: Devices,
    /// Type of activations, and of parameters as operations use them
    #[arg(long, value_enum, default_value_t = Type::F32)]
    dtype: Type,
    /// Type in which gradients are summed between ranks
    #[arg(long, value_enum, default_value_t = Type::F32)]
    reduce_dtype: Type,
    /// Tokens per pack [default: 1024, or as many as the model has positions]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    sequence: Option<u32>,
    /// Tokens per document; attention does not look beyond it [default: a whole pack]
    #[arg(long, value_parser = clap::value_parser!(u32).range(2..))]
    document: Option<u32>,
    /// Packs per micro-batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    micro_batch: u32,
    /// Micro-batches per step and rank
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    accumulate: u32,
    /// What the backward computes again instead of keeping it
    #[arg(long, value_enum, default_value_t = Again::Off)]
    recompute: Again,
    /// Steps to measure; 0 measures nothing, for --estimate alone
    #[arg(long, default_value_t = 10)]
    steps: u32,
    /// Compute threads per rank [default: an equal share of the cores]
    #[arg(long)]
    threads: Option<usize>,
    /// Estimate the time on a GPU, such as h100, from its peaks; needs no GPU
    #[arg(long, value_name = "GPU")]
    estimate: Option<String>,
    /// What a device of this host can do at most, for the MFU [default: the data sheet of a known GPU]
    #[arg(long, value_name = "TFLOPS")]
    peak_tflops: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Type {
    F32,
    Bf16,
}

impl Type {
    fn dtype(self) -> Dtype {
        match self {
            Self::F32 => Dtype::F32,
            Self::Bf16 => Dtype::Bf16,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
enum Again {
    Off,
    Light,
    On,
}

/// A step to measure.
struct Step {
    config: Config,
    dtype: Dtype,
    recipe: Recipe,
    sequence: usize,
    document: usize,
    micro_batch: usize,
    accumulate: usize,
}

/// Measures, and prints what it finds.
///
/// # Errors
/// An option does not fit, a device cannot be used, or it fails.
pub fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.devices.are_gpus() {
        devices::start_prepared()?;
        // It changes the environment, so it comes before any other thread.
        crate::collective::prepare_nccl();
    }
    let (step, estimated, ranks) = match chosen(arguments) {
        Ok(chosen) => chosen,
        Err(error) => {
            print::note(format_args!("error: {error:#}"));
            return Ok(EXIT_OPTIONS.into());
        }
    };
    let (predicted, measured) = match arguments.steps {
        0 => (step.memory(&Device::Rehearsal(Ledger::of_gpu()))?, None),
        _ => {
            let (predicted, measured) = measure(&step, &ranks, arguments)?;
            (predicted, Some(measured))
        }
    };
    let simulated = measured.as_ref().filter(|measured| measured.simulated);
    let estimated =
        estimated.or_else(|| simulated.and_then(|measured| gpus::of_driver(&measured.device)));
    let estimate = estimated.map(|gpu| step.estimate(gpu)).transpose()?;
    let report = Report {
        model: arguments.model.clone(),
        parameters: step.parameters(),
        dtype: name(arguments.dtype),
        sequence: step.sequence as u32,
        document: step.document as u32,
        micro_batch: arguments.micro_batch,
        accumulate: arguments.accumulate,
        recompute: name(arguments.recompute),
        world: ranks.len().max(1),
        tokens_per_step: (step.tokens() * ranks.len().max(1)) as u64,
        flops_per_token: step.flops_per_token(),
        predicted,
        measured,
        estimate,
    };
    if arguments.json {
        print::line(serde_json::to_string_pretty(&report)?)?;
    } else {
        print::text(&report)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The step to measure, the GPU to estimate, and the devices to measure on.
fn chosen(
    arguments: &Arguments,
) -> anyhow::Result<(Step, Option<&'static Known>, Vec<devices::Device>)> {
    let step = Step::new(arguments)?;
    let estimated = arguments.estimate.as_deref().map(gpus::named).transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ranks = match arguments.steps {
        0 => Vec::new(),
        _ => runtime.block_on(arguments.devices.ranks())?,
    };
    Ok((step, estimated, ranks))
}

/// The name of an option's value.
fn name(value: impl ValueEnum) -> String {
    value.to_possible_value().expect("no value is skipped").get_name().to_owned()
}

impl Step {
    fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let config = shapes::find(&arguments.model)?;
        let most = config.max_position_embeddings;
        let sequence = arguments.sequence.map_or(SEQUENCE.min(most), |tokens| tokens as usize);
        let document = arguments.document.map_or(sequence, |document| document as usize);
        anyhow::ensure!(
            document <= most,
            "documents of {document} tokens are longer than the model's positions, {most}\n\
             hint: `--document {most}` packs several into one sequence"
        );
        anyhow::ensure!(
            sequence.is_multiple_of(document),
            "a pack of {sequence} tokens does not consist of whole documents of {document} tokens\n\
             hint: choose a --sequence that is a multiple of --document"
        );
        Ok(Self {
            config,
            dtype: arguments.dtype.dtype(),
            recipe: Recipe {
                adamw: ADAMW,
                weight_decay: 0.01,
                clip_norm: 1.0,
                recompute: match arguments.recompute {
                    Again::Off => Recompute::Off,
                    Again::Light => Recompute::Light,
                    Again::On => Recompute::On,
                },
                bucket_elements: BUCKET_ELEMENTS,
                reduce_dtype: arguments.reduce_dtype.dtype(),
            },
            sequence,
            document,
            micro_batch: arguments.micro_batch as usize,
            accumulate: arguments.accumulate as usize,
        })
    }

    /// Tokens of a rank.
    fn tokens(&self) -> usize {
        self.sequence * self.micro_batch * self.accumulate
    }

    fn micro_batch(&self) -> MicroBatch {
        let documents = self.sequence * self.micro_batch / self.document;
        MicroBatch::synthetic(documents, self.document, self.document - 1, self.config.vocab_size)
    }

    /// The share of one of `world` ranks.
    fn batch(&self, step: usize, world: usize) -> Batch {
        let micro_batches: Vec<_> = (0..self.accumulate).map(|_| self.micro_batch()).collect();
        let weight = micro_batches.iter().map(MicroBatch::weight).sum();
        let first = Batch::of(step as u64, self.micro_batch(), LEARNING_RATE);
        Batch { micro_batches, weight, planned_weight: weight * world as f64, ..first }
    }

    fn model(&self, kernels: Arc<dyn Kernels>) -> Model {
        let mut model = Model::random(self.config.clone(), 1, kernels);
        model.parameters_mut().set_dtype(self.dtype);
        model
    }

    /// A model without values.
    fn outline(&self, kernels: Arc<dyn Kernels>) -> Model {
        let mut model = Model::zeros(self.config.clone(), kernels);
        model.parameters_mut().set_dtype(self.dtype);
        model
    }

    /// The predicted memory of a rank with this device.
    fn memory(&self, device: &Device) -> anyhow::Result<Memory> {
        let Self { config, dtype, recipe, .. } = self;
        let setup = Setup { config, dtype: *dtype, recipe: *recipe, device, checkpoints: None };
        Ok(setup.memory(self.micro_batch())?)
    }

    fn parameters(&self) -> u64 {
        let model = self.outline(kernels::rehearsal(Ledger::of_host()));
        let parameters = model.parameters();
        parameters.ids().map(|p| parameters.elements(p) as u64).sum()
    }

    /// Floating-point operations per token as in the paper on PaLM (Chowdhery et al. 2022, appendix B): six for each
    /// element of a matrix that is multiplied with, and twelve for each feature of each key within reach.
    fn flops_per_token(&self) -> f64 {
        let model = self.outline(kernels::rehearsal(Ledger::of_host()));
        let (parameters, config) = (model.parameters(), &self.config);
        let matrices = parameters.ids().filter(|p| parameters.shape(*p).len() == 2);
        let mut elements: usize = matrices.map(|p| parameters.elements(p)).sum();
        if !config.tie_word_embeddings {
            // The embedding is only looked up.
            elements -= config.vocab_size * config.hidden_size;
        }
        let reach = |window: &Option<usize>| window.map_or(self.document, |w| w.min(self.document));
        let keys: usize = config.windows.iter().map(reach).sum();
        (6 * elements + 12 * config.heads * config.head_dim * keys) as f64
    }

    /// The least time of a step on a GPU with these peaks.
    fn estimate(&self, gpu: &Known) -> anyhow::Result<Estimate> {
        let account = Account::default();
        let rehearsal = kernels::rehearsal(Ledger::of_gpu());
        let kernels = kernels::counted(rehearsal, gpu.peaks, account.clone());
        let mut state = State::new(self.outline(kernels));
        let mut trainer = Trainer::new(&state, self.recipe);
        let before = account.work();
        trainer.step(&mut state, &mut Alone::of(1), &self.batch(0, 1), false)?;
        let work = account.work();
        let seconds = work.seconds - before.seconds;
        let rate = self.tokens() as f64 / seconds;
        Ok(Estimate {
            gpu: gpu.name,
            seconds_per_step: seconds,
            tokens_per_second: rate,
            mfu: rate * self.flops_per_token() / gpu.peaks.flops(self.dtype),
            kernels: work.calls - before.calls,
            bytes: work.bytes - before.bytes,
        })
    }
}

/// Measures the step on these devices; returns the predicted memory, too.
fn measure(
    step: &Step,
    devices: &[devices::Device],
    arguments: &Arguments,
) -> anyhow::Result<(Memory, Measured)> {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let threads = arguments.threads.unwrap_or(cores / devices.len()).max(1);
    let steps = arguments.steps as usize;
    let world = devices.len();
    let mut found = ranks::on_each(devices, threads, |rank| {
        let predicted = step.memory(rank.opened.kernels.device())?;
        let taken = Taken::by(rank, step, steps, world)?;
        Ok((predicted, taken))
    })?;
    let (predicted, Taken { name, simulated, mut seconds, per_step, phases, peak }) =
        found.swap_remove(0);
    // Ranks on CPUs share this process.
    let peak_bytes = match peak {
        Some(bytes) => bytes,
        None => available::peak()? / world as u64,
    };
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let rate = step.tokens() as f64 / median;
    let flops = rate * step.flops_per_token();
    let of_option = arguments.peak_tflops.map(|tflops| tflops * 1e12);
    let known = || gpus::of_driver(&name).map(|gpu| gpu.peaks.flops(step.dtype));
    let peak_flops = of_option.or_else(known).filter(|_| !simulated);
    let measured = Measured {
        simulated,
        threads,
        steps,
        seconds_per_step: median,
        fastest: seconds[0],
        slowest: seconds[seconds.len() - 1],
        tokens_per_second: rate * world as f64,
        flops_per_second: flops,
        mfu: peak_flops.map(|peak| flops / peak),
        peak_bytes,
        per_step,
        phases,
        device: name,
    };
    Ok((predicted, measured))
}

/// The steps of one rank.
struct Taken {
    /// The device's name.
    name: String,
    simulated: bool,
    /// The time of each step.
    seconds: Vec<f64>,
    per_step: Option<Counts>,
    phases: Vec<Phase>,
    /// The memory of a GPU that is reserved.
    peak: Option<u64>,
}

impl Taken {
    fn by(rank: Rank, step: &Step, steps: usize, world: usize) -> anyhow::Result<Self> {
        let Rank { opened, mut collective } = rank;
        let device = opened.kernels.device().clone();
        let mut state = State::new(step.model(opened.kernels.clone()));
        let mut trainer = Trainer::new(&state, step.recipe);
        let mut number = 0;
        let mut take = || {
            let batch = step.batch(number, world);
            number += 1;
            trainer.step(&mut state, &mut *collective, &batch, false)
        };
        for _ in 0..WARM_UP {
            take()?;
        }
        let gpu = match &device {
            Device::Cuda(gpu) => Some(gpu.clone()),
            Device::Host | Device::Rehearsal(_) => None,
        };
        let counts = || gpu.as_ref().map(|gpu| gpu.counts());
        let before = counts();
        let mut last = device.moment();
        let mut seconds = Vec::with_capacity(steps);
        let mut moments = Vec::with_capacity(steps);
        for _ in 0..steps {
            take()?;
            moments.push(device.moment());
        }
        let per_step =
            before.zip(counts()).map(|(before, after)| after.mean_since(&before, steps as u64));
        for moment in moments {
            seconds.push(moment.since(&last).as_secs_f64());
            last = moment;
        }
        let (taken, phases) = Clock::new(&device).time(&mut take);
        taken?;
        device.check()?;
        let phase = |(name, time): (String, Duration)| Phase { name, seconds: time.as_secs_f64() };
        Ok(Self {
            simulated: gpu.as_ref().is_some_and(|gpu| gpu.is_simulated()),
            peak: gpu.as_ref().map(|gpu| gpu.reserved()),
            name: opened.name,
            seconds,
            per_step,
            phases: phases.into_iter().map(phase).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn step(options: &str) -> Step {
        let line = ["bench"].into_iter().chain(options.split_whitespace());
        Step::new(&Cli::parse_from(line).arguments).expect("sound options")
    }

    #[test]
    fn model_flops_are_those_of_matrices_and_of_keys_within_reach() {
        // 134,515,008 parameters, of which 61 norms of 576 are not matrices; 30 layers of 9 heads of 64 features.
        let matrices = 6 * (134_515_008 - 61 * 576);
        let at = |tokens: usize| (matrices + 12 * 30 * 576 * tokens) as f64;
        assert_eq!(step("--sequence 1024").flops_per_token(), at(1024));
        assert_eq!(step("--sequence 1024 --document 128").flops_per_token(), at(128));
    }

    #[test]
    fn an_estimate_is_bounded_by_the_arithmetic_and_by_the_memory() {
        let gpu = gpus::named("h100").expect("known");
        for options in ["--dtype bf16", "--dtype f32", "--dtype bf16 --recompute on"] {
            let step = step(&format!("smollm2-1.7b --sequence 4096 {options}"));
            let Estimate { seconds_per_step, mfu, bytes, .. } = step.estimate(gpu).expect("a step");
            // A causal query reaches half of the keys, which the model's count ignores.
            let least = 0.9 * step.flops_per_token() * 4096.0 / gpu.peaks.flops(step.dtype);
            assert!(seconds_per_step > least, "{options}: {seconds_per_step}, {least}");
            assert!(seconds_per_step > bytes / gpu.peaks.bandwidth);
            // Where products are all that counts, MFU is above 1 for the same reason.
            assert!(mfu > 0.2 && mfu < 1.1, "{options}: {mfu}");
        }
    }

    #[test]
    fn work_is_that_of_the_products() {
        // Every row but the last of a document has a logit; every layer's products are forward and twice backward.
        let step = step("smollm2-135m --sequence 512");
        let account = Account::default();
        let peaks = gpus::named("a100").expect("known").peaks;
        let kernels =
            kernels::counted(kernels::rehearsal(Ledger::of_gpu()), peaks, account.clone());
        let mut state = State::new(step.outline(kernels));
        let mut trainer = Trainer::new(&state, step.recipe);
        let batch = step.batch(0, 1);
        trainer.step(&mut state, &mut Alone::of(1), &batch, false).expect("a step");
        let embedding = 49152_i64 * 576;
        let layers = 134_515_008 - 61 * 576 - embedding;
        let pairs = 9 * 512 * 513 / 2_i64;
        let wanted = 6 * (layers * 512 + embedding * 511) + 30 * 14 * 64 * pairs;
        assert_eq!(account.work().flops, wanted as f64);
    }
}

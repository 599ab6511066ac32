//! Training on a software GPU, which runs our CUDA kernels and the calls of the driver, cuBLAS and NVRTC on the CPU,
//! and ends the process at the first access that is out of bounds, unordered or undefined.
//!
//! Each test runs in a process of its own, since a software GPU is set up once per process.

#![allow(clippy::unwrap_used)]

#[path = "tiny/mod.rs"]
mod tiny;

use softgpu::Settings;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tiny::{TINY, packs};
use worker::collective::{Alone, Collective, InProcess};
use worker::device::Dtype;
use worker::devices::{self, Device};
use worker::kernels::{self, Kernels};
use worker::model::{Config, Model};
use worker::ops::Recompute;
use worker::replica::optimizer::AdamW;
use worker::replica::{Batch, MicroBatch, Recipe, Setup, State, Trainer};

const CHILD: &str = "MUSTER_TEST_SOFTGPU";

/// Runs `test` in a process of its own with a software GPU; `name` is the calling test.
fn on_a_software_gpu(name: &str, settings: &Settings, test: impl FnOnce()) {
    if let Err(why) = softgpu::available() {
        return eprintln!("skipped: there is no software GPU: {why}");
    }
    if std::env::var_os(CHILD).is_some() {
        return test();
    }
    let folder = tempfile::tempdir().unwrap();
    softgpu::install(folder.path()).unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(CHILD, "1")
        .env("MUSTER_CUDA_LIBRARIES", folder.path())
        .env("MUSTER_CACHE", folder.path())
        .envs(settings.envs())
        .output()
        .unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|b| String::from_utf8(b).unwrap());
    println!("{out}");
    assert!(output.status.success(), "{name}: {out}\n{err}");
}

fn gpu() -> Arc<dyn Kernels> {
    devices::open(&Device::Gpu { number: 0, uuid: None }).unwrap().kernels
}

fn model(text: &str, dtype: Dtype, kernels: Arc<dyn Kernels>) -> Model {
    let config = Config::parse(Path::new("config.json"), text).unwrap();
    let mut model = Model::random(config, 7, kernels);
    model.parameters_mut().set_dtype(dtype);
    model
}

fn recipe(recompute: Recompute) -> Recipe {
    Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
        weight_decay: 0.1,
        clip_norm: 1.0,
        recompute,
        // Small enough for several buckets, and for matrices that span several.
        bucket_elements: 2000,
    }
}

/// The losses of training on all packs of two ranks, spread over the ranks of `collective`, and the final digest.
fn train(model: Model, steps: u64, collective: &mut dyn Collective) -> (Vec<f64>, String) {
    let vocabulary = model.config().vocab_size as u64;
    let mut state = State::new(model);
    let mut trainer = Trainer::new(&state, recipe(Recompute::Off));
    let (rank, world) = (collective.rank(), collective.world_size());
    let mut losses = Vec::new();
    for step in 0..steps {
        let all: Vec<MicroBatch> = (0..2).flat_map(|rank| packs(step, rank, vocabulary)).collect();
        let planned_weight = all.iter().map(MicroBatch::weight).sum();
        let mine = all.into_iter().enumerate().filter(|(i, _)| i % world == rank);
        let micro_batches: Vec<_> = mine.map(|(_, pack)| pack).collect();
        let batch = Batch {
            step,
            weight: micro_batches.iter().map(MicroBatch::weight).sum(),
            micro_batches,
            learning_rate: 3e-3 / (1.0 + step as f64 / 10.0),
            planned_weight,
            samples: 0,
            samples_digest: 0,
        };
        losses.push(trainer.step(&mut state, collective, &batch, false).unwrap().done.loss);
    }
    (losses, state.digest().to_string())
}

/// The mean and the largest relative difference.
fn gap(a: &[f64], b: &[f64]) -> (f64, f64) {
    let each: Vec<f64> = a.iter().zip(b).map(|(a, b)| ((a - b) / b).abs()).collect();
    (each.iter().sum::<f64>() / each.len() as f64, each.iter().copied().fold(0.0, f64::max))
}

/// Fifty steps of a tiny model, on a GPU and on the CPU, in both types.
///
/// In bf16 the two round at the same places but sum in other orders, so their curves differ as two random walks do.
/// Each is compared with the CPU's curve in f32: the GPU may be as far from it as the CPU itself, with half as much
/// again for chance.
fn follows_the_cpu(name: &str, (model_name, text): (&str, &str)) {
    const STEPS: u64 = 50;
    on_a_software_gpu(name, &Settings::default(), || {
        let gpu = gpu();
        let curve = |dtype, kernels| train(model(text, dtype, kernels), STEPS, &mut Alone::of(1)).0;
        let exact = curve(Dtype::F32, kernels::host());
        let (_, of_f32) = gap(&curve(Dtype::F32, gpu.clone()), &exact);
        let (own, _) = gap(&curve(Dtype::Bf16, kernels::host()), &exact);
        let (of_bf16, _) = gap(&curve(Dtype::Bf16, gpu.clone()), &exact);
        println!(
            "{model_name}: losses {:.4} to {:.4}; f32 at most {of_f32:.1e} from the CPU's; bf16 {of_bf16:.1e} \
             from f32 on average, the CPU's {own:.1e}",
            exact[0],
            exact[STEPS as usize - 1],
        );
        assert!(of_f32 < 1e-5);
        assert!(of_bf16 <= 1.5 * own);
    });
}

#[test]
fn a_llama_follows_the_cpu() {
    follows_the_cpu("a_llama_follows_the_cpu", TINY[0]);
}

#[test]
fn a_qwen2_follows_the_cpu() {
    follows_the_cpu("a_qwen2_follows_the_cpu", TINY[1]);
}

#[test]
fn a_mistral_follows_the_cpu() {
    follows_the_cpu("a_mistral_follows_the_cpu", TINY[2]);
}

#[test]
fn ranks_of_any_world_size_agree() {
    on_a_software_gpu("ranks_of_any_world_size_agree", &Settings::default(), || {
        let (_, text) = TINY[1];
        let mut curves = Vec::new();
        for world in [1, 2, 4] {
            let ranks = InProcess::world(world, std::time::Duration::from_secs(600));
            let outcomes: Vec<_> = std::thread::scope(|scope| {
                let rank = |mut collective: InProcess| {
                    train(model(text, Dtype::F32, gpu()), 10, &mut collective)
                };
                let threads: Vec<_> =
                    ranks.into_iter().map(|c| scope.spawn(move || rank(c))).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(outcomes.iter().all(|(_, digest)| *digest == outcomes[0].1), "ranks differ");
            curves.push(outcomes[0].0.clone());
        }
        for curve in &curves[1..] {
            assert!(gap(curve, &curves[0]).1 < 1e-5);
        }
    });
}

/// Counts of the software GPU in this process.
fn counts() -> serde_json::Value {
    type Counters = unsafe extern "C" fn(*mut u8, usize) -> usize;
    let path = Path::new(&std::env::var_os("MUSTER_CUDA_LIBRARIES").unwrap()).join("libcuda.so.1");
    let mut text = vec![0u8; 1 << 16];
    // SAFETY: the function has this type, and writes at most as many bytes as there is room for.
    #[allow(unsafe_code)]
    unsafe {
        let library = libloading::Library::new(path).unwrap();
        let counters = library.get::<Counters>(b"softgpuCounters").unwrap();
        counters(text.as_mut_ptr(), text.len());
    }
    serde_json::from_slice(text.split(|byte| *byte == 0).next().unwrap()).unwrap()
}

#[test]
fn a_step_waits_once_and_allocates_nothing() {
    on_a_software_gpu("a_step_waits_once_and_allocates_nothing", &Settings::default(), || {
        let gpu = gpu();
        let (_, text) = TINY[0];
        const LAYERS: u64 = 3;
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for recompute in [Recompute::Off, Recompute::Light, Recompute::On] {
                let mut state = State::new(model(text, dtype, gpu.clone()));
                let mut trainer = Trainer::new(&state, recipe(recompute));
                let mut step = |step: usize| {
                    // Two micro-batches of three documents each, of other lengths in every step; the rest is padding.
                    let pack =
                        |i: usize| MicroBatch::synthetic(3, 10 + step + i, 8, 96).padded(64, 32);
                    let micro_batches: Vec<_> = (0..2).map(pack).collect();
                    let weight = micro_batches.iter().map(MicroBatch::weight).sum();
                    let first = Batch::of(step as u64, pack(0), 1e-3);
                    let batch = Batch { micro_batches, weight, planned_weight: weight, ..first };
                    trainer.step(&mut state, &mut Alone::of(1), &batch, false).unwrap();
                };
                (0..3).for_each(&mut step);
                let before = counts();
                step(3);
                let after = counts();
                let count = |name: &str| {
                    let of = |counts: &serde_json::Value| counts[name].as_u64().unwrap_or(0);
                    of(&after) - of(&before)
                };
                let launches = count("launches") + count("cublas_calls");
                println!(
                    "{dtype:?}, recompute {recompute:?}: {} waits, {} allocations, {launches} launches, {} per \
                     layer and micro-batch with all else",
                    count("host_waits"),
                    count("allocations") + count("pinned_allocations"),
                    launches / 2 / LAYERS,
                );
                assert_eq!(count("host_waits"), 1);
                assert_eq!(count("allocations") + count("pinned_allocations"), 0);
            }
        }
    });
}

#[test]
fn memory_is_what_a_rehearsal_predicts() {
    /// Tokens, positions and the like, which a rehearsal counts and a GPU keeps elsewhere.
    const INPUTS: u64 = 8 << 10;
    on_a_software_gpu("memory_is_what_a_rehearsal_predicts", &Settings::default(), || {
        for (name, text) in TINY {
            for dtype in [Dtype::F32, Dtype::Bf16] {
                for recompute in [Recompute::Off, Recompute::Light, Recompute::On] {
                    let micro_batch = || MicroBatch::synthetic(2, 32, 31, 96);
                    let config = Config::parse(Path::new("config.json"), text).unwrap();
                    let (recipe, kernels) = (recipe(recompute), gpu());
                    let device = kernels.device();
                    let setup = Setup { config: &config, dtype, recipe, device, checkpoints: None };
                    let predicted = setup.memory(micro_batch()).unwrap().activations;

                    let mut state = State::new(model(text, dtype, kernels.clone()));
                    let mut trainer = Trainer::new(&state, recipe);
                    let batch = Batch::of(0, micro_batch(), 1e-3);
                    trainer.step(&mut state, &mut Alone::of(1), &batch, false).unwrap();
                    let worker::device::Device::Cuda(gpu) = device else { panic!("{device:?}") };
                    let taken = gpu.height();
                    println!(
                        "{name}, {dtype:?}, {recompute:?}: predicted {predicted}, taken {taken}"
                    );
                    assert!((taken..=taken + INPUTS).contains(&predicted));
                }
            }
        }
    });
}

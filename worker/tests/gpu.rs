//! Training on a software GPU, which runs our CUDA kernels and the calls of the driver, cuBLAS and NVRTC on the CPU,
//! and ends the process at the first access that is out of bounds, unordered or undefined.
//!
//! Each test runs in a process of its own, since a software GPU is set up once per process.

#![allow(clippy::unwrap_used)]

#[path = "tiny/mod.rs"]
mod tiny;
#[path = "tiny/training.rs"]
mod training;

use softgpu::Settings;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tiny::TINY;
use training::{gap, model, recipe, train, train_ranks};
use worker::collective::Alone;
use worker::device::Dtype;
use worker::devices::{self, Device};
use worker::kernels::{self, Kernels};
use worker::model::Config;
use worker::ops::Recompute;
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

/// Every setting of recomputation, with sums of gradients in either type.
fn recipes() -> impl Iterator<Item = Recipe> {
    [Dtype::F32, Dtype::Bf16].into_iter().flat_map(|reduce_dtype| {
        let recompute = [Recompute::Off, Recompute::Light, Recompute::On].into_iter();
        recompute.map(move |recompute| Recipe { recompute, ..recipe(reduce_dtype) })
    })
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
        let curve = |dtype, kernels| {
            let model = model(text, dtype, kernels);
            train(model, recipe(Dtype::F32), STEPS, &mut Alone::of(1)).0
        };
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
        for (reduce_dtype, tolerance) in [(Dtype::F32, 1e-5), (Dtype::Bf16, 1e-3)] {
            let curve = |world| {
                let model = || model(text, Dtype::F32, gpu());
                train_ranks(model, recipe(reduce_dtype), 10, world).0
            };
            let alone = curve(1);
            for world in [2, 4] {
                let (_, most) = gap(&curve(world), &alone);
                println!("{world} ranks, sums in {reduce_dtype}: {most:.1e} at most");
                assert!(most < tolerance);
            }
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
            for recipe in recipes() {
                let mut state = State::new(model(text, dtype, gpu.clone()));
                let mut trainer = Trainer::new(&state, recipe);
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
                    "{dtype}, recompute {:?}, sums in {}: {} waits, {} allocations, {launches} launches, {} per \
                     layer and micro-batch with all else",
                    recipe.recompute,
                    recipe.reduce_dtype,
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
                for recipe in recipes() {
                    let micro_batch = || MicroBatch::synthetic(2, 32, 31, 96);
                    let config = Config::parse(Path::new("config.json"), text).unwrap();
                    let kernels = gpu();
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
                        "{name}, {dtype}, recompute {:?}, sums in {}: predicted {predicted}, taken {taken}",
                        recipe.recompute, recipe.reduce_dtype
                    );
                    assert!((taken..=taken + INPUTS).contains(&predicted));
                }
            }
        }
    });
}

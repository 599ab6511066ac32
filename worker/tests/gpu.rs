//! Training on a software GPU, which runs our CUDA kernels and the calls of the driver, cuBLAS and NVRTC on the CPU,
//! and ends the process at the first access that is out of bounds, unordered or undefined.
//!
//! Each test runs in a process of its own, since a software GPU is set up once per process.

#![allow(clippy::unwrap_used)]

#[path = "tiny/mod.rs"]
mod tiny;
#[path = "tiny/training.rs"]
mod training;

use serde_json::{Value, json};
use softgpu::Settings;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use tiny::TINY;
use training::{gap, model, recipe, seeded, train, train_ranks};
use worker::collective::Alone;
use worker::device::Dtype;
use worker::device::cuda::library::Driver;
use worker::device::cuda::{Counts, list};
use worker::devices::{self, Device};
use worker::kernels::{self, Kernels};
use worker::model::Config;
use worker::ops::Recompute;
use worker::replica::{Batch, MicroBatch, Recipe, Setup, State, Trainer};

const CHILD: &str = "MUSTER_TEST_SOFTGPU";

/// If it is set, tests use a GPU of this host instead of the software GPU; see `tests/gpu.sh`.
const REAL: &str = "MUSTER_TEST_GPU";

/// Runs `test` in a process of its own with a software GPU; `name` is the calling test.
fn on_a_software_gpu(name: &str, settings: &Settings, test: impl FnOnce()) {
    if std::env::var_os(REAL).is_some() {
        return test();
    }
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

/// Every setting of recomputation, and sums of gradients in bf16.
fn recipes() -> impl Iterator<Item = Recipe> {
    let recompute = [Recompute::Off, Recompute::Light, Recompute::On].into_iter();
    let recompute = recompute.map(|recompute| Recipe { recompute, ..recipe(Dtype::F32) });
    recompute.chain([recipe(Dtype::Bf16)])
}

/// Fifty steps of a tiny model, on a GPU and on the CPU, in both types.
///
/// In bf16 the two round at the same places but sum in other orders, so their curves differ as two random walks do.
/// Each is compared with the CPU's curve in f32, over several seeds: the GPU may be as far from it as the CPU itself,
/// with two fifths as much again for chance.
fn follows_the_cpu(name: &str, (model_name, text): (&str, &str)) {
    const STEPS: u64 = 50;
    const SEEDS: std::ops::Range<u64> = 7..9;
    on_a_software_gpu(name, &Settings::default(), || {
        let gpu = gpu();
        let curve = |seed, dtype, kernels| {
            let model = seeded(seed, text, dtype, kernels);
            train(model, recipe(Dtype::F32), STEPS, &mut Alone::of(1)).0
        };
        let (mut own, mut of_gpu) = (0.0, 0.0);
        for seed in SEEDS {
            let exact = curve(seed, Dtype::F32, kernels::host());
            if seed == SEEDS.start {
                let (_, most) = gap(&curve(seed, Dtype::F32, gpu.clone()), &exact);
                println!("figures: f32 at most {most:.1e} from the CPU's losses");
                assert!(most < 1e-5);
            }
            let from_exact = |kernels| gap(&curve(seed, Dtype::Bf16, kernels), &exact).0;
            own += from_exact(kernels::host()) / SEEDS.count() as f64;
            of_gpu += from_exact(gpu.clone()) / SEEDS.count() as f64;
        }
        println!(
            "figures: bf16 {of_gpu:.2e} from f32 on average, the CPU {own:.2e}: {:.2}x ({model_name})",
            of_gpu / own
        );
        assert!(of_gpu <= 1.4 * own);
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

/// What the GPU was asked for while `work` ran: by our own count, which must be that of the software GPU.
fn asked_for(kernels: &dyn Kernels, work: impl FnOnce()) -> Counts {
    let worker::device::Device::Cuda(gpu) = kernels.device() else { panic!("a GPU") };
    let counted = || if gpu.is_simulated() { counted_by_the_software_gpu() } else { json!({}) };
    let (own, simulated) = (gpu.counts(), counted());
    work();
    let (own, after) = (gpu.counts().mean_since(&own, 1), counted());
    if gpu.is_simulated() {
        let of = |name: &str| {
            let value = |counts: &Value| counts[name].as_u64().unwrap_or(0);
            value(&after) - value(&simulated)
        };
        let Counts { launches, products, waits, allocations } = own;
        assert_eq!([launches, products], [of("launches"), of("cublas_calls")]);
        assert_eq!(waits, of("host_waits"));
        assert_eq!(allocations, of("allocations") + of("pinned_allocations"));
    }
    own
}

fn counted_by_the_software_gpu() -> Value {
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
                let Counts { launches, products, waits, allocations } =
                    asked_for(&*gpu, || step(3));
                println!(
                    "figures: {dtype}, recompute {:?}, sums in {}: {waits} waits, {allocations} allocations, {} \
                     launches, {} per layer and micro-batch with all else",
                    recipe.recompute,
                    recipe.reduce_dtype,
                    launches + products,
                    (launches + products) / 2 / LAYERS,
                );
                assert_eq!((waits, allocations), (1, 0));
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

#[test]
fn large_buffers_are_read_as_they_were_written() {
    // More than passes through pinned memory at a time.
    const LARGE: usize = (16 << 20) / 4 + 1000;
    on_a_software_gpu("large_buffers_are_read_as_they_were_written", &Settings::default(), || {
        let kernels = gpu();
        let device = kernels.device();
        let values =
            |first: usize, n: usize| -> Vec<f32> { (first..first + n).map(|i| i as f32).collect() };
        let large = device.upload(values(0, LARGE));
        assert!(*large.read::<f32>() == values(0, LARGE));
        let several: Vec<_> = (0..3).map(|i| device.upload(values(i, LARGE / 2))).collect();
        for (i, read) in device.read_all::<f32>(&several).into_iter().enumerate() {
            assert!(*read == values(i, LARGE / 2), "buffer {i}");
        }
        device.check().unwrap();
    });
}

#[test]
fn a_gpu_is_found_by_its_unique_id_whatever_its_number() {
    let settings = Settings { devices: 2, ..Settings::default() };
    on_a_software_gpu("a_gpu_is_found_by_its_unique_id_whatever_its_number", &settings, || {
        let present = list(Driver::load().unwrap()).unwrap();
        let Some(last) = present.last().filter(|_| present.len() > 1) else {
            return println!("skipped: there is one GPU");
        };
        let moved = Device::Gpu { number: 0, uuid: Some(last.uuid.clone()) };
        let opened = devices::open(&moved).unwrap();
        let [of_last, of_first] = [last.number, 0].map(|n| format!("Cuda(Gpu({n}))"));
        assert_eq!(format!("{:?}", opened.kernels.device()), of_last);
        assert_eq!(format!("{:?}", gpu().device()), of_first);
        let gone = Device::Gpu { number: 0, uuid: Some("GPU-0".to_owned()) };
        let error = devices::open(&gone).err().unwrap().to_string();
        assert!(error.contains("is gone"), "{error}");
    });
}

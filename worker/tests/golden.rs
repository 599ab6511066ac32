//! Bit-exact training results: losses, gradient norms and the final state of a few runs, compared with
//! `golden/*.json`.
//!
//! A change that should not alter results passes this test unchanged. One that should alter them updates the files in
//! its own commit: `MUSTER_GOLDEN=write cargo test -p worker --test golden`.
//!
//! Bits depend on the instruction set, which determines how matrix products are summed, so there is a file for each.
//! Sums of more than 512 terms are cut, on most processors every 512 terms; an L1 cache that leads to other cuts is
//! part of a run's name, and so is the order in which products of bf16 are summed. Bits do not depend on the number of
//! threads or on recomputation: each run is compared under all of them. If there is no entry for a machine, the test
//! says that it skipped, and `tests/golden.sh` compares with a build of an earlier commit.

#![allow(clippy::unwrap_used)]

#[path = "tiny/mod.rs"]
mod tiny;

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tiny::{TINY, packs};
use worker::collective::{Collective, InProcess};
use worker::device::Dtype;
use worker::kernels::{self, cpu::Cpu};
use worker::model::{Config, Model};
use worker::ops::Recompute;
use worker::replica::optimizer::AdamW;
use worker::replica::{BUCKET_ELEMENTS, Batch, MicroBatch, Recipe, State, Trainer};

/// The outcome of a run, with every number given by its bits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Outcome {
    /// Loss and gradient norm of each step, as 16 hexadecimal digits each.
    steps: Vec<[String; 2]>,
    /// Digest of parameters, moments and updates after the last step.
    state: String,
}

/// Outcomes by the name of the run.
type Golden = BTreeMap<String, Outcome>;

const TINY_STEPS: u64 = 20;
const REAL_STEPS: u64 = 10;

#[test]
fn tiny_models_on_one_thread_train_to_the_same_bits() {
    train_tiny_models(1, Recompute::Off);
}

#[test]
fn tiny_models_on_two_threads_with_recomputation_train_to_the_same_bits() {
    train_tiny_models(2, Recompute::On);
}

#[test]
fn tiny_models_on_four_threads_with_light_recomputation_train_to_the_same_bits() {
    train_tiny_models(4, Recompute::Light);
}

fn train_tiny_models(threads: usize, recompute: Recompute) {
    let mut outcomes = Golden::new();
    for (name, text) in TINY {
        let bf16 = format!(", bf16 in {}", Cpu::bf16_order());
        for (dtype, suffix) in [(Dtype::F32, ""), (Dtype::Bf16, &bf16)] {
            let model = || {
                let config = Config::parse(Path::new("config.json"), text).unwrap();
                let mut model = Model::random(config, 7, kernels::host());
                model.parameters_mut().set_dtype(dtype);
                model
            };
            let run = Run { threads, recompute, world: 2, steps: TINY_STEPS };
            outcomes.insert(format!("{name}{suffix}"), train(&model, &run));
        }
    }
    compare(&outcomes);
}

#[test]
fn smollm2_trains_to_the_same_bits() {
    let Some(folder) = std::env::var_os("MUSTER_TEST_MODEL") else {
        return eprintln!("skipped: set MUSTER_TEST_MODEL to a folder of SmolLM2-135M");
    };
    let folder = PathBuf::from(folder);
    let model = || Model::load(&folder, kernels::host()).unwrap();
    let run = Run { threads: 2, recompute: Recompute::Off, world: 1, steps: REAL_STEPS };
    let outcome = train(&model, &run);
    compare(&BTreeMap::from([(format!("smollm2-135m{}", unusual_cache()), outcome)]));
}

struct Run {
    threads: usize,
    recompute: Recompute,
    world: usize,
    steps: u64,
}

/// Trains on `run.world` ranks in this process, which must all end in the same state.
fn train(model: &(dyn Fn() -> Model + Sync), run: &Run) -> Outcome {
    let ranks = InProcess::world(run.world, Duration::from_secs(600));
    let outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let rank = |mut collective: InProcess| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(run.threads).build().unwrap();
            pool.install(|| train_rank(model(), &mut collective, run))
        };
        let threads: Vec<_> = ranks.into_iter().map(|c| scope.spawn(move || rank(c))).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "ranks differ");
    outcomes[0].clone()
}

fn train_rank(model: Model, collective: &mut dyn Collective, run: &Run) -> Outcome {
    let vocabulary = model.config().vocab_size as u64;
    let recipe = Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
        weight_decay: 0.1,
        clip_norm: 1.0,
        recompute: run.recompute,
        reduce_dtype: Dtype::F32,
        // Small enough for several buckets, and for matrices that span several.
        bucket_elements: if run.world > 1 { 1000 } else { BUCKET_ELEMENTS },
    };
    let mut state = State::new(model);
    let mut trainer = Trainer::new(&state, recipe);
    let mut steps = Vec::new();
    for step in 0..run.steps {
        let ranks: Vec<_> =
            (0..run.world).map(|rank| packs(step, rank as u64, vocabulary)).collect();
        let weights: Vec<f64> =
            ranks.iter().map(|m| m.iter().map(MicroBatch::weight).sum()).collect();
        let batch = Batch {
            step,
            micro_batches: ranks.into_iter().nth(collective.rank()).unwrap(),
            learning_rate: 3e-3 / (run.world * run.world) as f64 / (1.0 + step as f64),
            planned_weight: weights.iter().sum(),
            weight: weights[collective.rank()],
            samples: 0,
            samples_digest: 0,
        };
        let done = trainer.step(&mut state, collective, &batch, false).unwrap().done;
        assert!(done.applied);
        steps.push([done.loss, done.grad_norm].map(|x| format!("{:016x}", x.to_bits())));
    }
    Outcome { steps, state: state.digest().to_string() }
}

/// Compares outcomes with their golden entries, or writes the entries.
fn compare(outcomes: &Golden) {
    static FILE: Mutex<()> = Mutex::new(());
    let _one_at_a_time = FILE.lock().unwrap();
    let file = std::env::var_os("MUSTER_GOLDEN_FILE").map(PathBuf::from).unwrap_or_else(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
        folder.join(format!("{}.json", instruction_set()))
    });
    let text = std::fs::read_to_string(&file).unwrap_or_else(|_| "{}".into());
    let mut golden: Golden = serde_json::from_str(&text).unwrap();
    if std::env::var("MUSTER_GOLDEN").is_ok_and(|value| value == "write") {
        golden.extend(outcomes.clone());
        let text = serde_json::to_string_pretty(&golden).unwrap() + "\n";
        return std::fs::write(&file, text).unwrap();
    }
    for (name, outcome) in outcomes {
        match golden.get(name) {
            Some(expected) => assert_eq!(outcome, expected, "{name}"),
            None => eprintln!(
                "skipped: {} has no golden entry for {name}; run tests/golden.sh to compare with an earlier commit",
                file.display()
            ),
        }
    }
}

/// The instruction set that determines how matrix products are summed, which names the golden file.
fn instruction_set() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") {
            return "x86-avx512";
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            return "x86-avx2";
        }
    }
    std::env::consts::ARCH
}

/// The shape of the L1 data cache, unless it is one for which long sums are cut every 512 terms: 64 sets of at most
/// 12 ways.
fn unusual_cache() -> String {
    let shape = (0..4).find_map(|index| {
        let folder = PathBuf::from(format!("/sys/devices/system/cpu/cpu0/cache/index{index}"));
        let read = |name| Some(std::fs::read_to_string(folder.join(name)).ok()?.trim().to_owned());
        let first = read("level")? == "1" && read("type")? == "Data";
        let number = |name| read(name)?.parse::<usize>().ok();
        first.then_some((number("number_of_sets")?, number("ways_of_associativity")?))
    });
    match shape {
        Some((64, ..=12)) => String::new(),
        Some((sets, ways)) => format!(", {sets} sets of {ways} ways"),
        None => ", unknown L1 cache".to_owned(),
    }
}

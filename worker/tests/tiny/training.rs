//! Training of the tiny models, on one rank or on several threads as ranks.

use crate::tiny::packs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use worker::collective::{Collective, InProcess};
use worker::device::Dtype;
use worker::kernels::Kernels;
use worker::model::{Config, Model};
use worker::ops::Recompute;
use worker::replica::optimizer::AdamW;
use worker::replica::{Batch, MicroBatch, Recipe, State, Trainer};

/// A model with this configuration; the same at every call.
pub(crate) fn model(text: &str, dtype: Dtype, kernels: Arc<dyn Kernels>) -> Model {
    seeded(7, text, dtype, kernels)
}

/// A model with this configuration and the weights of a seed.
pub(crate) fn seeded(seed: u64, text: &str, dtype: Dtype, kernels: Arc<dyn Kernels>) -> Model {
    let config = Config::parse(Path::new("config.json"), text).unwrap();
    let mut model = Model::random(config, seed, kernels);
    model.parameters_mut().set_dtype(dtype);
    model
}

/// Nothing is recomputed, and gradients are summed in `reduce_dtype`.
pub(crate) fn recipe(reduce_dtype: Dtype) -> Recipe {
    Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
        weight_decay: 0.1,
        clip_norm: 1.0,
        recompute: Recompute::Off,
        reduce_dtype,
        // Small enough for several buckets, and for matrices that span several.
        bucket_elements: 2000,
    }
}

/// The losses of a training, and the digest of the final state.
pub(crate) type Outcome = (Vec<f64>, String);

/// Trains on all packs of two ranks, spread over the ranks of `collective`.
pub(crate) fn train(
    model: Model,
    recipe: Recipe,
    steps: u64,
    collective: &mut dyn Collective,
) -> Outcome {
    let vocabulary = model.config().vocab_size as u64;
    let mut state = State::new(model);
    let mut trainer = Trainer::new(&state, recipe);
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

/// The same on `world` ranks, which must all end in the same state.
pub(crate) fn train_ranks(
    model: impl Fn() -> Model + Sync,
    recipe: Recipe,
    steps: u64,
    world: usize,
) -> Outcome {
    let ranks = InProcess::world(world, Duration::from_secs(600));
    let mut outcomes: Vec<Outcome> = std::thread::scope(|scope| {
        let rank = |mut collective: InProcess| train(model(), recipe, steps, &mut collective);
        let threads: Vec<_> = ranks.into_iter().map(|c| scope.spawn(move || rank(c))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]), "ranks differ");
    outcomes.swap_remove(0)
}

/// The mean and the largest relative difference.
pub(crate) fn gap(a: &[f64], b: &[f64]) -> (f64, f64) {
    let each: Vec<f64> = a.iter().zip(b).map(|(a, b)| ((a - b) / b).abs()).collect();
    (each.iter().sum::<f64>() / each.len() as f64, each.iter().copied().fold(0.0, f64::max))
}

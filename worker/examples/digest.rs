//! The cost of verifying that ranks hold the same state: the digest of SmolLM2-135M with its moments, 1.6 GB.
//!
//! `cargo run --release -p worker --example digest -- [rounds]`

use anyhow::Result;
use std::path::Path;
use std::time::{Duration, Instant};
use worker::collective::InProcess;
use worker::device::Dtype;
use worker::kernels;
use worker::model::{Config, Model};
use worker::ops::{Documents, Recompute, Target};
use worker::replica::optimizer::AdamW;
use worker::replica::{BUCKET_ELEMENTS, Batch, MicroBatch, Recipe, State, Trainer};

const SMOLLM2: &str = r#"{
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536,
    "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3,
    "max_position_embeddings": 8192, "rms_norm_eps": 1e-05, "rope_theta": 100000.0,
    "tie_word_embeddings": true, "hidden_act": "silu", "initializer_range": 0.04}"#;

fn main() -> Result<()> {
    let rounds = std::env::args().nth(1).map_or(Ok(10), |n| n.parse())?;
    let config = Config::parse(Path::new("config.json"), SMOLLM2)?;
    let model = Model::random(config, 1, kernels::host());
    let parameters = model.parameters();
    let elements: usize = parameters.ids().map(|p| parameters.elements(p)).sum();
    let recipe = Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
        weight_decay: 0.0,
        clip_norm: 1.0,
        recompute: Recompute::Off,
        reduce_dtype: Dtype::F32,
        bucket_elements: BUCKET_ELEMENTS,
    };
    let mut state = State::new(model);
    // Take a step: before it writes the moments, their pages are not allocated.
    let mut alone = InProcess::world(1, Duration::from_secs(60));
    Trainer::new(&state, recipe).step(&mut state, &mut alone[0], &batch(), false)?;

    let bytes = 3 * elements * size_of::<f32>();
    for threads in [1, std::thread::available_parallelism()?.get()] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build()?;
        let mut times: Vec<f64> = (0..rounds)
            .map(|_| {
                let began = Instant::now();
                std::hint::black_box(pool.install(|| state.digest()));
                began.elapsed().as_secs_f64()
            })
            .collect();
        times.sort_by(f64::total_cmp);
        let median = times[times.len() / 2];
        println!(
            "{threads} threads: {:.0} ms for {:.2} GB, {:.1} GB/s (median of {rounds}, fastest {:.0} ms)",
            median * 1e3,
            bytes as f64 / 1e9,
            bytes as f64 / 1e9 / median,
            times[0] * 1e3,
        );
    }
    Ok(())
}

fn batch() -> Batch {
    let target = |row| Target { row, token: row + 1, weight: 1.0 };
    let micro_batch = MicroBatch {
        tokens: (0..16).collect(),
        documents: Documents::of_lengths([16]),
        sources: vec![0],
        targets: (0..15).map(target).collect(),
    };
    let weight = micro_batch.weight();
    Batch {
        step: 0,
        weight,
        learning_rate: 1e-3,
        planned_weight: weight,
        samples: 1,
        samples_digest: 0,
        micro_batches: vec![micro_batch],
    }
}

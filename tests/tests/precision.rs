//! Compares training in bf16 with PyTorch: our losses differ from PyTorch's in bf16 by about as much as those differ
//! from PyTorch's in f32.
//!
//! `tests/peer/precision.py` makes tiny models with eight seeds and trains them for 50 steps. MUSTER_PEER_PYTHON names
//! the interpreter (torch, transformers); if it is unset, the test reports that it was skipped.

use serde::Deserialize;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use worker::collective::InProcess;
use worker::device::Dtype;
use worker::kernels;
use worker::model::Model;
use worker::ops::{Documents, Recompute, Target};
use worker::replica::optimizer::AdamW;
use worker::replica::{BUCKET_ELEMENTS, Batch, MicroBatch, Recipe, State, Trainer};

/// What PyTorch did with one seed.
#[derive(Deserialize)]
struct Curves {
    learning_rate: f64,
    /// The documents of each step.
    documents: Vec<Vec<Vec<u32>>>,
    /// The loss of each step.
    f32: Vec<f64>,
    bf16: Vec<f64>,
}

#[test]
fn the_curve_in_bf16_is_as_close_to_pytorchs_as_that_is_to_f32() {
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        println!("skipped: MUSTER_PEER_PYTHON is unset");
        return;
    };
    let out = tempfile::tempdir().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/precision.py");
    let peer = Command::new(python).arg(script).arg(out.path()).output().expect("it runs");
    assert!(peer.status.success(), "{}", String::from_utf8_lossy(&peer.stderr));

    let (mut ours_to_theirs, mut theirs_to_f32, mut ours_to_f32) = (0.0, 0.0, 0.0);
    for seed in 0..8 {
        let folder = out.path().join(seed.to_string());
        let text = std::fs::read(folder.join("curves.json")).expect("the script wrote it");
        let curves: Curves = serde_json::from_slice(&text).expect("curves");
        let exact = train(&folder, &curves, Dtype::F32);
        let worst =
            exact.iter().zip(&curves.f32).map(|(a, b)| (a - b).abs() / b).fold(0.0, f64::max);
        assert!(worst < 1e-3, "in f32, seed {seed}: {worst:.1e} apart");
        let ours = train(&folder, &curves, Dtype::Bf16);
        assert!(ours[49] < 0.7 * ours[0], "it learns: {ours:?}");
        ours_to_theirs += gap(&ours, &curves.bf16) / 8.0;
        theirs_to_f32 += gap(&curves.bf16, &curves.f32) / 8.0;
        ours_to_f32 += gap(&ours, &exact) / 8.0;
    }
    println!(
        "mean gap: ours to PyTorch's bf16 {ours_to_theirs:.2e}; \
         to f32: ours {ours_to_f32:.2e}, PyTorch's {theirs_to_f32:.2e}"
    );
    assert!(ours_to_f32 > 0.0, "something is rounded");
    // Either gap is one outcome of many roundings, which differ from one kind of processor to another.
    assert!(ours_to_theirs <= 1.15 * theirs_to_f32, "{ours_to_theirs:.2e} for {theirs_to_f32:.2e}");
}

/// The mean difference of two curves.
fn gap(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).sum::<f64>() / a.len() as f64
}

/// The losses of training the model in `folder` on the same documents.
fn train(folder: &Path, curves: &Curves, dtype: Dtype) -> Vec<f64> {
    let mut model = Model::load(folder, kernels::host()).expect("a model folder");
    model.parameters_mut().set_dtype(dtype);
    let recipe = Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 },
        weight_decay: 0.0,
        clip_norm: 1.0,
        recompute: Recompute::Off,
        reduce_dtype: Dtype::F32,
        bucket_elements: BUCKET_ELEMENTS,
    };
    let mut state = State::new(model);
    let mut trainer = Trainer::new(&state, recipe);
    let mut alone = InProcess::world(1, Duration::from_secs(60));
    let step = |(step, documents): (usize, &Vec<Vec<u32>>)| {
        let micro_batch = pack(documents);
        let weight = micro_batch.weight();
        let batch = Batch {
            step: step as u64,
            micro_batches: vec![micro_batch],
            learning_rate: curves.learning_rate,
            planned_weight: weight,
            weight,
            samples: documents.len() as u64,
            samples_digest: 0,
        };
        let committed = trainer.step(&mut state, &mut alone[0], &batch, false);
        committed.expect("a step").done.loss
    };
    curves.documents.iter().enumerate().map(step).collect()
}

/// One pack of all documents, in which every token but the first of each is trained.
fn pack(documents: &[Vec<u32>]) -> MicroBatch {
    let tokens = documents.concat();
    let lengths = Documents::of_lengths(documents.iter().map(Vec::len));
    let rows = lengths.iter().flat_map(|rows| rows.start..rows.end - 1);
    let target = |row: usize| Target { row: row as u32, token: tokens[row + 1], weight: 1.0 };
    let targets = rows.map(target).collect();
    MicroBatch { sources: vec![0; documents.len()], documents: lengths, targets, tokens }
}

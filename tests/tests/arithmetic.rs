//! The step's arithmetic over ranks, with threads of one process, a tiny random model and the real trainer.
//!
//! The world size may change the order in which gradients are added, and nothing else. In f32 that changes a loss by
//! about 1e-7 of its value per step, so a tolerance of 1e-4 after 20 steps covers rounding but no mistake. The states
//! of the ranks after a step must be equal bit for bit.

use proto::protocol::StepDone;
use std::path::Path;
use std::time::Duration;
use worker::collective::{self, AbortHandle, Collective, InProcess, Pending};
use worker::device::{self, Buffer, WindowMut};
use worker::kernels;
use worker::model::{Config, Dtype, Model};
use worker::ops::{Documents, Recompute, Target};
use worker::replica::optimizer::AdamW;
use worker::replica::{
    Batch, Committed, Error, MicroBatch, Recipe, Room, Saved, State, Trainer, snapshot,
};

const CONFIG: &str = r#"{
    "model_type": "llama", "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
    "initializer_range": 0.1, "tie_word_embeddings": true, "hidden_act": "silu"
}"#;
const STEPS: u64 = 20;
const PACKS: usize = 8;
const LEARNING_RATE: f64 = 1e-2;
/// A parameter whose update differs in the last bit of f32 may be rounded to the next bf16, which is 2^-8 of it away.
const BF16_TOLERANCE: f64 = 1e-2;
const STALL: Duration = Duration::from_secs(60);

/// Elements of a bucket. Every matrix takes at least two buckets, the embedding four.
const BUCKET_ELEMENTS: usize = 512;

/// A state and its trainer.
struct Replica {
    state: State,
    trainer: Trainer,
}

impl Replica {
    fn step(&mut self, collective: &mut dyn Collective, batch: &Batch) -> Result<Committed, Error> {
        self.trainer.step(&mut self.state, collective, batch, false)
    }

    /// Parameters, moments and the count of updates, as bytes of a checkpoint without random names.
    fn held(&self) -> Vec<Vec<u8>> {
        let saved = Saved { dtype: Dtype::F32, file_bytes: u64::MAX };
        let room = Room::default().reserve(&AbortHandle::new()).expect("it is free");
        let snapshot = snapshot(&self.state, 0, (0, 1), saved, room);
        let bodies: Vec<_> = snapshot.files.into_iter().map(|f| f.body.to_vec()).collect();
        assert_eq!(bodies.len(), 2, "the model, and the optimizer's state");
        bodies
    }
}

fn replica() -> Replica {
    replica_with(1.0, BUCKET_ELEMENTS, device::Dtype::F32)
}

fn replica_with(clip_norm: f64, bucket_elements: usize, dtype: device::Dtype) -> Replica {
    let config = Config::parse(Path::new("config.json"), CONFIG).expect("a configuration");
    let recipe = Recipe {
        adamw: AdamW { beta1: 0.9, beta2: 0.95, eps: 1e-8 },
        weight_decay: 0.1,
        clip_norm,
        recompute: Recompute::Off,
        reduce_dtype: device::Dtype::F32,
        bucket_elements,
    };
    let mut model = Model::random(config, 7, kernels::host());
    model.parameters_mut().set_dtype(dtype);
    let state = State::new(model);
    Replica { trainer: Trainer::new(&state, recipe), state }
}

/// Pack `index` of step `step`: three documents, of which all but the first tokens are trained, with three weights.
fn pack(step: u64, index: usize) -> MicroBatch {
    let mut state = step * 1000 + index as u64 + 1;
    let mut draw = |below: u64| {
        // Steele, Lea and Flood, "Fast splittable pseudorandom number generators".
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        u32::try_from((z ^ (z >> 31)) % below).expect("below is small")
    };
    let (mut tokens, mut targets, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
    for weight in [1.0, 0.5, 2.0] {
        let length = 3 + draw(8) as usize;
        let first = draw(64);
        for i in 0..length {
            let row = u32::try_from(tokens.len()).expect("few") - u32::from(i > 0);
            // A pattern that can be learned.
            let token = (first + 3 * u32::try_from(i).expect("few")) % 64;
            tokens.push(token);
            if i > 0 {
                targets.push(Target { row, token, weight });
            }
        }
        lengths.push(length);
    }
    let sources = vec![0, 1, u32::try_from(index % 2).expect("0 or 1")];
    MicroBatch { tokens, documents: Documents::of_lengths(lengths), sources, targets }
}

/// The share of `rank` in a global batch of `packs`.
fn batch(step: u64, packs: usize, rank: usize, world: usize) -> Batch {
    let micro_batches: Vec<_> = (rank..packs).step_by(world).map(|i| pack(step, i)).collect();
    Batch {
        step,
        learning_rate: LEARNING_RATE,
        planned_weight: (0..packs).map(|i| pack(step, i).weight()).sum(),
        weight: micro_batches.iter().map(MicroBatch::weight).sum(),
        samples: 3 * micro_batches.len() as u64,
        samples_digest: 0,
        micro_batches,
    }
}

/// Results by rank.
type Ranks = Vec<Rank>;
/// Results of one rank by step: the report of the step, and the state after it.
type Rank = Vec<(StepDone, Vec<Vec<u8>>)>;

/// Trains on all ranks in parallel, in f32.
fn train(world: usize, packs: usize, steps: u64) -> Ranks {
    train_in(device::Dtype::F32, world, packs, steps)
}

fn train_in(dtype: device::Dtype, world: usize, packs: usize, steps: u64) -> Ranks {
    on_ranks(world, |mut collective| {
        let rank = collective.rank();
        let mut replica = replica_with(1.0, BUCKET_ELEMENTS, dtype);
        let step = |s| {
            let committed = replica.step(&mut collective, &batch(s, packs, rank, world));
            (committed.expect("a step").done, replica.held())
        };
        (0..steps).map(step).collect()
    })
}

fn on_ranks<T: Send>(world: usize, rank: impl Fn(InProcess) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let ranks = InProcess::world(world, STALL).into_iter();
        let threads: Vec<_> = ranks.map(|c| scope.spawn(|| rank(c))).collect();
        threads.into_iter().map(|t| t.join().expect("a rank")).collect()
    })
}

/// Checks that all ranks have the same losses and, after every step, the same bits. Returns the loss curve.
fn curve(ranks: &[Rank]) -> Vec<f64> {
    for (number, rank) in ranks.iter().enumerate() {
        for (step, ((ours, held), (zeroth, wanted))) in rank.iter().zip(&ranks[0]).enumerate() {
            assert_eq!(ours.loss.to_bits(), zeroth.loss.to_bits(), "rank {number}, step {step}");
            assert_eq!(ours.grad_norm.to_bits(), zeroth.grad_norm.to_bits());
            assert!(held == wanted, "rank {number} differs after step {step}");
        }
        assert_eq!(rank.len(), ranks[0].len());
    }
    ranks[0].iter().map(|(done, _)| done.loss).collect()
}

fn assert_same_curve(got: &[f64], wanted: &[f64], name: &str) {
    assert_curve_within(1e-4, got, wanted, name);
}

fn assert_curve_within(tolerance: f64, got: &[f64], wanted: &[f64], name: &str) {
    assert_eq!(got.len(), wanted.len());
    let mut worst: f64 = 0.0;
    for (step, (got, wanted)) in got.iter().zip(wanted).enumerate() {
        let off = (got - wanted).abs() / wanted;
        assert!(off <= tolerance, "{name}, step {step}: {got} for {wanted}");
        worst = worst.max(off);
    }
    println!("{name}: losses differ by {worst:.1e} of themselves at most");
}

#[test]
fn workers_times_accumulation_changes_nothing() {
    let alone = curve(&train(1, PACKS, STEPS));
    assert!(alone[alone.len() - 1] < 0.8 * alone[0], "it must learn: {alone:?}");
    for world in [2, 4, 8] {
        let ranks = train(world, PACKS, STEPS);
        assert_eq!(ranks.len(), world);
        assert_same_curve(&curve(&ranks), &alone, &format!("{world}x{}", PACKS / world));
    }
}

#[test]
fn in_bf16_workers_times_accumulation_changes_only_roundings() {
    let bf16 = device::Dtype::Bf16;
    let alone = curve(&train_in(bf16, 1, PACKS, STEPS));
    let exact = curve(&train(1, PACKS, STEPS));
    assert_ne!(alone, exact, "something is rounded");
    assert_curve_within(BF16_TOLERANCE, &alone, &exact, "bf16 for f32");
    for world in [2, 4] {
        let shared = curve(&train_in(bf16, world, PACKS, STEPS));
        // The first loss does not depend on any sum over ranks but that of the losses.
        assert_same_curve(&shared[..1], &alone[..1], "the first step");
        assert_curve_within(BF16_TOLERANCE, &shared, &alone, &format!("{world} ranks in bf16"));
    }
}

/// Loss and trained tokens of each source, summed over the ranks as the coordinator does.
fn by_source(ranks: &[Rank], step: usize) -> [(f64, u64); 2] {
    let mut all = [(0.0, 0.0, 0); 2];
    for sum in ranks.iter().flat_map(|rank| &rank[step].0.sources) {
        let (loss_sum, weight, tokens) = &mut all[sum.source as usize];
        *loss_sum += sum.loss_sum;
        *weight += sum.weight;
        *tokens += sum.trained_tokens;
    }
    let loss = all.iter().map(|s| s.0).sum::<f64>() / all.iter().map(|s| s.1).sum::<f64>();
    let reduced = ranks[0][step].0.loss;
    assert!((loss - reduced).abs() <= 1e-6 * reduced, "step {step}: {loss} for {reduced}");
    all.map(|(loss_sum, weight, tokens)| (loss_sum / weight, tokens))
}

#[test]
fn losses_by_source_add_up_to_the_loss_at_any_world_size() {
    let steps = usize::try_from(STEPS).expect("few");
    let alone = train(1, PACKS, STEPS);
    for world in [1, 2, 4] {
        let ranks = train(world, PACKS, STEPS);
        for step in 0..steps {
            let pairs = by_source(&ranks, step).into_iter().zip(by_source(&alone, step));
            for (source, ((loss, tokens), (wanted, planned))) in pairs.enumerate() {
                let name = format!("{world} ranks, step {step}, source {source}");
                assert_eq!(tokens, planned, "{name}");
                assert!((loss - wanted).abs() <= 1e-4 * wanted, "{name}: {loss} for {wanted}");
            }
        }
    }
    let [(a, _), (b, _)] = by_source(&alone, 0);
    assert!((a - b).abs() > 1e-3, "two sources, two losses");
}

#[test]
fn ranks_without_packs_contribute_zeros() {
    let alone = curve(&train(1, 2, STEPS));
    let shared = curve(&train(5, 2, STEPS));
    assert_same_curve(&shared, &alone, "5 ranks, 2 packs");
}

#[test]
fn gradients_are_the_same_in_buckets_of_any_size() {
    let train = |bucket_elements: usize| {
        on_ranks(2, |mut collective| {
            // The norm is summed by bucket, and without clipping it changes nothing.
            let mut replica = replica_with(1e9, bucket_elements, device::Dtype::F32);
            let rank = collective.rank();
            for s in 0..STEPS {
                let batch = batch(s, PACKS, rank, 2);
                replica.step(&mut collective, &batch).expect("a step");
            }
            replica.held()
        })
    };
    let one = train(usize::MAX);
    // The sizes cut no block of rows so small that it is multiplied in another order.
    for bucket_elements in [BUCKET_ELEMENTS, 1100, 5000] {
        assert!(train(bucket_elements) == one, "{bucket_elements} elements");
    }
}

/// A collective whose rank writes NaN into each bucket.
struct Poisoned(InProcess);

impl Collective for Poisoned {
    fn rank(&self) -> usize {
        self.0.rank()
    }

    fn world_size(&self) -> usize {
        self.0.world_size()
    }

    fn calls(&self) -> u64 {
        self.0.calls()
    }

    fn reduce(&mut self, mut bucket: Buffer) -> Result<Pending, collective::Error> {
        bucket.write(0, &[f32::NAN]);
        self.0.reduce(bucket)
    }

    fn control(&mut self, values: &mut [f64]) -> Result<(), collective::Error> {
        self.0.control(values)
    }

    fn broadcast(&mut self, root: usize, values: WindowMut<'_>) -> Result<(), collective::Error> {
        self.0.broadcast(root, values)
    }

    fn barrier(&mut self) -> Result<(), collective::Error> {
        self.0.barrier()
    }

    fn abort_handle(&self) -> AbortHandle {
        self.0.abort_handle()
    }
}

#[test]
fn a_gradient_that_is_not_finite_changes_nothing_on_any_rank() {
    let ranks = on_ranks(2, |mut collective| {
        let (rank, mut replica) = (collective.rank(), replica());
        let mut step = |s, collective: &mut dyn Collective| {
            let committed = replica.step(collective, &batch(s, PACKS, rank, 2));
            (committed.expect("one or two such steps are survived").done, replica.held())
        };
        // After this step the moments are not zero.
        let before = step(0, &mut collective);
        // A NaN on one rank is enough.
        let skipped = if rank == 1 {
            let mut poisoned = Poisoned(collective);
            let skipped = step(1, &mut poisoned);
            collective = poisoned.0;
            skipped
        } else {
            step(1, &mut collective)
        };
        let after = step(2, &mut collective);
        vec![before, skipped, after]
    });
    for (number, rank) in ranks.iter().enumerate() {
        let [(before, held), (skipped, kept), (after, moved)] = &rank[..] else {
            panic!("3 steps")
        };
        assert!(before.applied && after.applied, "rank {number}");
        assert!(!skipped.applied && !skipped.grad_norm.is_finite(), "rank {number}");
        assert!(kept == held, "rank {number}: parameters, moments or the count of updates changed");
        assert!(moved != kept, "rank {number}: the next step is applied");
        assert!(rank[2].1 == ranks[0][2].1, "rank {number} differs after it");
    }
}

#[test]
fn three_gradients_in_a_row_that_are_not_finite_end_the_training() {
    let mut collective = Poisoned(InProcess::world(1, STALL).remove(0));
    let mut replica = replica();
    let mut step = |s| replica.step(&mut collective, &batch(s, 2, 0, 1));
    assert!(!step(0).expect("survived").done.applied);
    assert!(!step(1).expect("survived").done.applied);
    let error = step(2).expect_err("it is the third").to_string();
    assert!(error.contains("not finite in 3 steps") && error.contains("hint: "), "{error}");
}

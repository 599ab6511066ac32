//! The training step of SmolLM2-135M on random weights, tokens per second and GFLOP/s by phase.
//!
//! `cargo run --release --example ops_step -- [steps] [documents] [tokens per document]`

use std::{sync::Arc, time::Instant};

use candle_core::{Device, Tensor};
use worker::ops::{
    Attention, Documents, Gradients, ParamId, Parameters, Result, Rotary, Tape, Target, Value,
    optimizer::{AdamW, Update, clip_factor, square_norm},
};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const LAYERS: usize = 30;
const HIDDEN: usize = 576;
const INNER: usize = 1536;
const KV: usize = 192;
const VOCABULARY: usize = 49_152;
const ATTENTION: Attention =
    Attention { heads: 9, kv_heads: 3, head_dim: 64, scale: 0.125, window: None };
const LAYER: [&[usize]; 9] = [
    &[HIDDEN],
    &[HIDDEN, HIDDEN],
    &[KV, HIDDEN],
    &[KV, HIDDEN],
    &[HIDDEN, HIDDEN],
    &[HIDDEN],
    &[INNER, HIDDEN],
    &[INNER, HIDDEN],
    &[HIDDEN, INNER],
];

/// One flat gradient per parameter.
struct Flat(Vec<Vec<f32>>);

impl Gradients for Flat {
    fn slots(&mut self, p: ParamId) -> Vec<&mut [f32]> {
        vec![&mut self.0[p.0]]
    }

    fn finished(&mut self, _: ParamId) {}
}

fn main() -> Result<()> {
    let mut args = std::env::args().skip(1).map_while(|arg| arg.parse::<usize>().ok());
    let steps = args.next().unwrap_or(4);
    let (documents, tokens) = (args.next().unwrap_or(2), args.next().unwrap_or(512));
    let docs = Arc::new(Documents::of_lengths(vec![tokens; documents]));
    let mut params = parameters()?;
    let zeros = |params: &Parameters| {
        let elements = params.ids().map(|p| vec![0f32; params.elements(p)]);
        elements.collect::<Vec<_>>()
    };
    let (mut m, mut v) = (zeros(&params), zeros(&params));
    let mut sink = Flat(zeros(&params));
    let work = Work::of(&params, &docs);
    for step in 1..=steps {
        let start = Clock::now();
        let tape = Tape::training(&params);
        let x = forward(&tape, &docs)?;
        let rows = docs.rows() as u32;
        let targets: Vec<_> =
            (0..rows).map(|row| Target { row, token: row * 37 % 49_000, weight: 1. }).collect();
        let loss = tape.linear_cross_entropy(&x, ParamId(0), &targets)?;
        drop(x);
        let forward = Clock::now();
        let loss = tape.backward(loss, &mut sink)? / f64::from(rows);
        let backward = Clock::now();
        optimize(&mut params, &mut sink, (&mut m, &mut v), step as u64);
        let end = Clock::now();
        let speed = f64::from(rows) / (end.wall - start.wall).as_secs_f64();
        println!("step {step}: loss {loss:.4}, {speed:.1} tokens/s");
        start.report("forward", &forward, work.forward);
        forward.report("loss and backward", &backward, work.backward);
        backward.report("optimizer", &end, 0.);
        start.report("all", &end, work.forward + work.backward);
    }
    Ok(())
}

fn parameters() -> Result<Parameters> {
    let layers = std::iter::repeat_n(LAYER, LAYERS).flatten();
    let shapes: Vec<&[usize]> =
        [&[VOCABULARY, HIDDEN][..]].into_iter().chain(layers).chain([&[HIDDEN][..]]).collect();
    let mut params = Parameters::new();
    for (i, shape) in shapes.into_iter().enumerate() {
        let tensor = match shape.len() {
            1 => Tensor::ones(shape, candle_core::DType::F32, &Device::Cpu)?,
            _ => Tensor::randn(0f32, 0.03, shape, &Device::Cpu)?,
        };
        params.push(format!("p{i}"), tensor, true)?;
    }
    Ok(params)
}

fn forward(tape: &Tape<'_>, docs: &Arc<Documents>) -> Result<Value> {
    let angles = |f: fn(f64) -> f64| {
        let at = (0..2048).flat_map(|at| (0..32).map(move |i| (f64::from(at), f64::from(i))));
        at.map(|(at, i)| f(at / 10_000f64.powf(i / 32.)) as f32).collect::<Vec<_>>()
    };
    let rotary = Arc::new(Rotary::new(angles(f64::cos), angles(f64::sin), 32)?);
    let tokens: Vec<_> = (0..docs.rows() as u32).map(|i| i * 31 % 49_000).collect();
    let mut x = tape.embed(&tokens, ParamId(0))?;
    for layer in 0..LAYERS {
        let p = |i: usize| ParamId(1 + layer * LAYER.len() + i);
        let n = tape.rms_norm(&x, p(0), 1e-5)?;
        let [q, k, v] = [
            tape.linear(&n, p(1), None)?,
            tape.linear(&n, p(2), None)?,
            tape.linear(&n, p(3), None)?,
        ];
        let o = tape.attention(&q, &k, &v, (&rotary, docs), &ATTENTION)?;
        x = tape.add(&x, &tape.linear(&o, p(4), None)?)?;
        let n = tape.rms_norm(&x, p(5), 1e-5)?;
        let inner = tape.swiglu(&tape.linear(&n, p(6), None)?, &tape.linear(&n, p(7), None)?)?;
        x = tape.add(&x, &tape.linear(&inner, p(8), None)?)?;
    }
    tape.rms_norm(&x, ParamId(1 + LAYERS * LAYER.len()), 1e-5)
}

fn optimize(
    params: &mut Parameters,
    sink: &mut Flat,
    (m, v): (&mut [Vec<f32>], &mut [Vec<f32>]),
    count: u64,
) {
    let norm = sink.0.iter().map(|g| square_norm(g)).sum::<f64>().sqrt() / 1024.;
    let adamw = AdamW { beta1: 0.9, beta2: 0.999, eps: 1e-8 };
    let gradient_scale = clip_factor(norm, 1.) / 1024.;
    let update = Update { count, lr: 1e-4, weight_decay: 0.01, gradient_scale };
    for p in params.ids() {
        let g = &mut sink.0[p.0];
        params.write(p, |data| adamw.update(&update, data, g, &mut m[p.0], &mut v[p.0]));
        g.fill(0.);
    }
}

/// A moment, by the wall and by the processors: on a busy machine only the second says how good the
/// code is.
struct Clock {
    wall: Instant,
    processors: f64,
}

impl Clock {
    fn now() -> Self {
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let ticks = stat.split(' ').skip(13).take(2).filter_map(|x| x.parse::<f64>().ok());
        Self { wall: Instant::now(), processors: ticks.sum::<f64>() / 100. }
    }

    fn report(&self, phase: &str, end: &Self, work: f64) {
        let (wall, cpu) = ((end.wall - self.wall).as_secs_f64(), end.processors - self.processors);
        println!(
            "  {phase:20} {wall:7.3} s {:6.1} GFLOP/s, processors {cpu:7.3} s {:6.1} GFLOP/s each",
            work / wall / 1e9,
            work / cpu / 1e9,
        );
    }
}

/// Floating point operations of matrix products.
struct Work {
    forward: f64,
    backward: f64,
}

impl Work {
    fn of(params: &Parameters, docs: &Documents) -> Self {
        let rows = docs.rows() as f64;
        let matrices = params.ids().skip(1).map(|p| match *params.shape(p) {
            [a, b] => (a * b) as f64,
            _ => 0.,
        });
        let linear = 2. * rows * matrices.sum::<f64>();
        let head = 2. * rows * (VOCABULARY * HIDDEN) as f64;
        let pairs: f64 = docs.iter().map(|doc| (doc.len() * (doc.len() + 1) / 2) as f64).sum();
        let attention = 4. * pairs * HIDDEN as f64 * LAYERS as f64;
        Self { forward: linear + attention, backward: 2. * linear + 2.5 * attention + 3. * head }
    }
}

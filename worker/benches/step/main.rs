//! The training step, compared with transformers' Llama on PyTorch with the same weights, tokens, threads and type of
//! activations; the two take steps in turn.
//!
//! ```text
//! export MUSTER_PEER_PYTHON=python MUSTER_TEST_MODEL=folder
//! cargo bench -p worker --bench step -- [--rounds N] [--threads N] [--bf16]
//! ```
//!
//! A step is forward, backward, clipping and AdamW on two documents of 512 tokens, with every target trained.
//! Without MUSTER_TEST_MODEL, the weights are random in the shape of SmolLM2-135M; without MUSTER_PEER_PYTHON, ours
//! runs alone.

mod ours;
mod peer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use worker::bench::Clock;
use worker::device::{Device, Dtype};

/// The same allocator as the worker's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Number of rows of the batch, and tokens per row.
const BATCH: (usize, usize) = (2, 512);

struct Options {
    rounds: usize,
    threads: usize,
    dtype: Dtype,
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    rayon::ThreadPoolBuilder::new().num_threads(options.threads).build_global()?;
    let folder = std::env::var_os("MUSTER_TEST_MODEL").map(PathBuf::from);
    let mut ours = ours::Trainer::new(folder.as_deref(), options.dtype)?;
    let documents = ours.batch();
    let mut peer = peer::Peer::start(folder.as_deref(), &ours, &documents, options.threads)?;

    let (rows, length) = BATCH;
    let tokens = (rows * length) as f64;
    let Options { threads, dtype, .. } = options;
    println!("{}, {dtype:?}, {rows} x {length} tokens, {threads} threads", ours.name());
    // The first step of each allocates its memory, so it is not timed.
    let mut first = (ours.step(&documents)?, None);
    if let Some(peer) = &mut peer {
        first.1 = Some(peer.step()?);
    }

    println!("round   ours tok/s   peer tok/s  ratio   ours cpu s   peer cpu s  ratio");
    let (mut ratios, mut cpu_ratios) = (Vec::new(), Vec::new());
    let mut phases: BTreeMap<String, Duration> = BTreeMap::new();
    for round in 1..=options.rounds {
        let (mine, times) = Clock::new(&Device::Host).time(|| ours.step(&documents));
        let mine = mine?;
        for (phase, time) in times {
            *phases.entry(phase).or_default() += time;
        }
        match &mut peer {
            None => println!("{round:5}   {:10.1}", tokens / mine.seconds),
            Some(peer) => {
                let theirs = peer.step()?;
                ratios.push(theirs.seconds / mine.seconds);
                cpu_ratios.push(theirs.cpu_seconds / mine.cpu_seconds);
                println!(
                    "{round:5}   {:10.1}   {:10.1}  {:5.3}   {:10.2}   {:10.2}  {:5.3}",
                    tokens / mine.seconds,
                    tokens / theirs.seconds,
                    ratios[ratios.len() - 1],
                    mine.cpu_seconds,
                    theirs.cpu_seconds,
                    cpu_ratios[cpu_ratios.len() - 1],
                );
            }
        }
    }
    if let (mine, Some(theirs)) = first {
        let (wall, cpu) = (median(&mut ratios), median(&mut cpu_ratios));
        println!("median ratio: {wall:.3} in wall-clock time, {cpu:.3} in CPU time");
        println!("loss of the first step: ours {:.6}, peer {:.6}", mine.loss, theirs.loss);
        println!("its gradient norm:      ours {:.6}, peer {:.6}", mine.norm, theirs.norm);
    }
    println!("\nours by phase, mean of {} steps", options.rounds);
    print_phases(phases, options.rounds);
    Ok(())
}

/// Prints a line per phase, the longest first.
fn print_phases(phases: BTreeMap<String, Duration>, rounds: usize) {
    let whole: Duration = phases.values().sum();
    let mut phases: Vec<_> = phases.into_iter().collect();
    phases.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    for (name, time) in phases {
        let milliseconds = time.as_secs_f64() * 1e3 / rounds as f64;
        let share = time.as_secs_f64() / whole.as_secs_f64() * 100.0;
        println!("{name:32} {milliseconds:8.1} ms  {share:5.1} %");
    }
}

/// The times of one step, and its loss and gradient norm before the update.
struct Step {
    seconds: f64,
    /// CPU time of all threads, which is the fairer measure on a shared machine.
    cpu_seconds: f64,
    loss: f64,
    norm: f64,
}

fn options() -> anyhow::Result<Options> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut options = Options { rounds: 5, threads, dtype: Dtype::F32 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> anyhow::Result<usize> {
            let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            value.parse().with_context(|| format!("{argument} {value}"))
        };
        match argument.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--rounds" => options.rounds = number()?.max(1),
            "--threads" => options.threads = number()?.max(1),
            "--bf16" => options.dtype = Dtype::Bf16,
            other => {
                anyhow::bail!("{other} is not an option\nhint: --rounds N, --threads N, --bf16")
            }
        }
    }
    Ok(options)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values[middle],
    }
}

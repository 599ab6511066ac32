//! Measures how long it takes to plan a large data set.
//!
//! ```text
//! cargo run --release -p proto --example plan [SAMPLES] [MAX_TOKENS]
//! ```
//!
//! Lengths are log-normal, like those of instruction data. Plans the samples once as a single source, and once as a
//! mixture of three sources with shares of the trained tokens. Prints seconds, bytes per sample in addition to the
//! 16 of each sample, and the density, compared to that of packing 1,000 samples at a time. The peak memory is that
//! of the process so far, so the mixture's value is only meaningful if it is the higher one.

use std::time::Instant;

use proto::plan::{Amount, Meta, Options, Plan, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let count: u32 = args.next().as_deref().unwrap_or("10000000").parse()?;
    let max_tokens: u32 = args.next().as_deref().unwrap_or("4096").parse()?;
    let samples: Vec<Meta> = (0..count).map(|id| sample(id, max_tokens)).collect();
    let before = peak_bytes();
    let options = options(max_tokens);
    let part = |samples, amount| Source { samples, amount, holdout: 0.01 };
    let (half, third) = (count / 2, count / 3);
    let mixture = [(half, 0.2), (third, 0.5), (count - half - third, 0.3)];
    let plans = [
        ("one source", vec![part(count, Amount::Repeat(1.0))]),
        ("a mixture", mixture.map(|(samples, share)| part(samples, Amount::Share(share))).into()),
    ];
    for (name, sources) in plans {
        let start = Instant::now();
        let plan = Plan::new(&samples, &sources, options)?;
        println!("{name}\n  plan         {:>6.2} s   {} steps", seconds(start), plan.steps());
        let start = Instant::now();
        let epoch = plan.epoch(0);
        println!("  epoch        {:>6.2} s   {} packs", seconds(start), epoch.packs.len());
        let peak = peak_bytes().zip(before).map(|(after, before)| after - before);
        let start = Instant::now();
        let bytes: usize = plan.chunks(&epoch).map(|chunk| chunk.encode().len()).sum();
        println!("  chunks       {:>6.2} s   {} MiB", seconds(start), bytes >> 20);
        if let Some(peak) = peak {
            println!("  peak memory  {:>6.2} bytes per sample", peak as f64 / f64::from(count));
        }
        println!("  density      {:>8.4}", plan.summary().density());
    }
    println!("in windows     {:>8.4}", windowed(&samples, options)?);
    Ok(())
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}

fn options(max_tokens: u32) -> Options {
    Options { max_tokens, global_batch: 64, epochs: 3, max_steps: None, seed: 42 }
}

/// A log-normal length with a median of 200 tokens, from two uniform numbers (Box and Muller).
fn sample(id: u32, max_tokens: u32) -> Meta {
    let hash = xxhash_rust::xxh3::xxh3_64(&id.to_le_bytes());
    let uniform = |bits: u32| (f64::from(bits) + 1.0) / (f64::from(u32::MAX) + 2.0);
    let (radius, angle) = (uniform(hash as u32), uniform((hash >> 32) as u32));
    let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * angle).cos();
    let length = (200.0 * normal.exp()).clamp(2.0, f64::from(max_tokens)) as u32;
    Meta { length, weight: length as f32 / 2.0, hash }
}

/// The density of best fit decreasing within windows of 1,000 samples.
fn windowed(samples: &[Meta], options: Options) -> Result<f64, proto::plan::Error> {
    let (mut tokens, mut packs) = (0, 0);
    for window in samples.chunks(1000).take(1000) {
        let source =
            Source { samples: window.len() as u32, amount: Amount::Repeat(1.0), holdout: 0.0 };
        let options = Options { epochs: 1, ..options };
        let summary = Plan::new(window, &[source], options)?.summary();
        packs += summary.packs_per_epoch;
        tokens += summary.epochs[0].tokens;
    }
    Ok(tokens as f64 / (packs * u64::from(options.max_tokens)) as f64)
}

/// The peak memory of this process, if the system reports it.
fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib << 10)
}

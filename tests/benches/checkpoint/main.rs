//! Saves and restores a checkpoint, in turn with plain writes and reads of the same storage and with PyTorch's
//! distributed checkpoint (`async_save`, `load`) of the same state on the same disk.
//!
//! ```text
//! export MUSTER_PEER_PYTHON=python MUSTER_TEST_WEED=weed
//! cargo bench -p muster-tests --bench checkpoint -- [--rounds N] [--layers N] [--at URL]
//! ```
//!
//! The state is that of one rank of a model in the shape of SmolLM2-135M: masters and moments in f32, and weights in
//! bf16. It is saved to a folder on disk, and to SeaweedFS if MUSTER_TEST_WEED names it; `--at` measures another
//! storage instead, with credentials from the environment. Without MUSTER_PEER_PYTHON, PyTorch is left out. SeaweedFS
//! does not free deleted data: each round takes 4 GB on the temporary folder's disk.
//!
//! Plain writes have the same bytes in the same objects, without hashing: on disk from one thread, with a sync; on a
//! bucket with `object_store`, in parts of the same size, twice as many at the same time. What is read has just been
//! written, so all three read from the disk's cache.

mod ours;
mod peer;
mod plain;

use anyhow::{Context, Result, bail};
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use std::process::Command;
use worker::supervise::KEEP_MEMORY;

/// The worker's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone)]
struct Options {
    rounds: usize,
    layers: usize,
    at: Option<String>,
}

/// The duration of a save or a restore.
#[derive(Clone, Copy, serde::Deserialize)]
struct Took {
    /// Seconds for which training paused.
    pause: f64,
    /// Total seconds.
    seconds: f64,
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = options()?;
    if let Some(url) = &options.at {
        return measure(&options, url).await;
    }
    let folder = tempfile::tempdir()?;
    apart(&options, &format!("file://{}", folder.path().display()), &[])?;
    match SeaweedFs::start("SeaweedFS") {
        Some(server) => {
            apart(&options, &format!("s3://{BUCKET}/checkpoints"), &server.environment())
        }
        None => Ok(()),
    }
}

/// Measures in a separate process with a rank's environment, since credentials come from the environment.
fn apart(options: &Options, url: &str, environment: &[(&str, String)]) -> Result<()> {
    let Options { rounds, layers, .. } = options;
    let ended = Command::new(std::env::current_exe()?)
        .args(["--rounds".into(), rounds.to_string(), "--layers".into(), layers.to_string()])
        .args(["--at", url])
        .env(KEEP_MEMORY.0, KEEP_MEMORY.1)
        .envs(environment.iter().cloned())
        .status()?;
    anyhow::ensure!(ended.success(), "at {url}: {ended}");
    Ok(())
}

async fn measure(options: &Options, url: &str) -> Result<()> {
    let mut ours = ours::Ours::new(options.layers, url)?;
    let plain = plain::Plain::new(url)?;
    // The peer saves to a disk only.
    let mut peer = match url.strip_prefix("file://") {
        Some(folder) => peer::Peer::start(ours.elements(), folder)?,
        None => None,
    };
    let objects = ours.objects();
    let bytes = objects.iter().map(|(_, body)| body.len()).sum::<usize>();
    let restored = ours.state_bytes();
    println!("\n{url}: {} MB in {} objects", bytes / 1_000_000, objects.len());
    println!(
        "seconds      save: plain    ours (pause)    peer (pause)   restore: plain   ours   peer"
    );
    let mut rounds = Vec::new();
    for number in 0..=options.rounds {
        // Each deletes what it wrote, so that the next one finds the same state of memory and of the disk's cache.
        let written = plain.write(&objects).await?;
        let read = plain.read(&objects, |key| key.contains("state/")).await?;
        plain.clear(&objects).await?;
        let saved = ours.save().await?;
        let restored = ours.restore().await?;
        ours.clear().await?;
        let peer_saved = peer.as_mut().map(|p| p.ask("save")).transpose()?;
        let peer_restored = peer.as_mut().map(|p| p.ask("load")).transpose()?;
        if let Some(peer) = &peer {
            peer.clear()?;
        }
        let round = Round { written, saved, peer_saved, read, restored, peer_restored };
        // The first round is a warm-up, in which memory is allocated.
        if number > 0 {
            println!("{round}");
            rounds.push(round);
        }
    }
    report(&rounds, bytes, restored);
    Ok(())
}

struct Round {
    written: f64,
    saved: Took,
    peer_saved: Option<Took>,
    read: f64,
    restored: f64,
    peer_restored: Option<Took>,
}

impl std::fmt::Display for Round {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { written, saved, peer_saved, read, restored, peer_restored } = self;
        write!(f, "{written:23.2} {:7.2} ({:5.2})", saved.seconds, saved.pause)?;
        match peer_saved {
            Some(peer) => write!(f, " {:7.2} ({:5.2})", peer.seconds, peer.pause)?,
            None => write!(f, "{:16}", "-")?,
        }
        write!(f, "{read:17.2}{restored:7.2}")?;
        match peer_restored {
            Some(peer) => write!(f, "{:7.2}", peer.seconds),
            None => write!(f, "{:>7}", "-"),
        }
    }
}

/// A figure of a round, if the round has it.
type Figure<'a> = &'a dyn Fn(&Round) -> Option<f64>;

fn report(rounds: &[Round], saved: usize, restored: usize) {
    let of = |value: Figure<'_>| median(rounds.iter().filter_map(value));
    let speed = |bytes: usize, seconds: Option<f64>| {
        seconds.map_or(0.0, |seconds| bytes as f64 / 1e6 / seconds)
    };
    println!(
        "saved at {:.0} MB/s, restored at {:.0} MB/s; medians of each round's ratio:",
        speed(saved, of(&|r| Some(r.saved.seconds))),
        speed(restored, of(&|r| Some(r.restored))),
    );
    let ratios: [(&str, Figure<'_>); 6] = [
        ("pause / whole save", &|r| Some(r.saved.pause / r.saved.seconds)),
        ("save speed / plain", &|r| Some(r.written / r.saved.seconds)),
        ("restore speed / plain", &|r| Some(r.read / r.restored)),
        ("save speed / peer", &|r| Some(r.peer_saved?.seconds / r.saved.seconds)),
        ("peer's pause / ours", &|r| Some(r.peer_saved?.pause / r.saved.pause)),
        ("restore speed / peer", &|r| Some(r.peer_restored?.seconds / r.restored)),
    ];
    for (what, ratio) in ratios {
        if let Some(median) = of(ratio) {
            println!("  {what:24}{median:6.2}");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    Some((upper + values[(values.len() - 1) / 2]) / 2.0)
}

fn options() -> Result<Options> {
    let mut options = Options { rounds: 5, layers: 30, at: None };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().with_context(|| format!("{argument} needs a value"));
        match argument.as_str() {
            // Cargo passes this to every benchmark.
            "--bench" => {}
            "--rounds" => options.rounds = value()?.parse()?,
            "--layers" => options.layers = value()?.parse()?,
            "--at" => options.at = Some(value()?),
            other => {
                bail!("{other} is not an option\nhint: --rounds N, --layers N, --at URL")
            }
        }
    }
    Ok(options)
}

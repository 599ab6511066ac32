//! Compares preparation with `datasets.map`: text in, tokens with their mask out, on two cores, in
//! turn.
//!
//! ```text
//! cargo bench -p data --bench prepare                  20 MB, 3 rounds
//! cargo bench -p data --bench prepare -- 200 5         200 MB, 5 rounds
//! ```
//!
//! MUSTER_TEST_MODEL names the tokenizer's folder (by default the quick start's base),
//! MUSTER_TEST_DATA a folder with `data/alpaca_en_demo.json` (by default the quick start's
//! instructions), and MUSTER_PEER_PYTHON a Python with `datasets` and `transformers` (without it,
//! only ours runs).
//!
//! Ours is timed from the file's bytes, including the reading of JSON. The peer is timed from a
//! loaded data set, by `benches/prepare.py`, without its start and its imports.

#[path = "prepare/corpus.rs"]
mod corpus;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use data::{ChatTemplate, Folder, Options, Preparer, SourceOptions};
use serde::Deserialize;

/// The number of cores, for the peer too.
const CORES: usize = 2;

/// One run over the whole data.
#[derive(Clone, Copy, Debug, Deserialize)]
struct Run {
    seconds: f64,
    tokens: u64,
    trained_tokens: u64,
}

impl Run {
    fn tokens_per_second(self) -> f64 {
        self.tokens as f64 / self.seconds
    }
}

fn main() -> Result<()> {
    // Cargo adds `--bench` to the arguments.
    let mut numbers = std::env::args().skip(1).filter(|arg| !arg.starts_with("--"));
    let megabytes: usize = numbers.next().map_or(Ok(20), |arg| arg.parse())?;
    let rounds: usize = numbers.next().map_or(Ok(3), |arg| arg.parse())?;
    let model = folder_of("MUSTER_TEST_MODEL").unwrap_or_else(|| quickstart("base"));
    let records = match folder_of("MUSTER_TEST_DATA") {
        Some(folder) => corpus::alpaca(&folder.join("data/alpaca_en_demo.json"))?,
        None => corpus::messages(&quickstart("instructions.jsonl"))?,
    };
    let text = corpus::vary(&records, megabytes * 1_000_000);
    let at = tempfile::tempdir()?;
    let data = at.path().join("data.jsonl");
    std::fs::write(&data, &text)?;
    let preparer = Preparer::new(&Folder::read(&model)?, options())?;
    let cores = rayon::ThreadPoolBuilder::new().num_threads(CORES).build()?;
    let python = folder_of("MUSTER_PEER_PYTHON");
    let (mut ours, mut peers) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        let run = cores.install(|| prepare(&preparer, text.as_bytes()))?;
        println!("round {round}: ours {:.0} tokens/s", run.tokens_per_second());
        ours.push(run);
        if let Some(python) = &python {
            let run = peer(python, &model, &data, at.path())?;
            println!("round {round}: peer {:.0} tokens/s", run.tokens_per_second());
            peers.push(run);
        }
    }
    report(&ours, &peers)
}

/// The peer's options: the same template, and nothing is too long.
fn options() -> Options {
    let chat_template = ChatTemplate::Chatml;
    Options { max_tokens: usize::MAX, chat_template, ..Options::default() }
}

fn prepare(preparer: &Preparer, bytes: &[u8]) -> Result<Run> {
    let start = Instant::now();
    let prepared = preparer.prepare("data.jsonl", bytes, &SourceOptions::default())?;
    let seconds = start.elapsed().as_secs_f64();
    let counts = prepared.counts;
    ensure!(counts.eligible == counts.read, "records were dropped: {counts:?}");
    Ok(Run { seconds, tokens: counts.tokens, trained_tokens: counts.trained_tokens })
}

fn peer(python: &Path, model: &Path, data: &Path, cache: &Path) -> Result<Run> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/prepare.py");
    let template = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/templates/chatml.jinja");
    let mut command = Command::new(python);
    command.args([script.as_path(), model, &template, data, cache]).arg(CORES.to_string());
    let output = command.stderr(std::process::Stdio::inherit()).output()?;
    ensure!(output.status.success(), "prepare.py: {}", output.status);
    serde_json::from_slice(&output.stdout).context("prepare.py answers in JSON")
}

fn report(ours: &[Run], peers: &[Run]) -> Result<()> {
    let speed = |runs: &[Run]| median(runs.iter().map(|run| run.tokens_per_second()));
    let first = ours.first().context("at least one round")?;
    println!("{} tokens, {} of them trained", first.tokens, first.trained_tokens);
    println!("ours: {:.0} tokens/s on {CORES} cores (median)", speed(ours));
    if peers.is_empty() {
        println!("peer: left out, MUSTER_PEER_PYTHON is not set");
        return Ok(());
    }
    for run in peers {
        let same = (run.tokens, run.trained_tokens) == (first.tokens, first.trained_tokens);
        ensure!(same, "the peer's tokens differ: {run:?}");
    }
    println!("peer: {:.0} tokens/s on {CORES} cores (median)", speed(peers));
    let ratios = ours.iter().zip(peers).map(|(ours, peer)| peer.seconds / ours.seconds);
    println!("ratio: {:.2} (median of the rounds)", median(ratios));
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn folder_of(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn quickstart(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/quickstart").join(name)
}

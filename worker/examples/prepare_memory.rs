//! Peak memory of preparing one raw shard of 10 MB to 1 GB in each container format; it must not grow with the data.
//!
//! `cargo run --release --example prepare_memory -- [largest size in MB]`
//!
//! Each case runs in its own process, since the kernel records the peak (VmHWM) per process.

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use proto::protocol::RawShard;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use storage::Storage;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const MB: u64 = 1_000_000;
/// Environment variable that marks the process that prepares the file.
const CHILD: &str = "MUSTER_PREPARE_MEMORY_OF";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    if let Ok(file) = std::env::var(CHILD) {
        return prepare(Path::new(&file));
    }
    let largest: u64 = arguments.next().map_or(Ok(1000), |size| size.parse())?;
    println!("{:<10} {:>8} {:>12} {:>10} {:>8}", "container", "MB", "samples", "peak MB", "MB/s");
    for kind in ["jsonl", "jsonl.gz", "json", "csv", "txt"] {
        let sizes = [10, 200, 1000].into_iter().filter(|size| *size <= largest);
        for size in sizes {
            let folder = tempfile::tempdir()?;
            let file = folder.path().join(format!("data.{kind}"));
            write(&file, kind, size * MB)?;
            let started = Instant::now();
            let output = Command::new(std::env::current_exe()?).env(CHILD, &file).output()?;
            let seconds = started.elapsed().as_secs_f64();
            let complaint = String::from_utf8_lossy(&output.stderr);
            ensure!(output.status.success(), "{kind} of {size} MB: {complaint}");
            let figures = String::from_utf8(output.stdout)?;
            let (samples, peak) = figures.trim().split_once(' ').context("two numbers")?;
            let speed = size as f64 / seconds;
            println!("{kind:<10} {size:>8} {samples:>12} {peak:>10} {speed:>8.1}");
        }
    }
    Ok(())
}

/// Writes distinct records of a few hundred bytes each, up to `bytes` in total.
fn write(path: &Path, kind: &str, bytes: u64) -> Result<()> {
    let file = BufWriter::new(File::create(path)?);
    let mut out: Box<dyn Write> = match kind {
        "jsonl.gz" => Box::new(GzEncoder::new(file, Compression::fast())),
        _ => Box::new(file),
    };
    let (before, between, after) = match kind {
        "json" => ("[\n", ",\n", "\n]\n"),
        "csv" => ("instruction,output\n", "\n", "\n"),
        _ => ("", "\n", "\n"),
    };
    out.write_all(before.as_bytes())?;
    let (mut written, mut number) = (0, 0u64);
    while written < bytes {
        let separator = if number == 0 { "" } else { between };
        let record = record(kind, number);
        out.write_all(separator.as_bytes())?;
        out.write_all(record.as_bytes())?;
        written += (separator.len() + record.len()) as u64;
        number += 1;
    }
    out.write_all(after.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn record(kind: &str, number: u64) -> String {
    // Multiplication by an odd constant gives every number different digits.
    let word = |i: u64| format!("{:x}", (number * 64 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let text = |from, to| (from..to).map(word).collect::<Vec<_>>().join(" ");
    let (question, answer) = (text(0, 6), text(6, 24));
    match kind {
        "csv" => format!("{question},{answer}"),
        "txt" => format!("{question} {answer}"),
        _ => format!(r#"{{"instruction": "{question}", "output": "{answer}"}}"#),
    }
}

/// Prepares the file as one raw shard, and prints the samples and this process's peak memory in MB.
fn prepare(file: &Path) -> Result<()> {
    let folder = file.parent().context("a file in a folder")?;
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/quickstart/base");
    let yaml = format!(
        "name: memory\nmodel: {{base: {}}}\noutput: {}\n\
         data: {{train: [{{source: {}}}], date: 2026-01-01, chat_template: alpaca}}\n",
        base.canonicalize()?.display(),
        folder.join("out").display(),
        file.display(),
    );
    let spec = proto::spec::parse(&yaml, folder)?;
    Storage::open(&spec.output().to_string())?;
    let runtime = tokio::runtime::Runtime::new()?;
    let outcome = runtime.block_on(async {
        let storage = Storage::open_existing(&folder.to_string_lossy())?;
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let object = storage.head(&name).await?.context("the file was just written")?;
        let shard = RawShard {
            index: 0,
            source: 0,
            url: format!("{}/{name}", storage.url()),
            bytes: object.bytes,
            etag: object.etag,
            modified_ms: object.modified_ms,
            range: 0..object.bytes,
        };
        let prepared = worker::prepare::prepare(&spec.resolved_yaml(), "f", shard).await;
        prepared.map_err(|trouble| anyhow::anyhow!(trouble.message))
    })?;
    let total = outcome.receipt.total();
    ensure!(total.is_balanced() && total.dropped.is_empty(), "{}", outcome.receipt);
    let status = fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kib: u64 = peak.trim().trim_end_matches("kB").trim().parse()?;
    println!("{} {}", outcome.parts.iter().sum::<u64>(), kib * 1024 / MB);
    Ok(())
}

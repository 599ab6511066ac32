//! Runs `coordinator run` on one data set in three containers. However the data is cut into ranges and parts, the run
//! is the same, sample for sample and bit for bit.
//!
//! The sizes are those of production. Needs a Python with `pyarrow` (MUSTER_PEER_PYTHON). Without it, the test says
//! that it is skipped.

use muster_tests::fixture::files;
use muster_tests::model::{Weights, assert_bit_equal, weights};
use muster_tests::{Event, Fixture, Process};
use proto::key;
use proto::manifest::Prepared;
use proto::receipt::{Counts, Formats, Receipt};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

const RECORDS: u64 = 80_000;
const STEPS: u64 = 6;

/// The result of a run on one container.
struct Outcome {
    /// Number of parts of each raw shard.
    parts: Vec<usize>,
    counts: Counts,
    /// The stored plan: its outline, whose SHA-256 is the plan's digest, and its chunks.
    plan: BTreeMap<String, Vec<u8>>,
    /// Which samples each step trained on.
    digests: Vec<(u64, String)>,
    weights: Weights,
}

fn read<T: DeserializeOwned>(path: &Path) -> T {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Runs two workers on the data set at `source`.
fn run(source: &Path) -> Outcome {
    let fixture = Fixture::new();
    fixture.respec("source: ./data.jsonl", &format!("source: {}", source.display()));
    fixture.respec("holdout: 0.1", "holdout: 0.001");
    fixture.respec("max_tokens: 128", "max_tokens: 256");
    fixture.respec("epochs: 20", "epochs: 1");
    fixture.respec("max_steps: 40", &format!("max_steps: {STEPS}"));
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);

    let fingerprint = ended.only("prepared").text("fingerprint").to_owned();
    let prepared: Prepared = read(&fixture.path("runs").join(key::prepared_manifest(&fingerprint)));
    let receipt: Receipt = read(&fixture.run().join("receipt.json"));
    let plan = fixture.run().join("plan");
    let body = |name: String| {
        let body = std::fs::read(plan.join(&name)).expect("it was listed");
        (name, body)
    };
    let digest = |step: &Event| (step.count("step"), step.text("samples_digest").to_owned());
    Outcome {
        parts: prepared.shards.iter().map(|shard| shard.parts.len()).collect(),
        // The formats differ by design.
        counts: Counts { formats: Formats::default(), ..receipt.total() },
        plan: files(&plan).into_iter().map(body).collect(),
        digests: ended.all("step").into_iter().map(digest).collect(),
        weights: weights(&fixture.run().join("model")),
    }
}

#[test]
fn ranges_and_parts_of_an_object_change_nothing() {
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON").map(PathBuf::from) else {
        println!("ranges: skipped, MUSTER_PEER_PYTHON is not set");
        return;
    };
    let folder = tempfile::tempdir().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/containers.py");
    let written = Command::new(python).arg(script).arg(folder.path()).output();
    let written = written.expect("MUSTER_PEER_PYTHON starts");
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));

    // An object that cannot be cut is one range, in several parts.
    let whole = run(&folder.path().join("data.jsonl.gz"));
    assert!(whole.parts.len() == 1 && whole.parts[0] > 1, "{:?}", whole.parts);
    assert_eq!((whole.counts.read, whole.counts.eligible), (RECORDS, RECORDS));
    assert_eq!(whole.digests.len() as u64, STEPS);
    for name in ["data.jsonl", "data.parquet"] {
        let cut = run(&folder.path().join(name));
        assert!(cut.parts.len() > 2, "{name} in {} ranges", cut.parts.len());
        assert_eq!(cut.counts, whole.counts, "{name}");
        assert!(cut.plan == whole.plan, "{name}: another plan");
        assert_eq!(cut.digests, whole.digests, "{name}");
        assert_bit_equal(&cut.weights, &whole.weights);
    }
}

//! Tests from prepared shards in storage to the trained samples and the receipt.

use std::collections::BTreeSet;
use std::path::Path;

use data::Record;
use proto::manifest::{PreparedShard, sha256};
use proto::prepared::{
    Exchange, Features, Flaws, Front, Object, SIGNATURE, Sample, Signature, Unit, Writer,
};
use proto::receipt::{Counts, Reason};

use super::*;

const FINGERPRINT: &str = "f00d";

/// Stores a shard of one source with one record per line, and returns its receipt.
async fn stored(storage: &Storage, index: u32, name: &str, lines: &[&str]) -> Receipt {
    let mut writer = Writer::new(FINGERPRINT);
    writer.object(Object { name: name.into(), source: index, unit: Unit::Line });
    let mut counts = Counts::default();
    for (position, line) in (1..).zip(lines) {
        let record = Record::Completion { prompt: (*line).into(), completion: "Yes.".into() };
        let hash = record.hash();
        let sample =
            Sample { tokens: vec![1; 5], weights: vec![0.0, 0.0, 1.0, 1.0, 1.0], hash, position };
        writer.record(data::features(&record, hash));
        writer.push(&sample);
        counts.read += 1;
        counts.eligible += 1;
        counts.add_samples(&[sample]);
    }
    let key = key::prepared_part(FINGERPRINT, index, 0);
    storage.put(&key, writer.finish()).await.expect("memory");
    Receipt::of(name, counts)
}

/// Plans a run over two sources and a benchmark, and returns the receipt and the trained samples.
async fn planned(quality: &str) -> (Receipt, BTreeSet<u32>) {
    let storage = Storage::memory();
    let lines: [&[&str]; 3] = [
        &["One apple?", "Two pears?", "One apple?"],
        &["Three plums?", "Two pears?", "Four figs?"],
        &["Three plums?", "Five nuts?"],
    ];
    let names = ["/a.jsonl", "/b.jsonl", "/bench.jsonl"];
    let (mut receipt, mut shards) = (Receipt::default(), Vec::new());
    for ((index, name), lines) in (0..).zip(names).zip(lines) {
        receipt.merge(stored(&storage, index, name, lines).await);
        shards.push(PreparedShard { starts_after: 0, parts: vec![lines.len() as u64] });
    }
    let yaml = format!(
        "model: {{base: m}}\n\
         data:\n  train: [{{source: a.jsonl}}, {{source: b.jsonl}}]\n  \
         quality: {{benchmarks: [{{source: bench.jsonl}}], {quality}}}\n  max_dropped: 0\n"
    );
    let spec = Arc::new(proto::spec::parse(&yaml, Path::new("/")).expect("a spec"));
    let run = RunId::new("r");
    let prepared = Prepared { shards, receipt, ..Prepared::default() };
    let places = Places { run: storage.clone(), prepared: storage.clone() };
    let outline = plan(&places, &run, &spec, FINGERPRINT, Some(prepared)).await.expect("a plan");
    let chunk = storage.read(&format!("{}/{}", key::plan(&run), key::plan_chunk(0, 0))).await;
    let chunk = Chunk::decode(&chunk.expect("the first chunk")).expect("our own bytes");
    let trained = chunk.steps.iter().flat_map(|step| &step.packs).flat_map(|pack| &pack.samples);
    (outline.receipt, trained.copied().collect())
}

#[tokio::test]
async fn filtered_records_are_not_trained_and_do_not_count_against_max_dropped() {
    let (receipt, trained) = planned("duplicates: filter, contamination: filter").await;
    assert_eq!(trained, BTreeSet::from([0, 1, 5]));
    let total = receipt.total();
    assert!(total.is_balanced());
    assert_eq!((total.read, total.eligible, total.tokens, total.trained_tokens), (8, 5, 25, 15));
    let (a, b) = (&receipt.sources["/a.jsonl"], &receipt.sources["/b.jsonl"]);
    let dropped = |counts: &Counts, reason| counts.dropped[&reason].examples[0].to_string();
    assert_eq!(dropped(a, Reason::Duplicate), "/a.jsonl, line 3: the same as /a.jsonl, line 1");
    assert_eq!(dropped(b, Reason::Duplicate), "/b.jsonl, line 2: the same as /a.jsonl, line 2");
    assert_eq!(
        dropped(b, Reason::Contaminated),
        "/b.jsonl, line 1: the same as /bench.jsonl, line 1, which the model is evaluated on"
    );
    assert_eq!(b.dropped[&Reason::Contaminated].tokens_lost, 5);
}

#[tokio::test]
async fn records_with_reported_findings_are_still_trained() {
    let (receipt, trained) = planned("").await;
    assert_eq!(trained, (0..6).collect());
    let total = receipt.total();
    assert_eq!((total.eligible, total.dropped_records()), (8, 0));
    assert_eq!(total.findings[&Reason::Duplicate].records, 2);
    assert_eq!(total.findings[&Reason::Contaminated].records, 1);
}

/// Stores samples of log-normal length with a median of 200 tokens, and returns their manifest. The parts lack the
/// tokens, which planning does not read. Every tenth record is similar to an earlier one.
async fn synthetic(storage: &Storage, samples: u64) -> Prepared {
    const PER_PART: u64 = 20_000;
    let word = |id: u64, n: u64| xxhash_rust::xxh3::xxh3_64_with_seed(&id.to_le_bytes(), n);
    let signature = |id: u64| {
        let (of, places) = if id % 10 == 9 { (word(id, 0) % id, 118) } else { (id, SIGNATURE) };
        std::array::from_fn(|place| {
            let id = if place < places { of } else { id };
            (word(id, 1 + place as u64 / 8) >> (8 * (place % 8))) as u8
        })
    };
    let uniform = |bits: u64| (bits as u32 as f64 + 1.0) / (f64::from(u32::MAX) + 2.0);
    let mut parts = Vec::new();
    for part in 0..samples.div_ceil(PER_PART) {
        let ids = part * PER_PART..((part + 1) * PER_PART).min(samples);
        parts.push(ids.end - ids.start);
        let mut writer = Writer::new(FINGERPRINT);
        writer.object(Object { name: "/a.jsonl".into(), source: 0, unit: Unit::Line });
        for id in ids {
            let radius = (-2.0 * uniform(word(id, 100)).ln()).sqrt();
            let angle = std::f64::consts::TAU * uniform(word(id, 100) >> 32);
            let length = (200.0 * (radius * angle.cos()).exp()).clamp(2.0, 4096.0) as usize;
            let mut weights = vec![1.0; length];
            weights[0] = 0.0;
            let hash = word(id, 101);
            let exchange = Exchange { setting: 0, instruction: hash | 1, answer: word(id, 102) };
            writer.record(Features {
                content: hash,
                exchange: Some(exchange),
                flaws: Flaws::default(),
                signature: Signature(signature(id)),
            });
            writer.push(&Sample { tokens: vec![1; length], weights, hash, position: 1 + id });
        }
        let mut body = writer.finish();
        let front = Front::parse(body.clone().into()).expect("our own bytes");
        body.truncate(front.signatures(0..SIGNATURE).end as usize);
        let key = key::prepared_part(FINGERPRINT, 0, part as u32);
        storage.put(&key, body).await.expect("free space on the disk");
    }
    let receipt = Receipt::of("/a.jsonl", Counts::default());
    let shards = vec![PreparedShard { starts_after: 0, parts }];
    Prepared { shards, receipt, ..Prepared::default() }
}

/// The resident memory, and its peak since the last call, in MB.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let megabytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux");
        let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib * 1024 / 1_000_000
    };
    // This resets the peak; see proc(5).
    std::fs::write("/proc/self/clear_refs", "5").expect("Linux");
    (megabytes("VmRSS:"), megabytes("VmHWM:"))
}

/// Run alone: `cargo test -p coordinator --lib memory_of_planning -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn memory_of_planning() {
    const OFF: &str = "duplicates: off, near_duplicates: off, contradictions: off, loops: off, \
                       incomplete: off, contamination: off";
    for (samples, quality, name) in [
        (1_000_000, OFF, "no checks"),
        (10_000_000, OFF, "no checks"),
        (1_000_000, "similarity: 0.8", "all checks"),
    ] {
        let folder = tempfile::tempdir().expect("a folder");
        let storage = Storage::open(&folder.path().to_string_lossy()).expect("a folder");
        let prepared = synthetic(&storage, samples).await;
        let yaml = format!(
            "model: {{base: m}}\ndata:\n  train: [{{source: a.jsonl}}]\n  max_tokens: 4096\n  \
             quality: {{{quality}}}\ntrain: {{epochs: 3, global_batch: 64}}\n"
        );
        let spec = Arc::new(proto::spec::parse(&yaml, Path::new("/")).expect("a spec"));
        let places = Places { run: storage.clone(), prepared: storage.clone() };
        let (before, _) = memory();
        let start = std::time::Instant::now();
        let run = RunId::new("r");
        let outline =
            plan(&places, &run, &spec, FINGERPRINT, Some(prepared)).await.expect("a plan");
        let (_, peak) = memory();
        let (seconds, more) = (start.elapsed().as_secs_f64(), peak - before);
        let each = more as f64 * 1e6 / samples as f64;
        println!(
            "{samples} samples, {name}: {seconds:.1} s, {more} MB, {each:.0} bytes per sample"
        );
        // For comparison with another version of this program.
        let receipt = serde_json::to_vec(&outline.receipt).expect("counts are JSON");
        let findings = outline.receipt.total().findings;
        let findings: u64 = findings.values().map(|tally| tally.records).sum();
        println!("  plan {}, {findings} findings, receipt {}", outline.digest, sha256(&receipt));
    }
}

#[test]
fn a_warmup_that_never_ends_causes_a_warning() {
    let warning = |warmup: &str, steps| {
        let yaml = format!(
            "model: {{base: m}}\ndata: {{train: [{{source: d}}]}}\n\
             train: {{schedule: {{warmup: {warmup}}}}}\n"
        );
        endless_warmup(&proto::spec::parse(&yaml, Path::new("/")).expect("a spec"), steps)
    };
    assert_eq!(warning("100", 101), None);
    assert_eq!(warning("0.03", 1), None, "a share is meant for longer runs");
    let text = warning("100", 100).expect("it never falls");
    assert!(
        text.starts_with("the warmup takes 100 steps and the run has 100: the learning rate"),
        "{text}"
    );
}

#[test]
fn samples_beyond_what_the_base_has_seen_are_counted() {
    let meta = |length| Meta { length, weight: 1.0, hash: 0 };
    let metas = [3, 9, 8, 10].map(meta);
    assert_eq!(unseen_positions(&metas, 10), None);
    let warning = unseen_positions(&metas, 8).expect("two are longer");
    assert!(warning.starts_with("2 of 4 samples are longer than the 8 positions"), "{warning}");
    assert!(warning.contains("the longest has 10 tokens; set `rope_scaling`"), "{warning}");
}

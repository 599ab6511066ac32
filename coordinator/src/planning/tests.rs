//! From prepared shards in storage to what is trained, and the receipt that says so.

use std::collections::BTreeSet;
use std::path::Path;

use data::Record;
use proto::manifest::PreparedShard;
use proto::prepared::{Object, Sample, Unit, Writer};
use proto::receipt::{Counts, Reason};

use super::*;

const FINGERPRINT: &str = "f00d";

/// Stores a shard of one source: a record a line.
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

/// The receipt of a run over two sources and a benchmark, and the samples that its plan trains.
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
    let prepared = Prepared { shards, receipt };
    let places = Places { run: storage.clone(), prepared: storage.clone() };
    let outline = plan(&places, &run, &spec, FINGERPRINT, Some(prepared)).await.expect("a plan");
    let chunk = storage.read(&format!("{}/{}", key::plan(&run), key::plan_chunk(0, 0))).await;
    let chunk = Chunk::decode(&chunk.expect("the first chunk")).expect("our own bytes");
    let trained = chunk.steps.iter().flat_map(|step| &step.packs).flat_map(|pack| &pack.samples);
    (outline.receipt, trained.copied().collect())
}

#[tokio::test]
async fn what_is_filtered_is_not_trained_and_does_not_count_against_max_dropped() {
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
        "/b.jsonl, line 1: the same as /bench.jsonl, line 1, which the model is judged by"
    );
    assert_eq!(b.dropped[&Reason::Contaminated].tokens_lost, 5);
}

#[tokio::test]
async fn what_is_reported_is_trained_all_the_same() {
    let (receipt, trained) = planned("").await;
    assert_eq!(trained, (0..6).collect());
    let total = receipt.total();
    assert_eq!((total.eligible, total.dropped_records()), (8, 0));
    assert_eq!(total.findings[&Reason::Duplicate].records, 2);
    assert_eq!(total.findings[&Reason::Contaminated].records, 1);
}

//! Compares how densely real conversations are packed with TRL and axolotl on the same lengths.

use proto::plan::{Amount, Meta, Options, Plan, Source};
use serde::Deserialize;
use std::path::Path;
use std::process::Command;

/// The peers' packing of a data set, as `peer/packing.py` prints it.
#[derive(Deserialize)]
struct Peers {
    capacity: u32,
    lengths: Vec<u32>,
    trl: u64,
    axolotl: u64,
}

/// Runs the peers; `None` if Python, the model or the data is missing.
fn peers() -> Option<Vec<Peers>> {
    let variable = |name: &str| {
        let value = std::env::var(name);
        if value.is_err() {
            println!("skipped: {name} is not set");
        }
        value.ok()
    };
    let python = variable("MUSTER_PEER_PYTHON")?;
    let (model, data) = (variable("MUSTER_TEST_MODEL")?, variable("MUSTER_TEST_DATA")?);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/packing.py");
    let ran = Command::new(python)
        .arg(script)
        .args([&model, &format!("{data}/data/alpaca_en_demo.json"), "512", "1024", "2048"])
        .output()
        .expect("MUSTER_PEER_PYTHON runs");
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let lines = String::from_utf8(ran.stdout).expect("JSON is UTF-8");
    Some(
        lines.lines().map(|line| serde_json::from_str(line).expect("the peers' figures")).collect(),
    )
}

fn packs(peers: &Peers) -> u64 {
    let sample = |(id, length): (u64, &u32)| Meta { length: *length, weight: 1.0, hash: id };
    let samples: Vec<_> = (0..).zip(&peers.lengths).map(sample).collect();
    let options = Options {
        max_tokens: peers.capacity,
        global_batch: 1,
        epochs: 1,
        max_steps: None,
        seed: 42,
    };
    let count = u32::try_from(samples.len()).expect("few");
    let all = [Source { samples: count, amount: Amount::Repeat(1.0), holdout: 0.0 }];
    Plan::new(&samples, &all, options).expect("a plan").summary().packs_per_epoch
}

#[test]
fn packs_are_as_dense_as_those_of_trl_and_axolotl() {
    let Some(all) = peers() else { return };
    assert!(!all.is_empty());
    for peers in &all {
        let ours = packs(peers);
        let tokens: u64 = peers.lengths.iter().map(|n| u64::from(*n)).sum();
        let density = |packs| tokens as f64 / (packs * u64::from(peers.capacity)) as f64;
        println!(
            "{:>5} tokens: {ours} packs, density {:.4}; TRL {}, {:.4}; axolotl {}, {:.4}",
            peers.capacity,
            density(ours),
            peers.trl,
            density(peers.trl),
            peers.axolotl,
            density(peers.axolotl),
        );
        assert!(ours <= peers.trl && ours <= peers.axolotl, "at {}", peers.capacity);
    }
}

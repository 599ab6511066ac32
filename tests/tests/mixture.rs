//! Several sources in one run: the share of each, and the figures of each.

use muster_tests::fixture::RECORDS;
use muster_tests::{Ended, Event, Fixture, Process};
use serde_json::Value;
use std::collections::BTreeMap;

/// Shares of the trained tokens: of every twelve, nine come from the first source and three from the second.
const SHARES: [f64; 2] = [9.0, 3.0];

/// Data in two files, of which the second is sorted before the first.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    let data = fixture.read("data.jsonl");
    let lines: Vec<_> = data.lines().collect();
    let (many, few) = lines.split_at(RECORDS * 2 / 3);
    fixture.write("many.jsonl", &(many.join("\n") + "\n"));
    fixture.write("few.jsonl", &(few.join("\n") + "\n"));
    let [many, few] = SHARES;
    fixture.respec(
        "    - source: ./data.jsonl\n      format: messages\n",
        &format!(
            "    - {{source: ./many.jsonl, share: {many}}}\n    - {{source: ./few.jsonl, share: {few}}}\n"
        ),
    );
    fixture.respec("max_steps: 40", "max_steps: 30");
    fixture
}

/// Figures by the last part of the source's name.
fn sources(event: &Event) -> BTreeMap<String, (f64, f64)> {
    let of = |(name, figures): (&String, &Value)| {
        let number =
            |key: &str| figures[key].as_f64().unwrap_or_else(|| panic!("{key} of {figures}"));
        let file = name.rsplit('/').next().expect("a path").to_owned();
        (file, (number("loss"), number("trained_tokens")))
    };
    event.0["sources"].as_object().expect("by name").iter().map(of).collect()
}

fn run(workers: &str) -> (Fixture, Ended) {
    let fixture = fixture();
    let ended = Process::run(&fixture, &["--workers", workers]).end().with_code(0);
    (fixture, ended)
}

#[test]
fn shares_become_repeats_and_every_source_has_its_loss() {
    let (fixture, ended) = run("2");

    let planned = ended.only("planned");
    let mixed: Vec<_> = planned.0["sources"].as_array().expect("a list").iter().collect();
    let number = |at: usize, key: &str| mixed[at][key].as_f64().expect("a figure");
    let asked: f64 = SHARES.iter().sum();
    for (at, share) in SHARES.iter().enumerate() {
        assert!((number(at, "share") - share / asked).abs() < 1e-9, "{}", mixed[at]);
    }
    let repeats = [number(0, "repeat"), number(1, "repeat")];
    assert!(repeats.contains(&1.0) && repeats.iter().all(|r| *r <= 1.0), "{repeats:?}");

    // The shares of a whole epoch, to within a sample of each source.
    let steps = usize::try_from(planned.count("steps_per_epoch")).expect("few");
    let mut trained = BTreeMap::<String, f64>::new();
    for step in ended.all("step").into_iter().take(steps) {
        for (name, (_, tokens)) in sources(step) {
            *trained.entry(name).or_default() += tokens;
        }
    }
    let (many, few) = (trained["many.jsonl"], trained["few.jsonl"]);
    let sample = planned.count("max_tokens") as f64;
    let wanted = (many + few) * SHARES[0] / asked;
    assert!((many - wanted).abs() <= 2.0 * sample, "{many} of {}, not {wanted}", many + few);

    assert_eq!(ended.all("step").len() as u64, planned.count("steps"));
    for step in ended.all("step") {
        let sources = sources(step);
        let tokens: f64 = sources.values().map(|(_, tokens)| tokens).sum();
        assert_eq!(tokens, step.number("trained_tokens"));
        // Every message weighs 1, so tokens are the weights.
        let loss: f64 = sources.values().map(|(loss, tokens)| loss * tokens).sum::<f64>() / tokens;
        let reduced = step.number("loss");
        assert!((loss - reduced).abs() <= 1e-6 * reduced, "{loss} for {reduced}: {}", step.0);
    }
    assert!(!ended.all("eval").is_empty());
    for eval in ended.all("eval") {
        assert_eq!(sources(eval).into_keys().collect::<Vec<_>>(), ["few.jsonl", "many.jsonl"]);
    }

    // Held-out samples are counted at their source.
    let receipt = std::fs::read(fixture.run().join("receipt.json")).expect("a receipt");
    let receipt: Value = serde_json::from_slice(&receipt).expect("JSON");
    let receipts = receipt["sources"].as_object().expect("by name");
    assert_eq!(receipts.len(), SHARES.len());
    for (name, counts) in receipts {
        let (read, held_out) = (counts["read"].as_u64(), counts["held_out"].as_u64());
        let tenth = read.expect("a count").div_ceil(10);
        assert!(held_out.is_some_and(|n| n.abs_diff(tenth) <= 1), "{name}: {counts}");
    }
}

#[test]
fn losses_by_source_are_the_same_at_any_world_size() {
    let ((_, alone), (_, together)) = (run("1"), run("2"));
    let (alone, together) = (alone.all("step"), together.all("step"));
    assert!(!alone.is_empty());
    assert_eq!(alone.len(), together.len());
    for (one, two) in alone.into_iter().zip(together) {
        let (one_by, two_by) = (sources(one), sources(two));
        assert!(!one_by.is_empty() && one_by.len() == two_by.len(), "{one_by:?} and {two_by:?}");
        let pairs = one_by.into_iter().zip(two_by);
        for ((name, (loss, tokens)), (twin, (other, tokens_two))) in pairs {
            assert_eq!((&name, tokens), (&twin, tokens_two));
            assert!((loss - other).abs() <= 1e-4 * loss, "{name}: {loss} and {other}: {}", one.0);
        }
    }
}

//! A step whose gradient is not finite: it changes nothing, and the receipt names its samples.
//!
//! The base reads one word as infinity, and one conversation has that word.

use muster_tests::fixture::{EVERY, RECORDS};
use muster_tests::model::weights;
use muster_tests::{Ended, Fixture, Process};
use rustix::process::Signal;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde_json::Value;

const WORD: &str = "Trumpet";
/// Less than an epoch: no sample is seen twice.
const STEPS: u64 = 16;
const EMBEDDING: &str = "model.embed_tokens.weight";
const INFINITY_BF16: [u8; 2] = [0x80, 0x7f];

/// A run of one epoch's first steps, over data with the word somewhere in the middle of the file.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.respec("  eval: {holdout: 0.1, every: checkpoint, at_start: true}\n", "");
    fixture.respec("max_steps: 40", &format!("max_steps: {STEPS}"));
    let message = |role, content| serde_json::json!({"role": role, "content": content});
    let messages = [message("user", WORD), message("assistant", "A horn.")];
    let conversation = serde_json::json!({ "messages": messages }).to_string();
    let mut lines: Vec<_> = fixture.read("data.jsonl").lines().map(str::to_owned).collect();
    lines.insert(RECORDS / 2, conversation);
    fixture.write("data.jsonl", &(lines.join("\n") + "\n"));
    poison(&fixture);
    fixture
}

/// Where the conversation with the word stands.
fn origin(fixture: &Fixture) -> String {
    format!("{}, line {}", fixture.path("data.jsonl").display(), RECORDS / 2 + 1)
}

/// The word's row of the embedding becomes infinity. The output matrix must be another, or every loss would be.
fn poison(fixture: &Fixture) {
    let base = fixture.path("base");
    let mut weights = weights(&base);
    for file in base.read_dir().expect("a base").map(|e| e.expect("listed").path()) {
        if file.to_string_lossy().contains(".safetensors") {
            std::fs::remove_file(file).expect("a copy of our own");
        }
    }
    let head = weights[EMBEDDING].clone();
    weights.insert("lm_head.weight".into(), head);
    let vocabulary: Value =
        serde_json::from_str(&fixture.read("base/tokenizer.json")).expect("a tokenizer");
    let token = vocabulary["model"]["vocab"][WORD].as_u64().expect("one token") as usize;
    let (shape, bytes) = weights.get_mut(EMBEDDING).expect("a model has one");
    let row = shape[1] * INFINITY_BF16.len();
    bytes[token * row..][..row].copy_from_slice(&INFINITY_BF16.repeat(shape[1]));
    let views = weights.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(Dtype::BF16, shape.clone(), bytes).expect("as it was read"))
    });
    serialize_to_file(views, None, &base.join("model.safetensors")).expect("a temporary folder");
    fixture.change(
        "base/config.json",
        r#""tie_word_embeddings": true"#,
        r#""tie_word_embeddings": false"#,
    );
}

fn receipt(fixture: &Fixture, path: &str) -> Value {
    let text = std::fs::read(fixture.run().join(path)).expect(path);
    serde_json::from_slice(&text).expect(path)
}

/// The steps that were not applied, as a run told.
fn unapplied(ended: &Ended) -> Vec<u64> {
    let skipped = ended.all("step").into_iter().filter(|e| e.0["applied"] == false);
    skipped.map(|e| e.count("step")).collect()
}

#[test]
fn a_skipped_step_stands_in_the_receipt_by_file_and_line() {
    let fixture = fixture();
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    let [step] = unapplied(&ended)[..] else { panic!("one step: {:?}", unapplied(&ended)) };

    let skipped = &receipt(&fixture, "receipt.json")["skipped"];
    let [skipped] = &skipped.as_array().expect("a list")[..] else { panic!("once: {skipped}") };
    assert_eq!(skipped["step"], step);
    let names: Vec<_> = skipped["samples"].as_array().expect("names").iter().collect();
    assert!(names.contains(&&Value::from(origin(&fixture))), "{names:?}");
    let event = ended.all("step").into_iter().find(|e| e.count("step") == step);
    assert_eq!(names.len() as u64, event.expect("the step").count("samples"), "of all ranks");
    let incident = ended.only("incident").text("message");
    assert!(incident.starts_with(&format!("step {step} was skipped")), "{incident}");

    assert_eq!(ended.all("checkpoint").len() as u64, STEPS / EVERY);
    for checkpoint in ended.all("checkpoint") {
        let at = checkpoint.count("step");
        let path = format!("checkpoints/step-{at:08}-l1/receipt.json");
        let known = receipt(&fixture, &path)["skipped"].as_array().map_or(0, Vec::len);
        assert_eq!(known, usize::from(step <= at), "{path}");
    }
}

#[test]
fn a_step_that_is_skipped_again_after_a_restore_stands_there_once() {
    let fixture = fixture();
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    process.event("skipped step", |e| e.kind() == "step" && e.0["applied"] == false);
    process.signal(Signal::KILL);
    let killed = process.end();
    let resumed = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    let skipped = receipt(&fixture, "receipt.json")["skipped"].clone();
    let steps: Vec<_> =
        skipped.as_array().expect("a list").iter().map(|s| s["step"].as_u64()).collect();
    let [step] = unapplied(&killed)[..] else { panic!("it was killed at once") };
    assert_eq!(steps, [Some(step)]);
    let from = resumed.only("generation").count("step");
    assert_eq!(unapplied(&resumed).len(), usize::from(from < step), "done again, or not");
    assert!(from.is_multiple_of(EVERY));
}

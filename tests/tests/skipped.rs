//! A step whose gradient is not finite changes nothing, and the receipt names its samples. A held-out loss that is
//! not finite does not prevent reading the run's history.
//!
//! The base's embedding of one word is infinite, and one conversation contains that word.

use muster_tests::fixture::{EVERY, RECORDS, journal};
use muster_tests::poisoned::{WORD, conversation, poison};
use muster_tests::pool::{Pool, for_two};
use muster_tests::{Ended, Fixture, Process, programs};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;

/// Less than an epoch, so no sample is seen twice.
const STEPS: u64 = 16;

/// A run of the first steps of an epoch, on data with the word in the middle of the file.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    fixture.respec("  eval: {holdout: 0.1, every: checkpoint, at_start: true}\n", "");
    fixture.respec("max_steps: 40", &format!("max_steps: {STEPS}"));
    let conversation = conversation(WORD);
    let mut lines: Vec<_> = fixture.read("data.jsonl").lines().map(str::to_owned).collect();
    lines.insert(RECORDS / 2, conversation);
    fixture.write("data.jsonl", &(lines.join("\n") + "\n"));
    poison(&fixture);
    fixture
}

/// A run whose first held-out source contains the word, and whose second does not.
fn held_out() -> Fixture {
    let fixture = Fixture::new();
    let sources = "[{source: ./poisoned.jsonl}, {source: ./sound.jsonl}]";
    fixture.respec("eval: {holdout: 0.1,", &format!("eval: {{sources: {sources},"));
    fixture.respec("max_steps: 40", &format!("max_steps: {STEPS}"));
    fixture.write("poisoned.jsonl", &(conversation(WORD) + "\n"));
    fixture.write("sound.jsonl", &(conversation("Tuba") + "\n"));
    poison(&fixture);
    fixture
}

/// Checks that the held-out losses of `run` were measured at these steps and are not finite because of the first
/// source.
fn assert_unfinite(run: &Path, steps: &[u64]) {
    let facts = journal(run);
    let evaluated: Vec<_> = facts.iter().filter(|f| f["event"] == "evaluated").collect();
    let at: Vec<_> = evaluated.iter().map(|f| f["step"].as_u64().expect("a count")).collect();
    assert_eq!(at, steps);
    for fact in evaluated {
        assert!(fact["loss"].is_null() && fact["by_source"][0].is_null(), "{fact}");
        assert!(fact["by_source"][1].is_f64(), "{fact}");
    }
}

/// The origin of the conversation with the word.
fn origin(fixture: &Fixture) -> String {
    format!("{}, line {}", fixture.path("data.jsonl").display(), RECORDS / 2 + 1)
}

fn receipt(fixture: &Fixture, path: &str) -> Value {
    let text = std::fs::read(fixture.run().join(path)).expect(path);
    serde_json::from_slice(&text).expect(path)
}

/// The steps that a run reported as not applied.
fn unapplied(ended: &Ended) -> Vec<u64> {
    let skipped = ended.all("step").into_iter().filter(|e| e.0["applied"] == false);
    skipped.map(|e| e.count("step")).collect()
}

#[test]
fn a_skipped_step_is_listed_in_the_receipt_by_file_and_line() {
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
fn a_step_that_is_skipped_again_after_a_restore_is_listed_once() {
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
    assert_eq!(
        unapplied(&resumed).len(),
        usize::from(from < step),
        "it is skipped again if it is repeated"
    );
    assert!(from.is_multiple_of(EVERY));
}

#[test]
fn a_run_whose_held_out_loss_is_not_finite_goes_on_and_can_be_read() {
    let fixture = held_out();
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    process.step(EVERY + 2);
    process.signal(Signal::INT);
    process.end().with_code(75);
    let resumed = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    let last = resumed.all("eval").into_iter().last().expect("it was evaluated at the end");
    assert!(last.count("step") == STEPS && last.0["loss"].is_null(), "{last:?}");

    let run = fixture.run();
    assert_eq!(journal(&run).last().expect("a history")["event"], "succeeded");
    let path = run.to_str().expect("a temporary path");
    let ask = |command| {
        let arguments = ["checkpoint", command, path, "--json"];
        Process::start(&programs::coordinator(), &arguments).end().with_code(0)
    };
    let marks: Vec<_> = ask("ls").events.iter().map(|e| e.0["marks"].to_string()).collect();
    assert!(marks.len() as u64 >= STEPS / EVERY, "{marks:?}");
    assert!(marks[marks.len() - 1].contains("latest"), "{marks:?}");
    assert!(!marks.concat().contains("best"), "none is the best: {marks:?}");
    let verified = ask("verify").events;
    assert!(verified.len() == marks.len() && verified.iter().all(|e| e.0["whole"] == true));
    assert!(run.join("checkpoints/latest").exists() && !run.join("checkpoints/best").exists());
}

#[test]
fn a_pool_starts_again_over_a_held_out_loss_that_is_not_finite() {
    let fixture = held_out();
    for_two(&fixture);
    let mut pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "poisoned");
    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), STEPS);
    assert_unfinite(&fixture.run(), &[0, EVERY, STEPS]);
    pool.restart_coordinator(&fixture);
    assert_eq!(pool.status(&run).text("phase"), "succeeded");
    let listed = pool.ask(&["list"]).end().with_code(0);
    assert_eq!(listed.events.iter().map(|e| e.text("run")).collect::<Vec<_>>(), [&*run]);
}

//! `coordinator run` with real processes: its results, and the cost of deaths, stops and resumptions.
//!
//! Weights are compared bit for bit: a run that lost a worker, its coordinator or its terminal must end with the same
//! weights as an undisturbed run.

use muster_tests::fixture::{EVERY, RECORDS, STEPS, files, journal};
use muster_tests::model::{assert_bit_equal, weights};
use muster_tests::undisturbed::{Reference, UNDISTURBED, assert_as_undisturbed, lineage};
use muster_tests::{Ended, Fixture, Process};
use rustix::process::Signal;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// How long workers may take to exit after their parent has died.
const ORPHANS_GONE: Duration = Duration::from_secs(5);

fn json(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    serde_json::from_slice(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn a_run_leaves_a_model_and_accounts_for_every_record() {
    let fixture = Fixture::new();
    // One more record, which cannot be trained on: a question without an answer.
    let unanswered = r#"{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": ""}]}"#;
    fixture.write("data.jsonl", &(fixture.read("data.jsonl") + unanswered + "\n"));
    let template = "additional_chat_templates/tool_use.jinja";
    let folder = fixture.path("base/additional_chat_templates");
    std::fs::create_dir(folder).expect("the base has none");
    fixture.write(&format!("base/{template}"), "{{ messages }}");
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    let run = fixture.run();

    let finished = ended.only("finished");
    assert_eq!(Path::new(finished.text("model")), run.join("model"));
    assert_eq!(finished.count("steps"), STEPS);
    for name in
        ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja", template]
    {
        assert!(run.join("model").join(name).is_file(), "{name}");
    }
    let base = weights(&fixture.path("base"));
    let tuned = weights(&run.join("model"));
    assert_eq!(tuned.keys().collect::<Vec<_>>(), base.keys().collect::<Vec<_>>());

    let first = ended.all("step")[0];
    for key in ["loss", "lr", "grad_norm", "trained_tokens", "tokens_per_second"] {
        assert!(first.number(key) > 0.0, "{key}");
    }
    assert_eq!(first.count("world_size"), 2);
    let evals: Vec<_> = ended.all("eval").iter().map(|e| e.number("loss")).collect();
    assert!(
        evals.len() as u64 == 1 + STEPS / EVERY,
        "at the start and at each checkpoint: {evals:?}"
    );
    assert!(evals[evals.len() - 1] < 0.9 * evals[0], "held-out loss must fall: {evals:?}");

    let receipt = json(&run.join("receipt.json"));
    let counts = &receipt["sources"].as_object().expect("by source").values().next().expect("one");
    let count = |key: &str| counts[key].as_u64().unwrap_or_else(|| panic!("{key} of {counts}"));
    let dropped = counts["dropped"].as_object().expect("by reason");
    let dropped: u64 = dropped.values().filter_map(|tally| tally["records"].as_u64()).sum();
    assert_eq!(count("read"), RECORDS as u64 + 1);
    assert_eq!((count("eligible"), dropped), (RECORDS as u64, 1));
    assert_eq!(count("held_out"), RECORDS as u64 / 10);
    // The steps of one epoch train on each of the other records once.
    let planned = ended.only("planned");
    assert_eq!(planned.count("held_out"), count("held_out"));
    let steps_per_epoch = usize::try_from(planned.count("steps_per_epoch")).expect("few");
    let epoch = &ended.all("step")[..steps_per_epoch];
    let trained: u64 = epoch.iter().map(|e| e.count("samples")).sum();
    assert_eq!(trained + count("held_out") + dropped, count("read"));
}

#[test]
fn nothing_of_a_run_is_half_written() {
    let fixture = Fixture::new();
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    let run = fixture.run();
    let all = files(&fixture.path("runs"));
    let odd =
        |name: &&String| name.contains('#') || name.contains(".probe") || name.ends_with(".tmp");
    assert_eq!(all.iter().filter(odd).collect::<Vec<_>>(), Vec::<&String>::new());

    // Every checkpoint that the journal names is complete, and there is no other.
    let facts = journal(&run);
    assert_eq!(facts.last().expect("a history")["event"], "succeeded");
    let of_kind = |kind: &'static str| facts.iter().filter(move |f| f["event"] == kind);
    let mut committed = Vec::new();
    for fact in of_kind("checkpointed") {
        let (step, lineage) = (&fact["step"], &fact["lineage"]);
        let name = format!("step-{:08}-l{lineage}", step.as_u64().expect("a count"));
        let folder = run.join("checkpoints").join(&name);
        let body = std::fs::read(folder.join("manifest.json")).expect("a manifest");
        assert_eq!(fact["manifest_sha256"], proto::manifest::sha256(&body));
        let manifest: proto::manifest::Checkpoint = serde_json::from_slice(&body).expect("whole");
        let mut named = vec!["manifest.json".to_owned()];
        assert!(manifest.receipt.is_some());
        for file in manifest.model.iter().chain(&manifest.state).chain(&manifest.receipt) {
            let body =
                std::fs::read(folder.join(&file.key)).expect("a file that the manifest names");
            assert_eq!(file.digests, proto::manifest::Digests::of(&body), "{}", file.key);
            named.push(file.key.clone());
        }
        named.sort();
        assert_eq!(files(&folder), named);
        committed.push(name);
    }
    assert_eq!(committed.len() as u64, STEPS / EVERY);
    let entries = run.join("checkpoints").read_dir().expect("a folder").flatten();
    let mut entries: Vec<_> =
        entries.map(|e| e.file_name().into_string().expect("a plain name")).collect();
    entries.sort();
    assert_eq!(entries, [&["best".into(), "latest".into()], &committed[..]].concat());
    let hint =
        |name: &str| std::fs::read_to_string(run.join("checkpoints").join(name)).expect("a hint");
    assert_eq!(hint("latest").trim_end(), committed.last().expect("one at least"));
    let losses = ended.all("eval");
    let best = losses.iter().filter(|e| e.count("step") > 0);
    let best = best.min_by(|a, b| a.number("loss").total_cmp(&b.number("loss")));
    let best = format!("step-{:08}-l1", best.expect("measured").count("step"));
    assert_eq!(hint("best").trim_end(), best);

    // The metrics are the printed events.
    let metrics: Vec<Value> = files(&run.join("metrics"))
        .iter()
        .flat_map(|name| {
            let text = std::fs::read_to_string(run.join("metrics").join(name)).expect("listed");
            text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect::<Vec<_>>()
        })
        .collect();
    let printed: Vec<_> = ended.events.iter().map(|e| e.0.clone()).collect();
    assert_eq!(metrics, printed);
    for name in ["spec.yaml", "spec.resolved.yaml", "receipt.json", "plan/outline.json"] {
        assert!(run.join(name).is_file(), "{name}");
    }
}

#[test]
fn a_second_run_trains_on_what_the_first_prepared() {
    let fixture = Fixture::new();
    fixture.respec("max_steps: 40", "max_steps: 2");
    let first = Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    assert_eq!(first.only("prepared").0["cached"], false);
    let second = Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    assert_eq!(second.only("prepared").0["cached"], true);
    assert_eq!(second.only("prepared").0["receipt"], first.only("prepared").0["receipt"]);
    assert_eq!(lineage(&[&second]), lineage(&[&first]));
    // An option that changes a token makes another data set.
    fixture.respec("max_tokens: 128", "max_tokens: 127");
    let third = Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    assert_eq!(third.only("prepared").0["cached"], false);
}

#[test]
fn a_killed_rank_costs_only_a_restore() {
    let fixture = Fixture::new();
    let ended = run_and_kill(&fixture, "--slot local-1 ");
    assert_as_undisturbed(&fixture, &[&ended]);
}

#[test]
fn a_killed_supervisor_is_replaced_with_all_its_ranks() {
    let fixture = Fixture::new();
    let ended = run_and_kill(&fixture, "--devices cpu:2");
    assert_as_undisturbed(&fixture, &[&ended]);
}

#[test]
fn in_bf16_a_killed_rank_costs_only_a_restore() {
    let in_bf16 = || {
        let fixture = Fixture::new();
        fixture.respec("base: ./base,", "base: ./base, dtype: bf16,");
        fixture.respec("  seed: 20", "  seed: 20\n  reduce_dtype: bf16");
        fixture
    };
    let undisturbed = Reference::of(&in_bf16());
    assert_ne!(undisturbed.losses, UNDISTURBED.losses, "activations and gradients are rounded");
    let fixture = in_bf16();
    let ended = run_and_kill(&fixture, "--slot local-1 ");
    undisturbed.assert_same_samples(&[&ended]);
    assert_bit_equal(&weights(&fixture.run().join("model")), &undisturbed.weights);
}

/// Runs on two workers, and kills the process with these arguments two steps after a checkpoint. The run must end well,
/// in a later generation that began at a checkpoint.
fn run_and_kill(fixture: &Fixture, arguments: &str) -> Ended {
    let mut process = Process::run(fixture, &["--workers", "2"]);
    process.event("checkpoint", |e| e.kind() == "checkpoint");
    process.step(EVERY + 2);
    process.kill(arguments);
    let ended = process.end().with_code(0);
    assert_went_back(&ended, 2);
    ended
}

/// Checks that the run formed at least two generations, and that each later one began at a checkpoint.
fn assert_went_back(ended: &Ended, world_size: u64) {
    let generations = ended.all("generation");
    assert!(generations.len() >= 2, "the death was not noticed");
    assert!(!ended.all("incident").is_empty());
    for generation in &generations[1..] {
        let step = generation.count("step");
        assert!(step > 0 && step.is_multiple_of(EVERY), "not from a checkpoint: {}", generation.0);
        assert_eq!(generation.count("world_size"), world_size);
    }
}

#[test]
fn workers_die_with_their_coordinator_and_the_run_resumes() {
    let fixture = Fixture::new();
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    process.event("checkpoint", |e| e.kind() == "checkpoint");
    process.step(EVERY + 2);
    process.signal(Signal::KILL);
    assert_eq!(process.remaining_within(ORPHANS_GONE), Vec::<String>::new());
    let killed = process.end();
    assert_eq!(killed.code, None, "it was killed in the middle");
    assert!(killed.all("finished").is_empty());

    let resumed = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    let from = resumed.only("generation").count("step");
    assert!(from > 0 && from.is_multiple_of(EVERY), "from a checkpoint, not from {from}");
    assert_as_undisturbed(&fixture, &[&killed, &resumed]);
}

#[test]
fn an_interrupted_run_leaves_a_checkpoint_and_resumes_to_the_same_model() {
    let fixture = Fixture::new();
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    process.step(EVERY + 2);
    process.signal(Signal::INT);
    let stopped = process.end().with_code(75);
    let at = stopped.only("paused").count("step");
    assert!((EVERY + 2..STEPS).contains(&at), "{at}");
    let last = stopped.all("step").last().expect("steps").count("step");
    assert_eq!(at, last, "no step is lost");
    assert!(stopped.all("checkpoint").iter().any(|e| e.count("step") == at));
    assert_eq!(journal(&fixture.run()).last().expect("a history")["event"], "paused");

    let resumed = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    assert_eq!(resumed.only("generation").count("step"), at);
    assert_as_undisturbed(&fixture, &[&stopped, &resumed]);
}

#[test]
fn a_run_resumes_with_another_number_of_workers() {
    let fixture = Fixture::new();
    let mut process = Process::run(&fixture, &["--workers", "1"]);
    process.step(EVERY + 2);
    process.signal(Signal::INT);
    let alone = process.end().with_code(75);
    assert_eq!(alone.only("generation").count("world_size"), 1);
    let together = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    assert_eq!(together.only("generation").count("world_size"), 2);
    let steps = lineage(&[&alone, &together]);
    assert_eq!(steps.len() as u64, STEPS);
    for (step, (digest, loss)) in steps {
        assert_eq!(digest, UNDISTURBED.digests[&step], "step {step}");
        let wanted = UNDISTURBED.losses[&step];
        assert!((loss - wanted).abs() <= 1e-4 * wanted, "step {step}: {loss} for {wanted}");
    }
}

#[test]
fn a_changed_schedule_is_refused_on_resume() {
    let fixture = Fixture::new();
    let mut process = Process::run(&fixture, &["--workers", "1"]);
    process.step(2);
    process.signal(Signal::INT);
    process.end().with_code(75);
    fixture.respec("learning_rate: 1.0e-3", "learning_rate: 2.0e-3");
    let before = journal(&fixture.run());
    let refused = Process::run(&fixture, &["--workers", "1", "--resume"]).end().with_code(2);
    assert!(refused.events.is_empty());
    for word in ["train.learning_rate", "0.001", "0.002", "hint: undo the change"] {
        assert!(refused.stderr.contains(word), "{word} in:\n{}", refused.stderr);
    }
    assert_eq!(journal(&fixture.run()), before, "the run is unchanged");
    // An option that changes neither a token nor a step may be changed.
    fixture.respec("learning_rate: 2.0e-3", "learning_rate: 1.0e-3");
    fixture.respec("every: 8,", "every: 20,");
    let resumed = Process::run(&fixture, &["--workers", "1", "--resume"]).end().with_code(0);
    assert_eq!(resumed.only("finished").count("steps"), STEPS);
}

#[test]
fn a_run_with_encrypted_gradients_has_the_same_bits_and_may_resume_without() {
    let fixture = Fixture::new();
    fixture.respec("name: small", "name: small\nring: {encrypt: true}");
    let mut running = Process::run(&fixture, &["--workers", "2"]);
    running.step(EVERY + 2);
    running.signal(Signal::INT);
    let stopped = running.end().with_code(75);
    fixture.respec("{encrypt: true}", "{encrypt: false}");
    let resumed = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    assert_as_undisturbed(&fixture, &[&stopped, &resumed]);
}

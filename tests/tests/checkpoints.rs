//! Checkpoints when files are damaged and processes die: the newest commit is restored, and an incomplete or damaged
//! checkpoint never is. Runs real processes.

use muster_tests::fixture::{EVERY, STEPS, files, journal};
use muster_tests::model::{assert_bit_equal, weights};
use muster_tests::undisturbed::{UNDISTURBED, assert_as_undisturbed};
use muster_tests::{Ended, Event, Fixture, Process, programs};
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Number of kills of each kind, at different moments.
const KILLS: u64 = 8;

/// Starts a run and stops it gracefully after its first checkpoint.
fn stopped(fixture: &Fixture) -> Ended {
    let mut process = Process::run(fixture, &["--workers", "2"]);
    process.step(EVERY + 2);
    process.signal(Signal::INT);
    process.end().with_code(75)
}

fn resume(fixture: &Fixture) -> Ended {
    Process::run(fixture, &["--workers", "2", "--resume"]).end().with_code(0)
}

fn folder(run: &Path, step: u64, lineage: u64) -> PathBuf {
    run.join(format!("checkpoints/step-{step:08}-l{lineage}"))
}

/// The first state file of a checkpoint.
fn state(checkpoint: &Path) -> PathBuf {
    let names = files(&checkpoint.join("state"));
    checkpoint.join("state").join(names.first().expect("a rank has stored some"))
}

/// The steps of the commits in a journal, in order.
fn committed(run: &Path) -> Vec<u64> {
    let facts = journal(run);
    let steps = facts.iter().filter(|f| f["event"] == "checkpointed").map(|f| &f["step"]);
    steps.map(|step| step.as_u64().expect("a count")).collect()
}

/// Damages a checkpoint's folder.
type Damage = fn(&Path);

#[test]
fn a_damaged_checkpoint_is_reported_and_the_one_before_it_is_restored() {
    let damages: [(&str, Damage); 4] = [
        ("is not what was written", |checkpoint| {
            let path = state(checkpoint);
            let mut body = std::fs::read(&path).expect("it was found");
            let middle = body.len() / 2;
            body[middle] ^= 4;
            std::fs::write(&path, body).expect("it can be written");
        }),
        ("is shorter than what was written", |checkpoint| {
            let path = state(checkpoint);
            let body = std::fs::read(&path).expect("it was found");
            std::fs::write(&path, &body[..body.len() - 1]).expect("it can be written");
        }),
        ("does not exist", |checkpoint| {
            std::fs::remove_file(state(checkpoint)).expect("it was found");
        }),
        ("manifest.json` is not what was written", |checkpoint| {
            let path = checkpoint.join("manifest.json");
            let text = std::fs::read_to_string(&path).expect("a manifest");
            std::fs::write(&path, text.replace("sha256", "sha265")).expect("it can be written");
        }),
    ];
    for (word, damage) in damages {
        let fixture = Fixture::new();
        let first = stopped(&fixture);
        let at = first.only("paused").count("step");
        damage(&folder(&fixture.run(), at, 1));
        let resumed = resume(&fixture);
        let damaged = format!("the checkpoint after step {at} is damaged: ");
        let incidents = resumed.all("incident");
        let mut incidents = incidents.iter().map(|e| e.text("message"));
        let incident = incidents.find(|m| m.starts_with(&damaged)).expect("it is reported");
        assert!(incident.contains(word), "{word} in {incident}");
        let before = (at - 1) / EVERY * EVERY;
        let instead = format!("the one after step {before} is used instead");
        assert!(incident.ends_with(&instead), "{incident}");
        let starts: Vec<_> = resumed.all("generation").iter().map(|g| g.count("step")).collect();
        assert_eq!((starts[0], starts[starts.len() - 1]), (at, before));
        assert_as_undisturbed(&fixture, &[&first, &resumed]);
    }
}

#[test]
fn a_run_without_an_intact_checkpoint_fails_and_does_not_start_over_by_itself() {
    let fixture = Fixture::new();
    // Only the stop takes a checkpoint, even if it takes effect late.
    fixture.respec("checkpoint: {every: 8,", "checkpoint: {every: 100,");
    let mut process = Process::run(&fixture, &["--workers", "1"]);
    process.step(2);
    process.signal(Signal::INT);
    let at = process.end().with_code(75).only("paused").count("step");
    assert_eq!(committed(&fixture.run()), [at]);
    std::fs::remove_file(state(&folder(&fixture.run(), at, 1))).expect("it was found");
    let refused = Process::run(&fixture, &["--workers", "1", "--resume"]).end().with_code(1);
    let words = ["is damaged", "there is none before it", "hint: --resume starts over"];
    assert!(words.iter().all(|word| refused.stderr.contains(word)), "{}", refused.stderr);
    let anew = Process::run(&fixture, &["--workers", "1", "--resume"]).end().with_code(0);
    assert_eq!(anew.only("generation").count("step"), 0);
}

#[test]
fn a_resumed_run_reports_changed_data_and_continues() {
    let fixture = Fixture::new();
    let first = stopped(&fixture);
    fixture.write("data.jsonl", &fixture.read("data.jsonl").replacen('a', "e", 9));
    let resumed = resume(&fixture);
    let incident = resumed.only("incident").text("message");
    assert!(incident.contains("/data.jsonl` has changed since; the run continues"), "{incident}");
    assert_as_undisturbed(&fixture, &[&first, &resumed]);
}

#[test]
fn a_manifest_that_was_not_journaled_is_committed_by_the_next_coordinator() {
    let fixture = Fixture::new();
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    process.event("checkpoint", |e| e.kind() == "checkpoint");
    process.signal(Signal::KILL);
    let killed = process.end();
    // Removes the entry that names the checkpoint and all later ones, as if the coordinator had died before it.
    let run = fixture.run();
    let entries = files(&run.join("journal"));
    let names = |name: &String| {
        let text = std::fs::read_to_string(run.join("journal").join(name)).expect("listed");
        text.contains("checkpointed")
    };
    let at = entries.iter().position(names).expect("it was printed");
    for name in &entries[at..] {
        std::fs::remove_file(run.join("journal").join(name)).expect("listed");
    }
    assert_eq!(committed(&run), [0; 0]);
    let resumed = resume(&fixture);
    assert_eq!(resumed.only("generation").count("step"), EVERY);
    assert_as_undisturbed(&fixture, &[&killed, &resumed]);
}

#[test]
fn whenever_the_coordinator_dies_the_newest_commit_is_what_is_restored() {
    let fixture = Fixture::new();
    fixture.respec("checkpoint: {every: 8, keep: 100}", "checkpoint: {every: 1, keep: 2}");
    let mut ended = Vec::new();
    for kill in 0..KILLS {
        let resume = ["--workers", "2", "--resume"];
        let arguments = if kill == 0 { &resume[..2] } else { &resume[..] };
        let mut process = Process::run(&fixture, arguments);
        let generation = process.event("a generation", |e| e.kind() == "generation");
        if kill > 0 {
            let newest = committed(&fixture.run()).into_iter().max().unwrap_or(0);
            assert_eq!(generation.count("step"), newest);
        }
        // With a checkpoint per step, one is always being saved, at a stage that differs from kill to kill.
        process.step(generation.count("step") + 2 + kill % 3);
        process.signal(Signal::KILL);
        ended.push(process.end());
    }
    ended.push(resume(&fixture));
    assert_as_undisturbed(&fixture, &ended.iter().collect::<Vec<_>>());
    assert_nothing_is_left_over(&fixture);
}

#[test]
fn whenever_a_worker_dies_the_newest_commit_is_what_is_restored() {
    let fixture = Fixture::new();
    fixture.respec("checkpoint: {every: 8, keep: 100}", "checkpoint: {every: 1, keep: 2}");
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    let mut step = 0;
    for kill in 0..KILLS / 2 {
        process.step(step + 2 + kill % 3);
        process.kill(if kill % 2 == 0 { "--slot local-0 " } else { "--slot local-1 " });
        step = process.event("a generation", |e| e.kind() == "generation").count("step");
    }
    let ended = process.end().with_code(0);
    assert_as_undisturbed(&fixture, &[&ended]);
    let (mut newest, mut starts) = (0, 0);
    for fact in journal(&fixture.run()) {
        let step = || fact["step"].as_u64().expect("a count");
        match fact["event"].as_str() {
            Some("checkpointed") => newest = step(),
            Some("generation") => {
                assert_eq!(step(), newest);
                starts += 1;
            }
            _ => {}
        }
    }
    assert!(starts > KILLS / 2, "{starts}");
    assert_nothing_is_left_over(&fixture);
}

/// Checks that replaced and abandoned checkpoints are deleted: only the newest two and the best are left.
fn assert_nothing_is_left_over(fixture: &Fixture) {
    let folder = fixture.run().join("checkpoints");
    let entries = folder.read_dir().expect("a folder").flatten();
    let names: Vec<_> = entries.map(|e| e.file_name().into_string().expect("plain")).collect();
    let checkpoints = names.iter().filter(|name| name.starts_with("step-")).count();
    assert!((2..=3).contains(&checkpoints), "{names:?}");
}

#[test]
fn a_models_files_are_cut_to_size_and_the_same_for_every_number_of_workers() {
    let of = |workers: &str| {
        let fixture = Fixture::new();
        let dtype = "save_dtype: f32";
        fixture.respec(dtype, "save_dtype: f32, max_shard_size: 2MB");
        Process::run(&fixture, &["--workers", workers]).end().with_code(0);
        let model = fixture.run().join("model");
        let index = std::fs::read_to_string(model.join("model.safetensors.index.json"));
        let index: Value = serde_json::from_str(&index.expect("an index")).expect("JSON");
        let names: Vec<_> =
            files(&model).into_iter().filter(|n| n.ends_with(".safetensors")).collect();
        (names, index, weights(&model))
    };
    let (names, index, two) = of("2");
    assert!(names.len() > 2, "{names:?}");
    assert_eq!(names[0], format!("model-00001-of-{:05}.safetensors", names.len()));
    assert_bit_equal(&two, &UNDISTURBED.weights);
    let (alone, index_alone, _) = of("1");
    assert_eq!((names, index), (alone, index_alone));
}

#[test]
fn a_checkpoint_begins_another_run() {
    let fixture = Fixture::new();
    let first = stopped(&fixture);
    let model = folder(&fixture.run(), EVERY, 1).join("model");
    fixture.respec("base: ./base", &format!("base: {}", model.display()));
    fixture.respec("name: small", "name: second");
    fixture.respec("max_steps: 40", "max_steps: 2");
    let second = Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    let (left, taken) = (first.all("eval"), second.all("eval"));
    let left = left.iter().find(|e| e.count("step") == EVERY).expect("measured there");
    let (left, taken) = (left.number("loss"), taken[0].number("loss"));
    assert!((left - taken).abs() <= 1e-5 * left, "{taken} where the other stopped at {left}");
}

fn checkpoint(arguments: &[&str]) -> Ended {
    let all = [&["checkpoint"], arguments].concat();
    Process::start(&programs::coordinator(), &all).end()
}

#[test]
fn checkpoints_are_listed_verified_exported_and_pruned() {
    let fixture = Fixture::new();
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    let run = fixture.run();
    let path = run.to_str().expect("a temporary path");

    let listed = checkpoint(&["ls", path, "--json"]).with_code(0);
    let steps: Vec<_> = listed.events.iter().map(|e| e.count("step")).collect();
    assert_eq!(steps, (1..=STEPS / EVERY).map(|i| i * EVERY).collect::<Vec<_>>());
    let marked = |mark: &str| {
        let has = |e: &&Event| e.0["marks"].as_array().expect("marks").iter().any(|m| m == mark);
        listed.events.iter().find(has).expect("marked").clone()
    };
    assert_eq!(marked("latest").count("step"), STEPS);
    let losses = ended.all("eval").into_iter().filter(|e| e.count("step") > 0);
    let best = losses.min_by(|a, b| a.number("loss").total_cmp(&b.number("loss")));
    assert_eq!(marked("best").count("step"), best.expect("measured").count("step"));

    let whole = checkpoint(&["verify", path, "--json"]).with_code(0);
    assert!(whole.events.iter().all(|e| e.0["whole"] == true) && whole.events.len() == steps.len());

    let out = fixture.path("exported");
    let to = out.to_str().expect("a temporary path");
    checkpoint_text(&["export", path, to]);
    assert_bit_equal(&weights(&out), &UNDISTURBED.weights);
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        assert!(out.join(name).is_file(), "{name}");
    }
    let again = checkpoint(&["export", path, to]).with_code(2);
    assert!(again.stderr.contains("is not empty"), "{}", again.stderr);
    let unknown = checkpoint(&["export", path, to, "--checkpoint", "step-9"]).with_code(2);
    assert!(unknown.stderr.contains("hint: it has step-00000008-l1, "), "{}", unknown.stderr);

    // Damage is found, named, and not exported.
    let victim = state(&folder(&run, EVERY, 1));
    let mut body = std::fs::read(&victim).expect("it was found");
    *body.last_mut().expect("not empty") ^= 1;
    std::fs::write(&victim, body).expect("it can be written");
    let damaged = checkpoint(&["verify", path, "--json"]).with_code(3);
    let whole: Vec<_> = damaged.events.iter().map(|e| e.0["whole"] == true).collect();
    assert_eq!(whole, [false, true, true, true, true]);
    let name = victim.file_name().and_then(|n| n.to_str()).expect("plain");
    assert!(damaged.events[0].text("damage").contains(name));

    // Extra bytes are damage, too. A change of the finished model damages no checkpoint.
    for longer in ["checkpoints/step-00000016-l1/model/config.json", "model/config.json"] {
        append(&run.join(longer), "}");
    }
    let damaged = checkpoint(&["verify", path, "--json"]).with_code(3);
    let whole: Vec<_> = damaged.events.iter().map(|e| e.0["whole"] == true).collect();
    assert_eq!(whole, [false, false, true, true, true]);
    assert!(damaged.events[1].text("damage").ends_with("is longer than it was"));

    // An upload whose writer was killed.
    let begun = run.join("model/model.safetensors#1");
    std::fs::write(&begun, "half").expect("it can be written");
    let would = checkpoint_text(&["prune", path, "--keep", "1", "--dry-run"]);
    assert!(would.lines().all(|l| l.starts_with("would delete ")), "{would}");
    assert!(would.contains("an unfinished upload to ") && begun.exists(), "{would}");
    assert_eq!(checkpoint(&["ls", path, "--json"]).events.len(), steps.len());
    checkpoint_text(&["prune", path, "--keep", "1"]);
    assert!(!begun.exists());
    let left = checkpoint(&["ls", path, "--json"]).with_code(0);
    assert_eq!(left.events.last().expect("the newest").count("step"), STEPS);
    assert!(left.events.len() <= 2, "{:?}", left.events);

    let nothing = checkpoint(&["ls", to]).with_code(2);
    assert!(nothing.stderr.contains("there is no run at"), "{}", nothing.stderr);
}

#[test]
fn a_lost_checkpoint_is_reported_and_a_damaged_one_is_not_counted() {
    let fixture = Fixture::new();
    // The run is so long that a late stop does not come after its end.
    fixture.long();
    stopped(&fixture);
    let run = fixture.run();
    let path = run.to_str().expect("a temporary path");
    let listed = checkpoint(&["ls", path, "--json"]).with_code(0);
    let steps: Vec<_> = listed.events.iter().map(|e| e.count("step")).collect();
    let [.., first, last] = steps[..] else { panic!("two checkpoints, not {steps:?}") };
    let name = format!("step-{first:08}-l1");
    let manifest = |step| folder(&run, step, 1).join("manifest.json");

    // The newest checkpoint is damaged, so `--keep 1` also keeps the intact one.
    append(&manifest(last), " ");
    checkpoint_text(&["prune", path, "--keep", "1"]);
    assert!(manifest(first).exists() && manifest(last).exists());

    // The newest checkpoint is lost, and no other one is used in its place.
    std::fs::remove_file(manifest(last)).expect("it was there");
    let lost = checkpoint(&["verify", path, "--json"]).with_code(3);
    let (gone, others) = lost.events.split_last().expect("it is reported");
    assert!(!others.is_empty() && others.iter().all(|e| e.0["whole"] == true), "{others:?}");
    assert_eq!(gone.text("damage"), "it is gone");
    let to = fixture.path("exported");
    let to = to.to_str().expect("a temporary path");
    let refused = checkpoint(&["export", path, to]).with_code(3);
    let words = ["manifest.json` is gone", "hint: name another checkpoint: ", &name];
    assert!(words.iter().all(|word| refused.stderr.contains(word)), "{}", refused.stderr);
    let damaged = state(&folder(&run, last, 1)).exists();
    assert!(damaged && !Path::new(to).exists(), "nothing was exported");
    checkpoint_text(&["export", path, to, "--checkpoint", &name]);
    // The path may be written in other ways, but a bucket alone is not a run.
    assert_eq!(checkpoint_text(&["ls", &format!("{path}/.")]), checkpoint_text(&["ls", path]));
    let no_run = checkpoint(&["ls", "s3://bucket"]).with_code(2);
    assert!(no_run.stderr.contains("there is no run at `s3://bucket`"), "{}", no_run.stderr);
}

#[test]
fn a_resume_does_not_go_back_to_pruned_checkpoints() {
    let fixture = Fixture::new();
    fixture.long();
    fixture.respec("checkpoint: {every: 8, keep: 100}", "checkpoint: {every: 1, keep: 1}");
    fixture.respec("  eval: {holdout: 0.1, every: checkpoint, at_start: true}\n", "");
    stopped(&fixture);
    let run = fixture.run();
    let at = *committed(&run).last().expect("it has some");
    assert!(at > EVERY, "{at}");
    assert!(!folder(&run, at - 1, 1).exists(), "a stop waits until old checkpoints are deleted");
    std::fs::remove_file(state(&folder(&run, at, 1))).expect("it was found");
    // The deleted checkpoints are not tried one by one.
    let refused = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(1);
    let incidents = refused.all("incident");
    let damaged: Vec<_> =
        incidents.iter().filter(|e| e.text("message").contains("damaged")).collect();
    assert_eq!(damaged.len(), 1, "{incidents:?}");
    assert!(refused.stderr.contains("there is none before it"), "{}", refused.stderr);
    let mut anew = Process::run(&fixture, &["--workers", "2", "--resume"]);
    let generation = anew.event("a generation", |e| e.kind() == "generation");
    assert_eq!(generation.count("step"), 0);
}

fn append(path: &Path, more: &str) {
    let mut file = std::fs::OpenOptions::new().append(true).open(path).expect("it is there");
    std::io::Write::write_all(&mut file, more.as_bytes()).expect("it can be written");
}

/// Standard output of a command that prints no JSON.
fn checkpoint_text(arguments: &[&str]) -> String {
    let ended = std::process::Command::new(programs::coordinator())
        .arg("checkpoint")
        .args(arguments)
        .output()
        .expect("it runs");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    String::from_utf8(ended.stdout).expect("UTF-8")
}

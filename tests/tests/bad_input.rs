//! Bad input is reported once, clearly, before any training, and leaves nothing half-written.
//!
//! Every test checks four things about a refused run. The exit code says what was at fault (1 the machine, 2 the
//! user's settings, 3 the data). The error names the location and, where one is known, a fix. No step was trained.
//! Neither a process nor a run that looks alive is left.

use muster_tests::fixture::{RECORDS, files, journal};
use muster_tests::pool::Pool;
use muster_tests::{Ended, Fixture, Process, programs};
use std::net::TcpListener;

const INFRASTRUCTURE: i32 = 1;
const USER: i32 = 2;
const DATA: i32 = 3;

/// Runs the fixture, and checks that the run fails with one error that contains all these words.
fn refused(fixture: &Fixture, code: i32, words: &[&str]) -> Ended {
    let ended = ended(fixture, code, words);
    assert!(!fixture.runs().is_empty(), "a run has a history of its failure");
    ended
}

fn ended(fixture: &Fixture, code: i32, words: &[&str]) -> Ended {
    // `end` fails the test if a process is left behind.
    let ended = Process::run(fixture, &["--workers", "2"]).end().with_code(code);
    assert_refused(fixture, &ended, words);
    ended
}

fn assert_refused(fixture: &Fixture, ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` in:\n{}", ended.stderr);
    }
    let errors = ended.stderr.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(errors, 1, "one error, not:\n{}", ended.stderr);
    assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    for kind in ["step", "generation", "checkpoint", "finished"] {
        assert!(ended.all(kind).is_empty(), "{:?}", ended.all(kind));
    }
    for run in fixture.runs() {
        assert_eq!(journal(&run).last().expect("a history")["event"], "failed", "{run:?}");
        assert!(!run.join("model").exists() && !run.join("checkpoints").exists());
    }
    let odd = |name: &String| name.contains('#') || name.contains(".probe");
    assert!(!files(&fixture.path("runs")).iter().any(odd));
}

/// Runs the fixture, and checks that it is refused before a run is created.
fn refused_at_once(fixture: &Fixture, words: &[&str]) {
    let ended = ended(fixture, USER, words);
    assert!(ended.events.is_empty(), "{:?}", ended.events);
    assert_eq!(files(&fixture.path("runs")), [""; 0]);
}

#[test]
fn a_misspelt_key_is_named_with_the_right_one() {
    let fixture = Fixture::new();
    fixture.respec("learning_rate:", "learning_rte:");
    refused_at_once(
        &fixture,
        &["spec.yaml", "train.learning_rte", "hint: did you mean `learning_rate`?"],
    );
}

#[test]
fn another_tools_key_is_answered_with_ours() {
    let fixture = Fixture::new();
    fixture.respec("  micro_batch: 1", "  gradient_accumulation_steps: 4");
    refused_at_once(&fixture, &["train.gradient_accumulation_steps", "hint: ", "global_batch"]);
}

#[test]
fn several_mistakes_in_a_spec_are_reported_together() {
    let fixture = Fixture::new();
    fixture.respec("learning_rate: 1.0e-3", "learning_rate: fast");
    fixture.respec("max_tokens: 128", "max_tokens: 0");
    fixture.respec("  seed: 20", "  reduce_dtype: fp8");
    refused_at_once(
        &fixture,
        &[
            "spec.yaml",
            "train.learning_rate",
            "`fast`",
            "data.max_tokens",
            "got 0",
            "`train.reduce_dtype` must be `f32` or `bf16`, got `fp8`",
        ],
    );
}

#[test]
fn a_missing_data_file_is_named() {
    let fixture = Fixture::new();
    fixture.respec("./data.jsonl", "./dta.jsonl");
    refused_at_once(
        &fixture,
        &["dta.jsonl", "there is no such file", "hint: relative paths start"],
    );
}

#[test]
fn a_missing_base_is_named() {
    let fixture = Fixture::new();
    fixture.respec("./base", "./bse");
    refused_at_once(&fixture, &["bse", "there is no folder", "hint: "]);
}

#[test]
fn a_fifo_for_a_data_file_is_refused_and_not_waited_for() {
    let fixture = Fixture::new();
    let made = std::process::Command::new("mkfifo").arg(fixture.path("pipe.jsonl")).status();
    assert!(made.expect("it can be started").success());
    fixture.respec("./data.jsonl", "./pipe.jsonl");
    let words = ["pipe.jsonl", "it is a fifo, not a regular file", "hint: write its content"];
    refused_at_once(&fixture, &words);
    let submitted = submit(&fixture, &[]).with_code(USER);
    assert_refused(&fixture, &submitted, &words);
}

/// Submits the fixture to a coordinator that does not exist.
fn submit(fixture: &Fixture, more: &[&str]) -> Ended {
    let spec = fixture.path("spec.yaml").display().to_string();
    let nowhere = ["submit", &spec, "--coordinator", "http://127.0.0.1:1"];
    Process::start(&programs::coordinator(), &[&nowhere[..], more].concat()).end()
}

#[test]
fn a_missing_local_file_is_named_before_a_coordinator_is_asked() {
    for (old, new, words) in [
        ("./data.jsonl", "./dta.jsonl", ["dta.jsonl", "there is no such file"]),
        ("./base", "./bse", ["bse", "there is no folder"]),
        ("./base", ".", ["model.base", "it has no `config.json`"]),
        (
            "  max_tokens: 128",
            "  max_tokens: 128\n  chat_template: ./none.jinja",
            ["data.chat_template: there is no file", "none.jinja"],
        ),
    ] {
        let fixture = Fixture::new();
        fixture.respec(old, new);
        let hint = "hint: paths are looked up on this host; add --no-check if only the workers can see them";
        let ended = submit(&fixture, &[]).with_code(USER);
        assert_refused(&fixture, &ended, &[words[0], words[1], hint]);
        let unchecked = submit(&fixture, &["--no-check"]).with_code(INFRASTRUCTURE);
        assert_refused(&fixture, &unchecked, &["no coordinator answers"]);
    }
    let sound = submit(&Fixture::new(), &[]).with_code(INFRASTRUCTURE);
    assert!(sound.stderr.contains("no coordinator answers"), "{}", sound.stderr);
}

#[test]
fn an_output_is_recognized_under_every_path() {
    let fixture = Fixture::new();
    std::fs::create_dir(fixture.path("specs")).expect("a temporary folder");
    let link = std::os::unix::fs::symlink(fixture.path("runs"), fixture.path("link"));
    link.expect("a temporary folder");
    let pool = Pool::start(&fixture);
    let spec = fixture.read("spec.yaml").replace("./base", "../base").replace("./data", "../data");
    for output in ["../runs", "../specs/./../runs", "../link", "../link/../runs"] {
        fixture.write(
            "specs/spec.yaml",
            &spec.replace("output: ./runs", &format!("output: {output}")),
        );
        let path = fixture.path("specs/spec.yaml").display().to_string();
        let submitted = pool.ask(&["submit", &path, "--idempotency-key", "one"]).end();
        assert_eq!(submitted.code, Some(0), "{output}: {}", submitted.stderr);
    }
    assert_eq!(fixture.runs().len(), 1);
    fixture.write("specs/spec.yaml", &spec.replace("output: ./runs", "output: ../other"));
    let path = fixture.path("specs/spec.yaml").display().to_string();
    let ended = pool.ask(&["submit", &path]).end().with_code(USER);
    assert!(ended.stderr.contains("hint: write `output: "), "{}", ended.stderr);
}

#[test]
fn samples_longer_than_the_bases_context_cause_a_warning() {
    let fixture = Fixture::new();
    fixture.respec("max_steps: 40", "max_steps: 1");
    let positions = "\"max_position_embeddings\": ";
    let config = fixture.read("base/config.json");
    let (before, after) = config.split_once(positions).expect("the base says how many");
    let (_, after) = after.split_once(',').expect("and more");
    fixture.write("base/config.json", &format!("{before}{positions}16,{after}"));
    let ended = Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    let warnings = ended.only("planned").0["warnings"].clone();
    let [warning] = &warnings.as_array().expect("a list")[..] else { panic!("one: {warnings}") };
    let warning = warning.as_str().expect("a text");
    assert!(warning.contains("are longer than the 16 positions that the base was"), "{warning}");
    let spec = fixture.path("spec.yaml").display().to_string();
    let plan = Process::start(&programs::coordinator(), &["plan", &spec, "--json", "--no-measure"]);
    let plan = plan.end().with_code(0);
    let planned = plan.events[0].0["warnings"].as_array().expect("a list").clone();
    assert!(planned.contains(&warning.into()), "{planned:?}");
}

#[test]
fn broken_lines_are_counted_and_the_rest_is_trained() {
    let fixture = Fixture::new();
    fixture.respec("max_steps: 40", "max_steps: 2");
    let mut lines: Vec<_> = fixture.read("data.jsonl").lines().map(str::to_owned).collect();
    lines[6].truncate(20);
    fixture.write("data.jsonl", &lines.join("\n"));
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    let sources = &ended.only("prepared").0["receipt"]["sources"];
    let counts = sources.as_object().expect("by source").values().next().expect("one");
    assert_eq!((&counts["read"], &counts["eligible"]), (&240.into(), &239.into()));
    let malformed = &counts["dropped"]["malformed"];
    assert_eq!(malformed["records"], 1);
    assert_eq!(malformed["examples"][0]["line"], 7);
}

#[test]
fn more_broken_lines_than_allowed_are_refused_by_line() {
    let fixture = Fixture::new();
    let mut lines: Vec<_> = fixture.read("data.jsonl").lines().map(str::to_owned).collect();
    for line in [6, 7, 8] {
        lines[line].truncate(20);
    }
    fixture.write("data.jsonl", &lines.join("\n"));
    let words = ["data.max_dropped", "1.2 %", "data.jsonl, line 7: not valid JSON", "hint: "];
    refused(&fixture, DATA, &words);
    // The same data is refused again when it comes from the cache.
    refused(&fixture, DATA, &words);
}

#[test]
fn a_truncated_array_is_refused_with_its_position() {
    let fixture = Fixture::new();
    let lines: Vec<_> = fixture.read("data.jsonl").lines().map(str::to_owned).collect();
    let broken = format!("[\n{},\n{},\n{}", lines[0], lines[1], &lines[2][..30]);
    fixture.write("data.json", &broken);
    fixture.respec("./data.jsonl", "./data.json");
    let words = [
        "data.json, record 3 (line 4): the file is cut off or damaged",
        "the array breaks off here",
        "hint: get the whole file; `data.broken_end: keep` trains on what comes before",
    ];
    refused(&fixture, DATA, &words);
    // A higher `max_dropped` does not permit a truncated file.
    fixture.respec("max_dropped: 0.01", "max_dropped: 1.0");
    refused(&fixture, DATA, &words);
    fixture.respec("max_dropped: 1.0", "broken_end: keep");
    fixture.write("data.json", &format!("[{}", lines.join(",\n")));
    let ended = Process::run(&fixture, &["--workers", "1"]).end().with_code(0);
    let receipt = &ended.only("prepared").0["receipt"];
    let counts = receipt["sources"].as_object().and_then(|s| s.values().next());
    assert_eq!(counts.expect("one source")["dropped"]["broken_end"]["records"], 1);
}

#[test]
fn an_unknown_role_is_refused_by_line() {
    let fixture = Fixture::new();
    let data = fixture.read("data.jsonl").replace(r#""role": "assistant""#, r#""role": "bot""#);
    fixture.write("data.jsonl", &data);
    let words =
        ["data.jsonl, line 1: ", "role", "`system`, `user`, `assistant`", "`bot`", "hint: "];
    refused(&fixture, DATA, &words);
}

#[test]
fn data_without_a_record_is_refused() {
    let fixture = Fixture::new();
    fixture.write("data.jsonl", "");
    let words =
        ["no sample is left to train on: no record was found in `", "data.jsonl`", "hint: "];
    refused(&fixture, DATA, &words);
    assert_eq!(RECORDS, 240, "other tests rely on this");
}

#[test]
fn a_model_type_that_is_not_implemented_is_named() {
    let fixture = Fixture::new();
    fixture.change("base/config.json", r#""model_type": "llama""#, r#""model_type": "mamba""#);
    let words = ["config.json", "`mamba`", "hint: the model types llama, mistral, qwen2"];
    refused(&fixture, USER, &words);
}

#[test]
fn a_tokenizer_without_a_template_is_refused_with_a_way_out() {
    let fixture = Fixture::new();
    std::fs::remove_file(fixture.path("base/chat_template.jinja")).expect("the base has one");
    refused(&fixture, USER, &["base", "no chat template", "hint: set data.chat_template"]);
}

#[test]
fn a_model_that_does_not_fit_in_memory_is_refused_before_it_is_read() {
    let fixture = Fixture::new();
    fixture.change("base/config.json", r#""hidden_size": 192"#, r#""hidden_size": 49152"#);
    fixture.change(
        "base/config.json",
        r#""intermediate_size": 512"#,
        r#""intermediate_size": 196608"#,
    );
    // A hundred billion parameters, of which the weights are not there: they would be missed if they were read.
    let words = [
        "a worker needs ",
        "TB, even with `train.micro_batch: 1` and `train.recompute: on`",
        "the only worker on this host may use",
        "moments ",
        "hint: use a smaller model, or a host with more memory",
    ];
    refused(&fixture, USER, &words);
}

#[test]
fn weights_that_were_cut_short_are_refused_by_file() {
    let fixture = Fixture::new();
    let path = fixture.path("base/model-00001-of-00002.safetensors");
    let bytes = std::fs::read(&path).expect("the base has weights");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("a temporary file");
    let words = ["base/model-00001-of-00002.safetensors", "hint: copy or download the file again"];
    let ended = refused(&fixture, USER, &words);
    let detail = format!("cut short: {} bytes of {}", bytes.len() / 2, bytes.len());
    assert!(ended.stderr.contains(&detail), "`{detail}` in:\n{}", ended.stderr);
}

#[test]
fn a_port_in_use_is_named() {
    let fixture = Fixture::new();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let ended = Process::run(&fixture, &["--port", &port]).end().with_code(USER);
    assert_refused(&fixture, &ended, &[&*port, "Address already in use", "hint: leave --port out"]);
    assert!(!fixture.path("runs").exists());

    let (listen, output) = (format!("127.0.0.1:{port}"), fixture.path("pool"));
    let output = output.to_str().expect("a temporary path");
    let serve = ["serve", "--listen", &listen, "--output", output];
    let ended = Process::start(&programs::coordinator(), &serve).end().with_code(USER);
    assert_refused(&fixture, &ended, &[&*listen, "Address already in use", "hint: choose another"]);
    assert!(!fixture.path("pool").exists());
}

#[test]
fn an_output_that_is_no_folder_is_named() {
    let fixture = Fixture::new();
    // Tests may run as root. Root can write to a read-only folder, but not to a file as if it were a folder.
    fixture.write("runs", "a file");
    let ended = Process::run(&fixture, &[]).end().with_code(USER);
    assert_refused(&fixture, &ended, &["output", "runs", "the folder cannot be created", "hint: "]);
    assert_eq!(fixture.read("runs"), "a file");
}

#[test]
fn a_read_only_output_is_named() {
    let fixture = Fixture::new();
    let runs = fixture.path("runs");
    std::fs::create_dir(&runs).expect("a temporary folder");
    let mut read_only = runs.metadata().expect("it is there").permissions();
    read_only.set_readonly(true);
    std::fs::set_permissions(&runs, read_only).expect("our own");
    if std::fs::write(runs.join("probe"), "").is_ok() {
        println!("skipped: this user can write to a read-only folder");
        return;
    }
    let ended = Process::run(&fixture, &[]).end().with_code(USER);
    assert_refused(&fixture, &ended, &["output", "the folder cannot be written to", "hint: "]);
}

#[test]
fn a_full_output_ends_the_run_with_the_systems_error() {
    let fixture = Fixture::new();
    let runs = fixture.path("runs");
    std::fs::create_dir(&runs).expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(&runs) else {
        println!("skipped: this user can mount no tmpfs");
        return;
    };
    fixture.respec("keep: 100}", "keep: 100, storage_patience: 1s}");
    // The disk has room for the data set and a journal, but not for a checkpoint of eight megabytes.
    let ended = Process::run(&fixture, &["--workers", "2"]).end().with_code(INFRASTRUCTURE);
    let words = ["checkpoints/step-", "No space left on device", "hint: "];
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` in:\n{}", ended.stderr);
    }
    let facts = journal(&fixture.run());
    assert_eq!(facts.last().expect("a history")["event"], "failed");
    assert!(!facts.iter().any(|f| f["event"] == "checkpointed"));
    assert!(!fixture.run().join("model").exists());
    drop(disk);
}

/// A disk of four megabytes, which is unmounted when this is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path) -> Option<Self> {
        let mut mount = std::process::Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(at);
        let mounted = mount.stderr(std::process::Stdio::null()).status().ok()?.success();
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let unmounted = std::process::Command::new("umount").arg(&self.0).status();
        assert!(unmounted.is_ok_and(|s| s.success()), "{} stays mounted", self.0.display());
    }
}

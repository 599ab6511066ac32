//! What commands do when the other end disappears: the reader of their output, or the coordinator.

use muster_tests::fixture::{EVERY, LONG, journal};
use muster_tests::pool::{Pool, for_two};
use muster_tests::{Ended, Fixture, Process, programs};
use std::fs::File;
use std::io::{BufRead, BufReader, PipeReader};
use std::net::TcpListener;
use std::path::PathBuf;

/// Exit code of a program whose reader is gone.
const UNREAD: i32 = 141;

/// A program and its arguments.
type Line = (PathBuf, Vec<String>);

fn line(program: PathBuf, arguments: &[&str]) -> Line {
    (program, arguments.iter().map(|&word| word.to_owned()).collect())
}

/// Runs a program whose output is not read.
fn unread((program, arguments): &Line) -> Ended {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    Process::start_to(writer.into(), program, arguments, &[]).end()
}

/// Runs a program whose output goes to a full disk.
fn full((program, arguments): &Line) -> Ended {
    let full = File::options().write(true).open("/dev/full").expect("Linux");
    Process::start_to(full.into(), program, arguments, &[]).end()
}

fn assert_ends_well(lines: &[Line]) {
    for line in lines {
        let ended = unread(line);
        assert_eq!((ended.code, &*ended.stderr), (Some(UNREAD), ""), "{line:?}");
        let ended = full(line);
        assert_eq!(ended.code, Some(1), "{line:?}: {}", ended.stderr);
        let lines: Vec<_> = ended.stderr.lines().collect();
        let wanted = "error: standard output cannot be written to: No space left on device";
        assert!(matches!(lines[..], [error] if error.starts_with(wanted)), "{line:?}: {lines:?}");
    }
}

/// A pool that has finished a short run, and the run's name.
fn finished(fixture: &Fixture) -> (Pool, String) {
    for_two(fixture);
    fixture.respec("max_steps: 40", "max_steps: 2");
    let pool = Pool::start(fixture);
    let run = pool.submit(fixture, "short");
    pool.ask(&["watch", &run]).end().with_code(0);
    (pool, run)
}

#[test]
fn commands_end_quietly_without_a_reader_and_report_a_full_disk() {
    let fixture = Fixture::new();
    let (pool, run) = finished(&fixture);
    let folder = fixture.run();
    let model = folder.join("model");
    let spec = fixture.path("spec.yaml");
    let [folder, model, spec] = [&folder, &model, &spec].map(|p| p.to_str().expect("a path"));
    let coordinator = |arguments: &[&str]| line(programs::coordinator(), arguments);
    let asked =
        |arguments: &[&str]| coordinator(&[arguments, &["--coordinator", &pool.url]].concat());
    assert_ends_well(&[
        coordinator(&["--help"]),
        coordinator(&["schema"]),
        coordinator(&["checkpoint", "ls", folder]),
        coordinator(&["checkpoint", "ls", folder, "--json"]),
        coordinator(&["generate", model, "Who is Anna?", "--max-new-tokens", "4"]),
        line(programs::worker(), &["--help"]),
        line(programs::worker(), &["generate", model, "Who?", "--max-new-tokens", "4"]),
        asked(&["list"]),
        asked(&["list", "--json"]),
        asked(&["status", &run]),
        asked(&["status", &run, "--json"]),
        asked(&["watch", &run, "--json"]),
        asked(&["cancel", &run, "--json"]),
        asked(&["submit", spec, "--idempotency-key", "short"]),
    ]);
    // These also print their progress to standard error.
    for command in [&["inspect", spec, "--json"][..], &["plan", spec, "--no-measure"]] {
        let ended = unread(&coordinator(command)).with_code(UNREAD);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
        let ended = full(&coordinator(command)).with_code(1);
        assert!(ended.stderr.contains("error: standard output"), "{}", ended.stderr);
    }
}

/// Starts `run --json`, and reads its output up to the first step.
fn read_up_to_a_step(fixture: &Fixture) -> (Process, BufReader<PipeReader>) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let spec = fixture.path("spec.yaml");
    let arguments = ["run", spec.to_str().expect("a path"), "--json", "--workers", "1"];
    let run = Process::start_to(writer.into(), &programs::coordinator(), &arguments, &[]);
    let mut reader = BufReader::new(reader);
    let mut line = String::new();
    while !line.contains(r#""event":"step""#) {
        line.clear();
        assert!(reader.read_line(&mut line).expect("text") > 0, "no step\n{}", run.stderr());
    }
    (run, reader)
}

#[test]
fn a_run_whose_output_is_no_longer_read_stops_gracefully() {
    let fixture = Fixture::new();
    fixture.long();
    let (run, reader) = read_up_to_a_step(&fixture);
    drop(reader);
    let ended = run.end().with_code(75);
    for words in ["the reader of standard output has gone", "stopping after the current step"] {
        assert!(ended.stderr.contains(words), "`{words}` in:\n{}", ended.stderr);
    }
    let facts = journal(&fixture.run());
    assert_eq!(facts.last().expect("a history")["event"], "paused");
    assert!(facts.iter().any(|fact| fact["event"] == "checkpointed"));
}

#[test]
fn an_invalid_address_is_the_users_error() {
    for address in ["127.0.0.1:7070", "coordinator", "ftp://127.0.0.1:7070", "https://host"] {
        for command in [&["list"][..], &["status", "r"], &["watch", "r"], &["cancel", "r"]] {
            let arguments = [command, &["--coordinator", address]].concat();
            let ended = Process::start(&programs::coordinator(), &arguments).end().with_code(2);
            assert!(ended.stderr.contains("write https://host:port"), "{}", ended.stderr);
        }
    }
}

#[test]
fn a_coordinator_that_does_not_answer_is_waited_for_no_longer_than_asked() {
    // The kernel accepts connections, but no program answers them.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let fixture = Fixture::new();
    let spec = fixture.path("spec.yaml");
    let submit = ["submit", spec.to_str().expect("a path"), "--follow"];
    let resume = ["submit", "--resume", "r"];
    for command in
        [&["list"][..], &["status", "r"], &["watch", "r"], &["cancel", "r"], &submit, &resume]
    {
        let arguments = [command, &["--coordinator", &url]].concat();
        let environment = [("MUSTER_TIMEOUT", "1s".to_owned())];
        let asked = Process::start_in(&programs::coordinator(), &arguments, &environment);
        let ended = asked.end().with_code(1);
        for words in [&*url, "took the connection and has not answered for 1 s", "hint: "] {
            assert!(ended.stderr.contains(words), "`{words}` in:\n{}", ended.stderr);
        }
        let unknown = ended.stderr.contains("--idempotency-key");
        assert_eq!(unknown, command == submit, "{}", ended.stderr);
    }
    let arguments = ["list", "--coordinator", &url, "--timeout", "0s"];
    Process::start(&programs::coordinator(), &arguments).end().with_code(2);
}

#[test]
fn a_watch_survives_the_coordinator_and_shows_nothing_twice() {
    let fixture = Fixture::new();
    for_two(&fixture);
    fixture.long();
    let mut pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "long");
    let mut watch = pool.ask(&["watch", &run]);
    let lines = ["watch", &run, "--coordinator", &pool.url];
    let people = Process::start(&programs::coordinator(), &lines);
    people.wait_for_line(&format!("run {run} at {}", pool.url));
    watch.step(EVERY + 2);
    pool.restart_coordinator(&fixture);
    watch.step(EVERY + 20);
    pool.restart_coordinator(&fixture);

    let ended = watch.end().with_code(0);
    assert_eq!(ended.only("finished").count("steps"), LONG);
    for words in ["the coordinator went away; waiting for it to come back", "is back"] {
        assert_eq!(ended.stderr.matches(words).count(), 2, "`{words}` in:\n{}", ended.stderr);
    }
    let steps: Vec<_> = ended.all("step").iter().map(|e| e.count("step")).collect();
    assert!(steps.is_sorted_by(|a, b| a < b), "{steps:?}");
    let (printed, messages) = people.end_with_text(0);
    assert!(printed.trim_end().ends_with("/model"), "{printed}");
    assert_eq!(messages.matches("went away").count(), 2, "{messages}");
    assert_eq!(messages.matches(&format!("step {LONG}/{LONG} ")).count(), 1, "{messages}");
    for (i, event) in ended.events.iter().enumerate() {
        assert!(!ended.events[..i].iter().any(|e| e.0 == event.0), "twice: {event:?}");
    }
    assert!(ended.events.iter().all(|event| event.count("at_ms") > 0));
}

#[test]
fn a_watch_gives_up_after_the_given_time() {
    let fixture = Fixture::new();
    for_two(&fixture);
    fixture.long();
    let pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "long");
    let mut watch = pool.ask(&["watch", &run, "--give-up-after", "1s"]);
    watch.step(1);
    pool.coordinator.signal(rustix::process::Signal::KILL);
    let ended = watch.end().with_code(1);
    for words in ["the coordinator has been away for ", "hint: ", "coordinator watch "] {
        assert!(ended.stderr.contains(words), "`{words}` in:\n{}", ended.stderr);
    }
}

#[test]
fn a_cancel_reports_the_outcome_of_the_run() {
    let fixture = Fixture::new();
    let (pool, finished) = finished(&fixture);
    let ask = |command: &str, run: &str, code| {
        let arguments = [command, run, "--coordinator", &pool.url];
        Process::start(&programs::coordinator(), &arguments).end_with_text(code)
    };
    fixture.respec("workers: {min: 2, max: 2}", "workers: {min: 3, max: 3}");
    let waiting = pool.submit(&fixture, "of three");
    // Cancelling again gives the same answer.
    for _ in 0..2 {
        let answer = format!("run {waiting} was cancelled\n");
        assert_eq!(ask("cancel", &waiting, 0), (String::new(), answer));
    }
    let (status, _) = ask("status", &waiting, 0);
    assert!(status.contains("phase       cancelled\n"), "{status}");
    let (status, _) = ask("status", &finished, 0);
    for line in [&*format!("run         {finished}"), "progress    step 2 of 2 (100 %)"] {
        assert!(status.lines().any(|l| l == line), "{line} in:\n{status}");
    }
    let answer = format!("run {finished} had already ended: succeeded\n");
    assert_eq!(ask("cancel", &finished, 0), (String::new(), answer));
}

#[test]
fn runs_and_workers_are_listed_together_or_alone() {
    let fixture = Fixture::new();
    let (pool, run) = finished(&fixture);
    let list = |choice: &[&str]| {
        let arguments = [&["list", "--coordinator", &pool.url], choice].concat();
        Process::start(&programs::coordinator(), &arguments).end_with_text(0).0
    };
    let runs = list(&["--runs"]);
    let workers = list(&["--workers"]);
    let row = |table: &str, name: &str| table.lines().any(|line| line.starts_with(name));
    assert!(row(&runs, "RUN ") && row(&runs, &run) && !row(&runs, "hand-0"), "{runs}");
    assert!(
        row(&workers, "WORKER ") && row(&workers, "hand-0") && !row(&workers, &run),
        "{workers}"
    );
    let both = list(&[]);
    assert!(row(&both, &run) && row(&both, "hand-0") && row(&both, "hand-1"), "{both}");
    let listed = pool.ask(&["list"]).end().with_code(0);
    let named = |key: &str| listed.events.iter().filter(|e| e.0.get(key).is_some()).count();
    assert_eq!((named("phase"), named("worker")), (1, 2));
    let choices = ["list", "--runs", "--workers"];
    Process::start(&programs::coordinator(), &choices).end().with_code(2);
}

#[test]
fn a_submission_names_a_spec_or_a_run_to_resume() {
    for arguments in [&["submit"][..], &["submit", "--resume", "r", "--idempotency-key", "k"]] {
        Process::start(&programs::coordinator(), arguments).end().with_code(2);
    }
}

#[test]
fn an_invalid_log_filter_is_reported() {
    let environment = [("MUSTER_LOG", "a=b=c".to_owned())];
    let list = ["list", "--json", "--coordinator", "http://127.0.0.1:1"];
    let ended = Process::start_in(&programs::coordinator(), &list, &environment).end();
    assert!(ended.stderr.starts_with("warning: MUSTER_LOG is `a=b=c`"), "{}", ended.stderr);
}

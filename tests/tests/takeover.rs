//! Two coordinators on one prefix: exactly one wins, the other reports why it lost, and no work is lost or done
//! twice.
//!
//! The tests on S3 need SeaweedFS (MUSTER_TEST_WEED).

use muster_tests::fixture::{EVERY, LONG, journal};
use muster_tests::pool::{Pool, address, assert_each_step_once, folder, for_two, serve};
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use muster_tests::{Ended, Fixture, Process, programs};
use rustix::process::Signal;

/// Number of rounds in which two coordinators start at once.
const ROUNDS: usize = 20;

/// Checks that standard error contains all the words.
fn assert_said(ended: &Ended, words: &[&str]) {
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` in:\n{}", ended.stderr);
    }
}

/// Checks that a coordinator lost to another: it was replaced, or it found the other one at work.
fn assert_lost_to_another(ended: &Ended) {
    let words = match ended.code {
        Some(1) => ["error: another coordinator took over", "hint: it is on host "],
        Some(2) => [" is held by a coordinator on host ", "--take-over"],
        code => panic!("{code:?}: {}", ended.stderr),
    };
    assert_said(ended, &words);
}

fn exactly_one_wins(output: impl Fn(usize) -> String, environment: &[(&'static str, String)]) {
    let mut at_once = 0;
    for round in 0..ROUNDS {
        let output = output(round);
        let start = || serve(&output, "127.0.0.1:0", &[], environment);
        let started = [start(), start()];
        let mut url = None;
        for coordinator in started {
            if coordinator.wait_for_line_or_end("coordinator at ").is_none() {
                let ended = coordinator.end();
                assert_lost_to_another(&ended);
                at_once += usize::from(ended.code == Some(1));
                continue;
            }
            let before = url.replace((address(&coordinator), coordinator));
            assert!(before.is_none(), "round {round}: both hold {output}");
        }
        let (url, _winner) = url.expect("one holds it");
        let list = ["list", "--json", "--coordinator", &url];
        Process::start(&programs::coordinator(), &list).end().with_code(0);
    }
    println!("{at_once} of {ROUNDS} were decided by the journal");
}

#[test]
fn of_two_pools_that_start_at_once_one_wins() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = |round: usize| folder.path().join(round.to_string()).display().to_string();
    exactly_one_wins(output, &[]);
}

#[test]
fn of_two_pools_that_start_at_once_on_s3_one_wins() {
    let Some(server) = SeaweedFs::start("of_two_pools_that_start_at_once_on_s3_one_wins") else {
        return;
    };
    let output = |round: usize| format!("s3://{BUCKET}/pools/{round}");
    exactly_one_wins(output, &server.environment());
}

/// Starts a long run in a pool, and another coordinator that takes over. Returns the run's name.
fn taken_over(fixture: &Fixture, output: &str, environment: &[(&'static str, String)]) -> String {
    for_two(fixture);
    fixture.long();
    let pool = Pool::start_in(output, environment);
    let run = pool.submit(fixture, "long");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(EVERY + 2);
    let ranks =
        ["--slot hand-0 ", "--slot hand-1 "].map(|slot| pool.workers().child_matching(slot));

    let another = |more: &[&str]| serve(output, "127.0.0.1:0", more, environment);
    let refused = another(&[]).end().with_code(2);
    let words = ["is held by a coordinator on host ", &pool.url, "hint: ", "--take-over"];
    assert_said(&refused, &words);
    let second = another(&["--take-over"]);
    let Pool { coordinator, workers, .. } = pool;
    let pool = Pool { url: address(&second), coordinator: second, workers, certs: None };
    let deposed = coordinator.end().with_code(1);
    let host = coordinator::takeover::holder::host();
    let words = [
        "error: this coordinator was replaced, and its workers move to the one that replaced it: ",
        "another coordinator took over: it wrote ",
        "/pool/journal/0000000002.json`",
        &format!("hint: it is on host `{host}` and answers at {}", pool.url),
    ];
    assert_said(&deposed, &words);

    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), LONG);
    assert_each_step_once(&watched);
    let moved = watch.end().with_code(0);
    assert_eq!(moved.only("finished").count("steps"), LONG);
    assert_said(&moved, &["the coordinator has moved to ", &pool.url]);
    let status = pool.status(&run);
    assert_eq!((status.count("generation"), status.count("lineage")), (1, 1));
    let still =
        ["--slot hand-0 ", "--slot hand-1 "].map(|slot| pool.workers().child_matching(slot));
    assert_eq!(still, ranks, "the processes are the same");
    // A new process in a rank's slot connects to the coordinator to which the rank has moved.
    pool.workers().kill("--slot hand-1 ");
    let after = pool.submit(fixture, "after");
    let mut watch = pool.ask(&["watch", &after]);
    watch.step(1);
    pool.ask(&["cancel", &after]).end().with_code(0);
    watch.end().with_code(4);
    run
}

#[test]
fn a_pool_is_taken_over_on_request_and_its_runs_go_on_with_the_same_workers() {
    let fixture = Fixture::new();
    let run = taken_over(&fixture, &folder(&fixture), &[]);
    for (kind, facts) in [("generation", 1), ("claimed", 2), ("incident", 0), ("evaluated", 21)] {
        assert_eq!(fixture.facts(&run, kind), facts, "{kind}");
    }
    assert_eq!(fixture.facts(&run, "checkpointed") as u64, LONG / EVERY);
}

#[test]
fn a_pool_on_s3_is_taken_over_on_request() {
    let Some(server) = SeaweedFs::start("a_pool_on_s3_is_taken_over_on_request") else { return };
    let fixture = Fixture::new();
    let output = format!("s3://{BUCKET}/taken");
    fixture.respec("./runs", &output);
    let environment = server.environment();
    taken_over(&fixture, &output, &environment);
}

#[test]
fn of_two_concurrent_resumes_of_a_run_one_continues() {
    let fixture = Fixture::new();
    let mut process = Process::run(&fixture, &["--workers", "1"]);
    process.event("checkpoint", |e| e.kind() == "checkpoint");
    process.signal(Signal::KILL);
    process.end();
    let resume = || Process::run(&fixture, &["--workers", "1", "--resume"]);
    let both = [resume(), resume()].map(Process::end);
    let [won, lost] = match both.iter().position(|ended| ended.code == Some(0)) {
        Some(0) => both.each_ref(),
        Some(_) => [&both[1], &both[0]],
        None => panic!("{both:#?}"),
    };
    assert_eq!(won.all("finished").len(), 1);
    assert_lost_to_another(lost);
    assert!(lost.all("step").is_empty(), "it has trained nothing");
    let run = fixture.run();
    let run = run.file_name().and_then(|name| name.to_str()).expect("a name");
    assert_eq!(fixture.facts(run, "claimed"), 2, "by the first, and by one of the two");
    assert_eq!(fixture.facts(run, "succeeded"), 1);
}

#[test]
fn a_run_is_taken_from_a_live_coordinator_on_request_only() {
    let fixture = Fixture::new();
    fixture.long();
    let mut first = Process::run(&fixture, &["--workers", "1"]);
    first.event("checkpoint", |e| e.kind() == "checkpoint");
    let refused = Process::run(&fixture, &["--workers", "1", "--resume"]).end().with_code(2);
    assert_said(&refused, &["run `small-", "` is held by a coordinator on host ", "hint: stop it"]);
    let second = Process::run(&fixture, &["--workers", "1", "--resume", "--take-over"]);
    let first = first.end().with_code(1);
    assert_said(
        &first,
        &["error: another coordinator took over: it wrote ", "hint: it is on host "],
    );
    assert!(first.only("lost").text("message").contains("another coordinator took over"));
    let second = second.end().with_code(0);
    assert_eq!(second.only("finished").count("steps"), LONG);

    // The steps of both form one sequence.
    let from = second.only("generation").count("step");
    let steps = |ended: &Ended| ended.all("step").iter().map(|e| e.count("step")).collect();
    let (before, after): (Vec<_>, Vec<_>) = (steps(&first), steps(&second));
    assert!(from > 0 && from.is_multiple_of(EVERY) && before.contains(&from), "{from}");
    assert_eq!(after, (from + 1..=LONG).collect::<Vec<_>>());
    let facts = journal(&fixture.run());
    assert_eq!(facts.iter().filter(|f| f["event"] == "claimed").count(), 2);
    assert_eq!(facts.iter().filter(|f| f["event"] == "checkpointed").count() as u64, LONG / EVERY);
}

#[test]
fn a_pool_and_a_run_beside_it_leave_each_others_runs_alone() {
    let fixture = Fixture::new();
    fixture.long();
    let mut pool = Pool::start(&fixture);
    let mut own = Process::run(&fixture, &["--workers", "1"]);
    own.step(2);
    let alone = fixture.run();
    let alone = alone.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let pools = pool.submit(&fixture, "beside");
    pool.restart_coordinator(&fixture);
    let mut watch = pool.ask(&["watch", &pools]);
    watch.step(2);
    pool.restart_coordinator(&fixture);
    let listed = pool.ask(&["list", "--runs"]).end().with_code(0);
    assert_eq!(listed.events.iter().map(|e| e.text("run")).collect::<Vec<_>>(), [&*pools]);

    own.signal(Signal::INT);
    own.end().with_code(75);
    // The newest run with the spec's name is the pool's, which must not be resumed here.
    let own = Process::run(&fixture, &["--workers", "1", "--resume"]).end().with_code(0);
    assert!(own.only("finished").text("model").contains(&alone));
    let refused = Process::run(&fixture, &["--workers", "1", "--resume"]).end();
    let status = pool.status(&pools);
    if status.text("phase") != "succeeded" {
        assert_said(
            &refused.with_code(2),
            &[&format!("run `{pools}` belongs to the pool"), "hint: ", "submit --resume"],
        );
    }
    let watched = watch.end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), LONG);
    assert_eq!(fixture.facts(&alone, "claimed"), 2);
    assert_eq!(fixture.facts(&pools, "claimed"), 3);
    assert_eq!(fixture.facts(&pools, "generation"), 1);
}

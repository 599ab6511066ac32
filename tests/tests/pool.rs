//! A standing coordinator, workers started by hand, and the commands that talk to it.

use muster_tests::fixture::{EVERY, LONG, STEPS};
use muster_tests::pool::{Pool, assert_each_step_once, for_two};
use muster_tests::{Fixture, Process, programs};
use rustix::process::Signal;
use std::time::Duration;

#[test]
fn a_pool_runs_a_submission_and_reports_on_it() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let mut pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "tuesday");
    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), STEPS);
    assert_eq!(watched.only("generation").count("world_size"), 2);

    assert_eq!(pool.submit(&fixture, "tuesday"), run, "the same key is the same run");
    assert_eq!(fixture.run().file_name().and_then(|n| n.to_str()), Some(&*run));
    let status = pool.status(&run);
    assert_eq!(status.text("phase"), "succeeded");
    assert_eq!((status.count("step"), status.count("steps")), (STEPS, STEPS));
    assert_eq!(status.text("model"), watched.only("finished").text("model"));
    let listed = pool.ask(&["list", "--runs"]).end().with_code(0);
    assert_eq!(listed.events.len(), 1);
    assert_eq!(listed.events[0].0, status.0);

    // When asked to terminate, workers stop gracefully, and idle ones at once.
    let workers = pool.workers.take().expect("they work");
    workers.signal(Signal::TERM);
    workers.end().with_code(75);
}

#[test]
fn workers_exit_on_request_although_no_coordinator_answers() {
    for twice in [false, true] {
        let fixture = Fixture::new();
        for_two(&fixture);
        fixture.long();
        let mut pool = Pool::start(&fixture);
        let run = pool.submit(&fixture, "long");
        let mut watch = pool.ask(&["watch", &run]);
        watch.step(2);
        // A stopped coordinator keeps its connections, and a killed one does not.
        pool.coordinator.signal(if twice { Signal::STOP } else { Signal::KILL });
        let workers = pool.workers.take().expect("they work");
        workers.signal(Signal::TERM);
        if twice {
            // A signal of another kind, since pending signals of one kind are merged.
            workers.signal(Signal::INT);
        }
        assert_eq!(workers.remaining_within(Duration::from_secs(10)), [""; 0]);
        workers.end().with_code(75);
    }
}

#[test]
fn a_cancelled_run_ends_and_the_pool_goes_on() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let pool = Pool::start(&fixture);
    let first = pool.submit(&fixture, "first");
    let second = pool.submit(&fixture, "second");
    assert_ne!(first, second, "another key is another run");
    // The second run's sources are listed while it waits.
    let waits = pool.status(&second);
    assert!(["preparing", "queued"].contains(&waits.text("phase")), "{waits:?}");
    let mut watch = pool.ask(&["watch", &first]);
    watch.step(2);
    pool.ask(&["cancel", &first]).end().with_code(0);
    let watched = watch.end().with_code(4);
    assert_eq!(watched.events.last().expect("an end").kind(), "cancelled");
    assert_eq!(pool.status(&first).text("phase"), "cancelled");
    assert!(!fixture.path("runs").join(&first).join("model").exists());
    let watched = pool.ask(&["watch", &second]).end().with_code(0);
    assert_eq!(watched.only("prepared").0["cached"], true);
    assert_eq!(watched.only("finished").count("steps"), STEPS);
    // Cancelling a run that has ended changes nothing.
    pool.ask(&["cancel", &second]).end().with_code(0);
    assert_eq!(pool.status(&second).text("phase"), "succeeded");
}

#[test]
fn questions_about_an_unknown_run_or_to_no_coordinator_are_refused() {
    let fixture = Fixture::new();
    let pool = Pool::start(&fixture);
    for command in ["status", "watch", "cancel"] {
        let ended = pool.ask(&[command, "nobody"]).end().with_code(2);
        assert!(ended.stderr.contains("there is no run `nobody`"), "{}", ended.stderr);
    }
    let nowhere = ["list", "--coordinator", "http://127.0.0.1:1"];
    let worker = ["--coordinator", "127.0.0.1:1"];
    let refused = Process::start(&programs::worker(), &worker).end().with_code(2);
    assert!(refused.stderr.contains("write https://host:port"), "{}", refused.stderr);
    let ended = Process::start(&programs::coordinator(), &nowhere).end().with_code(1);
    assert!(ended.stderr.contains("no coordinator answers at `http://127.0.0.1:1`"));
    assert!(ended.stderr.contains("hint: start one with `coordinator serve`"), "{}", ended.stderr);
}

#[test]
fn a_spec_with_another_output_than_the_pools_is_refused() {
    let fixture = Fixture::new();
    let pool = Pool::start(&fixture);
    fixture.respec("output: ./runs", "output: ./elsewhere");
    let spec = fixture.path("spec.yaml");
    let ended = pool.ask(&["submit", spec.to_str().expect("a path")]).end().with_code(2);
    let runs = fixture.path("runs");
    for words in ["output: ", "elsewhere", "hint: ", runs.to_str().expect("a path")] {
        assert!(ended.stderr.contains(words), "{words} in:\n{}", ended.stderr);
    }
    assert!(!fixture.path("elsewhere").exists());
    assert_eq!(fixture.runs().len(), 0);
}

#[test]
fn a_coordinators_death_costs_no_generation() {
    let fixture = Fixture::new();
    for_two(&fixture);
    // Long enough that the workers are still training when the coordinator is back.
    fixture.long();
    let mut pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "long");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(EVERY + 2);
    let ranks =
        ["--slot hand-0 ", "--slot hand-1 "].map(|slot| pool.workers().child_matching(slot));
    pool.restart_coordinator(&fixture);
    assert_eq!(pool.submit(&fixture, "long"), run, "the key outlives the coordinator");
    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), LONG);
    let watched_on = watch.end().with_code(0);
    assert_eq!(watched_on.only("finished").count("steps"), LONG);
    assert_eq!(fixture.facts(&run, "generation"), 1);
    assert_eq!(fixture.facts(&run, "claimed"), 2);
    assert_eq!(fixture.facts(&run, "incident"), 0);
    assert_eq!(fixture.facts(&run, "checkpointed") as u64, LONG / EVERY);
    let still =
        ["--slot hand-0 ", "--slot hand-1 "].map(|slot| pool.workers().child_matching(slot));
    assert_eq!(still, ranks, "the processes are the same");
    assert_each_step_once(&watched);
}

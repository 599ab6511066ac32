//! Workers that are asked to leave (SIGTERM): no step is lost.

use muster_tests::pool::{Pool, for_two};
use muster_tests::undisturbed::{UNDISTURBED, assert_as_undisturbed};
use muster_tests::{Event, Fixture, Process, programs};
use rustix::process::Signal;

/// A pool in which the fixture's run trains with few checkpoints, and a watch of the run.
fn trained(fixture: &Fixture) -> (Pool, Process) {
    fixture.respec("{every: 8, keep: 100}", "{every: 1000, keep: 100}");
    let pool = Pool::start(fixture);
    let run = pool.submit(fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(5);
    (pool, watch)
}

/// The next generation of a watched run, which must repeat no step.
fn assert_continues(watch: &mut Process) -> Event {
    let next =
        watch.event("generation 2", |e| e.kind() == "generation" && e.count("generation") == 2);
    assert_eq!(next.count("redone"), 0, "{next:?}");
    assert!(next.count("step") >= 5, "{next:?}");
    next
}

#[test]
fn when_all_workers_leave_the_next_ones_continue_without_repeating_a_step() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let (mut pool, mut watch) = trained(&fixture);
    let workers = pool.workers.take().expect("they work");
    workers.signal(Signal::TERM);
    workers.end().with_code(75);
    let again = ["--coordinator", &pool.url, "--devices", "cpu:2", "--name", "next"];
    let _next = Process::start(&programs::worker(), &again);
    assert_continues(&mut watch);
    let watched = watch.end().with_code(0);
    assert_eq!(watched.all("checkpoint").len(), 2, "one before they left, and the last one");
    assert_as_undisturbed(&fixture, &[&watched]);
}

#[test]
fn when_one_worker_leaves_the_others_continue_without_repeating_a_step() {
    let fixture = Fixture::new();
    fixture.respec("name: small", "name: small\nworkers: {min: 1, max: 2}");
    let (pool, mut watch) = trained(&fixture);
    // One rank of the node, as if it had a node of its own. Its supervisor starts another one, which comes too late.
    pool.workers().signal_to("--slot hand-1 ", Signal::TERM);
    let next = assert_continues(&mut watch);
    assert!(next.0["workers"].to_string().contains("hand-0"), "{next:?}");
    let watched = watch.end().with_code(0);
    UNDISTURBED.assert_same_samples(&[&watched]);
}

#[test]
fn a_worker_that_may_not_stay_long_enough_leaves_at_once() {
    let fixture = Fixture::new();
    for_two(&fixture);
    fixture.respec("{every: 8, keep: 100}", "{every: 4, keep: 100}");
    let mut pool = Pool::start(&fixture);
    pool.workers.take().expect("they work").signal(Signal::KILL);
    let hurried = |name: &str| {
        let arguments =
            ["--coordinator", &pool.url, "--devices", "cpu:2", "--name", name, "--grace", "0s"];
        Process::start(&programs::worker(), &arguments)
    };
    let first = hurried("first");
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(6);
    first.signal(Signal::TERM);
    first.end().with_code(75);
    let _second = hurried("second");
    let next =
        watch.event("generation 2", |e| e.kind() == "generation" && e.count("generation") == 2);
    assert!(
        next.count("step").is_multiple_of(4) && next.count("step") >= 4,
        "a checkpoint: {next:?}"
    );
    let watched = watch.end().with_code(0);
    assert_as_undisturbed(&fixture, &[&watched]);
}

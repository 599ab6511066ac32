//! The store is unreachable for a while in the middle of a run. Training continues, questions are answered at once,
//! and nothing is lost afterwards.
//!
//! A proxy in front of a real S3 server breaks every connection. Needs SeaweedFS (MUSTER_TEST_WEED). A variable sets
//! the length of the outage: `MUSTER_OUTAGE_SECONDS=300 cargo test -p muster-tests --test outage`.

use muster_tests::pool::{Pool, for_two};
use muster_tests::proxy::Proxy;
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use muster_tests::{Ended, Event, Fixture, Process};
use rustix::process::Signal;
use std::time::{Duration, Instant};

/// The default length of the outage, which is longer than the retries of the store's clients.
const SECONDS: u64 = 25;
/// How long an answer may take, including the start of the client.
const AT_ONCE: Duration = Duration::from_secs(2);
/// The pause between two questions.
const PAUSE: Duration = Duration::from_millis(500);
/// The maximum number of steps per second of such a run on a fast machine.
const STEPS_PER_SECOND: u64 = 40;

fn outage() -> Duration {
    let seconds = std::env::var("MUSTER_OUTAGE_SECONDS").ok();
    Duration::from_secs(seconds.map_or(SECONDS, |s| s.parse().expect("a number of seconds")))
}

/// A server, a proxy in front of it, and a run on it that lasts longer than the outage.
fn scene(test: &str) -> Option<(SeaweedFs, Proxy, Fixture)> {
    let store = SeaweedFs::start(test)?;
    let proxy = Proxy::start(store.address());
    let fixture = Fixture::new();
    let steps = 100 + STEPS_PER_SECOND * outage().as_secs();
    fixture.respec("max_steps: 40", &format!("max_steps: {steps}"));
    fixture.respec("epochs: 20", "epochs: 1000");
    // With this batch size, a thousand epochs have that many steps.
    fixture.respec("global_batch: 4", "global_batch: 2");
    fixture.respec("checkpoint: {every: 8, keep: 100}", "checkpoint: {every: 20, keep: 2}");
    fixture.respec("output: ./runs", &format!("output: s3://{BUCKET}/runs"));
    Some((store, proxy, fixture))
}

fn environment(proxy: &Proxy) -> Vec<(&'static str, String)> {
    SeaweedFs::environment_at(proxy.address()).into()
}

/// Checks that every step was reported once, in one generation. Returns the number of steps.
fn assert_nothing_lost(ended: &Ended) -> u64 {
    let steps: Vec<_> = ended.all("step").iter().map(|e| e.count("step")).collect();
    let last = steps.last().copied().expect("there are steps");
    assert_eq!(steps, (1..=last).collect::<Vec<_>>());
    assert_eq!(ended.all("generation").len(), 1, "{:?}", ended.all("incident"));
    last
}

/// Waits for a checkpoint at or after a step of the outage.
fn checkpoint_after(process: &mut Process, step: u64) {
    let later = |e: &Event| e.kind() == "checkpoint" && e.count("step") >= step;
    process.event("checkpoint after the outage", later);
}

#[test]
fn a_pool_keeps_training_and_answers_while_its_store_is_away() {
    let Some((store, proxy, fixture)) = scene("outage, pool") else { return };
    for_two(&fixture);
    let mut pool = Pool::start_in(&format!("s3://{BUCKET}/runs"), &environment(&proxy));
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(30);
    let coordinator = pool.coordinator.pid();
    let before = pool.status(&run).count("step");

    proxy.set_away(true);
    let began = Instant::now();
    let (mut last, mut waited, mut longest) = (before, false, Duration::ZERO);
    while began.elapsed() < outage() {
        for question in [&["status", &run][..], &["list"]] {
            let asked = Instant::now();
            let answer = pool.ask(question).end().with_code(0);
            longest = longest.max(asked.elapsed());
            if question.len() > 1 {
                let [status] = &answer.events[..] else { panic!("one status: {answer:?}") };
                waited |= status.text("detail").contains("waiting for the storage");
                last = last.max(status.count("step"));
            }
        }
        std::thread::sleep(PAUSE);
    }
    assert!(waited, "the status does not say that the run waits for the storage");
    assert!(last > before + 10, "training stood still: {before} to {last}");
    assert!(longest < AT_ONCE, "an answer took {longest:?}");
    proxy.set_away(false);
    println!(
        "away for {:?}: {} steps meanwhile, the longest answer took {longest:?}",
        began.elapsed(),
        last - before
    );

    checkpoint_after(&mut watch, last);
    pool.ask(&["cancel", &run]).end().with_code(0);
    let watched = assert_nothing_lost(&watch.end().with_code(4));
    assert!(watched >= last);
    assert_eq!(pool.coordinator.pid(), coordinator, "the process is the same");
    let stored = pool.ask(&["watch", &run]).end().with_code(4);
    assert_eq!(assert_nothing_lost(&stored), watched);
    drop((pool.workers.take(), store));
}

#[test]
fn a_run_keeps_training_while_its_store_is_away() {
    let Some((store, proxy, fixture)) = scene("outage, run") else { return };
    let mut run = Process::run_in(&fixture, &["--workers", "2"], &environment(&proxy));
    let before = run.step(30).count("step");
    proxy.set_away(true);
    let began = Instant::now();
    let mut last = before;
    while began.elapsed() < outage() {
        last = run.event("step", |e| e.kind() == "step").count("step");
    }
    assert!(last > before + 10, "training stood still: {before} to {last}");
    proxy.set_away(false);
    println!("away for {:?}: {} steps meanwhile", began.elapsed(), last - before);
    checkpoint_after(&mut run, last);
    run.signal(Signal::INT);
    let ended = run.end().with_code(75);
    assert_eq!(ended.only("paused").count("step"), assert_nothing_lost(&ended));
    drop(store);
}

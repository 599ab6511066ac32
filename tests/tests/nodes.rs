//! Misconfigured nodes and waiting runs neither end nor delay a healthy run.

use anyhow::Result;
use muster_tests::fixture::STEPS;
use muster_tests::pool::{Pool, for_two};
use muster_tests::simulated::{Simulated, channel};
use muster_tests::undisturbed::{UNDISTURBED, assert_as_undisturbed};
use muster_tests::{Ended, Event, Fixture, Process, programs};
use proto::id::RunId;
use proto::protocol::Report;
use rustix::process::Signal;
use std::time::{Duration, Instant};
use wire::credentials::Credentials;

/// How long a pool may take to report a worker's trouble.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);

/// Waits until a worker in `list` is as `wanted`, and returns its entry.
fn listed(pool: &Pool, worker: &str, wanted: impl Fn(&Event) -> bool) -> Event {
    let until = Instant::now() + PATIENCE;
    loop {
        let all = pool.ask(&["list"]).end().with_code(0).events;
        let found = all.iter().find(|e| e.0["worker"] == worker);
        if let Some(found) = found.filter(|found| wanted(found)) {
            return found.clone();
        }
        assert!(Instant::now() < until, "{worker} is not as wanted: {all:#?}");
        std::thread::sleep(POLL);
    }
}

/// Starts a worker of the coordinator at `url` with its own mount. If this user may not mount, prints that the test
/// is skipped and returns `None`.
fn worker_with_mount(mount: &str, url: &str, name: &str) -> Option<Process> {
    let may = std::process::Command::new("unshare").args(["-m", "true"]).output();
    if !may.is_ok_and(|tried| tried.status.success()) {
        println!("skipped, this user may not make a mount namespace");
        return None;
    }
    let worker = programs::worker();
    let worker = worker.to_str().expect("a path");
    let script = format!(
        "mount {mount} && \
         exec '{worker}' --coordinator '{url}' --insecure --devices cpu --threads 1 --name {name}"
    );
    Some(Process::start(std::path::Path::new("unshare"), &["-m", "sh", "-c", &script]))
}

#[test]
fn a_node_that_cannot_read_the_base_or_the_output_waits_and_the_run_continues() {
    for hidden in ["base", "runs"] {
        let fixture = Fixture::new();
        for_two(&fixture);
        fixture.respec("max: 2}", "max: 3}");
        fixture.long();
        let pool = Pool::start(&fixture);
        let run = pool.submit(&fixture, "key");
        let mut watch = pool.ask(&["watch", &run]);
        watch.step(2);
        let folder = fixture.path(hidden);
        let folder = folder.to_str().expect("a path");
        let hide = format!("-t tmpfs tmpfs '{folder}'");
        let Some(blind) = worker_with_mount(&hide, &pool.url, "blind") else { return };
        let listed = listed(&pool, "blind-0", |w| w.0["trouble"].as_str() > Some(""));
        assert!(listed.text("trouble").contains(folder), "{hidden}: {listed:?}");
        assert_eq!(listed.text("state"), "waiting");
        let status = pool.status(&run);
        assert_eq!(status.text("phase"), "training", "{hidden}");
        assert_eq!(status.0["troubled"][0]["worker"], "blind-0");
        // The worker is tried again and again, and the run continues.
        let before = watch.step(2).count("step");
        watch.step(before + 20);
        pool.ask(&["cancel", &run]).end().with_code(0);
        let watched = watch.end().with_code(4);
        assert_eq!(watched.all("generation").len(), 1, "{hidden}: {:?}", watched.all("incident"));
        drop(blind);
    }
}

#[test]
fn a_node_waits_for_the_name_of_its_coordinator() {
    let fixture = Fixture::new();
    fixture.respec("name: small", "name: small\nworkers: {min: 1, max: 1}");
    let mut pool = Pool::start(&fixture);
    pool.workers.take().expect("they work").signal(Signal::KILL);
    let hosts = fixture.path("hosts");
    let name = "coordinator.muster.test";
    std::fs::write(&hosts, "127.0.0.1 localhost\n").expect("the fixture's folder can be written");
    let mount = format!("--bind '{}' /etc/hosts", hosts.display());
    let url = pool.url.replace("127.0.0.1", name);
    let Some(worker) = worker_with_mount(&mount, &url, "early") else { return };
    worker.wait_for_text(&format!("`{name}:"));
    std::fs::write(&hosts, format!("127.0.0.1 localhost {name}\n")).expect("it can be written");
    listed(&pool, "early-0", |_| true);
    assert!(!worker.stderr().contains("died"), "{}", worker.stderr());
    worker.signal(Signal::TERM);
    worker.end().with_code(75);
}

#[test]
fn two_workers_of_one_name_do_not_evict_each_other() {
    let fixture = Fixture::new();
    fixture.respec("name: small", "name: small\nworkers: {min: 1, max: 1}");
    let mut pool = Pool::start(&fixture);
    pool.workers.take().expect("they work").signal(Signal::KILL);
    let twin = |devices| {
        let arguments =
            ["--coordinator", &pool.url, "--devices", devices, "--threads", "1", "--name", "twin"];
        Process::start(&programs::worker(), &arguments)
    };
    let first = twin("cpu");
    listed(&pool, "twin-0", |_| true);
    let second = twin("cpu");
    let run = pool.submit(&fixture, "first");
    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(watched.only("generation").count("world_size"), 1);
    assert_eq!(watched.all("incident").len(), 0);
    second.wait_for_text("another process is connected as worker `twin-0`");
    // After the first has died, the other one is accepted.
    drop(first);
    let run = pool.submit(&fixture, "second");
    pool.ask(&["watch", &run]).end().with_code(0);
    second.signal(Signal::TERM);
    second.end().with_code(75);
}

/// Connects a worker whose published address is not listened on.
async fn unreachable(url: &str, run: &str) -> Result<tokio::task::JoinHandle<()>> {
    let loaded = Report::Loaded { run: RunId::new(run), base_digest: "any".into() };
    let worker = Simulated {
        name: "far".into(),
        // The discard port.
        ring: "127.0.0.1:9".into(),
        reports: vec![loaded],
        beat: None,
        delay: Duration::ZERO,
    };
    worker.connect(channel(url, &Credentials::none()).await?).await
}

#[test]
fn a_worker_that_its_peers_cannot_reach_is_never_a_member() {
    let fixture = Fixture::new();
    for_two(&fixture);
    fixture.respec("max: 2}", "max: 3}");
    fixture.long();
    let pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(2);
    let runtime = tokio::runtime::Runtime::new().expect("threads");
    let far = runtime.block_on(unreachable(&pool.url, &run)).expect("a stream");
    let reason = |w: &Event| w.0["trouble"].as_str().is_some_and(|t| t.contains("127.0.0.1:9"));
    let listed = listed(&pool, "far", reason);
    assert!(listed.text("trouble").contains("--ring-address"), "{listed:?}");
    // A regroup excludes it, and is not delayed by it.
    let killed = Instant::now();
    pool.workers().kill("--slot hand-1 ");
    let again = watch.event("generation", |e| e.kind() == "generation");
    let took = killed.elapsed();
    assert!(took < Duration::from_secs(20), "the regroup took {took:?}");
    assert_eq!(again.count("world_size"), 2);
    assert!(!again.0["workers"].to_string().contains("far"), "{again:?}");
    pool.ask(&["cancel", &run]).end().with_code(0);
    let watched = watch.end().with_code(4);
    let incidents: Vec<_> = watched.all("incident").iter().map(|e| e.text("message")).collect();
    // An incident names the dead worker and how it died.
    assert!(
        incidents[0].starts_with("worker hand-1 ") || incidents[0].contains("hand-1-"),
        "{incidents:?}"
    );
    assert_eq!(watched.all("incident")[0].text("worker"), "hand-1");
    assert!(incidents.iter().any(|i| i.contains("signal 9 (SIGKILL)")), "{incidents:?}");
    far.abort();
}

#[test]
fn a_cancelled_run_continues_as_another_attempt() {
    let reference = &*UNDISTURBED;
    let fixture = Fixture::new();
    for_two(&fixture);
    let mut pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(18);
    pool.ask(&["cancel", &run]).end().with_code(0);
    let first = watch.end().with_code(4);
    let cancelled = pool.status(&run);
    assert_eq!((cancelled.text("phase"), cancelled.count("attempt")), ("cancelled", 1));

    let resumed = pool.ask(&["submit", "--resume", &run]).end().with_code(0);
    assert_eq!(resumed.events[0].text("run"), run);
    assert_eq!(resumed.events[0].count("attempt"), 2);
    let second = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(second.only("finished").count("steps"), STEPS);
    assert!(second.all("generation").last().expect("one").count("step") >= 16);
    assert_eq!(pool.status(&run).count("attempt"), 2);
    assert_as_undisturbed(&fixture, &[&first, &second]);
    assert_eq!(reference.digests.len() as u64, STEPS);

    // A run that has succeeded cannot be resumed, and a restarted coordinator knows both attempts.
    let refused = pool.ask(&["submit", "--resume", &run]).end().with_code(2);
    assert!(refused.stderr.contains("it is succeeded"), "{}", refused.stderr);
    pool.restart_coordinator(&fixture);
    let status = pool.status(&run);
    assert_eq!((status.text("phase"), status.count("attempt")), ("succeeded", 2));
}

#[test]
fn another_attempt_may_change_the_workers_and_not_the_data() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "key");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(10);
    pool.ask(&["cancel", &run]).end().with_code(0);
    watch.end().with_code(4);
    let spec = fixture.path("spec.yaml");
    let resume = |pool: &Pool| -> Ended {
        pool.ask(&["submit", "--resume", &run, spec.to_str().expect("a path")]).end()
    };
    fixture.respec("seed: 20", "seed: 21");
    let refused = resume(&pool).with_code(2);
    assert!(refused.stderr.contains("train.seed"), "{}", refused.stderr);
    fixture.respec("seed: 21", "seed: 20");
    fixture.respec("workers: {min: 2, max: 2}", "workers: {min: 1, max: 1}");
    resume(&pool).with_code(0);
    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    let generation = watched.all("generation");
    assert_eq!(generation.last().expect("one").count("world_size"), 1);
}

#[test]
fn a_run_that_cannot_start_lets_the_next_one_pass_and_says_why_it_waits() {
    let greedy = Fixture::new();
    greedy.respec("name: small", "name: greedy\nworkers: {min: 9, max: 9}");
    let pool = Pool::start(&greedy);
    let waiting = pool.submit(&greedy, "greedy");
    greedy.respec("name: greedy\nworkers: {min: 9, max: 9}", "name: modest");
    let modest = pool.submit(&greedy, "modest");
    let watched = pool.ask(&["watch", &modest]).end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), STEPS);
    let status = pool.status(&waiting);
    assert_eq!(status.text("phase"), "gathering");
    assert!(status.text("detail").contains("of 9 workers"), "{status:?}");
    pool.ask(&["cancel", &waiting]).end().with_code(0);
}

#[test]
fn a_run_whose_journal_cannot_be_read_is_listed_and_the_others_go_on() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let mut pool = Pool::start(&fixture);
    let broken = pool.submit(&fixture, "broken");
    pool.ask(&["watch", &broken]).end().with_code(0);
    let entry = fixture.path("runs").join(&broken).join("journal/0000000001.json");
    std::fs::write(&entry, "{").expect("it is there");
    pool.restart_coordinator(&fixture);
    let status = pool.status(&broken);
    assert_eq!(status.text("phase"), "unreadable");
    assert!(status.text("detail").contains("0000000001.json"), "{status:?}");
    let run = pool.submit(&fixture, "another");
    pool.ask(&["watch", &run]).end().with_code(0);
}

#[test]
fn one_key_is_one_spec() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "key");
    fixture.respec("seed: 20", "seed: 21");
    let spec = fixture.path("spec.yaml");
    let submit = ["submit", spec.to_str().expect("a path"), "--idempotency-key", "key"];
    let refused = pool.ask(&submit).end().with_code(2);
    assert!(refused.stderr.contains("the same idempotency key with another spec"));
    fixture.respec("seed: 21", "seed: 20");
    assert_eq!(pool.submit(&fixture, "key"), run);
}

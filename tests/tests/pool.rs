//! A standing coordinator, workers started by hand, and the commands that talk to it.

use muster_tests::fixture::{EVERY, STEPS, journal};
use muster_tests::{Ended, Event, Fixture, Process, programs};
use rustix::process::Signal;

/// A coordinator and its workers.
struct Pool {
    coordinator: Process,
    workers: Option<Process>,
    url: String,
}

impl Pool {
    fn start(fixture: &Fixture) -> Self {
        let coordinator = serve(fixture, "127.0.0.1:0");
        let url = coordinator.says("coordinator at ");
        let url = url.split(',').next().expect("an address, then the output").to_owned();
        let workers = ["--coordinator", &url, "--devices", "cpu:2", "--name", "hand"];
        let workers = Some(Process::start(&programs::worker(), &workers));
        Self { coordinator, workers, url }
    }

    /// A command of the pool's users, with `--json`.
    fn ask(&self, arguments: &[&str]) -> Process {
        let mut all = arguments.to_vec();
        all.extend(["--coordinator", &self.url, "--json"]);
        Process::start(&programs::coordinator(), &all)
    }

    fn submit(&self, fixture: &Fixture, key: &str) -> String {
        let spec = fixture.path("spec.yaml");
        let spec = spec.to_str().expect("a temporary path");
        let ended = self.ask(&["submit", spec, "--idempotency-key", key]).end().with_code(0);
        let [Event(answer)] = &ended.events[..] else { panic!("one answer: {:?}", ended.events) };
        answer["run"].as_str().expect("a name").to_owned()
    }

    fn status(&self, run: &str) -> Event {
        let ended = self.ask(&["status", run]).end().with_code(0);
        let [status] = &ended.events[..] else { panic!("one status: {:?}", ended.events) };
        status.clone()
    }

    /// Kills the coordinator; another takes its place.
    fn restart_coordinator(&mut self, fixture: &Fixture) {
        self.coordinator.signal(Signal::KILL);
        assert_eq!(self.coordinator.left_within(muster_tests::process::PATIENCE), [""; 0]);
        let address = self.url.strip_prefix("http://").expect("http");
        self.coordinator = serve(fixture, address);
        self.coordinator.says("coordinator at ");
    }

    fn workers(&self) -> &Process {
        self.workers.as_ref().expect("they were not told to go")
    }
}

fn serve(fixture: &Fixture, listen: &str) -> Process {
    let output = fixture.path("runs");
    let output = output.to_str().expect("a temporary path");
    Process::start(&programs::coordinator(), &["serve", "--listen", listen, "--output", output])
}

/// The spec's workers: both of the pool.
fn for_two(fixture: &Fixture) {
    fixture.respec("output: ./runs", "workers: {min: 2, max: 2}\noutput: ./runs");
}

fn facts(fixture: &Fixture, run: &str, kind: &str) -> usize {
    journal(&fixture.path("runs").join(run)).iter().filter(|f| f["event"] == kind).count()
}

#[test]
fn a_pool_runs_what_is_submitted_and_answers_for_it() {
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
    let listed = pool.ask(&["list"]).end().with_code(0);
    assert_eq!(listed.events.len(), 1);
    assert_eq!(listed.events[0].0, status.0);

    // Told to go, workers go in order, and idle ones at once.
    let workers = pool.workers.take().expect("they work");
    workers.signal(Signal::TERM);
    workers.end().with_code(75);
}

#[test]
fn a_cancelled_run_ends_and_the_pool_goes_on() {
    let fixture = Fixture::new();
    for_two(&fixture);
    let pool = Pool::start(&fixture);
    let first = pool.submit(&fixture, "first");
    let second = pool.submit(&fixture, "second");
    assert_ne!(first, second, "another key is another run");
    assert_eq!(pool.status(&second).text("phase"), "queued");
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
    // A run that has ended is not ended again.
    pool.ask(&["cancel", &second]).end().with_code(0);
    assert_eq!(pool.status(&second).text("phase"), "succeeded");
}

#[test]
fn questions_about_no_run_and_to_no_coordinator_are_refused() {
    let fixture = Fixture::new();
    let pool = Pool::start(&fixture);
    for command in ["status", "watch", "cancel"] {
        let ended = pool.ask(&[command, "nobody"]).end().with_code(2);
        assert!(ended.stderr.contains("there is no run `nobody`"), "{}", ended.stderr);
    }
    let nowhere = ["list", "--coordinator", "http://127.0.0.1:1"];
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
    // Long enough that the workers are still at it when the coordinator is back.
    fixture.respec("max_steps: 40", "max_steps: 160");
    fixture.respec("epochs: 20", "epochs: 80");
    let mut pool = Pool::start(&fixture);
    let run = pool.submit(&fixture, "long");
    let mut watch = pool.ask(&["watch", &run]);
    watch.step(EVERY + 2);
    let ranks = ["--slot hand-0 ", "--slot hand-1 "].map(|slot| pool.workers().started(slot));
    pool.restart_coordinator(&fixture);
    let broken = watch.end().with_code(1);
    assert!(broken.stderr.contains("hint: the run goes on; `watch` it again"), "{}", broken.stderr);

    assert_eq!(pool.submit(&fixture, "long"), run, "the key outlives the coordinator");
    let watched = pool.ask(&["watch", &run]).end().with_code(0);
    assert_eq!(watched.only("finished").count("steps"), 160);
    assert_eq!(facts(&fixture, &run, "generation"), 1);
    assert_eq!(facts(&fixture, &run, "claimed"), 2);
    assert_eq!(facts(&fixture, &run, "incident"), 0);
    assert_eq!(facts(&fixture, &run, "checkpointed"), 160 / usize::try_from(EVERY).expect("few"));
    let still = ["--slot hand-0 ", "--slot hand-1 "].map(|slot| pool.workers().started(slot));
    assert_eq!(still, ranks, "the processes are the same");
    assert_each_step_once(&watched);
}

/// From the first that the new coordinator saw to the last, none is missing and none is done twice.
fn assert_each_step_once(watched: &Ended) {
    let steps: Vec<_> = watched.all("step").iter().map(|e| e.count("step")).collect();
    let first = *steps.first().expect("steps after the restart");
    assert!(first > EVERY, "{first} was done again");
    assert_eq!(steps, (first..=160).collect::<Vec<_>>());
}

//! The pods of a Kubernetes Job, as processes on this host.

use muster_tests::certs::Certs;
use muster_tests::http::{Answer, Request, serve_tls};
use muster_tests::pool::for_two;
use muster_tests::process::PATIENCE;
use muster_tests::server::free_ports;
use muster_tests::stored::Stored;
use muster_tests::undisturbed::UNDISTURBED;
use muster_tests::{Fixture, Process, programs};
use proto::event::Fact;
use rustix::process::Signal;
use serde_json::Value;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use storage::Storage;

const POLL: Duration = Duration::from_millis(50);
/// Exit codes of pods, as a Job's `podFailurePolicy` knows them.
const SUCCEEDED: i32 = 0;
const DATA: i32 = 65;
const STOPPED: i32 = 75;

/// A Job of two pods with a worker each.
struct Job {
    fixture: Fixture,
    certs: Certs,
    address: String,
}

impl Job {
    fn new() -> Self {
        let fixture = Fixture::new();
        for_two(&fixture);
        let [port] = free_ports();
        Self { fixture, certs: Certs::new(&[]), address: format!("127.0.0.1:{port}") }
    }

    /// Starts the pod with this index.
    fn pod(&self, index: u32) -> Process {
        Process::start(&programs::coordinator(), &self.arguments(index))
    }

    /// Starts a first pod on a host of another name, as the next Job does; `None` if this user may not name a host.
    fn first_pod_of_the_next_job(&self) -> Option<Process> {
        let may = Command::new("unshare").args(["--uts", "true"]).output();
        if !may.is_ok_and(|tried| tried.status.success()) {
            println!("skipped, this user may not make a namespace for host names");
            return None;
        }
        let script = "hostname small-2-0 && exec \"$0\" \"$@\"";
        let program = programs::coordinator().display().to_string();
        let start = ["--uts", "sh", "-c", script, &program].map(str::to_owned);
        let arguments = [&start[..], &self.arguments(0)].concat();
        Some(Process::start(Path::new("unshare"), &arguments))
    }

    fn arguments(&self, index: u32) -> Vec<String> {
        let spec = self.fixture.path("spec.yaml").display().to_string();
        let url = format!("https://{}", self.address);
        let (index, name) = (index.to_string(), format!("small-{index}"));
        let credentials = self.certs.folder("job");
        let arguments = [
            &["kubernetes", "pod", &spec, "--run", "small-1", "--index", &index, "--name", &name],
            &["--coordinator", &url, "--listen", &self.address, "--credentials", &credentials][..],
        ]
        .concat();
        arguments.into_iter().map(str::to_owned).collect()
    }

    fn pods(&self) -> [Process; 2] {
        [self.pod(0), self.pod(1)]
    }

    /// The run's history once it is as wanted.
    fn history(&self, wanted: impl Fn(&[Fact]) -> bool) -> Vec<Fact> {
        let runtime = tokio::runtime::Runtime::new().expect("threads");
        let folder = self.fixture.path("runs").display().to_string();
        let until = Instant::now() + PATIENCE;
        loop {
            let storage = Storage::open(&folder).expect("the output");
            let found = runtime.block_on(async {
                let stored = Stored::find(&storage).await.ok()??;
                stored.history().await.ok()
            });
            if let Some(history) = found.filter(|history| wanted(history)) {
                return history;
            }
            assert!(Instant::now() < until, "the run is not as wanted");
            std::thread::sleep(POLL);
        }
    }

    /// Waits until a checkpoint after this step is committed.
    fn wait_for_checkpoint(&self, after: u64) {
        let newer = |f: &Fact| matches!(f, Fact::Checkpointed { step, .. } if *step >= after);
        self.history(|history| history.iter().any(newer));
    }

    /// Checks that the pods have ended well, with the model of an undisturbed run.
    fn assert_succeeded(&self, pods: [Process; 2]) {
        for pod in pods {
            pod.end_with_text(SUCCEEDED);
        }
        let model = self.fixture.path("runs").join("small-1").join("model");
        muster_tests::model::assert_bit_equal(
            &muster_tests::model::weights(&model),
            &UNDISTURBED.weights,
        );
    }
}

/// The steps at which the generations of a history began.
fn starts(history: &[Fact]) -> Vec<u64> {
    muster_tests::stored::starts(history)
}

#[test]
fn a_job_succeeds_and_so_does_every_pod() {
    let job = Job::new();
    job.assert_succeeded(job.pods());
    // A pod that is started once more finds that there is nothing to do.
    job.pod(0).end_with_text(SUCCEEDED);
}

#[test]
fn a_first_pod_that_is_killed_is_replaced_by_one_that_goes_on_with_the_run() {
    let job = Job::new();
    let [first, second] = job.pods();
    job.wait_for_checkpoint(8);
    first.signal(Signal::KILL);
    drop(first);
    job.assert_succeeded([job.pod(0), second]);
    let starts = starts(&job.history(|_| true));
    assert!(starts.len() == 2 && starts[1] >= 8, "{starts:?}");
}

#[test]
fn pods_that_are_preempted_leave_a_checkpoint_and_the_next_ones_repeat_no_step() {
    let job = Job::new();
    job.fixture.respec("{every: 8, keep: 100}", "{every: 10, keep: 100}");
    let pods = job.pods();
    job.wait_for_checkpoint(10);
    pods.iter().for_each(|pod| pod.signal(Signal::TERM));
    for pod in pods {
        pod.end_with_text(STOPPED);
    }
    let before = job.history(|_| true);
    let newest = muster_tests::stored::newest_commit(&before).expect("a checkpoint");
    assert!(!before.iter().any(|f| matches!(f, Fact::Succeeded { .. })), "it was too fast");
    job.assert_succeeded(job.pods());
    assert_eq!(*starts(&job.history(|_| true)).last().expect("a generation"), newest);
}

#[test]
fn a_first_pod_that_is_preempted_while_the_store_is_silent_leaves_at_once() {
    let job = Job::new();
    job.fixture.respec("./runs", "s3://bucket/runs");
    let store = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", store.local_addr().expect("an address"));
    let environment = [
        ("AWS_ENDPOINT_URL", url),
        ("AWS_ACCESS_KEY_ID", "key".into()),
        ("AWS_SECRET_ACCESS_KEY", "secret".into()),
    ];
    let pod = Process::start_in(&programs::coordinator(), &job.arguments(0), &environment);
    let _asked = store.accept().expect("the pod asks the store");
    pod.signal(Signal::TERM);
    pod.end_with_text(STOPPED);
}

/// What the server of Kubeflow Trainer got: the token and the status, and when.
static REPORTS: Mutex<Vec<(Instant, String, Value)>> = Mutex::new(Vec::new());

/// Takes a report, and fails at the first one.
fn take_report(request: &Request) -> Answer {
    let body = serde_json::from_slice(&request.body).expect("JSON");
    let token = request.headers.get("authorization").cloned().unwrap_or_default();
    let mut reports = REPORTS.lock().expect("no panic");
    reports.push((Instant::now(), token, body));
    let status = if reports.len() == 1 { 500 } else { 200 };
    Answer { status, ..Answer::default() }
}

#[test]
fn progress_is_reported_to_kubeflow_trainer_and_a_failure_costs_a_warning() {
    let job = Job::new();
    let (server, certificate) = serve_tls(take_report);
    job.fixture.write("ca.crt", &certificate);
    job.fixture.write("token", "first\n");
    let path = |name: &str| job.fixture.path(name).display().to_string();
    let environment = [
        ("KUBEFLOW_TRAINER_SERVER_URL", format!("https://localhost:{}/status", server.port())),
        ("KUBEFLOW_TRAINER_SERVER_CA_CERT", path("ca.crt")),
        ("KUBEFLOW_TRAINER_SERVER_TOKEN", path("token")),
    ];
    let first = Process::start_in(&programs::coordinator(), &job.arguments(0), &environment);
    let second = job.pod(1);
    let reports = || REPORTS.lock().expect("no panic").clone();
    let until = Instant::now() + PATIENCE;
    while reports().is_empty() {
        assert!(Instant::now() < until, "nothing is reported: {}", first.stderr());
        std::thread::sleep(POLL);
    }
    job.fixture.write("token", "second");
    first.wait_for_text("Kubeflow Trainer got no report of progress");
    job.assert_succeeded([first, second]);

    let all = reports();
    let (times, last) = (all.iter().map(|(at, ..)| *at), all.last().expect("reports"));
    let times: Vec<_> = times.take(all.len() - 1).collect();
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(4900)));
    assert_eq!((all[0].1.as_str(), last.1.as_str()), ("Bearer first", "Bearer second"));
    let status = &last.2["trainerStatus"];
    assert_eq!(
        (&status["progressPercentage"], &status["estimatedRemainingSeconds"]),
        (&100.into(), &0.into())
    );
    let loss = status["metrics"][0]["value"].as_str().and_then(|loss| loss.parse::<f64>().ok());
    assert_eq!((&status["metrics"][0]["name"], loss.is_some()), (&"loss".into(), true));
    assert!(all[0].2["trainerStatus"]["progressPercentage"].as_u64() < Some(100));
}

#[test]
fn a_run_that_fails_ends_every_pod_with_the_class_of_the_failure() {
    let job = Job::new();
    job.fixture.write("data.jsonl", "no record\n");
    for pod in job.pods() {
        let (_, stderr) = pod.end_with_text(DATA);
        assert!(!stderr.contains("panicked"), "{stderr}");
    }
    job.pod(0).end_with_text(DATA);
}

#[test]
fn a_failed_run_is_tried_again_by_the_next_job_and_not_by_another_pod() {
    let job = Job::new();
    let data = job.fixture.read("data.jsonl");
    job.fixture.write("data.jsonl", "no record\n");
    for pod in job.pods() {
        pod.end_with_text(DATA);
    }
    job.fixture.write("data.jsonl", &data);
    job.pod(0).end_with_text(DATA);
    let Some(first) = job.first_pod_of_the_next_job() else { return };
    job.assert_succeeded([first, job.pod(1)]);
}

//! Every alert fires under a real fault: with real programs, a real Prometheus (MUSTER_TEST_PROMETHEUS) and a real
//! store behind a proxy (MUSTER_TEST_WEED). The times in the rules are shortened, so that minutes become seconds.

use muster_tests::certs::Certs;
use muster_tests::http::ask;
use muster_tests::poisoned::{WORD, conversation, poison};
use muster_tests::pool::{address, folder, serve};
use muster_tests::process::PATIENCE;
use muster_tests::proxy::Proxy;
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use muster_tests::server::free_ports;
use muster_tests::{Fixture, Process, programs};
use proto::id::RunId;
use rustix::process::Signal;
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

const POLL: Duration = Duration::from_millis(200);
const TEST: &str = "every_alert_fires_under_its_fault";
/// What is shortened in the rules, in their order.
const SHORTER: [(&str, &str); 12] = [
    ("for: 10m", "for: 1s"),
    ("for: 5m", "for: 1s"),
    ("for: 2m", "for: 1s"),
    ("for: 1m", "for: 0s"),
    ("muster_storage_wait_seconds > 120", "muster_storage_wait_seconds > 2"),
    ("{reason=\"silent\"}[30m]", "{reason=\"silent\"}[90s]"),
    ("{phase=\"failed\"}[15m]", "{phase=\"failed\"}[30s]"),
    ("muster_run_training[15m]", "muster_run_training[3s]"),
    ("increase(muster_run_steps_total[15m])", "increase(muster_run_steps_total[3s])"),
    ("rate(muster_run_steps_total[15m]) > 0) > 3600", "rate(muster_run_steps_total[5s]) > 0) > 1"),
    ("regroups_total[1h]", "regroups_total[90s]"),
    ("skipped_steps_total[1h]", "skipped_steps_total[90s]"),
];

/// A running Prometheus.
struct Prometheus {
    address: SocketAddr,
    /// The alerts that have not fired yet.
    silent: RefCell<BTreeSet<String>>,
    _process: Process,
}

impl Prometheus {
    /// Starts it with the shortened rules. `plain` is scraped over HTTP, `secure` over HTTPS.
    fn start(program: &Path, folder: &Path, plain: u16, (secure, authority): (u16, &str)) -> Self {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
        let rules = std::fs::read_to_string(deploy.join("monitoring/alerts.yaml")).expect("rules");
        let rules = SHORTER.iter().fold(rules, |rules, (long, short)| {
            assert!(rules.contains(long), "`{long}` is not in the rules");
            rules.replace(long, short)
        });
        let write = |name: &str, text: &str| {
            std::fs::write(folder.join(name), text).expect("the folder can be written");
        };
        let names = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
        let silent = RefCell::new(names.map(str::to_owned).collect());
        write("alerts.yaml", &rules);
        write(
            "prometheus.yml",
            &format!(
                "global: {{scrape_interval: 500ms, scrape_timeout: 400ms, evaluation_interval: 500ms}}\n\
                 rule_files: [alerts.yaml]\n\
                 scrape_configs:\n\
                 - job_name: muster-plain\n\
                 \x20 static_configs: [{{targets: ['127.0.0.1:{plain}']}}]\n\
                 - job_name: muster-secure\n\
                 \x20 scheme: https\n\
                 \x20 tls_config: {{ca_file: '{authority}', server_name: localhost}}\n\
                 \x20 static_configs: [{{targets: ['127.0.0.1:{secure}']}}]\n"
            ),
        );
        let [port] = free_ports();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let path = |name: &str| folder.join(name).display().to_string();
        let arguments = [
            format!("--config.file={}", path("prometheus.yml")),
            format!("--storage.tsdb.path={}", path("data")),
            format!("--web.listen-address={address}"),
        ];
        let process = Process::start(program, &arguments);
        process.wait_for_text("Server is ready to receive web requests");
        Self { address, silent, _process: process }
    }

    /// Whether an alert fires now.
    fn fires(&self, alert: &str) -> bool {
        let answer = ask(self.address, "GET", "/api/v1/alerts", b"");
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        let alerts = answer["data"]["alerts"].as_array().expect("a list");
        alerts.iter().any(|a| a["labels"]["alertname"] == alert && a["state"] == "firing")
    }

    /// Waits until the alert fires while `fault` is repeated.
    fn wait(&self, alert: &str, mut fault: impl FnMut()) {
        let began = Instant::now();
        while !self.fires(alert) {
            assert!(began.elapsed() < PATIENCE, "{alert} does not fire");
            fault();
            std::thread::sleep(POLL);
        }
        assert!(self.silent.borrow_mut().remove(alert), "{alert} is no alert");
        println!("{alert} fires after {:.1} s", began.elapsed().as_secs_f64());
    }
}

/// A pool in a folder, without credentials.
struct Plain {
    fixture: Fixture,
    listen: String,
    web: String,
    coordinator: Process,
    worker: Process,
}

impl Plain {
    fn start(web: u16) -> Self {
        let fixture = Fixture::new();
        let [port] = free_ports();
        let (listen, web) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{web}"));
        let coordinator = serve(&folder(&fixture), &listen, &["--web", &web], &[]);
        let url = address(&coordinator);
        let worker = ["--coordinator", &url, "--devices", "cpu:2", "--name", "hand"];
        let worker = Process::start(&programs::worker(), &worker);
        Self { fixture, listen, web, coordinator, worker }
    }

    fn ask(&self, arguments: &[&str]) -> Vec<Value> {
        let url = format!("http://{}", self.listen);
        let all = [arguments, &["--coordinator", &url, "--json"]].concat();
        let ended = Process::start(&programs::coordinator(), &all).end().with_code(0);
        ended.events.into_iter().map(|event| event.0).collect()
    }

    /// Submits a run of `fixture` with a change of its spec; returns its name.
    fn submit(&self, fixture: &Fixture, (old, new): (&str, &str)) -> String {
        let spec = fixture.read("spec.yaml");
        assert!(spec.contains(old), "`{old}` in {spec}");
        fixture.write("other.yaml", &spec.replace(old, new));
        let spec = fixture.path("other.yaml").display().to_string();
        let submitted = self.ask(&["submit", &spec, "--no-check"]);
        submitted[0]["run"].as_str().expect("a name").to_owned()
    }

    /// Causes a fault of the ranks, and waits until the run trains on both of them again.
    fn disturb(&self, run: &str, fault: impl FnOnce(&Self)) {
        let status = || self.ask(&["status", run]).remove(0);
        let before = status()["generation"].as_u64();
        fault(self);
        let until = Instant::now() + PATIENCE;
        loop {
            let status = status();
            let members = status["workers"].as_array().map_or(0, Vec::len);
            let is_next = status["generation"].as_u64() > before;
            if is_next && status["phase"] == "training" && members == 2 {
                return;
            }
            assert!(Instant::now() < until, "{run} does not train on two ranks: {status}");
            std::thread::sleep(POLL);
        }
    }

    /// Stops a rank until its lease has ended, and then kills it.
    fn silence_a_rank(&self) {
        self.worker.signal_to("--slot hand-1 ", Signal::STOP);
        let until = Instant::now() + PATIENCE;
        let is_missed = || {
            let workers = self.ask(&["list", "--workers"]);
            let rank = workers.iter().find(|worker| worker["worker"] == "hand-1");
            rank.is_none_or(|worker| worker["state"] == "disconnected")
        };
        while !is_missed() {
            assert!(Instant::now() < until, "the rank is not missed");
            std::thread::sleep(POLL);
        }
        self.worker.kill("--slot hand-1 ");
    }
}

#[test]
fn every_alert_fires_under_its_fault() {
    let Some(program) = std::env::var_os("MUSTER_TEST_PROMETHEUS") else {
        println!("{TEST}: skipped, MUSTER_TEST_PROMETHEUS is not set");
        return;
    };
    let Some(store) = SeaweedFs::start(TEST) else { return };
    let proxy = Proxy::start(store.address());
    let [plain_web, secure_web, secure_port] = free_ports();

    // The other coordinator has a certificate for a day, and its store is behind the proxy.
    let certs = Certs::new(&["--days", "1"]);
    let own = certs.folder("coordinator");
    let (listen, web) = (format!("127.0.0.1:{secure_port}"), format!("127.0.0.1:{secure_web}"));
    let environment = SeaweedFs::environment_at(proxy.address());
    let more = ["--credentials", &own, "--web", &web];
    let secure = serve(&format!("s3://{BUCKET}/pool"), &listen, &more, &environment);
    address(&secure);
    let pool = Plain::start(plain_web);
    let files = tempfile::tempdir().expect("a temporary folder");
    let authority = format!("{}/ca.crt", certs.folder("worker"));
    let secured = (secure_web, authority.as_str());
    let prometheus = Prometheus::start(Path::new(&program), files.path(), plain_web, secured);

    prometheus.wait("MusterCertificateExpires", || {});
    let every = "checkpoint: {every: 8, keep: 100}";
    pool.fixture.long();
    let long = pool.submit(&pool.fixture, (every, "checkpoint: {every: 100000, keep: 1}"));
    prometheus.wait("MusterCheckpointOld", || {});
    prometheus.wait("MusterRunStalled", || {
        pool.worker.signal_to("--slot hand-0 ", Signal::STOP);
        pool.worker.signal_to("--slot hand-1 ", Signal::STOP);
    });
    pool.disturb(&long, |pool| {
        pool.worker.kill("--slot hand-0 ");
        pool.worker.kill("--slot hand-1 ");
    });
    prometheus.wait("MusterLeasesMissed", || pool.disturb(&long, Plain::silence_a_rank));
    // A slot that crashes too often is given up.
    let mut slots = ["--slot hand-0 ", "--slot hand-1 "].into_iter().cycle();
    prometheus.wait("MusterRegroupsOften", || {
        let slot = slots.next().expect("endless");
        pool.disturb(&long, |pool| pool.worker.kill(slot));
    });
    pool.ask(&["cancel", &long]);

    let broken = ("source: ./data.jsonl", "source: ./missing.jsonl");
    let failed = pool.submit(&pool.fixture, broken);
    prometheus.wait("MusterRunFailed", || {});
    let poisoned = Fixture::new();
    poison(&poisoned);
    poisoned.write("data.jsonl", &(poisoned.read("data.jsonl") + &conversation(WORD) + "\n"));
    let output = format!("output: {}", folder(&pool.fixture));
    let skipping = pool.submit(&poisoned, ("output: ./runs", &output));
    prometheus.wait("MusterStepsSkipped", || {});
    pool.ask(&["cancel", &skipping]);

    let url = format!("http://{}", pool.listen);
    let arguments = ["--coordinator", &url, "--devices", "cpu", "--name", "limited"];
    let allow = [("MUSTER_ALLOW", "/nowhere".to_owned())];
    let _limited = Process::start_in(&programs::worker(), &arguments, &allow);
    pool.submit(&pool.fixture, ("name: small", "name: wide\nworkers: {min: 3, max: 3}"));
    prometheus.wait("MusterWorkersTroubled", || {});

    proxy.set_away(true);
    let user = certs.folder("user");
    let spec = pool.fixture.read("spec.yaml").replace("./runs", &format!("s3://{BUCKET}/pool"));
    pool.fixture.write("stored.yaml", &spec);
    let spec = pool.fixture.path("stored.yaml").display().to_string();
    let url = format!("https://127.0.0.1:{secure_port}");
    let submit = ["submit", &spec, "--coordinator", &url, "--credentials", &user, "--no-check"];
    let submitting = Process::start(&programs::coordinator(), &submit);
    prometheus.wait("MusterStorageWaits", || {});
    drop((submitting, secure));
    prometheus.wait("MusterCoordinatorDown", || {});

    // An entry of a run's journal is damaged while no coordinator runs.
    let Plain { fixture, listen, web, coordinator, worker } = pool;
    drop((worker, coordinator));
    prometheus.wait("MusterMetricsAbsent", || {});
    let entry = fixture.path("runs").join(proto::key::journal(&RunId::new(failed)));
    let entry = muster_tests::fixture::files(&entry).into_iter().min().map(|name| entry.join(name));
    std::fs::write(entry.expect("an entry"), "{damaged").expect("it can be written");
    let _again = serve(&folder(&fixture), &listen, &["--web", &web], &[]);
    prometheus.wait("MusterRunUnreadable", || {});
    assert_eq!(*prometheus.silent.borrow(), BTreeSet::new(), "every alert has its fault");
}

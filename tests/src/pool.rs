//! A standing coordinator and workers started by hand.

use crate::certs::Certs;
use crate::fixture::LONG;
use crate::process::PATIENCE;
use crate::server::free_ports;
use crate::{Ended, Event, Fixture, Process, programs};
use rustix::process::Signal;

/// A coordinator and its workers.
pub struct Pool {
    /// The coordinator.
    pub coordinator: Process,
    /// The supervisor of the two slots `hand-0` and `hand-1`.
    pub workers: Option<Process>,
    /// URL of the coordinator.
    pub url: String,
    /// The credentials of everybody, if the coordinator asks for any.
    pub certs: Option<Certs>,
}

impl Pool {
    /// Starts both, with the output of `fixture`.
    pub fn start(fixture: &Fixture) -> Self {
        Self::start_in(&folder(fixture), &[])
    }

    /// Starts both, with any output.
    pub fn start_in(output: &str, environment: &[(&'static str, String)]) -> Self {
        let [port] = free_ports();
        let listen = format!("127.0.0.1:{port}");
        let coordinator = serve(output, &listen, &[], environment);
        let url = address(&coordinator);
        let workers = ["--coordinator", &url, "--devices", "cpu:2", "--name", "hand"];
        let workers = Some(Process::start_in(&programs::worker(), &workers, environment));
        Self { coordinator, workers, url, certs: None }
    }

    /// Starts a coordinator and workers that use these credentials. `more` are arguments for the coordinator.
    pub fn start_with(certs: Certs, fixture: &Fixture, more: &[&str]) -> Self {
        let [port] = free_ports();
        let listen = format!("127.0.0.1:{port}");
        let (own, worker) = (certs.folder("coordinator"), certs.folder("worker"));
        let more = [&["--credentials", &own], more].concat();
        let coordinator = serve(&folder(fixture), &listen, &more, &[]);
        let url = address(&coordinator);
        let workers = ["--coordinator", &url, "--devices", "cpu:2", "--name", "hand"];
        let workers = [&workers[..], &["--credentials", &worker]].concat();
        let workers = Some(Process::start(&programs::worker(), &workers));
        Self { coordinator, workers, url, certs: Some(certs) }
    }

    /// Starts a user's command against the coordinator, with `--json`.
    pub fn ask(&self, arguments: &[&str]) -> Process {
        match &self.certs {
            Some(certs) => self.ask_with(&certs.folder("user"), arguments),
            None => self.ask_plain(arguments),
        }
    }

    /// The same with the credentials in `folder`.
    pub fn ask_with(&self, folder: &str, arguments: &[&str]) -> Process {
        self.ask_plain(&[arguments, &["--credentials", folder]].concat())
    }

    /// The same without credentials.
    pub fn ask_plain(&self, arguments: &[&str]) -> Process {
        let mut all = arguments.to_vec();
        all.extend(["--coordinator", &self.url, "--json"]);
        Process::start(&programs::coordinator(), &all)
    }

    /// Submits the fixture's run and returns its name.
    pub fn submit(&self, fixture: &Fixture, key: &str) -> String {
        let spec = fixture.path("spec.yaml");
        let spec = spec.to_str().expect("a temporary path");
        let ended = self.ask(&["submit", spec, "--idempotency-key", key]).end().with_code(0);
        let [Event(answer)] = &ended.events[..] else { panic!("one answer: {:?}", ended.events) };
        answer["run"].as_str().expect("a name").to_owned()
    }

    /// The status of a run.
    pub fn status(&self, run: &str) -> Event {
        let ended = self.ask(&["status", run]).end().with_code(0);
        let [status] = &ended.events[..] else { panic!("one status: {:?}", ended.events) };
        status.clone()
    }

    /// Kills the coordinator and starts another one at the same address.
    pub fn restart_coordinator(&mut self, fixture: &Fixture) {
        self.coordinator.signal(Signal::KILL);
        assert_eq!(self.coordinator.remaining_within(PATIENCE), [""; 0]);
        let address = self.url.strip_prefix("http://").expect("http");
        self.coordinator = serve(&folder(fixture), address, &[], &[]);
        self.coordinator.wait_for_line("coordinator at ");
    }

    /// The workers' supervisor.
    pub fn workers(&self) -> &Process {
        self.workers.as_ref().expect("they have not been stopped")
    }
}

/// The output of `fixture`.
pub fn folder(fixture: &Fixture) -> String {
    fixture.path("runs").display().to_string()
}

/// Starts a coordinator with an output.
pub fn serve(
    output: &str,
    listen: &str,
    more: &[&str],
    environment: &[(&'static str, String)],
) -> Process {
    let all = [&["serve", "--listen", listen, "--output", output], more].concat();
    Process::start_in(&programs::coordinator(), &all, environment)
}

/// The URL that a coordinator prints.
pub fn address(coordinator: &Process) -> String {
    let line = coordinator.wait_for_line("coordinator at ");
    line.split(',').next().expect("an address, then the output").to_owned()
}

/// Makes the run use both workers of the pool.
pub fn for_two(fixture: &Fixture) {
    fixture.respec("name: small", "name: small\nworkers: {min: 2, max: 2}");
}

/// Checks that no step is missing or repeated, from the first one that the new coordinator of a long run recorded.
pub fn assert_each_step_once(watched: &Ended) {
    let steps: Vec<_> = watched.all("step").iter().map(|e| e.count("step")).collect();
    let first = *steps.first().expect("steps after the restart");
    assert_eq!(steps, (first..=LONG).collect::<Vec<_>>());
}

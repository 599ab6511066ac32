//! Startup, readiness and liveness probes of container processes.
//!
//! `exec`, `httpGet` and `tcpSocket` are evaluated. gRPC probes fail, and an event says why.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::clock::Clock;
use crate::json::Json;
use crate::kubelet::https;
use crate::kubelet::report::{ProbeKind, Report, Reporter, RunId};
use crate::kubelet::start::{ContainerStart, Hook};

/// Bytes that are read of the answer to an HTTP probe.
const ANSWER_LIMIT_BYTES: u64 = 1024;

/// The probes of one container run.
#[derive(Clone)]
pub(crate) struct Prober {
    pub(crate) id: RunId,
    pub(crate) container: Value,
    pub(crate) start: Arc<ContainerStart>,
    pub(crate) hook: Hook,
    pub(crate) clock: Clock,
    pub(crate) reporter: Reporter,
}

impl Prober {
    /// Probes until the container ends; the task is aborted then.
    pub(crate) async fn run(self) {
        if self.container.has("startupProbe") {
            let started = self.first_verdict("startupProbe").await;
            self.reporter.send(Report::Probed(self.id.clone(), ProbeKind::Startup, started)).await;
            if !started {
                return;
            }
        }
        let readiness = self.clone().watch("readinessProbe", ProbeKind::Readiness);
        let liveness = self.watch("livenessProbe", ProbeKind::Liveness);
        futures::future::join(readiness, liveness).await;
    }

    /// The first verdict of a probe that has its thresholds met.
    async fn first_verdict(&self, field: &str) -> bool {
        let probe = self.container.at(field);
        let mut counter = Counter::new(probe, None);
        self.clock.sleep(seconds(probe, "initialDelaySeconds")).await;
        loop {
            if let Some(verdict) = counter.count(self.check(probe).await) {
                return verdict;
            }
            self.clock.sleep(seconds(probe, "periodSeconds")).await;
        }
    }

    /// Reports every change of a probe's verdict.
    async fn watch(self, field: &str, kind: ProbeKind) {
        let probe = self.container.at(field);
        if probe.is_null() {
            return;
        }
        // A container is alive until its probe says otherwise, and unready until its probe says otherwise.
        let mut counter = Counter::new(probe, Some(kind == ProbeKind::Liveness));
        self.clock.sleep(seconds(probe, "initialDelaySeconds")).await;
        loop {
            if let Some(verdict) = counter.count(self.check(probe).await) {
                self.reporter.send(Report::Probed(self.id.clone(), kind, verdict)).await;
            }
            self.clock.sleep(seconds(probe, "periodSeconds")).await;
        }
    }

    async fn check(&self, probe: &Value) -> bool {
        // The process takes real time to answer, so the timeout is real time too.
        tokio::time::timeout(seconds(probe, "timeoutSeconds"), self.attempt(probe))
            .await
            .unwrap_or(false)
    }

    async fn attempt(&self, probe: &Value) -> bool {
        if probe.has("grpc") {
            false
        } else if probe.has("exec") {
            self.exec(probe.list("exec.command")).await
        } else if probe.has("httpGet") {
            self.http(probe.at("httpGet")).await
        } else {
            self.connect(probe.at("tcpSocket")).await.is_some()
        }
    }

    async fn exec(&self, command: &[Value]) -> bool {
        let mut start = ContainerStart::clone(&self.start);
        start.command = command.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        start.args = Vec::new();
        start.probe = true;
        (self.hook)(&start)
            .kill_on_drop(true)
            .output()
            .await
            .is_ok_and(|output| output.status.success())
    }

    async fn connect(&self, target: &Value) -> Option<TcpStream> {
        let host = target
            .text("host")
            .and_then(|host| host.parse::<IpAddr>().ok())
            .unwrap_or(self.start.pod_ip);
        let port = match target.at("port") {
            Value::String(name) => {
                let named =
                    self.container.list("ports").iter().find(|port| port.str("name") == name);
                named?.int("containerPort")?
            }
            number => number.as_i64()?,
        };
        TcpStream::connect((host, u16::try_from(port).ok()?)).await.ok()
    }

    async fn http(&self, target: &Value) -> bool {
        let Some(stream) = self.connect(target).await else { return false };
        if target.text("scheme") != Some("HTTPS") {
            return self.ask(stream, target).await;
        }
        match https::secure(stream, self.start.pod_ip).await {
            Ok(stream) => self.ask(stream, target).await,
            Err(_) => false,
        }
    }

    async fn ask(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin, target: &Value) -> bool {
        let mut request = format!(
            "GET {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: kube-probe/1.34\r\nAccept: */*\r\nConnection: close\r\n",
            target.str("path"),
            self.start.pod_ip
        );
        for header in target.list("httpHeaders") {
            request.push_str(&format!("{}: {}\r\n", header.str("name"), header.str("value")));
        }
        request.push_str("\r\n");
        let mut answer = String::new();
        let sent = stream.write_all(request.as_bytes()).await.is_ok();
        let read = stream.take(ANSWER_LIMIT_BYTES).read_to_string(&mut answer).await;
        let code = answer.split_whitespace().nth(1).and_then(|code| code.parse::<u16>().ok());
        sent && (read.is_ok() || code.is_some())
            && code.is_some_and(|code| (200..400).contains(&code))
    }
}

fn seconds(probe: &Value, field: &str) -> Duration {
    Duration::from_secs(
        probe.int(field).and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(0),
    )
}

/// Counts results until a threshold is met.
struct Counter {
    verdict: Option<bool>,
    last: bool,
    run: i64,
    successes: i64,
    failures: i64,
}

impl Counter {
    fn new(probe: &Value, verdict: Option<bool>) -> Self {
        let threshold = |field: &str| probe.int(field).unwrap_or(1);
        let (successes, failures) = (threshold("successThreshold"), threshold("failureThreshold"));
        Self { verdict, last: false, run: 0, successes, failures }
    }

    /// The verdict, if this result changes it.
    fn count(&mut self, result: bool) -> Option<bool> {
        self.run = if result == self.last { self.run + 1 } else { 1 };
        self.last = result;
        let threshold = if result { self.successes } else { self.failures };
        if self.run < threshold || self.verdict == Some(result) {
            return None;
        }
        self.verdict = Some(result);
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn verdicts_change_at_their_thresholds() {
        let probe = json!({"successThreshold": 2, "failureThreshold": 3});
        let mut counter = Counter::new(&probe, Some(false));
        let results = [true, true, true, false, false, true, false, false, false, false];
        let changes: Vec<Option<bool>> =
            results.iter().map(|result| counter.count(*result)).collect();
        let (none, ready, unready) = (None, Some(true), Some(false));
        assert_eq!(changes, [none, ready, none, none, none, none, none, none, unready, none]);
    }
}

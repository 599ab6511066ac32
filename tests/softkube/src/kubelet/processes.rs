//! The kubelet that runs containers as local processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::clock::Time;
use crate::json::Json;
use crate::kubelet::agent::{Host, Kubelet};
use crate::kubelet::manual;
use crate::kubelet::mounts;
use crate::kubelet::probe::Prober;
use crate::kubelet::report::{ProbeKind, Report, Reporter, RunId};
use crate::kubelet::run::{self, Process};
use crate::kubelet::start::Hook;
use crate::kubelet::status::{self, Exit};
use crate::kubelet::volumes::{self, Disk};
use crate::pods;
use crate::registry::{Note, Registry, Target};
use crate::signals::Signals;

/// Reports that wait for the kubelet.
const REPORTS_LIMIT: usize = 4096;
const MESSAGE_LIMIT_BYTES: usize = 4096;

/// The kubelets of all nodes.
pub(crate) struct Processes {
    hook: Hook,
    server: SocketAddr,
    root: PathBuf,
    pods: BTreeMap<String, PodRun>,
    reporter: Reporter,
    reports: mpsc::Receiver<Report>,
    /// Reports of silent nodes.
    held_back: Vec<Report>,
}

/// A pod that was taken on.
#[derive(Default)]
struct PodRun {
    node: String,
    disk: Disk,
    running: BTreeMap<String, ContainerRun>,
    asked_to_end: bool,
    /// What the pod waits for; told once.
    complaints: BTreeSet<String>,
}

struct ContainerRun {
    id: RunId,
    process: Process,
    termination_log: PathBuf,
    prober: Option<AbortHandle>,
    /// When a container that failed its liveness probe is killed.
    kill_at: Option<Time>,
}

impl Drop for ContainerRun {
    fn drop(&mut self) {
        if let Some(prober) = &self.prober {
            prober.abort();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for run in self.pods.values().flat_map(|pod| pod.running.values()) {
            run.process.kill();
        }
        // What cannot be removed is left in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.root);
    }
}

impl Processes {
    /// The kubelets of a cluster whose API server listens at `server`, with pods below the folder `root`.
    pub(crate) fn new(
        hook: Hook,
        signals: &Arc<Signals>,
        server: SocketAddr,
        root: PathBuf,
    ) -> Self {
        let (sender, reports) = mpsc::channel(REPORTS_LIMIT);
        let reporter = Reporter { reports: sender, signals: signals.clone() };
        Self { hook, server, root, pods: BTreeMap::new(), reporter, reports, held_back: Vec::new() }
    }

    /// Acts on reports; those of silent nodes wait until the node returns.
    fn receive(&mut self, host: &mut Host<'_>) {
        let mut reports = std::mem::take(&mut self.held_back);
        while let Ok(report) = self.reports.try_recv() {
            reports.push(report);
        }
        for report in reports {
            let (Report::Line(id, _) | Report::Exited(id, _) | Report::Probed(id, ..)) = &report;
            if self.pods.get(&id.uid).is_some_and(|run| host.silent.contains(&run.node)) {
                self.held_back.push(report);
                continue;
            }
            match report {
                Report::Line(id, text) => {
                    let now = host.registry.now();
                    host.logs.append(&id.uid, &id.container, now, &text);
                }
                Report::Exited(id, exit) => self.note_exit(host, &id, exit),
                Report::Probed(id, kind, healthy) => self.note_probe(host, &id, kind, healthy),
            }
        }
    }

    /// Writes how a container ended.
    fn note_exit(&mut self, host: &mut Host<'_>, id: &RunId, mut exit: Exit) {
        let Some(run) =
            self.pods.get_mut(&id.uid).and_then(|pod| pod.running.remove(&id.container))
        else {
            return;
        };
        host.logs.end(&id.uid, &id.container);
        let message = fs::read(&run.termination_log).unwrap_or_default();
        let kept = &message[..message.len().min(MESSAGE_LIMIT_BYTES)];
        exit.message = String::from_utf8_lossy(kept).into_owned();
        let Some(pod) = find(host.registry, &id.uid) else { return };
        let now = host.registry.now();
        let last_lines =
            host.logs.get(&id.uid, &id.container).map(|log| log.lines.clone()).unwrap_or_default();
        if exit.message.is_empty() && exit.code != 0 && falls_back_to_logs(&pod, &id.container) {
            let lines: Vec<&str> =
                last_lines.iter().rev().take(80).map(|line| line.text.as_str()).collect();
            exit.message = lines.into_iter().rev().collect::<Vec<_>>().join("\n");
        }
        // The pod was just found, so the update cannot fail.
        let _ = host.registry.force(Target::of("pods", &pod), &manual::write(), |pod| {
            status::set_terminated(pod, &id.container, &exit, now);
            let init =
                pod.list("spec.initContainers").iter().any(|one| one.str("name") == id.container);
            let again = if init {
                exit.code != 0 && pod.str("spec.restartPolicy") != "Never"
            } else {
                status::restarts(pod, exit.code.into())
            };
            if again && !pods::is_deleting(pod) {
                status::set_crash_loop(pod, &id.container);
            }
            status::settle(pod, now);
        });
    }

    fn note_probe(&mut self, host: &mut Host<'_>, id: &RunId, kind: ProbeKind, healthy: bool) {
        let run = self.pods.get_mut(&id.uid).and_then(|pod| pod.running.get_mut(&id.container));
        let Some(run) = run.filter(|run| run.id == *id) else { return };
        let Some(pod) = find(host.registry, &id.uid) else { return };
        let now = host.registry.now();
        if !healthy && kind != ProbeKind::Readiness {
            let message =
                format!("Container {} failed {kind:?} probe, will be restarted", id.container);
            let note =
                Note { component: "kubelet", kind: "Normal", reason: "Killing", message: &message };
            host.registry.record(&pod, note);
            let grace = pod
                .int("spec.terminationGracePeriodSeconds")
                .and_then(|one| u64::try_from(one).ok());
            run.kill_at = Some(now.after(std::time::Duration::from_secs(grace.unwrap_or(30))));
            run.process.terminate();
            return;
        }
        let probed = pod.list("spec.containers").iter().find(|one| one.str("name") == id.container);
        let has_readiness = probed.is_some_and(|container| container.has("readinessProbe"));
        let ready = healthy && (kind == ProbeKind::Readiness || !has_readiness);
        // The pod was just found, so the update cannot fail.
        let _ = host.registry.force(Target::of("pods", &pod), &manual::write(), |pod| {
            for one in pod
                .list_mut("status.containerStatuses")
                .iter_mut()
                .filter(|one| one.str("name") == id.container)
            {
                one.put("started", true);
                if kind != ProbeKind::Liveness {
                    one.put("ready", ready);
                }
            }
            status::settle(pod, now);
        });
    }

    /// Ends a deleted pod: asks, waits for the grace, kills, and removes it when nothing runs any more.
    fn terminate(&mut self, host: &mut Host<'_>, pod: &Value) -> Option<Time> {
        let uid = pod.str("metadata.uid");
        let now = host.registry.now();
        let run = self.pods.entry(uid.to_owned()).or_default();
        if run.running.is_empty() {
            let waits_for_others =
                pods::is_terminal(pod) && pod.int("metadata.deletionGracePeriodSeconds") == Some(0);
            if !waits_for_others {
                manual::finish(host.registry, pod, &[]);
            }
            return None;
        }
        if !run.asked_to_end {
            run.asked_to_end = true;
            run.running.values().for_each(|run| run.process.terminate());
        }
        let deadline = Time::parse(pod.str("metadata.deletionTimestamp")).unwrap_or(now);
        if now < deadline {
            return Some(deadline);
        }
        run.running.values().for_each(|run| run.process.kill());
        None
    }

    /// Starts what may start: the next init container, or all containers that are not waiting for their back-off.
    fn advance(&mut self, host: &mut Host<'_>, pod: &Value) -> Option<Time> {
        let now = host.registry.now();
        let uid = pod.str("metadata.uid");
        let run = self.pods.entry(uid.to_owned()).or_default();
        if run.disk.folder.as_os_str().is_empty() {
            run.disk.folder = self.root.join(uid);
            run.node = pod.str("spec.nodeName").to_owned();
        }
        let mut due = volumes::renewal(&run.disk.tokens);
        if let Err(problem) = mounts::sync(host, pod, &mut run.disk) {
            if run.complaints.insert(problem.clone()) {
                let note = Note {
                    component: "kubelet",
                    kind: "Warning",
                    reason: "FailedMount",
                    message: &problem,
                };
                host.registry.record(pod, note);
            }
            return due;
        }
        for run in run.running.values() {
            match run.kill_at {
                Some(at) if at <= now => run.process.kill(),
                at => due = due.into_iter().chain(at).min(),
            }
        }
        for name in startable(pod) {
            if self.pods.get(uid).is_some_and(|run| run.running.contains_key(&name)) {
                continue;
            }
            let wait =
                status::container(pod, &name).and_then(status::restart_time).filter(|at| *at > now);
            match wait {
                Some(at) => due = due.into_iter().chain([at]).min(),
                None => self.start(host, pod, &name),
            }
        }
        due
    }

    fn start(&mut self, host: &mut Host<'_>, pod: &Value, name: &str) {
        let now = host.registry.now();
        let uid = pod.str("metadata.uid");
        let Some(run) = self.pods.get_mut(uid) else { return };
        let server = self.server;
        let target = Target::of("pods", pod);
        let start = match mounts::container_start(host.registry, pod, name, &run.disk, server) {
            Ok(start) => Arc::new(start),
            Err(problem) => {
                // The pod was just listed, so the update cannot fail.
                let _ = host.registry.force(target, &manual::write(), |pod| {
                    status::set_waiting(pod, name, "CreateContainerConfigError", &problem);
                });
                return;
            }
        };
        let id =
            RunId { uid: uid.to_owned(), container: name.to_owned(), restarts: start.restarts };
        host.logs.start(uid, name, start.restarts > 0);
        match run::spawn((self.hook)(&start), id.clone(), self.reporter.clone()) {
            Ok(process) => {
                let prober = probed(pod, name).map(|container| {
                    let prober = Prober {
                        id: id.clone(),
                        container,
                        start: start.clone(),
                        hook: self.hook.clone(),
                        clock: host.registry.clock.clone(),
                        reporter: self.reporter.clone(),
                    };
                    tokio::spawn(prober.run()).abort_handle()
                });
                let termination_log = start.termination_log.clone();
                run.running.insert(
                    name.to_owned(),
                    ContainerRun { id, process, termination_log, prober, kill_at: None },
                );
                let _ = host.registry.force(target, &manual::write(), |pod| {
                    status::set_running(pod, name, now);
                    status::settle(pod, now);
                });
            }
            Err(error) => {
                let exit = Exit {
                    reason: Some("StartError"),
                    message: error.to_string(),
                    ..Exit::code(128)
                };
                let _ = host.registry.force(target, &manual::write(), |pod| {
                    status::set_terminated(pod, name, &exit, now);
                    if status::restarts(pod, exit.code.into()) {
                        status::set_crash_loop(pod, name);
                    }
                    status::settle(pod, now);
                });
            }
        }
    }

    /// Kills the processes of pods that were removed without the kubelet.
    fn drop_removed(&mut self, host: &Host<'_>) {
        let exists: BTreeSet<String> = host
            .registry
            .list("pods", "")
            .iter()
            .map(|pod| pod.str("metadata.uid").to_owned())
            .collect();
        self.pods.retain(|uid, run| {
            if exists.contains(uid) || host.silent.contains(&run.node) {
                return true;
            }
            run.running.values().for_each(|run| run.process.kill());
            // A folder that is still in use goes with the whole root.
            let _ = fs::remove_dir_all(&run.disk.folder);
            false
        });
    }
}

fn find(registry: &Registry, uid: &str) -> Option<Arc<Value>> {
    registry.list("pods", "").into_iter().find(|pod| pod.str("metadata.uid") == uid)
}

fn falls_back_to_logs(pod: &Value, container: &str) -> bool {
    let spec = pod.list("spec.containers").iter().find(|one| one.str("name") == container);
    spec.is_some_and(|spec| spec.text("terminationMessagePolicy") == Some("FallbackToLogsOnError"))
}

/// The containers that may run now and do not.
fn startable(pod: &Value) -> Vec<String> {
    let waiting = status::in_state(pod, "waiting");
    let mut inits = pod.list("spec.initContainers").iter();
    let next_init = inits.find(|one| {
        let code = status::container(pod, one.str("name"))
            .and_then(|status| status.int("state.terminated.exitCode"));
        code != Some(0)
    });
    let names: Vec<&str> = match next_init {
        Some(init) => vec![init.str("name")],
        None => pod.list("spec.containers").iter().map(|one| one.str("name")).collect(),
    };
    names
        .into_iter()
        .filter(|name| waiting.iter().any(|one| one == name))
        .map(str::to_owned)
        .collect()
}

/// The container, if it has probes.
fn probed(pod: &Value, name: &str) -> Option<Value> {
    let container = pod.list("spec.containers").iter().find(|one| one.str("name") == name)?;
    let fields = ["startupProbe", "readinessProbe", "livenessProbe"];
    fields.iter().any(|field| container.has(field)).then(|| container.clone())
}

impl Kubelet for Processes {
    fn step(&mut self, host: &mut Host<'_>) -> Option<Time> {
        self.receive(host);
        let mut due: Vec<Time> = Vec::new();
        for pod in host.pods() {
            if pods::is_deleting(&pod) {
                due.extend(self.terminate(host, &pod));
            } else if !pod.has("status.startTime") {
                manual::take_on(host.registry, &pod);
            } else if !pods::is_terminal(&pod) {
                due.extend(self.advance(host, &pod));
            }
        }
        self.drop_removed(host);
        due.into_iter().min()
    }

    fn kill_node(&mut self, node: &str) {
        for run in
            self.pods.values().filter(|run| run.node == node).flat_map(|run| run.running.values())
        {
            run.process.kill();
        }
    }
}

/// The folder of a cluster's pods, among the temporary files.
pub(crate) fn root(seed: u64) -> PathBuf {
    let number = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_nanos();
    std::env::temp_dir()
        .join(Path::new(&format!("softkube-{}-{seed}-{number}", std::process::id())))
}

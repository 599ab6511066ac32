//! The kubelet that the test moves.
//!
//! By itself it only takes scheduled pods on, restarts containers whose back-off ended, and ends deleted pods. A
//! container answers SIGTERM at once, unless the test made its pod ignore it; then it is killed after the grace.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::clock::Time;
use crate::delete::DeleteOptions;
use crate::error::ApiError;
use crate::json::Json;
use crate::kubelet::agent::{Host, Kubelet};
use crate::kubelet::status::{self, Exit};
use crate::pods;
use crate::registry::{Registry, Target, Write};

const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);
const PULL_DELAY: Duration = Duration::from_secs(10);
const PULL_DELAY_MAX: Duration = Duration::from_secs(300);
const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

/// What the manual kubelet remembers, by pod uid.
#[derive(Debug, Default)]
pub(crate) struct Manual {
    pulls: BTreeMap<String, Pull>,
    ignoring_term: BTreeSet<String>,
}

/// A pull that keeps failing.
#[derive(Debug)]
struct Pull {
    attempts: u32,
    /// Whether `ImagePullBackOff` is shown, rather than `ErrImagePull`.
    backing_off: bool,
    changes_at: Time,
}

/// A write of the kubelet to a pod's status.
pub(crate) fn write() -> Write<'static> {
    Write::status("kubelet")
}

impl Kubelet for Manual {
    fn step(&mut self, host: &mut Host<'_>) -> Option<Time> {
        let now = host.registry.now();
        let mut due: Vec<Time> = Vec::new();
        for pod in host.pods() {
            if pods::is_deleting(&pod) {
                due.extend(self.terminate(host, &pod, now));
            } else if !pod.has("status.startTime") {
                take_on(host.registry, &pod);
            } else if !pods::is_terminal(&pod) {
                due.extend(self.show_pull(host.registry, &pod, now));
                due.extend(restart(host, &pod, now));
            }
        }
        due.into_iter().min()
    }

    /// Nothing runs by itself here.
    fn kill_node(&mut self, _node: &str) {}
}

/// Gives the pod its addresses and its first status.
pub(crate) fn take_on(registry: &mut Registry, pod: &Value) {
    let now = registry.now();
    let pod_ip = registry.next_pod_address().to_string();
    let node = registry.get(Target::new("nodes", "", pod.str("spec.nodeName")));
    let addresses =
        node.as_ref().map(|node| node.list("status.addresses").to_vec()).unwrap_or_default();
    let host_ip = addresses
        .iter()
        .find(|one| one.str("type") == "InternalIP")
        .map_or("127.0.0.1", |one| one.str("address"));
    // The pod was just listed, so the update cannot fail.
    let _ = registry.modify(Target::of("pods", pod), &write(), |pod| {
        status::accept(pod, host_ip, &pod_ip, now)
    });
}

/// Writes the last status of a deleted pod and removes it.
pub(crate) fn finish(registry: &mut Registry, pod: &Value, ends: &[(String, Exit)]) {
    let now = registry.now();
    let target = Target::of("pods", pod);
    // The pod was just listed, so neither write can fail.
    let _ = registry.force(target, &write(), |pod| {
        for (name, exit) in ends {
            status::set_terminated(pod, name, exit, now);
        }
        status::end_unstarted(pod, now);
        status::settle(pod, now);
        if !pods::is_terminal(pod) {
            pod.put("status.phase", "Failed");
        }
    });
    let uid = pod.text("metadata.uid").map(str::to_owned);
    let _ = registry.delete(target, &DeleteOptions { uid, ..DeleteOptions::now() });
}

/// Starts containers whose back-off has ended, and returns when the next one starts.
fn restart(host: &mut Host<'_>, pod: &Value, now: Time) -> Option<Time> {
    let mut due = None;
    for name in status::in_state(pod, "waiting") {
        let Some(at) = status::container(pod, &name).and_then(status::restart_time) else {
            continue;
        };
        if at > now {
            due = Some(due.map_or(at, |earlier: Time| earlier.min(at)));
            continue;
        }
        host.logs.start(pod.str("metadata.uid"), &name, true);
        // The pod was just listed, so the update cannot fail.
        let _ = host.registry.modify(Target::of("pods", pod), &write(), |pod| {
            status::set_running(pod, &name, now);
            status::settle(pod, now);
        });
    }
    due
}

impl Manual {
    fn terminate(&self, host: &mut Host<'_>, pod: &Value, now: Time) -> Option<Time> {
        if pods::is_terminal(pod) && pod.int("metadata.deletionGracePeriodSeconds") == Some(0) {
            return None;
        }
        let running = status::in_state(pod, "running");
        let deadline = Time::parse(pod.str("metadata.deletionTimestamp")).unwrap_or(now);
        let ignores = self.ignoring_term.contains(pod.str("metadata.uid"));
        if ignores && !running.is_empty() && now < deadline {
            return Some(deadline);
        }
        let exit = if ignores { Exit::signal(SIGKILL) } else { Exit::signal(SIGTERM) };
        for name in &running {
            host.logs.end(pod.str("metadata.uid"), name);
        }
        let ends: Vec<(String, Exit)> =
            running.into_iter().map(|name| (name, exit.clone())).collect();
        finish(host.registry, pod, &ends);
        None
    }

    /// Alternates the two faces of a failing pull.
    fn show_pull(&mut self, registry: &mut Registry, pod: &Value, now: Time) -> Option<Time> {
        let pull = self.pulls.get_mut(pod.str("metadata.uid"))?;
        if pull.changes_at <= now {
            pull.backing_off = !pull.backing_off;
            if !pull.backing_off {
                pull.attempts += 1;
            }
            let doublings = pull.attempts.min(5);
            let delay = PULL_DELAY.saturating_mul(1 << doublings).min(PULL_DELAY_MAX);
            pull.changes_at = now.after(if pull.backing_off { delay } else { PULL_ERROR_SHOWN });
        }
        let backing_off = pull.backing_off;
        let due = pull.changes_at;
        // The pod was just listed, so the update cannot fail.
        let _ = registry
            .modify(Target::of("pods", pod), &write(), |pod| set_pull_error(pod, backing_off));
        Some(due)
    }

    pub(crate) fn fail_image_pull(
        &mut self,
        registry: &mut Registry,
        target: Target<'_>,
    ) -> Result<(), ApiError> {
        let pod = registry.get(target)?;
        let changes_at = registry.now().after(PULL_ERROR_SHOWN);
        let pull = Pull { attempts: 0, backing_off: false, changes_at };
        self.pulls.insert(pod.str("metadata.uid").to_owned(), pull);
        Ok(())
    }

    pub(crate) fn ignore_term(
        &mut self,
        registry: &Registry,
        target: Target<'_>,
    ) -> Result<(), ApiError> {
        let pod = registry.get(target)?;
        self.ignoring_term.insert(pod.str("metadata.uid").to_owned());
        Ok(())
    }

    /// Starts containers; a pull that failed succeeds.
    pub(crate) fn run(
        &mut self,
        host: &mut Host<'_>,
        target: Target<'_>,
        container: Option<&str>,
    ) -> Result<(), ApiError> {
        let pod = host.registry.get(target)?;
        if !pod.has("status.startTime") {
            return Err(ApiError::bad_request(format!(
                "pod {} is not scheduled to a node yet",
                target.name
            )));
        }
        self.pulls.remove(pod.str("metadata.uid"));
        let now = host.registry.now();
        let all = pod.list("spec.containers").iter().map(|one| one.str("name").to_owned());
        let names: Vec<String> =
            container.map_or_else(|| all.collect(), |name| vec![name.to_owned()]);
        for name in &names {
            host.logs.start(pod.str("metadata.uid"), name, false);
        }
        let update = host.registry.modify(target, &write(), |pod| {
            for init in status::in_state(pod, "waiting") {
                let is_init =
                    pod.list("spec.initContainers").iter().any(|one| one.str("name") == init);
                if is_init && container.is_none() {
                    status::set_terminated(pod, &init, &Exit::code(0), now);
                }
            }
            names.iter().for_each(|name| status::set_running(pod, name, now));
            status::settle(pod, now);
        });
        update.map(drop)
    }
}

fn set_pull_error(pod: &mut Value, backing_off: bool) {
    for name in status::in_state(pod, "waiting") {
        let image = status::container(pod, &name)
            .map(|one| one.str("image").to_owned())
            .unwrap_or_default();
        if backing_off {
            let message = format!("Back-off pulling image \"{image}\"");
            status::set_waiting(pod, &name, "ImagePullBackOff", &message);
        } else {
            let message = format!("failed to pull and unpack image \"{image}\": not found");
            status::set_waiting(pod, &name, "ErrImagePull", &message);
        }
    }
}

/// Ends running containers: one, or all when none is named.
pub(crate) fn exit(
    host: &mut Host<'_>,
    target: Target<'_>,
    container: Option<&str>,
    exit: &Exit,
) -> Result<(), ApiError> {
    let pod = host.registry.get(target)?;
    let now = host.registry.now();
    let running = status::in_state(&pod, "running");
    let names: Vec<String> =
        running.into_iter().filter(|name| container.is_none_or(|wanted| wanted == name)).collect();
    if names.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} has no such running container",
            target.name
        )));
    }
    for name in &names {
        host.logs.end(pod.str("metadata.uid"), name);
    }
    let update = host.registry.modify(target, &write(), |pod| {
        for name in &names {
            status::set_terminated(pod, name, exit, now);
            if status::restarts(pod, exit.code.into()) && !pods::is_deleting(pod) {
                status::set_crash_loop(pod, name);
            }
        }
        status::settle(pod, now);
    });
    update.map(drop)
}

/// Sets the readiness of running containers.
pub(crate) fn set_ready(
    registry: &mut Registry,
    target: Target<'_>,
    ready: bool,
) -> Result<(), ApiError> {
    let now = registry.now();
    let update = registry.modify(target, &write(), |pod| {
        if pod.has("status.containerStatuses") {
            for one in pod
                .list_mut("status.containerStatuses")
                .iter_mut()
                .filter(|one| one.has("state.running"))
            {
                one.put("ready", ready);
                one.put("started", true);
            }
        }
        status::settle(pod, now);
    });
    update.map(drop)
}

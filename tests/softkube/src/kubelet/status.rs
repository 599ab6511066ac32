//! How the kubelet writes the status of a pod: container states, conditions and the phase.

use std::time::Duration;

use serde_json::{Value, json};

use crate::clock::Time;
use crate::json::Json;
use crate::pods::{self, Condition};

const CRASH_DELAY: Duration = Duration::from_secs(10);
const CRASH_DELAY_MAX: Duration = Duration::from_secs(300);

/// How a container ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    pub(crate) code: i32,
    /// The reason when it is not `Completed` or `Error`.
    pub(crate) reason: Option<&'static str>,
    /// The termination message.
    pub(crate) message: String,
}

impl Exit {
    pub(crate) fn code(code: i32) -> Self {
        Self { code, reason: None, message: String::new() }
    }

    /// The end by a signal. As with container runtimes, only the exit code tells.
    pub(crate) fn signal(signal: i32) -> Self {
        Self::code(128 + signal)
    }
}

/// A list of containers of the spec and the list of their statuses.
const LISTS: [(&str, &str); 2] = [
    ("spec.initContainers", "status.initContainerStatuses"),
    ("spec.containers", "status.containerStatuses"),
];

/// Takes a pod on: addresses, the start time and waiting containers.
pub(crate) fn accept(pod: &mut Value, host_ip: &str, pod_ip: &str, now: Time) {
    pod.put("status.startTime", now.rfc3339());
    pod.put("status.hostIP", host_ip);
    pod.put("status.hostIPs", json!([{"ip": host_ip}]));
    pod.put("status.podIP", pod_ip);
    pod.put("status.podIPs", json!([{"ip": pod_ip}]));
    let initializing = !pod.list("spec.initContainers").is_empty();
    for (specs, statuses) in LISTS {
        let waiting = if initializing { "PodInitializing" } else { "ContainerCreating" };
        let entry = |container: &Value| {
            json!({
                "name": container.str("name"), "image": container.str("image"), "imageID": "", "ready": false,
                "started": false, "restartCount": 0, "state": {"waiting": {"reason": waiting}}, "lastState": {},
            })
        };
        let entries: Vec<Value> = pod.list(specs).iter().map(entry).collect();
        if !entries.is_empty() {
            pod.put(statuses, entries);
        }
    }
    settle(pod, now);
}

/// The status of a container, whichever list it is in.
pub(crate) fn container<'a>(pod: &'a Value, name: &str) -> Option<&'a Value> {
    LISTS.iter().flat_map(|(_, list)| pod.list(list)).find(|status| status.str("name") == name)
}

fn change(pod: &mut Value, name: &str, change: impl Fn(&mut Value)) {
    for (_, list) in LISTS {
        if pod.has(list) {
            pod.list_mut(list)
                .iter_mut()
                .filter(|status| status.str("name") == name)
                .for_each(&change);
        }
    }
}

fn spec_of<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let found = LISTS
        .iter()
        .flat_map(|(list, _)| pod.list(list))
        .find(|container| container.str("name") == name);
    found.unwrap_or(&Value::Null)
}

/// The container waits, for a reason such as `ErrImagePull`.
pub(crate) fn set_waiting(pod: &mut Value, name: &str, reason: &str, message: &str) {
    change(pod, name, |status| {
        let mut waiting = json!({"reason": reason});
        if !message.is_empty() {
            waiting.put("message", message);
        }
        status.put("state", json!({"waiting": waiting}));
        status.put("ready", false);
    });
}

/// The container runs; it is ready at once unless probes decide that.
pub(crate) fn set_running(pod: &mut Value, name: &str, now: Time) {
    let uid = pod.str("metadata.uid").to_owned();
    let spec = spec_of(pod, name);
    let (started, ready) =
        (!spec.has("startupProbe"), !spec.has("readinessProbe") && !spec.has("startupProbe"));
    change(pod, name, |status| {
        let restarts = status.int("restartCount").unwrap_or(0);
        status.put("state", json!({"running": {"startedAt": now.rfc3339()}}));
        status.put("containerID", format!("softkube://{uid}-{name}-{restarts}"));
        status.put("imageID", status.at("image").clone());
        status.put("started", started);
        status.put("ready", ready);
    });
}

/// The container ended.
pub(crate) fn set_terminated(pod: &mut Value, name: &str, exit: &Exit, now: Time) {
    let default_reason = if exit.code == 0 { "Completed" } else { "Error" };
    change(pod, name, |status| {
        let started =
            status.text("state.running.startedAt").map_or_else(|| now.rfc3339(), str::to_owned);
        let mut terminated = json!({
            "exitCode": exit.code, "reason": exit.reason.unwrap_or(default_reason), "startedAt": started,
            "finishedAt": now.rfc3339(),
        });
        if !exit.message.is_empty() {
            terminated.put("message", exit.message.as_str());
        }
        if status.has("containerID") {
            terminated.put("containerID", status.at("containerID").clone());
        }
        status.put("state", json!({"terminated": terminated}));
        status.put("ready", false);
        status.put("started", false);
    });
}

/// Whether a container that ended like this is started again.
pub(crate) fn restarts(pod: &Value, code: i64) -> bool {
    match pod.str("spec.restartPolicy") {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

/// The container that ended waits for its restart; the restart counts at once, as the next run's number.
pub(crate) fn set_crash_loop(pod: &mut Value, name: &str) {
    let place = format!(
        "{}_{}({})",
        pod.str("metadata.name"),
        pod.str("metadata.namespace"),
        pod.str("metadata.uid")
    );
    let restarts = container(pod, name).and_then(|status| status.int("restartCount")).unwrap_or(0);
    let delay = crash_delay(restarts + 1).as_secs();
    change(pod, name, |status| {
        let message = format!("back-off {delay}s restarting failed container={name} pod={place}");
        let last = status.at("state").clone();
        status.put("lastState", last);
        status.put("state", json!({"waiting": {"reason": "CrashLoopBackOff", "message": message}}));
        status.put("restartCount", restarts + 1);
    });
}

fn crash_delay(restarts: i64) -> Duration {
    let doublings = u32::try_from(restarts - 1).unwrap_or(0).min(5);
    CRASH_DELAY.saturating_mul(1 << doublings).min(CRASH_DELAY_MAX)
}

/// When a container that waits for its restart runs again.
pub(crate) fn restart_time(status: &Value) -> Option<Time> {
    if status.text("state.waiting.reason") != Some("CrashLoopBackOff") {
        return None;
    }
    let ended = Time::parse(status.str("lastState.terminated.finishedAt"))?;
    Some(ended.after(crash_delay(status.int("restartCount").unwrap_or(1))))
}

/// Names of containers in a state: `running`, `waiting` or `terminated`.
pub(crate) fn in_state(pod: &Value, state: &str) -> Vec<String> {
    let statuses = LISTS.iter().flat_map(|(_, list)| pod.list(list));
    let here = statuses.filter(|status| status.at("state").get(state).is_some());
    here.map(|status| status.str("name").to_owned()).collect()
}

/// Containers that the kubelet lost sight of, or that never started, end with the pod.
pub(crate) fn end_unstarted(pod: &mut Value, now: Time) {
    let exit = Exit {
        reason: Some("ContainerStatusUnknown"),
        message: "The container could not be located when the pod was terminated".to_owned(),
        ..Exit::code(137)
    };
    for name in in_state(pod, "waiting") {
        set_terminated(pod, &name, &exit, now);
    }
}

/// Sets the phase and the conditions that follow from the containers.
pub(crate) fn settle(pod: &mut Value, now: Time) {
    if pods::is_terminal(pod) {
        return;
    }
    let phase = phase(pod);
    pod.put("status.phase", phase);
    let initialized = is_initialized(pod);
    let (status, reason) = match (initialized, phase) {
        (true, "Succeeded") => ("True", "PodCompleted"),
        (true, _) => ("True", ""),
        (false, _) => ("False", "ContainersNotInitialized"),
    };
    pods::set_condition(pod, Condition { kind: "Initialized", status, reason, message: "" }, now);
    let unready: Vec<&str> = pod
        .list("status.containerStatuses")
        .iter()
        .filter(|status| !status.flag("ready"))
        .map(|status| status.str("name"))
        .collect();
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    let (status, reason, message) = match phase {
        "Succeeded" => ("False", "PodCompleted", ""),
        "Failed" => ("False", "PodFailed", ""),
        _ if unready.is_empty() => ("True", "", ""),
        _ => ("False", "ContainersNotReady", message.as_str()),
    };
    for kind in ["Ready", "ContainersReady"] {
        pods::set_condition(pod, Condition { kind, status, reason, message }, now);
    }
    let sandbox = if pod.has("status.podIP") && !matches!(phase, "Succeeded" | "Failed") {
        "True"
    } else {
        "False"
    };
    let condition =
        Condition { kind: "PodReadyToStartContainers", status: sandbox, reason: "", message: "" };
    pods::set_condition(pod, condition, now);
}

/// Whether all init containers completed.
pub(crate) fn is_initialized(pod: &Value) -> bool {
    pod.list("status.initContainerStatuses").len() == pod.list("spec.initContainers").len()
        && pod
            .list("status.initContainerStatuses")
            .iter()
            .all(|status| status.int("state.terminated.exitCode") == Some(0))
}

fn phase(pod: &Value) -> &'static str {
    let deleting = pods::is_deleting(pod);
    let never = pod.text("spec.restartPolicy") == Some("Never");
    let code = |status: &Value| status.int("state.terminated.exitCode");
    let init_failed = pod
        .list("status.initContainerStatuses")
        .iter()
        .any(|one| code(one).is_some_and(|code| code != 0));
    let statuses = pod.list("status.containerStatuses");
    let is = |state: &'static str| move |status: &&Value| status.at("state").get(state).is_some();
    let ended = !statuses.is_empty() && statuses.iter().all(|status| code(status).is_some());
    if init_failed && (never || deleting) {
        return "Failed";
    }
    if ended
        && (never
            || deleting
            || statuses.iter().all(|status| !restarts(pod, code(status).unwrap_or(1))))
    {
        let succeeded =
            statuses.iter().all(|status| code(status) == Some(0)) && is_initialized(pod);
        return if succeeded { "Succeeded" } else { "Failed" };
    }
    let waits_first =
        |status: &&Value| is("waiting")(status) && !status.has("lastState.terminated");
    if !is_initialized(pod) || statuses.iter().any(|status| waits_first(&status)) {
        "Pending"
    } else {
        "Running"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(policy: &str) -> Value {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]}, "status": {},
        });
        accept(&mut pod, "127.0.0.1", "127.0.0.2", Time::default());
        pod
    }

    #[test]
    fn the_phase_follows_the_containers() {
        let now = Time::default();
        for (policy, code, expected) in
            [("Never", 0, "Succeeded"), ("Never", 3, "Failed"), ("OnFailure", 0, "Succeeded")]
        {
            let mut pod = pod(policy);
            assert_eq!(pod.str("status.phase"), "Pending");
            for name in ["a", "b"] {
                set_running(&mut pod, name, now);
            }
            settle(&mut pod, now);
            assert_eq!(pod.str("status.phase"), "Running");
            assert!(pods::condition_is_true(&pod, "Ready"));
            set_terminated(&mut pod, "a", &Exit::code(0), now);
            settle(&mut pod, now);
            assert_eq!(pod.str("status.phase"), "Running");
            set_terminated(&mut pod, "b", &Exit::code(code), now);
            settle(&mut pod, now);
            assert_eq!(pod.str("status.phase"), expected);
        }
    }

    #[test]
    fn a_crash_loop_keeps_the_last_state() {
        let mut pod = pod("OnFailure");
        set_running(&mut pod, "a", Time::default());
        set_terminated(&mut pod, "a", &Exit::signal(9), Time::from_seconds(5));
        set_crash_loop(&mut pod, "a");
        let status = container(&pod, "a").unwrap();
        assert_eq!(status.int("lastState.terminated.exitCode"), Some(137));
        assert_eq!(restart_time(status), Some(Time::from_seconds(15)));
    }
}

//! Single pods.

use super::words;
use crate::{CONTAINER, INDEX};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use std::collections::BTreeSet;

/// How far past its grace a deletion may be before it counts as stuck, and the node's state is
/// looked up.
const STUCK_SECONDS: i64 = 30;

/// A pod of a Job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodOverview {
    /// The name of the pod.
    pub name: String,
    /// The index of the pod within the Job.
    pub index: Option<u32>,
    /// The node that the pod has been given.
    pub node: Option<String>,
    /// How the pod is, in words.
    pub state: String,
    /// The exit code of the container that works on the run, once it has ended.
    pub exit_code: Option<i32>,
}

pub(super) fn overview(pod: &Pod, now: Timestamp) -> PodOverview {
    PodOverview {
        name: name(pod).to_owned(),
        index: index(pod),
        node: node(pod).map(str::to_owned),
        state: state(pod, now),
        exit_code: exit_code(pod),
    }
}

fn state(pod: &Pod, now: Timestamp) -> String {
    if let Some(seconds) = overdue(pod, now) {
        return format!("does not stop, {} past its grace", words::duration(seconds));
    }
    if pod.metadata.deletion_timestamp.is_some() && !is_over(pod) {
        return "stopping".to_owned();
    }
    match phase(pod) {
        "Succeeded" => "succeeded".to_owned(),
        "Failed" => ending(pod),
        "Running" if is_running(pod) => {
            let is_ready = condition(pod, "Ready").is_some_and(|one| one.status == "True");
            if is_ready { "running".to_owned() } else { "running, not ready".to_owned() }
        }
        _ => match (waiting(pod), node(pod)) {
            (Some((reason, _)), Some(_)) => words::waiting(reason).to_owned(),
            (None, Some(_)) => "starting".to_owned(),
            (_, None) => "waits for a node".to_owned(),
        },
    }
}

/// How a pod has failed, in words.
pub(super) fn ending(pod: &Pod) -> String {
    if let Some(reason) = disruption(pod) {
        return reason;
    }
    match exit(pod) {
        Some(exit) => words::exit(exit.exit_code, exit.reason.as_deref().unwrap_or_default()),
        None => {
            let reason = pod.status.as_ref().and_then(|status| status.reason.as_deref());
            format!("failed: {}", reason.unwrap_or("Kubernetes gives no reason"))
        }
    }
}

/// Why a pod was taken away, in words, if it was.
pub(super) fn disruption(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if status.reason.as_deref() == Some("Evicted") {
        let message = status.message.as_deref().unwrap_or("Kubernetes gives no reason");
        return Some(format!("evicted by its node: {}", message.trim().trim_end_matches('.')));
    }
    let condition = condition(pod, "DisruptionTarget").filter(|one| one.status == "True")?;
    let reason = condition.reason.as_deref().unwrap_or_default();
    let message = condition.message.as_deref().unwrap_or_default();
    Some(words::disruption(reason, message))
}

/// Pods in order of their indexes, older ones first.
pub(super) fn sorted<'a>(pods: &[&'a Pod]) -> Vec<&'a Pod> {
    let mut pods = pods.to_vec();
    pods.sort_by_key(|pod| (index(pod).unwrap_or(u32::MAX), age(pod)));
    pods
}

/// The pods with index 0, older ones first.
pub(crate) fn first_pods<'a>(pods: impl Iterator<Item = &'a Pod>) -> Vec<&'a Pod> {
    let mut pods: Vec<&Pod> = pods.filter(|pod| index(pod) == Some(0)).collect();
    pods.sort_by_key(|pod| age(pod));
    pods
}

/// Times have whole seconds, but a replacement has a node later than the pod that it replaces has
/// ended.
fn age(pod: &Pod) -> (Option<Timestamp>, bool, String) {
    let created = pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    (created, !is_over(pod), name(pod).to_owned())
}

/// Whether a pod belongs to this very Job, rather than to an older one of the same name.
pub(crate) fn belongs(job: &Job, pod: &Pod) -> bool {
    let mut owners = pod.metadata.owner_references.iter().flatten();
    owners.any(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
}

/// The nodes of pods that do not stop, or that are not ready any more.
pub(crate) fn suspects<'a>(
    pods: impl Iterator<Item = &'a Pod>,
    now: Timestamp,
) -> BTreeSet<String> {
    pods.filter(|pod| overdue(pod, now).is_some())
        .filter_map(|pod| node(pod).map(str::to_owned))
        .collect()
}

/// The seconds since a pod should have stopped, if that is too long ago.
pub(super) fn overdue(pod: &Pod, now: Timestamp) -> Option<i64> {
    // The deletion's time is in the future when it is set: it includes the grace.
    let deadline = pod.metadata.deletion_timestamp.as_ref()?.0;
    let late = now.as_second() - deadline.as_second();
    (late >= STUCK_SECONDS).then_some(late)
}

/// Whether no process of the pod is left, as far as the API server knows.
pub(crate) fn is_over(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether the container that works on the run has been started, so that it has a log.
pub(crate) fn has_started(pod: &Pod) -> bool {
    let state = container(pod).and_then(|one| one.state.as_ref());
    state.is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

pub(super) fn is_running(pod: &Pod) -> bool {
    let state = container(pod).and_then(|one| one.state.as_ref());
    !is_over(pod) && state.is_some_and(|state| state.running.is_some())
}

pub(super) fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

pub(super) fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|node| !node.is_empty())
}

pub(super) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("Pending")
}

pub(super) fn index(pod: &Pod) -> Option<u32> {
    let label = pod.metadata.labels.as_ref().and_then(|labels| labels.get(INDEX));
    let annotation = pod.metadata.annotations.as_ref().and_then(|all| all.get(INDEX));
    label.or(annotation)?.parse().ok()
}

pub(super) fn condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|one| one.type_ == kind)
}

/// The status of the container that works on the run; the first one in pods that others have made.
fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let all = pod.status.as_ref()?.container_statuses.as_ref()?;
    all.iter().find(|one| one.name == CONTAINER).or(all.first())
}

fn exit(pod: &Pod) -> Option<&ContainerStateTerminated> {
    container(pod)?.state.as_ref()?.terminated.as_ref()
}

pub(super) fn exit_code(pod: &Pod) -> Option<i32> {
    exit(pod).map(|exit| exit.exit_code)
}

/// The last words of the container, such as the reason of a crash.
pub(super) fn last_words(pod: &Pod) -> Option<&str> {
    exit(pod)?.message.as_deref().map(str::trim).filter(|message| !message.is_empty())
}

/// Why any container of the pod waits: the reason and Kubernetes' words.
pub(super) fn waiting(pod: &Pod) -> Option<(&str, &str)> {
    let status = pod.status.as_ref()?;
    let inits = status.init_container_statuses.iter().flatten();
    let mut all = status.container_statuses.iter().flatten().chain(inits);
    all.find_map(|one| {
        let waiting = one.state.as_ref()?.waiting.as_ref()?;
        Some((waiting.reason.as_deref()?, waiting.message.as_deref().unwrap_or_default()))
    })
}

/// The image of the container that waits.
pub(super) fn waiting_image(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?;
    let mut all = status.container_statuses.iter().flatten();
    let one = all.find(|one| one.state.as_ref().is_some_and(|state| state.waiting.is_some()))?;
    let spec = pod.spec.as_ref()?.containers.iter().find(|spec| spec.name == one.name)?;
    spec.image.as_deref()
}

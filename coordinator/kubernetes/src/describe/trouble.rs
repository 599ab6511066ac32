//! What a person should know about a Job, each with what to do where that is known.

use super::state::is_incomplete;
use super::{Known, Node, State, conditions, pods, words};
use k8s_openapi::api::core::v1::{Event, Pod};
use std::collections::BTreeMap;
use std::fmt;

/// How long a launch may take before it counts as given up.
const LAUNCH_SECONDS: i64 = 60;
/// Warnings of the kubelet that explain why a pod does not start.
const START_WARNINGS: [&str; 5] = [
    "FailedMount",
    "FailedAttachVolume",
    "FailedMapVolume",
    "FailedCreatePodSandBox",
    "FailedPreStartHook",
];

/// Something that a person should know or do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// The text, in one or two lines; the second one begins with `hint: `.
    pub text: String,
    /// What stays the same while the words of the same trouble vary. A further key is news.
    pub(crate) keys: Vec<String>,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Trouble of a pod, before pods with the same one are joined.
struct Finding {
    key: String,
    /// The text behind the pod's name.
    text: String,
    hint: Option<String>,
}

/// All trouble of a Job, the Job's own first.
pub(super) fn of(known: &Known<'_>, state: &State, pods: &[&Pod]) -> Vec<Trouble> {
    let mut all = of_job(known, state);
    if !state.is_final() {
        all.extend(joined(pods, |pod| of_living(known, pod)));
    }
    all.extend(joined(pods, of_failed));
    all.extend(replacements(pods));
    all
}

fn trouble(key: &str, text: String, hint: Option<&str>) -> Trouble {
    let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
    Trouble { text: format!("{text}{hint}"), keys: vec![key.to_owned()] }
}

/// Trouble of the Job itself.
fn of_job(known: &Known<'_>, state: &State) -> Vec<Trouble> {
    let mut all = Vec::new();
    let job = known.job;
    if let Some(failed) = conditions(job).find(|one| one.type_ == "Failed") {
        let reason = failed.reason.as_deref().unwrap_or_default();
        let message = failed.message.as_deref().unwrap_or_default();
        all.push(trouble("failed", format!("the Job has {state}: {message} ({reason})"), None));
    }
    let place = place(known);
    let created = job.metadata.creation_timestamp.as_ref().map(|time| time.0.as_second());
    let age = created.map_or(0, |created| known.now.as_second() - created);
    if is_incomplete(job) && age >= LAUNCH_SECONDS && !state.is_final() {
        let text = format!("its launch began {} ago and was not completed", words::duration(age));
        let hint = "the command that launched it continues the launch";
        all.push(trouble("incomplete", text, Some(hint)));
    }
    match state {
        State::Queued { queue } => {
            let text = format!("waits for admission by the Kueue queue `{queue}`");
            let hint = format!("`kubectl get workloads{place}` shows what the queue waits for");
            all.push(trouble("queued", text, Some(&hint)));
        }
        State::Suspended => {
            let name = job.metadata.name.as_deref().unwrap_or_default();
            let hint = format!(
                "`kubectl patch job {name}{place} --type merge --patch \
                 '{{\"spec\":{{\"suspend\":false}}}}'` resumes it"
            );
            let text = "somebody has suspended the Job".to_owned();
            all.push(trouble("suspended", text, Some(&hint)));
        }
        State::Pending | State::Starting => all.extend(creation(known)),
        State::Incomplete
        | State::Running
        | State::Stopping
        | State::Deleting
        | State::Succeeded
        | State::Failed { .. } => {}
    }
    all
}

/// The option of `kubectl` for the Job's namespace.
fn place(known: &Known<'_>) -> String {
    let namespace = known.job.metadata.namespace.as_deref();
    namespace.map_or_else(String::new, |name| format!(" --namespace {name}"))
}

/// Why pods of the Job cannot be created.
fn creation(known: &Known<'_>) -> Option<Trouble> {
    let message = latest(known, known.job.metadata.uid.as_deref(), &["FailedCreate"])?;
    // All pods may have been created since.
    let expected = known.job.spec.as_ref().and_then(|spec| spec.parallelism).unwrap_or(1);
    let alive = known.pods.iter().filter(|pod| !pods::is_over(pod)).count();
    if usize::try_from(expected).is_ok_and(|expected| alive >= expected) {
        return None;
    }
    let message = message.trim_start_matches("Error creating: ");
    if message.contains("exceeded quota") {
        let text = format!("the namespace's quota does not allow more pods: {message}");
        let hint = format!(
            "wait until other Jobs end, ask for a larger quota, or ask for less with --gpus or \
             --workers; `kubectl describe quota{}` shows what is used",
            place(known)
        );
        return Some(trouble("quota", text, Some(&hint)));
    }
    let text = format!("Kubernetes cannot create pods: {message}");
    Some(trouble("creation", text, None))
}

/// Trouble of a pod that has not ended.
fn of_living(known: &Known<'_>, pod: &Pod) -> Option<Finding> {
    if let Some(late) = pods::overdue(pod, known.now) {
        return Some(stuck(known, pod, late));
    }
    if pods::is_over(pod) || pod.metadata.deletion_timestamp.is_some() {
        return None;
    }
    if pods::node(pod).is_none() {
        return unscheduled(pod);
    }
    let (reason, message) = pods::waiting(pod)?;
    if words::is_image(reason) {
        return Some(unpulled(pod, reason, message));
    }
    if words::is_config(reason) {
        return Some(Finding {
            key: steady(message),
            text: format!("its container cannot be created: {message}"),
            hint: message.contains("not found").then(|| {
                "create what is missing; the pod starts by itself then. --env-secret and \
                 --credentials-secret name Secrets of the same namespace"
                    .to_owned()
            }),
        });
    }
    let message = latest(known, pod.metadata.uid.as_deref(), &START_WARNINGS)?;
    let is_missing = message.contains("not found");
    Some(Finding {
        key: steady(message),
        text: format!("does not start: {message}"),
        hint: is_missing.then(|| {
            "create what is missing, for example with `coordinator kubernetes credentials`; \
             the pod starts by itself then"
                .to_owned()
        }),
    })
}

/// A pod that should have stopped long ago.
fn stuck(known: &Known<'_>, pod: &Pod, late: i64) -> Finding {
    let name = pods::name(pod);
    let node = pods::node(pod).unwrap_or("unknown");
    let why = match known.nodes.get(node) {
        Some(Node::Lost(message)) => format!("; its node `{node}` is lost: {message}"),
        Some(Node::Gone) => format!("; its node `{node}` is gone"),
        Some(Node::Ready) => format!(", although its node `{node}` is ready"),
        None => format!(" on node `{node}`"),
    };
    Finding {
        key: format!("stuck {name}"),
        text: format!("should have stopped {} ago{why}", words::duration(late)),
        hint: Some(format!(
            "Kubernetes replaces it only once it is gone. If the node is off for good, \
             delete the node, or run `kubectl delete pod {name}{} --force --grace-period=0`",
            place(known)
        )),
    }
}

fn unscheduled(pod: &Pod) -> Option<Finding> {
    let condition = pods::condition(pod, "PodScheduled").filter(|one| one.status == "False")?;
    let message = condition.message.as_deref().unwrap_or_default();
    if condition.reason.as_deref() == Some("SchedulingGated") {
        let text = "is held back by a scheduling gate".to_owned();
        return Some(Finding { key: "gated".to_owned(), text, hint: None });
    }
    // What preemption could do is of no use to a user.
    let message = message.split(". preemption: ").next().unwrap_or(message);
    let has = |text: &str| message.contains(text);
    let hint = if has("Insufficient") || has("Too many pods") {
        Some("wait until other Jobs end, or ask for less with --gpus, --cpu, --memory or --workers")
    } else if has("untolerated taint") {
        Some("--toleration lets the pods run on nodes with a taint")
    } else if has("affinity") || has("selector") {
        Some("compare --node-selector and --colocate with `kubectl get nodes --show-labels`")
    } else if has("unbound immediate PersistentVolumeClaims") || has("volume") {
        Some("`kubectl get pvc` shows the volumes")
    } else {
        None
    };
    Some(Finding {
        key: steady(message),
        text: format!("waits for a node: {}", message.trim_end_matches('.')),
        hint: hint.map(str::to_owned),
    })
}

fn unpulled(pod: &Pod, reason: &str, message: &str) -> Finding {
    let image = pods::waiting_image(pod).unwrap_or("unknown");
    Finding {
        // The reasons alternate between a failed pull and the wait for the next one.
        key: format!("image {image}"),
        text: format!("the image `{image}` cannot be pulled: {message} ({reason})"),
        hint: Some(
            "check --image; a private registry needs the Secret that --pull-secret names"
                .to_owned(),
        ),
    }
}

/// Trouble of a pod that has failed.
fn of_failed(pod: &Pod) -> Option<Finding> {
    if pods::phase(pod) != "Failed" {
        return None;
    }
    let is_disrupted = pods::disruption(pod).is_some();
    let code = pods::exit_code(pod);
    // Pods leave in this way when they are evicted, which is trouble of its own.
    if code == Some(75) && !is_disrupted {
        return None;
    }
    let ending = pods::ending(pod);
    let was = if is_disrupted { "was " } else { "" };
    let last_words = pods::last_words(pod).filter(|_| !is_disrupted);
    let last_words = last_words.map_or_else(String::new, |text| format!(": {text}"));
    let hint = if ending.contains("lack of memory") && !is_disrupted {
        Some("give the pods more with --memory")
    } else if code == Some(137) && !is_disrupted {
        Some("the node may lack memory, or the pod took longer to stop than --grace allows")
    } else {
        None
    };
    let text = format!("{was}{ending}{last_words}");
    // A pod fails once, and another one that fails in the same way is news.
    let key = format!("ended {} {text}", pods::name(pod));
    Some(Finding { key, text, hint: hint.map(str::to_owned) })
}

/// How often indexes were started again, if any was.
fn replacements(pods: &[&Pod]) -> Option<Trouble> {
    let mut tries: BTreeMap<u32, usize> = BTreeMap::new();
    for index in pods.iter().filter_map(|pod| pods::index(pod)) {
        *tries.entry(index).or_default() += 1;
    }
    tries.retain(|_, count| *count > 1);
    if tries.is_empty() {
        return None;
    }
    let texts: Vec<String> =
        tries.iter().map(|(index, count)| format!("index {index}: {}", count - 1)).collect();
    let text = format!("replaced pods: {}", texts.join(", "));
    Some(trouble(&text.clone(), text, None))
}

/// Finds trouble of pods, and joins pods with the same text.
fn joined(pods: &[&Pod], find: impl Fn(&Pod) -> Option<Finding>) -> Vec<Trouble> {
    let mut groups: Vec<(Finding, Vec<&Pod>, Vec<String>)> = Vec::new();
    for pod in pods {
        let Some(finding) = find(pod) else { continue };
        let key = finding.key.clone();
        match groups.iter_mut().find(|(other, ..)| other.text == finding.text) {
            Some((_, same, keys)) => {
                same.push(pod);
                keys.push(key);
            }
            None => groups.push((finding, vec![pod], vec![key])),
        }
    }
    let join = |(finding, pods, keys): (Finding, Vec<&Pod>, Vec<String>)| {
        let text = format!("{}: {}", subject(&pods), finding.text);
        Trouble { keys, ..trouble("", text, finding.hint.as_deref()) }
    };
    groups.into_iter().map(join).collect()
}

/// The words of a message, without numbers that change all the time.
fn steady(message: &str) -> String {
    message.chars().filter(|letter| !letter.is_ascii_digit()).collect()
}

fn subject(pods: &[&Pod]) -> String {
    match pods {
        [pod] => match pods::index(pod) {
            Some(index) => format!("pod {index} (`{}`)", pods::name(pod)),
            None => format!("pod `{}`", pods::name(pod)),
        },
        _ => {
            let indexes: Vec<String> = pods
                .iter()
                .map(|pod| pods::index(pod).map_or_else(|| "?".to_owned(), |one| one.to_string()))
                .collect();
            format!("{} pods ({})", pods.len(), indexes.join(", "))
        }
    }
}

/// The message of the latest event about an object with one of these reasons.
fn latest<'a>(known: &Known<'a>, uid: Option<&str>, reasons: &[&str]) -> Option<&'a str> {
    let about = known.events.iter().filter(|event| {
        event.involved_object.uid.as_deref() == uid
            && event.reason.as_deref().is_some_and(|reason| reasons.contains(&reason))
    });
    about.max_by_key(|event| last_seen(event))?.message.as_deref()
}

fn last_seen(event: &Event) -> Option<k8s_openapi::jiff::Timestamp> {
    let series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref());
    let last = event.last_timestamp.as_ref().map(|time| time.0);
    series.map(|time| time.0).or(last).or(event.event_time.as_ref().map(|time| time.0))
}

//! Overviews of objects as an API server shows them.

use super::*;
use k8s_openapi::serde::de::DeserializeOwned;
use serde_json::{Value, json};

const NOW: &str = "2026-05-01T12:00:00Z";

fn parse<K: DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

/// A resumed Job of two pods with changes.
fn job(changes: &Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": {
            "name": "tune-1", "namespace": "ml", "uid": "job-uid",
            "creationTimestamp": "2026-05-01T11:50:00Z",
            "labels": { "muster.dev/run": "tune", "muster.dev/attempt": "1" },
        },
        "spec": { "completions": 2, "parallelism": 2, "suspend": false, "template": {} },
        "status": { "startTime": "2026-05-01T11:50:01Z", "active": 2, "ready": 0 },
    });
    merge(&mut job, changes);
    job
}

/// A running pod with changes.
fn pod(index: u32, suffix: &str, changes: &Value) -> Value {
    let name = format!("tune-1-{index}-{suffix}");
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": name, "uid": name, "creationTimestamp": "2026-05-01T11:50:02Z",
            "labels": { "batch.kubernetes.io/job-completion-index": index.to_string() },
            "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "Job", "name": "tune-1", "uid": "job-uid",
            }],
        },
        "spec": {
            "nodeName": format!("gpu-{index}"),
            "containers": [{ "name": "muster", "image": "registry.example/muster:1" }],
        },
        "status": {
            "phase": "Running",
            "conditions": [
                { "type": "Ready", "status": "True" },
                { "type": "PodScheduled", "status": "True" },
            ],
            "containerStatuses": [{
                "name": "muster", "image": "registry.example/muster:1", "imageID": "",
                "ready": true,
                "restartCount": 0, "state": { "running": { "startedAt": "2026-05-01T11:50:05Z" } },
            }],
        },
    });
    merge(&mut pod, changes);
    pod
}

/// Changes of a pod that has ended.
fn ended(code: i32, reason: &str) -> Value {
    json!({ "status": { "phase": "Failed", "containerStatuses": [{
        "name": "muster", "image": "registry.example/muster:1", "imageID": "", "ready": false,
        "restartCount": 0,
        "state": { "terminated": { "exitCode": code, "reason": reason } },
    }] } })
}

/// Changes of a pod whose container waits.
fn waiting(reason: &str, message: &str) -> Value {
    json!({ "status": { "phase": "Pending", "containerStatuses": [{
        "name": "muster", "image": "registry.example/muster:1", "imageID": "", "ready": false,
        "restartCount": 0,
        "state": { "waiting": { "reason": reason, "message": message } },
    }] } })
}

/// Changes of a pod that has no node.
fn unscheduled(reason: &str, message: &str) -> Value {
    json!({
        "spec": { "nodeName": null },
        "status": { "phase": "Pending", "containerStatuses": null, "conditions": [
            { "type": "PodScheduled", "status": "False", "reason": reason, "message": message },
        ] },
    })
}

fn warning(uid: &str, reason: &str, message: &str, at: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Event", "type": "Warning",
        "metadata": { "name": format!("{uid}.{at}") },
        "involvedObject": { "uid": uid }, "reason": reason, "message": message, "lastTimestamp": at,
    })
}

fn merge(target: &mut Value, changes: &Value) {
    match (target, changes) {
        (Value::Object(target), Value::Object(changes)) => {
            for (name, change) in changes {
                merge(target.entry(name).or_insert(Value::Null), change);
            }
        }
        (target, change) => *target = change.clone(),
    }
}

fn see(job: Value, pods: &[Value], events: &[Value], nodes: &[(&str, Node)]) -> Overview {
    let job: Job = parse(job);
    let pods: Vec<Pod> = pods.iter().cloned().map(parse).collect();
    let events: Vec<Event> = events.iter().cloned().map(parse).collect();
    let nodes = nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect();
    overview(&Known {
        job: &job,
        pods: pods.iter().filter(|pod| belongs(&job, pod)).collect(),
        events: events.iter().collect(),
        nodes: &nodes,
        now: NOW.parse().unwrap(),
    })
}

fn troubles(overview: &Overview) -> Vec<&str> {
    overview.trouble.iter().map(|one| one.text.as_str()).collect()
}

/// The only trouble of a Job with these pods.
fn trouble_of(pods: &[Value]) -> String {
    let overview = see(job(&json!({})), pods, &[], &[]);
    let [only] = overview.trouble.as_slice() else { panic!("{overview:#?}") };
    only.to_string()
}

#[test]
fn states_follow_the_life_of_a_job() {
    let running = [pod(0, "a", &json!({})), pod(1, "a", &json!({}))];
    let creating = pod(1, "a", &waiting("ContainerCreating", ""));
    let homeless = pod(1, "a", &unscheduled("Unschedulable", "no"));
    let suspended = json!({ "spec": { "suspend": true } });
    let condition =
        |kind: &str| json!({ "status": { "conditions": [{ "type": kind, "status": "True" }] } });
    let marked = json!({ "spec": { "suspend": true },
        "metadata": { "annotations": { "muster.dev/incomplete": "true" } } });
    let queued = json!({ "spec": { "suspend": true },
        "metadata": { "labels": { "kueue.x-k8s.io/queue-name": "gpus" } } });
    let state = |changes: &Value, pods: &[Value]| see(job(changes), pods, &[], &[]).state;
    let none = json!({});
    assert_eq!(state(&marked, &[]), State::Incomplete);
    assert_eq!(state(&queued, &[]), State::Queued { queue: "gpus".to_owned() });
    assert_eq!(state(&suspended, &[]), State::Suspended);
    assert_eq!(state(&suspended, &running), State::Stopping);
    assert_eq!(state(&none, &[]), State::Pending);
    assert_eq!(state(&none, &[running[0].clone(), homeless]), State::Pending);
    assert_eq!(state(&none, &[running[0].clone(), creating]), State::Starting);
    assert_eq!(state(&none, &running), State::Running);
    let leaving = json!({ "metadata": { "deletionTimestamp": NOW } });
    assert_eq!(state(&none, &[running[0].clone(), pod(1, "a", &leaving)]), State::Pending);
    let half = json!({ "status": { "succeeded": 1, "active": 1 } });
    assert_eq!(state(&half, &running[..1]), State::Running);
    assert_eq!(state(&leaving, &running), State::Deleting);
    assert_eq!(state(&condition("SuccessCriteriaMet"), &running), State::Stopping);
    assert_eq!(state(&condition("FailureTarget"), &running), State::Stopping);
    assert_eq!(state(&condition("Complete"), &[]), State::Succeeded);
    assert_eq!(state(&condition("Failed"), &[]), State::Failed { class: Class::Other });
}

#[test]
fn a_failed_job_has_the_class_of_the_exit_code_that_failed_it() {
    let failed = |reason: &str, message: &str| {
        let failed = json!({ "type": "Failed", "status": "True", "reason": reason,
            "message": message,            "lastTransitionTime": "2026-05-01T11:59:00Z" });
        job(&json!({ "status": { "conditions": [failed] } }))
    };
    let message = "Container muster for pod ml/tune-1-1-a failed with exit code 65 \
        matching FailJob rule at index 0";
    // Another pod may have failed in another way.
    let pods = [pod(0, "a", &ended(66, "Error"))];
    let overview = see(failed("PodFailurePolicy", message), &pods, &[], &[]);
    assert_eq!(overview.state, State::Failed { class: Class::Data });
    assert!(overview.ended > overview.started && overview.started > overview.created);
    assert_eq!(
        troubles(&overview)[0],
        format!("the Job has failed (the data set is wrong): {message} (PodFailurePolicy)")
    );
    let without = see(failed("PodFailurePolicy", "other words"), &pods, &[], &[]);
    assert_eq!(without.state, State::Failed { class: Class::Infrastructure });
    let late = see(
        failed("DeadlineExceeded", "Job was active longer than specified deadline"),
        &[],
        &[],
        &[],
    );
    assert_eq!(late.state, State::Failed { class: Class::Deadline });
}

#[test]
fn a_job_is_described_with_its_counts_times_and_pods() {
    let pods = [
        pod(1, "b", &json!({})),
        pod(
            0,
            "a",
            &json!({ "status": { "conditions": [{ "type": "Ready", "status": "False" }] } }),
        ),
        pod(
            0,
            "other",
            &json!({ "metadata": { "ownerReferences": [{
            "apiVersion": "batch/v1", "kind": "Job", "name": "tune-1", "uid": "older" }] } }),
        ),
    ];
    let overview = see(job(&json!({ "status": { "ready": 1 } })), &pods, &[], &[]);
    assert_eq!((overview.run.as_str(), overview.attempt), ("tune", Some(1)));
    let counts = Counts { wanted: 2, active: 2, running: 2, ready: 1, ..Counts::default() };
    assert_eq!(overview.counts, counts);
    let lines: Vec<String> = overview
        .pods
        .iter()
        .map(|pod| format!("{} {:?} {:?} {}", pod.name, pod.index, pod.node, pod.state))
        .collect();
    assert_eq!(
        lines,
        [
            "tune-1-0-a Some(0) Some(\"gpu-0\") running, not ready",
            "tune-1-1-b Some(1) Some(\"gpu-1\") running",
        ]
    );
    assert!(overview.trouble.is_empty(), "{overview:?}");
}

#[test]
fn pods_without_a_node_say_why_and_are_told_together() {
    let message = "0/3 nodes are available: 1 node(s) had untolerated taint(s), \
        2 Insufficient nvidia.com/gpu. \
        preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    let pods = [0, 1].map(|index| pod(index, "a", &unscheduled("Unschedulable", message)));
    assert_eq!(
        trouble_of(&pods),
        "2 pods (0, 1): waits for a node: 0/3 nodes are available: \
         1 node(s) had untolerated taint(s), \
         2 Insufficient nvidia.com/gpu\n\
         hint: wait until other Jobs end, or ask for less with --gpus, --cpu, --memory or --workers"
    );
    let hint = |message: &str| {
        let text = trouble_of(&[pod(0, "a", &unscheduled("Unschedulable", message))]);
        text.split_once("\nhint: ").map_or(String::new(), |(_, hint)| hint.to_owned())
    };
    assert!(
        hint("0/1 nodes are available: 1 node(s) had untolerated taint {a: b}.")
            .contains("--toleration")
    );
    let selector = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    assert!(hint(selector).contains("--node-selector"));
    assert!(hint("pod has unbound immediate PersistentVolumeClaims.").contains("kubectl get pvc"));
    assert_eq!(hint("something new"), "");
    let gated = trouble_of(&[pod(0, "a", &unscheduled("SchedulingGated", "gated"))]);
    assert_eq!(gated, "pod 0 (`tune-1-0-a`): is held back by a scheduling gate");
}

#[test]
fn containers_that_cannot_start_say_why() {
    for reason in ["ErrImagePull", "ImagePullBackOff", "InvalidImageName"] {
        let text = trouble_of(&[pod(0, "a", &waiting(reason, "not found"))]);
        let start = format!(
            "pod 0 (`tune-1-0-a`): the image `registry.example/muster:1` cannot be pulled: \
             not found ({reason})\n"
        );
        assert!(text.starts_with(&start) && text.contains("--pull-secret"), "{text}");
    }
    let text = trouble_of(&[pod(
        1,
        "a",
        &waiting("CreateContainerConfigError", "secret \"store\" not found"),
    )]);
    assert!(
        text.contains("its container cannot be created: secret \"store\" not found\nhint: create"),
        "{text}"
    );

    let creating = pod(0, "a", &waiting("ContainerCreating", ""));
    let events = [
        warning("tune-1-0-a", "FailedMount", "an older one", "2026-05-01T11:55:00Z"),
        warning(
            "tune-1-0-a",
            "FailedMount",
            "MountVolume.SetUp failed for volume \"credentials\" : \
             secret \"tune-1-credentials\" not found",
            "2026-05-01T11:58:00Z",
        ),
        warning("another", "FailedMount", "of another pod", "2026-05-01T11:59:00Z"),
        warning("tune-1-0-a", "Unhealthy", "of another kind", "2026-05-01T11:59:00Z"),
    ];
    let overview = see(job(&json!({})), &[creating], &events, &[]);
    let texts = troubles(&overview);
    assert_eq!(texts.len(), 1, "{texts:?}");
    assert!(
        texts[0].contains("does not start: MountVolume.SetUp failed for volume \"credentials\""),
        "{texts:?}"
    );
    assert!(texts[0].contains("`coordinator kubernetes credentials`"), "{texts:?}");
    let later = see(job(&json!({})), &[pod(0, "a", &json!({}))], &events, &[]);
    assert!(later.trouble.is_empty(), "a pod that runs has got over it: {later:?}");
}

#[test]
fn pods_that_cannot_be_created_say_why() {
    let quota = "Error creating: pods \"tune-1-0-a\" is forbidden: exceeded quota: gpus, \
        requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=8, \
        limited: requests.nvidia.com/gpu=8";
    let see_event = |message: &str, pods: &[Value]| {
        let events = [warning("job-uid", "FailedCreate", message, "2026-05-01T11:59:00Z")];
        see(job(&json!({})), pods, &events, &[])
    };
    let overview = see_event(quota, &[]);
    let text = troubles(&overview)[0];
    assert!(
        text.starts_with("the namespace's quota does not allow more pods: pods \"tune-1-0-a\""),
        "{text}"
    );
    assert!(
        text.contains("limited: requests.nvidia.com/gpu=8\nhint: wait until other Jobs end"),
        "{text}"
    );
    let overview = see_event("Error creating: violates PodSecurity \"restricted:latest\"", &[]);
    assert_eq!(
        troubles(&overview),
        ["Kubernetes cannot create pods: violates PodSecurity \"restricted:latest\""]
    );
    let all = [pod(0, "a", &json!({})), pod(1, "a", &waiting("ContainerCreating", ""))];
    assert!(see_event(quota, &all).trouble.is_empty());
}

#[test]
fn pods_that_have_ended_say_how() {
    let text = |code: i32, reason: &str| trouble_of(&[pod(0, "a", &ended(code, reason))]);
    for (code, words) in [
        (64, "has failed: the spec, the base model or the arguments are wrong (exit code 64)"),
        (65, "has failed: the data set is wrong (exit code 65)"),
        (66, "has failed: machines, processes or storage (exit code 66)"),
        (67, "has ended: the run was cancelled (exit code 67)"),
        (101, "has crashed (exit code 101)"),
        (127, "could not be started (exit code 127)"),
        (139, "was ended by a signal (exit code 139)"),
        (143, "was stopped before it could finish (exit code 143)"),
    ] {
        assert_eq!(text(code, "Error"), format!("pod 0 (`tune-1-0-a`): {words}"));
    }
    assert!(
        text(137, "Error").contains("was killed (exit code 137)\nhint: the node may lack memory")
    );
    let memory = text(137, "OOMKilled");
    assert!(
        memory.contains("was killed for lack of memory (exit code 137)\nhint: give the pods more"),
        "{memory}"
    );
    let graceful = see(job(&json!({})), &[pod(0, "a", &ended(75, "Error"))], &[], &[]);
    assert!(graceful.trouble.is_empty(), "{graceful:?}");
    assert_eq!(graceful.pods[0].exit_code, Some(75));
    let mut crash = ended(101, "Error");
    crash["status"]["containerStatuses"][0]["state"]["terminated"]["message"] =
        json!("no space left\n");
    let crash = trouble_of(&[pod(0, "a", &crash)]);
    assert!(crash.ends_with("has crashed (exit code 101): no space left"), "{crash}");
}

#[test]
fn pods_that_were_taken_away_say_why() {
    let disrupted = |reason: &str, message: &str| {
        let mut changes = ended(143, "Error");
        let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": reason,
            "message": message });
        changes["status"]["conditions"] = json!([condition]);
        trouble_of(&[pod(0, "a", &changes)])
    };
    let who = "pod 0 (`tune-1-0-a`): was";
    for (reason, words) in [
        ("PreemptionByScheduler", "preempted: its place was given to a pod with a higher priority"),
        (
            "DeletionByTaintManager",
            "evicted: its node is lost, or has a taint that the pod does not tolerate",
        ),
        (
            "EvictionByEvictionAPI",
            "evicted on request, for example because its node is being drained",
        ),
        ("DeletionByPodGC", "given up: its node is gone"),
        ("TerminationByKubelet", "ended by its node: a lack of resources, or the node shuts down"),
        ("Novel", "taken away (Novel): as it says"),
    ] {
        assert_eq!(disrupted(reason, "as it says"), format!("{who} {words}"));
    }
    let mut evicted = ended(137, "Error");
    evicted["status"]["reason"] = json!("Evicted");
    evicted["status"]["message"] = json!("The node was low on resource: ephemeral-storage. ");
    assert_eq!(
        trouble_of(&[pod(0, "a", &evicted)]),
        format!("{who} evicted by its node: The node was low on resource: ephemeral-storage")
    );
}

#[test]
fn pods_that_do_not_stop_name_their_node_and_the_way_out() {
    let late = |seconds: i64| {
        let now: Timestamp = NOW.parse().unwrap();
        let at = Timestamp::from_second(now.as_second() - seconds).unwrap();
        pod(1, "a", &json!({ "metadata": { "deletionTimestamp": at.to_string() } }))
    };
    let stuck = |nodes: &[(&str, Node)]| {
        let overview = see(job(&json!({})), &[late(300)], &[], nodes);
        let text = troubles(&overview)[0].to_owned();
        assert!(
            text.contains(
                "`kubectl delete pod tune-1-1-a --namespace ml --force --grace-period=0`"
            ),
            "{text}"
        );
        text.lines().next().unwrap().to_owned()
    };
    let start = "pod 1 (`tune-1-1-a`): should have stopped 5 min ago";
    assert_eq!(stuck(&[]), format!("{start} on node `gpu-1`"));
    assert_eq!(stuck(&[("gpu-1", Node::Gone)]), format!("{start}; its node `gpu-1` is gone"));
    assert_eq!(
        stuck(&[("gpu-1", Node::Ready)]),
        format!("{start}, although its node `gpu-1` is ready")
    );
    let lost = Node::of(&parse(json!({ "status": { "conditions": [
        { "type": "MemoryPressure", "status": "Unknown" },
        { "type": "Ready", "status": "Unknown", "message": "Kubelet stopped posting node status." },
    ] } })));
    assert_eq!(
        stuck(&[("gpu-1", lost)]),
        format!("{start}; its node `gpu-1` is lost: Kubelet stopped posting node status.")
    );
    let pods: Vec<Pod> = [late(29), late(30)].map(parse).into();
    let now = NOW.parse().unwrap();
    assert_eq!(suspects(pods[..1].iter(), now).len(), 0, "a little late is no trouble");
    assert_eq!(suspects(pods.iter(), now).into_iter().collect::<Vec<_>>(), ["gpu-1"]);
}

#[test]
fn replaced_pods_are_counted_per_index() {
    let later = |seconds: u32| {
        let time = format!("2026-05-01T11:51:{seconds:02}Z");
        json!({ "metadata": { "creationTimestamp": time } })
    };
    let mut again = ended(75, "Error");
    merge(&mut again, &later(10));
    let pods = [
        pod(1, "c", &later(20)),
        pod(1, "a", &ended(75, "Error")),
        pod(1, "b", &again),
        pod(0, "a", &json!({})),
    ];
    let overview = see(job(&json!({})), &pods, &[], &[]);
    assert_eq!(troubles(&overview), ["replaced pods: index 1: 2"]);
    let names: Vec<&str> = overview.pods.iter().map(|pod| pod.name.as_str()).collect();
    assert_eq!(names, ["tune-1-0-a", "tune-1-1-a", "tune-1-1-b", "tune-1-1-c"]);
}

#[test]
fn suspended_jobs_say_what_they_wait_for() {
    let text = |changes: Value| {
        let overview = see(job(&changes), &[], &[], &[]);
        troubles(&overview).join("\n")
    };
    let queued = text(json!({ "spec": { "suspend": true },
        "metadata": { "labels": { "kueue.x-k8s.io/queue-name": "gpus" } } }));
    assert!(
        queued.starts_with("waits for admission by the Kueue queue `gpus`\nhint: "),
        "{queued}"
    );
    let by_hand = text(json!({ "spec": { "suspend": true } }));
    assert!(by_hand.contains("`kubectl patch job tune-1 --namespace ml --type merge"), "{by_hand}");
    let marked = json!({ "spec": { "suspend": true },
        "metadata": { "annotations": { "muster.dev/incomplete": "true" } } });
    let incomplete = text(marked.clone());
    assert!(
        incomplete.starts_with("its launch began 10 min ago and was not completed\nhint: "),
        "{incomplete}"
    );
    let mut young = marked;
    young["metadata"]["creationTimestamp"] = json!("2026-05-01T11:59:30Z");
    assert_eq!(text(young), "", "a launch takes a moment");
}

#[test]
fn the_words_of_the_same_trouble_may_vary_and_its_key_does_not() {
    let keys = |changes: &[Value]| {
        let pods: Vec<Value> =
            (0..).zip(changes).map(|(index, one)| pod(index, "a", one)).collect();
        let overview = see(job(&json!({})), &pods, &[], &[]);
        overview.trouble.into_iter().map(|one| one.keys).collect::<Vec<_>>()
    };
    let image = |reason: &str, message: &str| keys(&[waiting(reason, message)]);
    assert_eq!(
        image("ErrImagePull", "not found"),
        image("ImagePullBackOff", "Back-off pulling image")
    );
    assert_ne!(image("ErrImagePull", "x"), image("CreateContainerConfigError", "x"));
    let nodes = |message: &str| keys(&[unscheduled("Unschedulable", message)]);
    assert_eq!(nodes("0/3 nodes are available: 3 no"), nodes("0/12 nodes are available: 12 no"));
    assert_ne!(nodes("0/3 nodes are available: 3 no"), nodes("0/3 nodes are available: 3 other"));
    let crash = ended(101, "Error");
    let [one, two] = [keys(std::slice::from_ref(&crash)), keys(&[crash.clone(), crash])];
    assert_eq!((one.len(), two.len()), (1, 1), "they are joined");
    assert_eq!(one[0], two[0][..1]);
    assert_eq!(two[0].len(), 2, "another pod that crashes is news");
}

//! What the tests share: a cluster, a client with little patience, and the objects of a Job.

#![allow(dead_code)] // Not every test uses everything.

use futures::StreamExt;
use futures::channel::mpsc::{self, UnboundedReceiver};
use kubernetes::{Cluster, Error, Objects, Patience, Seen};
use serde_json::{Value, json};
use softkube::{ClockMode, Cluster as Kube, FaultKind, FaultRule, NodeSpec, Options};
use std::time::{Duration, SystemTime};

/// The namespace of all tests.
pub(crate) const SPACE: &str = "default";
/// How long an expected item may take.
const LIMIT: Duration = Duration::from_secs(20);

/// Short pauses, and as many of them as a test may need.
pub(crate) const PATIENCE: Patience = Patience {
    first_pause: Duration::from_millis(1),
    longest_pause: Duration::from_millis(20),
    request: Duration::from_secs(5),
    repetition: Duration::from_secs(20),
    deletion: Duration::from_secs(20),
    silence: Duration::from_secs(100),
    refresh: Duration::from_millis(20),
    drain: Duration::from_secs(5),
};

/// A cluster whose time stands still, with three large nodes.
pub(crate) async fn cluster() -> Kube {
    let capacity = [("cpu", "64"), ("memory", "256Gi"), ("nvidia.com/gpu", "8")];
    let nodes = (0..3).map(|index| NodeSpec::new(&format!("node-{index}"), &capacity)).collect();
    cluster_with(nodes).await
}

/// A cluster whose time stands still.
pub(crate) async fn cluster_with(nodes: Vec<NodeSpec>) -> Kube {
    Kube::start(Options { clock: ClockMode::Manual, nodes, ..Options::default() }).await.unwrap()
}

/// The administrator's client, with the cluster's time.
pub(crate) async fn client(kube: &Kube) -> Cluster {
    client_of(kube, &kube.kubeconfig()).await
}

/// A client with a kubeconfig.
pub(crate) async fn client_of(kube: &Kube, kubeconfig: &str) -> Cluster {
    let clock = kube.clock().clone();
    let now = move || SystemTime::UNIX_EPOCH + Duration::from_secs(clock.now().seconds());
    let cluster = Cluster::from_kubeconfig(kubeconfig, None, None).await.unwrap();
    cluster.with_patience(PATIENCE).with_clock(now)
}

/// The Job `tune-1` as Muster renders it, reduced to what matters here.
pub(crate) fn job(pods: u32) -> Value {
    let labels = json!({
        "app.kubernetes.io/name": "muster", "app.kubernetes.io/component": "job",
        "muster.dev/run": "tune", "muster.dev/attempt": "1",
    });
    let container = json!({
        "name": "muster", "image": "registry.example/muster:1", "command": ["coordinator"],
        "envFrom": [{ "secretRef": { "name": "store" } }],
    });
    json!({
        "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "tune-1", "labels": labels },
        "spec": {
            "completionMode": "Indexed", "completions": pods, "parallelism": pods,
            "backoffLimit": i32::MAX,
            "podFailurePolicy": { "rules": [
                { "action": "FailJob",
                  "onExitCodes": { "containerName": "muster", "operator": "In",
                    "values": [64, 65, 66, 67] } },
                { "action": "Ignore",
                  "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            ] },
            "template": {
                "metadata": { "labels": labels },
                "spec": {
                    "restartPolicy": "Never", "subdomain": "tune-1",
                    "terminationGracePeriodSeconds": 30,
                    "containers": [container],
                    "volumes": [{ "name": "spec", "configMap": { "name": "tune-1" } }],
                },
            },
        },
    })
}

/// The ConfigMap, the Service and the Secret of the Job.
pub(crate) fn dependents(spec: &str) -> [Value; 3] {
    let metadata = json!({ "name": "tune-1", "labels": { "muster.dev/run": "tune" } });
    [
        json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "immutable": true,
            "data": { "spec.yaml": spec } }),
        json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
            "clusterIP": "None", "publishNotReadyAddresses": true,
            "selector": { "batch.kubernetes.io/job-name": "tune-1" },
            "ports": [{ "name": "grpc", "port": 7070 }],
        } }),
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "tune-1-credentials" },
            "stringData": { "tls.key": "secret" } }),
    ]
}

/// A submission of two pods.
pub(crate) fn objects() -> Objects {
    objects_of(2, "model: tiny")
}

/// A submission with a spec.
pub(crate) fn objects_of(pods: u32, spec: &str) -> Objects {
    Objects::new(dependents(spec).into_iter().chain([job(pods)])).unwrap()
}

/// The rule that lets a number of requests pass, whatever they are.
pub(crate) fn pass(count: u32) -> FaultRule {
    FaultRule::once("*", "*", FaultKind::Delay(Duration::ZERO)).times(count)
}

/// A fault of the next request, whatever it is.
pub(crate) fn next_request(kind: FaultKind) -> FaultRule {
    FaultRule::once("*", "*", kind)
}

/// Verb and resource of all requests so far.
pub(crate) fn requests(kube: &Kube) -> Vec<String> {
    kube.requests().iter().map(|one| format!("{} {}", one.verb, one.resource)).collect()
}

/// How many objects of a resource were ever created for the Job.
pub(crate) fn created(kube: &Kube, resource: &str) -> usize {
    let ledger = kube.ledger();
    let keys = ledger.iter().map(|one| &one.key);
    keys.filter(|key| key.resource == resource && key.name.starts_with("tune-1")).count()
}

/// The Job as it is.
pub(crate) fn stored(kube: &Kube, resource: &str, name: &str) -> Value {
    kube.view(|view| view.get(resource, SPACE, name).cloned()).unwrap_or_default()
}

/// Checks that the launch is complete, and was made once.
pub(crate) fn assert_complete(kube: &Kube, context: &str) {
    let uid = stored(kube, "jobs", "tune-1")["metadata"]["uid"].clone();
    assert_eq!(created(kube, "jobs"), 1, "{context}: {:?}", requests(kube));
    let job = stored(kube, "jobs", "tune-1");
    assert_eq!(job["spec"]["suspend"], json!(false), "{context}");
    assert!(job["metadata"]["annotations"].get("muster.dev/incomplete").is_none(), "{context}");
    let names =
        [("configmaps", "tune-1"), ("services", "tune-1"), ("secrets", "tune-1-credentials")];
    for (resource, name) in names {
        assert_eq!(created(kube, resource), 1, "{context}: {resource}");
        let owners = &stored(kube, resource, name)["metadata"]["ownerReferences"];
        assert_eq!(owners[0]["uid"], uid, "{context}: {resource}");
    }
}

/// A token of a service account for an audience, bound to a pod, as a kubelet asks for it.
pub(crate) async fn bound_token(kube: &Kube, account: &str, pod: &str, audience: &str) -> String {
    use k8s_openapi::api::authentication::v1::{
        BoundObjectReference, TokenRequest, TokenRequestSpec,
    };
    use k8s_openapi::api::core::v1::ServiceAccount;
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&kube.kubeconfig()).unwrap();
    let options = kube::config::KubeConfigOptions::default();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    let accounts: kube::Api<ServiceAccount> =
        kube::Api::namespaced(kube::Client::try_from(config).unwrap(), SPACE);
    let reference = BoundObjectReference {
        kind: Some("Pod".to_owned()),
        name: Some(pod.to_owned()),
        ..BoundObjectReference::default()
    };
    let spec = TokenRequestSpec {
        audiences: vec![audience.to_owned()],
        bound_object_ref: Some(reference),
        ..TokenRequestSpec::default()
    };
    let request = TokenRequest { spec, ..TokenRequest::default() };
    let parameters = kube::api::PostParams::default();
    let answer = accounts.create_token_request(account, &parameters, &request).await.unwrap();
    answer.status.unwrap().token
}

/// The pod of an index that has not ended, once it has a node.
pub(crate) async fn pod(kube: &Kube, index: u32) -> String {
    let label = "batch.kubernetes.io/job-completion-index";
    let index = index.to_string();
    kube.wait("a pod with a node", |view| {
        let pods = view.pods_of(SPACE, "tune-1");
        let mut alive = pods.into_iter().filter(|pod| {
            pod["metadata"]["labels"][label] == index
                && pod["spec"]["nodeName"].is_string()
                && pod["metadata"].get("deletionTimestamp").is_none()
                && !["Failed", "Succeeded"].contains(&pod["status"]["phase"].as_str().unwrap_or(""))
        });
        Some(alive.next()?["metadata"]["name"].as_str()?.to_owned())
    })
    .await
    .unwrap()
}

/// Waits until watches of Jobs and pods are open, the given number since the beginning.
pub(crate) async fn watched(kube: &Kube, times: usize) {
    kube.wait("the watches", |view| {
        let opened = |resource: &str| {
            let requests = view.requests().iter();
            requests.filter(|one| one.verb == "watch" && one.resource == resource).count() >= times
        };
        (opened("jobs") && opened("pods")).then_some(())
    })
    .await
    .unwrap();
}

/// A Job that is followed.
pub(crate) struct Followed {
    stream: UnboundedReceiver<Result<Seen, Error>>,
    /// What has been seen.
    pub(crate) seen: Vec<String>,
}

impl Followed {
    pub(crate) fn new(client: &Cluster) -> Self {
        // The stream does nothing unless it is read, so it is read all the time.
        let (sender, stream) = mpsc::unbounded();
        tokio::spawn(client.follow("tune-1").map(Ok).forward(sender));
        Self { stream, seen: Vec::new() }
    }

    /// Reads on until something is seen that contains the text, and returns it.
    pub(crate) async fn until(&mut self, text: &str) -> String {
        loop {
            let next = tokio::time::timeout(LIMIT, self.stream.next()).await;
            let Ok(Some(item)) = next else {
                panic!("`{text}` was not seen ({next:?}), but {:#?}", self.seen);
            };
            let words = match item {
                Ok(Seen::Note(note)) => note,
                Ok(Seen::Log { line, .. }) => format!("| {line}"),
                Ok(Seen::End(end)) => format!("end: {end:?}"),
                Err(error) => format!("error: {error}"),
            };
            self.seen.push(words.clone());
            if words.contains(text) {
                return words;
            }
        }
    }

    /// Reads to the end of the stream, and returns everything.
    pub(crate) async fn finish(mut self, end: &str) -> Vec<String> {
        self.until(end).await;
        let rest = tokio::time::timeout(LIMIT, self.stream.next()).await;
        assert!(matches!(rest, Ok(None)), "after the end: {rest:?}");
        self.seen
    }

    /// How often a text was seen.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.seen.iter().filter(|words| words.contains(text)).count()
    }
}

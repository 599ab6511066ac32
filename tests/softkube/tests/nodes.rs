//! Scheduling, lost nodes, eviction and the manual kubelet.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use softkube::{Cluster, NodeSpec};
use support::{Client, PODS, cluster_with, job, manual_cluster, pod};

fn get_pod(cluster: &Cluster, name: &str) -> Option<Value> {
    cluster.settle();
    cluster.view(|view| view.get("pods", "default", name).cloned())
}

fn condition(pod: &Value, kind: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    conditions.iter().find(|one| one["type"] == kind).cloned().unwrap_or_default()
}

fn gpu_node(name: &str, gpus: &str) -> NodeSpec {
    NodeSpec::new(name, &[("cpu", "8"), ("memory", "32Gi"), ("nvidia.com/gpu", gpus)])
}

fn wanting(name: &str, spec: Value) -> Value {
    let mut pod = pod(name);
    support::merge(&mut pod["spec"], &spec);
    pod
}

#[tokio::test]
async fn the_scheduler_says_why_no_node_fits() {
    let nodes = vec![
        gpu_node("a", "1"),
        gpu_node("b", "8").taint("team", "x", "NoSchedule"),
        NodeSpec::new("c", &[("cpu", "1")]),
    ];
    let cluster = cluster_with(nodes).await;
    let resources = json!({"limits": {"nvidia.com/gpu": "2"}});
    let containers = json!([{"name": "main", "image": "i", "resources": resources}]);
    cluster.create("pods", "default", wanting("p", json!({"containers": containers}))).unwrap();
    let scheduled = condition(&get_pod(&cluster, "p").unwrap(), "PodScheduled");
    assert_eq!(scheduled["reason"], "Unschedulable");
    let message = "0/3 nodes are available: 1 node(s) had untolerated taint {team: x}, 2 Insufficient \
        nvidia.com/gpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, 2 No \
        preemption victims found for incoming pod.";
    assert_eq!(scheduled["message"], message);
    cluster.add_node(&gpu_node("d", "2"));
    assert_eq!(get_pod(&cluster, "p").unwrap()["spec"]["nodeName"], "d");
}

#[tokio::test]
async fn pods_follow_their_selectors_tolerations_gates_and_affinities() {
    let cluster = cluster_with(vec![
        gpu_node("a", "8").label("zone", "1"),
        gpu_node("b", "8").label("zone", "2").taint("team", "x", "NoSchedule"),
    ])
    .await;
    let toleration = json!([{"key": "team", "operator": "Exists"}]);
    let expression = json!({"key": "zone", "operator": "In", "values": ["2"]});
    let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
        "nodeSelectorTerms": [{"matchExpressions": [expression]}]}}});
    cluster
        .create(
            "pods",
            "default",
            wanting("p", json!({"tolerations": toleration, "affinity": affinity})),
        )
        .unwrap();
    assert_eq!(get_pod(&cluster, "p").unwrap()["spec"]["nodeName"], "b");
    let near = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"topologyKey": "zone", "labelSelector": {"matchLabels": {"app": "p"}}}]}});
    cluster
        .create(
            "pods",
            "default",
            wanting("q", json!({"tolerations": toleration, "affinity": near})),
        )
        .unwrap();
    assert_eq!(get_pod(&cluster, "q").unwrap()["spec"]["nodeName"], "b");
    let gated = wanting(
        "g",
        json!({"schedulingGates": [{"name": "example.com/wait"}], "nodeSelector": {"zone": "1"}}),
    );
    cluster.create("pods", "default", gated).unwrap();
    let scheduled = condition(&get_pod(&cluster, "g").unwrap(), "PodScheduled");
    assert_eq!(scheduled["reason"], "SchedulingGated");
    cluster
        .modify("pods", "default", "g", |pod| pod["spec"]["schedulingGates"] = json!([]))
        .unwrap();
    assert_eq!(get_pod(&cluster, "g").unwrap()["spec"]["nodeName"], "a");
}

/// A cluster with a running pod on a node that then falls silent.
async fn lost() -> Cluster {
    let cluster = manual_cluster().await;
    cluster.create("pods", "default", pod("p")).unwrap();
    cluster.settle();
    cluster.kubelet().run("default", "p").unwrap();
    cluster.lose_node("node-0");
    cluster.advance(Duration::from_secs(51));
    cluster
}

#[tokio::test]
async fn pods_of_a_lost_node_are_evicted_and_stay_until_it_returns() {
    let cluster = lost().await;
    let node = cluster.view(|view| view.get("nodes", "", "node-0").unwrap().clone());
    assert_eq!(condition(&node, "Ready")["status"], "Unknown");
    assert_eq!(node["spec"]["taints"].as_array().unwrap().len(), 2);
    assert_eq!(condition(&get_pod(&cluster, "p").unwrap(), "Ready")["status"], "False");
    cluster.advance(Duration::from_secs(290));
    assert!(get_pod(&cluster, "p").unwrap()["metadata"]["deletionTimestamp"].is_null());
    cluster.advance(Duration::from_secs(20));
    let evicted = get_pod(&cluster, "p").unwrap();
    assert_eq!(condition(&evicted, "DisruptionTarget")["reason"], "DeletionByTaintManager");
    cluster.advance(Duration::from_secs(3600));
    assert!(get_pod(&cluster, "p").is_some(), "the pod terminates until its node answers");
    cluster.return_node("node-0");
    assert!(get_pod(&cluster, "p").is_none());
    let node = cluster.view(|view| view.get("nodes", "", "node-0").unwrap().clone());
    assert_eq!(condition(&node, "Ready")["status"], "True");
}

#[tokio::test]
async fn pods_of_a_removed_node_are_collected() {
    let cluster = manual_cluster().await;
    cluster.create("jobs", "default", job("train", json!({"backoffLimit": 3}))).unwrap();
    let first = |view: softkube::View<'_>| {
        Some(view.pods_of("default", "train").first()?["metadata"]["name"].clone())
    };
    let name = cluster.wait("a pod", first).await.unwrap();
    cluster.settle();
    cluster.kubelet().run("default", name.as_str().unwrap()).unwrap();
    cluster.remove_node("node-0").unwrap();
    cluster.settle();
    let deleted =
        cluster.view(|view| view.get("pods", "default", name.as_str().unwrap()).is_none());
    assert!(deleted);
    assert_eq!(
        cluster
            .view(|view| view.get("jobs", "default", "train").unwrap()["status"]["failed"].clone()),
        1
    );
}

#[tokio::test]
async fn an_out_of_service_taint_removes_terminating_pods() {
    let cluster = lost().await;
    cluster.delete("pods", "default", "p").unwrap();
    assert!(get_pod(&cluster, "p").is_some());
    let taint = json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    cluster
        .modify("nodes", "", "node-0", |node| {
            node["spec"]["taints"].as_array_mut().unwrap().push(taint)
        })
        .unwrap();
    assert!(get_pod(&cluster, "p").is_none());
}

#[tokio::test]
async fn a_pod_that_ignores_term_is_killed_after_its_grace() {
    let cluster = manual_cluster().await;
    cluster.create("pods", "default", pod("p")).unwrap();
    cluster.settle();
    cluster.kubelet().run("default", "p").unwrap();
    cluster.kubelet().ignore_term("default", "p").unwrap();
    cluster
        .modify("pods", "default", "p", |pod| pod["metadata"]["finalizers"] = json!(["a.b/c"]))
        .unwrap();
    cluster.delete("pods", "default", "p").unwrap();
    cluster.advance(Duration::from_secs(28));
    assert_eq!(get_pod(&cluster, "p").unwrap()["status"]["phase"], "Running");
    cluster.advance(Duration::from_secs(3));
    let pod = get_pod(&cluster, "p").unwrap();
    assert_eq!(pod["status"]["phase"], "Failed");
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 137);
}

#[tokio::test]
async fn eviction_respects_the_disruption_budget() {
    let cluster = manual_cluster().await;
    let client = Client::new(&cluster);
    cluster.create("pods", "default", pod("p")).unwrap();
    cluster.settle();
    cluster.kubelet().run("default", "p").unwrap();
    let selector = json!({"matchLabels": {"app": "p"}});
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": selector}});
    cluster.create("poddisruptionbudgets", "default", budget).unwrap();
    cluster.settle();
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}});
    let refused = client.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!(refused.code, 429);
    assert_eq!(refused.body["details"]["causes"][0]["reason"], "DisruptionBudget");
    cluster.delete("poddisruptionbudgets", "default", "b").unwrap();
    cluster
        .modify("pods", "default", "p", |pod| pod["metadata"]["finalizers"] = json!(["a.b/c"]))
        .unwrap();
    assert_eq!(client.post(&format!("{PODS}/p/eviction"), &eviction).await.code, 201);
    let evicted = get_pod(&cluster, "p").unwrap();
    assert_eq!(condition(&evicted, "DisruptionTarget")["reason"], "EvictionByEvictionAPI");
}

#[tokio::test]
async fn failing_pulls_alternate_between_their_two_reasons() {
    let cluster = manual_cluster().await;
    cluster.create("pods", "default", pod("p")).unwrap();
    cluster.settle();
    cluster.kubelet().fail_image_pull("default", "p").unwrap();
    let reason = || {
        let pod = get_pod(&cluster, "p").unwrap();
        pod["status"]["containerStatuses"][0]["state"]["waiting"]["reason"].clone()
    };
    assert_eq!(reason(), "ErrImagePull");
    cluster.advance(Duration::from_secs(3));
    assert_eq!(reason(), "ImagePullBackOff");
    cluster.advance(Duration::from_secs(11));
    assert_eq!(reason(), "ErrImagePull");
    cluster.kubelet().run("default", "p").unwrap();
    assert_eq!(get_pod(&cluster, "p").unwrap()["status"]["phase"], "Running");
    cluster.kubelet().kill_out_of_memory("default", "p").unwrap();
    let pod = get_pod(&cluster, "p").unwrap();
    assert_eq!(pod["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled");
    assert_eq!(pod["status"]["phase"], "Failed");
}

#[tokio::test]
async fn headless_services_resolve_to_their_pods() {
    let cluster = manual_cluster().await;
    let service = json!({"metadata": {"name": "workers"}, "spec": {"clusterIP": "None", "selector": {"app": "p"}}});
    cluster.create("services", "default", service).unwrap();
    cluster
        .create("pods", "default", wanting("p", json!({"hostname": "w-0", "subdomain": "workers"})))
        .unwrap();
    cluster.settle();
    let resolve = |name: &str| cluster.view(|view| view.resolve(name, "default").len());
    assert_eq!(resolve("workers"), 0, "an unready pod is not listed");
    cluster
        .modify("services", "default", "workers", |service| {
            service["spec"]["publishNotReadyAddresses"] = true.into();
        })
        .unwrap();
    assert_eq!(resolve("w-0.workers.default.svc.cluster.local"), 1);
    cluster.kubelet().run("default", "p").unwrap();
    assert_eq!(resolve("workers.default.svc"), 1);
    assert_eq!(resolve("w-1.workers.default.svc"), 0);
}

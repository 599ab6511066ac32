//! Lists, watches and faults.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use softkube::{Cluster, FaultKind, FaultRule, Interruption, Outcome};
use support::{CONFIG_MAPS, Client, JOBS, config_map, job, manual_cluster};

async fn cluster_with(count: usize) -> (Cluster, Client) {
    let cluster = manual_cluster().await;
    cluster.delete("configmaps", "default", "kube-root-ca.crt").unwrap();
    for number in 0..count {
        cluster.create("configmaps", "default", config_map(&format!("c{number}"), "1")).unwrap();
    }
    let client = Client::new(&cluster);
    (cluster, client)
}

fn touch(cluster: &Cluster, name: &str, value: &str) {
    cluster
        .modify("configmaps", "default", name, |object| object["data"]["key"] = value.into())
        .unwrap();
}

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap())
        .collect()
}

fn event(kind: &str, name: &str) -> Option<(String, String)> {
    Some((kind.to_owned(), name.to_owned()))
}

#[tokio::test]
async fn pages_of_a_list_show_one_state() {
    let (cluster, client) = cluster_with(5).await;
    let first = client.get(&format!("{CONFIG_MAPS}?limit=2")).await.body;
    assert_eq!(names(&first), ["c0", "c1"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 3);
    assert!(first["items"][0].get("kind").is_none());
    cluster.delete("configmaps", "default", "c2").unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second = client.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.body;
    assert_eq!(names(&second), ["c2", "c3"]);
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    cluster.compact();
    let expired = client.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await;
    assert_eq!((expired.code, &expired.body["reason"]), (410, &json!("Expired")));
}

#[tokio::test]
async fn lists_select_by_labels_and_fields() {
    let (cluster, client) = cluster_with(2).await;
    cluster
        .modify("configmaps", "default", "c1", |object| {
            object["metadata"]["labels"] = json!({"a": "b"})
        })
        .unwrap();
    assert_eq!(
        names(&client.get(&format!("{CONFIG_MAPS}?labelSelector=a%3Db")).await.body),
        ["c1"]
    );
    assert_eq!(names(&client.get(&format!("{CONFIG_MAPS}?labelSelector=!a")).await.body), ["c0"]);
    assert_eq!(
        names(&client.get(&format!("{CONFIG_MAPS}?fieldSelector=metadata.name%3Dc0")).await.body),
        ["c0"]
    );
    assert_eq!(client.get(&format!("{CONFIG_MAPS}?fieldSelector=data.key%3D1")).await.code, 400);
}

#[tokio::test]
async fn a_list_of_the_future_times_out_and_one_of_the_past_is_exact() {
    let (cluster, client) = cluster_with(1).await;
    let revision = cluster.view(|view| view.revision());
    cluster.create("configmaps", "default", config_map("new", "1")).unwrap();
    let exact = format!("{CONFIG_MAPS}?resourceVersion={revision}&resourceVersionMatch=Exact");
    assert_eq!(names(&client.get(&exact).await.body), ["c0"]);
    let newer = format!("{CONFIG_MAPS}?resourceVersion={revision}");
    assert_eq!(names(&client.get(&newer).await.body), ["c0", "new"]);
    let future = client.get(&format!("{CONFIG_MAPS}?resourceVersion=999999")).await;
    assert_eq!((future.code, &future.body["reason"]), (504, &json!("Timeout")));
    assert_eq!(future.body["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[tokio::test]
async fn a_watch_delivers_changes_after_its_version() {
    let (cluster, client) = cluster_with(1).await;
    let list = client.get(CONFIG_MAPS).await.body;
    let version = list["metadata"]["resourceVersion"].as_str().unwrap();
    touch(&cluster, "c0", "2");
    let mut watch =
        client.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(watch.next_name().await, event("MODIFIED", "c0"));
    cluster.create("configmaps", "default", config_map("new", "1")).unwrap();
    assert_eq!(watch.next_name().await, event("ADDED", "new"));
    cluster.delete("configmaps", "default", "new").unwrap();
    let deleted = watch.next().await.unwrap();
    assert_eq!(deleted["type"], "DELETED");
    let revision = cluster.view(|view| view.revision()).to_string();
    assert_eq!(deleted["object"]["metadata"]["resourceVersion"], revision.as_str());
}

#[tokio::test]
async fn a_watch_without_a_version_starts_with_the_state() {
    let (_cluster, client) = cluster_with(2).await;
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "c0"));
    assert_eq!(watch.next_name().await, event("ADDED", "c1"));
}

#[tokio::test]
async fn initial_events_end_with_a_bookmark() {
    let (cluster, client) = cluster_with(1).await;
    let query = "watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?{query}")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "c0"));
    let bookmark = watch.next().await.unwrap();
    assert_eq!(bookmark["type"], "BOOKMARK");
    assert_eq!(bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    cluster.advance(Duration::from_secs(61));
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    let invalid = client.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true")).await;
    assert_eq!(invalid.code, 422);
}

#[tokio::test]
async fn objects_enter_and_leave_a_selection() {
    let (cluster, client) = cluster_with(1).await;
    let version = cluster.view(|view| view.revision());
    let mut watch = client
        .watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}&labelSelector=a"))
        .await;
    let label = |labels: Value| {
        cluster
            .modify("configmaps", "default", "c0", |object| object["metadata"]["labels"] = labels)
            .unwrap();
    };
    label(json!({"a": "1"}));
    label(json!({"a": "2"}));
    label(json!({}));
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(watch.next_name().await, event(kind, "c0"));
    }
}

#[tokio::test]
async fn a_compacted_version_ends_the_watch_with_an_error_event() {
    let (cluster, client) = cluster_with(1).await;
    let version = cluster.view(|view| view.revision());
    touch(&cluster, "c0", "2");
    cluster.compact();
    let mut watch =
        client.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion={version}")).await;
    assert_eq!(watch.code, 200);
    let error = watch.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn watches_end_at_their_timeout_and_by_interruption() {
    let (cluster, client) = cluster_with(0).await;
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=5")).await;
    cluster.advance(Duration::from_secs(6));
    assert_eq!(watch.next().await, None);
    for how in [Interruption::End, Interruption::Break] {
        let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
        cluster.interrupt_watches("configmaps", how);
        assert_eq!(watch.next().await, None);
    }
    let mut stalled = client.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    cluster.interrupt_watches("configmaps", Interruption::Stall);
    cluster.create("configmaps", "default", config_map("before", "1")).unwrap();
    let mut fresh = client.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(fresh.next_name().await, event("ADDED", "before"));
    cluster.create("configmaps", "default", config_map("x", "1")).unwrap();
    assert_eq!(fresh.next_name().await, event("ADDED", "x"));
    // The stalled watch may have seen what happened until it noticed, and nothing afterwards.
    let rest = async { while stalled.next_name().await != event("ADDED", "x") {} };
    assert!(tokio::time::timeout(Duration::from_millis(200), rest).await.is_err());
}

#[tokio::test]
async fn faults_answer_with_their_errors_once() {
    let (cluster, client) = cluster_with(1).await;
    let path = format!("{CONFIG_MAPS}/c0");
    let faults = [
        (FaultKind::Conflict, 409, "Conflict"),
        (FaultKind::Expired, 410, "Expired"),
        (
            FaultKind::TooManyRequests { retry_after: Duration::from_secs(7) },
            429,
            "TooManyRequests",
        ),
        (FaultKind::InternalError, 500, "InternalError"),
        (FaultKind::ServiceUnavailable, 503, "ServiceUnavailable"),
        (FaultKind::GatewayTimeout, 504, "Timeout"),
    ];
    for (kind, code, reason) in faults {
        cluster.fault(FaultRule::once("get", "configmaps", kind).named("c0"));
        let answer = client.get(&path).await;
        assert_eq!((answer.code, &answer.body["reason"]), (code, &json!(reason)));
        assert_eq!(answer.retry_after.is_some(), code == 429);
        assert_eq!(client.get(&path).await.code, 200);
    }
}

#[tokio::test]
async fn a_connection_that_closes_leaves_the_request_done_or_not() {
    let (cluster, client) = cluster_with(0).await;
    for (kind, created, outcome) in [
        (FaultKind::CloseBefore, 0, Outcome::ClosedBefore),
        (FaultKind::CloseAfter, 1, Outcome::ClosedAfter(201)),
    ] {
        cluster.fault(FaultRule::once("create", "jobs", kind));
        let sent = client.send("POST", JOBS, "application/json", &job("train", json!({}))).await;
        assert!(sent.is_err(), "{sent:?}");
        assert_eq!(
            cluster.ledger().iter().filter(|one| one.key.resource == "jobs").count(),
            created
        );
        let last =
            cluster.requests().into_iter().rfind(|request| request.verb == "create").unwrap();
        assert_eq!((last.outcome, last.user_agent.as_str()), (outcome, "tester/1.0"));
    }
    assert_eq!(client.post(JOBS, &job("train", json!({}))).await.code, 409);
}

#[tokio::test]
async fn bodies_are_truncated_reads_are_stale_and_watches_end_by_fault() {
    let (cluster, client) = cluster_with(1).await;
    cluster.fault(FaultRule::once("get", "configmaps", FaultKind::TruncateBody));
    let truncated =
        client.send("GET", &format!("{CONFIG_MAPS}/c0"), "", &Value::Null).await.unwrap();
    assert!(truncated.text().await.is_err());
    touch(&cluster, "c0", "2");
    let stale = FaultKind::StaleRead { revisions: 1 };
    cluster.fault(FaultRule::once("*", "configmaps", stale).times(2));
    assert_eq!(client.get(&format!("{CONFIG_MAPS}/c0")).await.body["data"]["key"], "1");
    assert_eq!(client.get(CONFIG_MAPS).await.body["items"][0]["data"]["key"], "1");
    assert_eq!(client.get(CONFIG_MAPS).await.body["items"][0]["data"]["key"], "2");
    cluster.fault(FaultRule::once("watch", "configmaps", FaultKind::WatchEnds));
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "c0"));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_restarted_server_keeps_its_port_and_state() {
    let (mut cluster, client) = cluster_with(1).await;
    let mut watch = client.watch(&format!("{CONFIG_MAPS}?watch=true")).await;
    assert_eq!(watch.next_name().await, event("ADDED", "c0"));
    cluster.stop_server().await;
    assert_eq!(watch.next().await, None);
    assert!(client.send("GET", CONFIG_MAPS, "", &Value::Null).await.is_err());
    cluster.restart_server().await.unwrap();
    assert_eq!(names(&client.get(CONFIG_MAPS).await.body), ["c0"]);
}

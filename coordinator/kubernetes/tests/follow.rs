//! Following a Job outlives what happens to pods, nodes and connections, and says everything once.

#![allow(clippy::unwrap_used)]

mod support;

use kubernetes::{Cluster, Patience};
use serde_json::json;
use softkube::{Cluster as Kube, FaultKind, FaultRule, Interruption, Rule, Time};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use support::{
    Followed, PATIENCE, SPACE, client, client_of, cluster, objects_of, pod, requests, watched,
};

/// A launched Job whose pods run, and its client.
async fn running(kube: &Kube, pods: u32) -> Cluster {
    let client = client(kube).await;
    client.launch(objects_of(pods, "x")).await.unwrap();
    for index in 0..pods {
        kube.kubelet().run(SPACE, &pod(kube, index).await).unwrap();
    }
    client
}

fn log(kube: &Kube, pod: &str, line: &str) {
    kube.kubelet().log(SPACE, pod, "muster", line).unwrap();
}

#[tokio::test]
async fn a_run_is_followed_from_its_first_pod_to_its_success() {
    let kube = cluster().await;
    let client = client(&kube).await;
    let mut queued = support::job(2);
    queued["spec"]["suspend"] = json!(true);
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!("gpus");
    let objects = support::dependents("x").into_iter().chain([queued]);
    client.launch(kubernetes::Objects::new(objects).unwrap()).await.unwrap();
    let mut followed = Followed::new(&client);
    followed.until("Job `tune-1` is queued in `gpus`").await;
    followed.until("waits for admission by the Kueue queue `gpus`").await;
    kube.modify("jobs", SPACE, "tune-1", |job| job["spec"]["suspend"] = json!(false)).unwrap();
    followed.until("starting (0 of 2 pods run)").await;
    let [first, second] = [pod(&kube, 0).await, pod(&kube, 1).await];
    kube.kubelet().run(SPACE, &first).unwrap();
    log(&kube, &first, "step 1");
    followed.until("| step 1").await;
    kube.kubelet().run(SPACE, &second).unwrap();
    log(&kube, &second, "not this one");
    followed.until("running (2 of 2 pods run)").await;
    log(&kube, &first, "step 2");
    kube.kubelet().exit(SPACE, &first, 0).unwrap();
    kube.kubelet().exit(SPACE, &second, 0).unwrap();
    let seen = followed.finish("end: Succeeded").await;
    assert_eq!(seen.iter().filter(|one| one.starts_with("| ")).count(), 2, "{seen:#?}");
    assert!(seen.iter().any(|one| one == "Job `tune-1` has succeeded"), "{seen:#?}");

    let seen = Followed::new(&client).finish("end: Succeeded").await;
    assert!(seen.contains(&"| step 2".to_owned()), "an ended Job's log is still read: {seen:#?}");
}

#[tokio::test]
async fn a_failed_run_ends_with_its_class() {
    for (code, class) in [(64, "User"), (65, "Data"), (66, "Infrastructure"), (67, "Cancelled")] {
        let kube = cluster().await;
        let client = running(&kube, 2).await;
        let followed = Followed::new(&client);
        let second = pod(&kube, 1).await;
        kube.kubelet().exit(SPACE, &second, code).unwrap();
        let seen = followed.finish("end: Failed").await;
        let end = seen.last().unwrap();
        assert!(
            end.contains(&format!("class: {class}")) && end.contains("with exit code"),
            "{end}"
        );
        assert!(seen.iter().any(|one| one.contains("(PodFailurePolicy)")), "{seen:#?}");
    }
}

#[tokio::test]
async fn the_log_goes_on_with_the_pod_that_replaces_an_evicted_one() {
    let kube = cluster().await;
    let client = running(&kube, 2).await;
    let mut followed = Followed::new(&client);
    let first = pod(&kube, 0).await;
    log(&kube, &first, "before");
    followed.until("| before").await;
    log(&kube, &first, "last words");
    kube.preempt(SPACE, &first).unwrap();
    followed.until("| last words").await;
    // Kubernetes waits 10 s before it replaces a pod that has failed.
    kube.advance(Duration::from_secs(11));
    let next = pod(&kube, 0).await;
    assert_ne!(first, next);
    kube.kubelet().run(SPACE, &next).unwrap();
    log(&kube, &next, "after");
    followed.until("| after").await;
    let rename = format!("pod 0 is now `{next}`, after `{first}`");
    assert_eq!(followed.count(&rename), 1, "{:#?}", followed.seen);
    assert_eq!(followed.count("preempted: its place was given to a pod with a higher priority"), 1);
    assert_eq!(followed.count("replaced pods: index 0: 1"), 1);
    client.delete("tune-1").await.unwrap();
    let seen = followed.finish("end: Deleted").await;
    assert_eq!(seen.iter().filter(|one| one.starts_with("| ")).count(), 3, "{seen:#?}");
}

#[tokio::test]
async fn watches_that_end_break_or_expire_lose_and_repeat_nothing() {
    let kube = cluster().await;
    let client = running(&kube, 1).await;
    let mut followed = Followed::new(&client);
    followed.until("running (1 of 1 pods run)").await;
    let name = pod(&kube, 0).await;
    for (round, how) in
        [Interruption::End, Interruption::Break].into_iter().cycle().take(6).enumerate()
    {
        for verb in ["list", "watch"] {
            let kinds = [
                FaultKind::Expired,
                FaultKind::TooManyRequests { retry_after: Duration::ZERO },
                FaultKind::InternalError,
                FaultKind::CloseBefore,
            ];
            kube.fault(FaultRule::once(verb, "*", kinds[round % kinds.len()].clone()));
        }
        kube.advance(Duration::from_secs(61));
        if round % 2 == 1 {
            kube.compact();
        }
        for resource in ["jobs", "pods", "events"] {
            kube.interrupt_watches(resource, how);
        }
        kube.modify("jobs", SPACE, "tune-1", |job| job["spec"]["suspend"] = json!(true)).unwrap();
        followed.until("Job `tune-1` is suspended").await;
        kube.modify("jobs", SPACE, "tune-1", |job| job["spec"]["suspend"] = json!(false)).unwrap();
        let next = pod(&kube, 0).await;
        kube.kubelet().run(SPACE, &next).unwrap();
        log(&kube, &next, &format!("round {round}"));
        followed.until(&format!("| round {round}")).await;
    }
    assert_ne!(name, pod(&kube, 0).await);
    assert_eq!(followed.count("somebody has suspended the Job"), 6, "{:#?}", followed.seen);
    assert_eq!(followed.count("| round"), 6, "{:#?}", followed.seen);
    assert_eq!(followed.count("does not answer"), 0, "{:#?}", followed.seen);
}

#[tokio::test]
async fn a_silent_watch_is_opened_again() {
    let kube = cluster().await;
    // Watches have no shorter timeout than a second, to which `kube` adds five.
    let patience = Patience { silence: Duration::from_secs(1), ..PATIENCE };
    let client = running(&kube, 1).await.with_patience(patience);
    for resource in ["jobs", "pods"] {
        kube.fault(FaultRule::once("watch", resource, FaultKind::WatchStalls));
    }
    let mut followed = Followed::new(&client);
    followed.until("running").await;
    watched(&kube, 1).await;
    let name = pod(&kube, 0).await;
    kube.kubelet().exit(SPACE, &name, 0).unwrap();
    followed.finish("end: Succeeded").await;
}

#[tokio::test]
async fn an_api_server_that_is_away_is_said_once_and_so_is_its_return() {
    let mut kube = cluster().await;
    let client = running(&kube, 2).await;
    // Late in a second, because a log can only be asked for since whole seconds.
    let now = kube.clock().now();
    let second = Time::parse(&now.rfc3339()).unwrap();
    kube.advance(Duration::from_millis(1700).saturating_sub(now.since(second)));
    let mut followed = Followed::new(&client);
    let first = pod(&kube, 0).await;
    for line in ["one", "two"] {
        log(&kube, &first, line);
    }
    followed.until("| two").await;
    kube.stop_server().await;
    followed.until("the API server does not answer").await;
    kube.advance(Duration::from_millis(100));
    log(&kube, &first, "three");
    kube.restart_server().await.unwrap();
    followed.until("the API server is back").await;
    if followed.count("| three") == 0 {
        followed.until("| three").await;
    }
    for index in 0..2 {
        kube.kubelet().exit(SPACE, &pod(&kube, index).await, 0).unwrap();
    }
    let seen = followed.finish("end: Succeeded").await;
    let count = |text: &str| seen.iter().filter(|one| one.contains(text)).count();
    assert_eq!((count("does not answer"), count("is back")), (1, 1), "{seen:#?}");
    let lines: Vec<_> = seen.iter().filter(|one| one.starts_with("| ")).collect();
    assert_eq!(lines, ["| one", "| two", "| three"]);
}

#[tokio::test]
async fn a_lost_node_is_explained_and_its_pod_is_followed_by_the_next_one() {
    let kube = cluster().await;
    let client = running(&kube, 2).await;
    let mut followed = Followed::new(&client);
    let first = pod(&kube, 0).await;
    log(&kube, &first, "alive");
    followed.until("| alive").await;
    let node =
        support::stored(&kube, "pods", &first)["spec"]["nodeName"].as_str().unwrap().to_owned();
    kube.crash_node(&node);
    // Lost after 50 s, given up after 300 s without a toleration of its own, and then the grace of
    // 30 s.
    for _ in 0..50 {
        kube.advance(Duration::from_secs(10));
    }
    let text = followed.until("should have stopped").await;
    assert!(
        text.contains(&format!("its node `{node}` is lost: Kubelet stopped posting")),
        "{text}"
    );
    assert!(
        text.contains(&format!(
            "`kubectl delete pod {first} --namespace default --force --grace-period=0`"
        )),
        "{text}"
    );
    kube.remove_node(&node).unwrap();
    let next = pod(&kube, 0).await;
    kube.kubelet().run(SPACE, &next).unwrap();
    log(&kube, &next, "alive again");
    followed.until("| alive again").await;
    assert_eq!(followed.count("should have stopped"), 1, "{:#?}", followed.seen);
}

#[tokio::test]
async fn trouble_that_is_only_a_matter_of_time_is_noticed_without_an_event() {
    let kube = cluster().await;
    let late = Arc::new(AtomicU64::new(0));
    let (clock, added) = (kube.clock().clone(), late.clone());
    let now = move || clock.now().seconds() + added.load(Ordering::Relaxed);
    let client = running(&kube, 2).await;
    let client = client.with_clock(move || SystemTime::UNIX_EPOCH + Duration::from_secs(now()));
    let second = pod(&kube, 1).await;
    kube.kubelet().ignore_term(SPACE, &second).unwrap();
    kube.delete("pods", SPACE, &second).unwrap();
    let mut followed = Followed::new(&client);
    followed.until("pending (1 of 2 pods run)").await;
    watched(&kube, 1).await;
    late.store(3600, Ordering::Relaxed);
    let text = followed.until("should have stopped 59 min ago").await;
    assert!(text.contains("although its node"), "{text}");
}

#[tokio::test]
async fn pods_of_another_job_are_left_out() {
    let kube = cluster().await;
    let mut other = support::job(1);
    other["metadata"]["name"] = json!("other");
    other["spec"]["suspend"] = json!(true);
    let other = kube.create("jobs", SPACE, other).unwrap();
    let owner = json!({
        "apiVersion": "batch/v1", "kind": "Job", "name": "other", "uid": other["metadata"]["uid"],
    });
    let mut ghost = support::job(1)["spec"]["template"].clone();
    ghost["metadata"] = json!({ "name": "ghost", "ownerReferences": [owner], "labels": {
        "batch.kubernetes.io/job-name": "tune-1", "batch.kubernetes.io/job-completion-index": "0",
    } });
    kube.create("pods", SPACE, ghost).unwrap();
    kube.wait("its node", |view| {
        view.get("pods", SPACE, "ghost")?["status"].get("startTime").map(|_| ())
    })
    .await
    .unwrap();
    kube.kubelet().run(SPACE, "ghost").unwrap();
    log(&kube, "ghost", "of another");
    let client = running(&kube, 1).await;
    let mut followed = Followed::new(&client);
    let first = pod(&kube, 0).await;
    log(&kube, &first, "from now");
    followed.until("| from now").await;
    kube.kubelet().exit(SPACE, &first, 0).unwrap();
    let seen = followed.finish("end: Succeeded").await;
    assert!(!seen.iter().any(|one| one.contains("another") || one.contains("ghost")), "{seen:?}");
}

#[tokio::test]
async fn trouble_is_told_once_while_its_words_alternate() {
    let kube = cluster().await;
    let client = client(&kube).await;
    client.launch(objects_of(2, "x")).await.unwrap();
    let mut followed = Followed::new(&client);
    followed.until("starting").await;
    for index in 0..2 {
        kube.kubelet().fail_image_pull(SPACE, &pod(&kube, index).await).unwrap();
    }
    for _ in 0..8 {
        kube.advance(Duration::from_secs(15));
    }
    let text = followed.until("the image `registry.example/muster:1` cannot be pulled").await;
    assert!(text.contains("hint: check --image"), "{text}");
    for index in 0..2 {
        kube.kubelet().run(SPACE, &pod(&kube, index).await).unwrap();
    }
    followed.until("running (2 of 2").await;
    assert_eq!(followed.count("cannot be pulled"), 1, "{:#?}", followed.seen);
}

#[tokio::test]
async fn a_user_who_may_not_read_events_and_nodes_follows_all_the_same() {
    let kube = cluster().await;
    running(&kube, 1).await;
    let name = pod(&kube, 0).await;
    log(&kube, &name, "a line");
    for (resources, end) in [("jobs,pods,pods/log", "| a line"), ("jobs,pods", "cannot be read")] {
        let user = format!("user-of-{}", resources.len());
        let token = token_of(&kube, &user);
        kube.allow(Rule::new(&subject(&user), "get,list,watch", resources, Some(SPACE)));
        let client = client_of(&kube, &kube.kubeconfig_for(&user, &token)).await;
        let mut followed = Followed::new(&client);
        followed.until("running").await;
        if followed.count(end) == 0 {
            followed.until(end).await;
        }
        assert_eq!(client.jobs().await.unwrap().len(), 1);
    }
    let token = token_of(&kube, "jobs-only");
    kube.allow(Rule::new(&subject("jobs-only"), "get,list,watch", "jobs", Some(SPACE)));
    let client = client_of(&kube, &kube.kubeconfig_for("jobs-only", &token)).await;
    let seen = Followed::new(&client).finish("error: not allowed to watch pods in namespace").await;
    assert!(seen.last().unwrap().contains("hint: "), "{seen:?}");
    // One by `follow` and one by `jobs` of two users; the third fails before or after it asks.
    let refused = requests(&kube).iter().filter(|one| *one == "list events").count();
    assert!((4..=5).contains(&refused), "{refused}");
}

fn subject(account: &str) -> String {
    format!("system:serviceaccount:{SPACE}:{account}")
}

fn token_of(kube: &Kube, account: &str) -> String {
    kube.create("serviceaccounts", SPACE, json!({ "metadata": { "name": account } })).unwrap();
    kube.service_account_token(SPACE, account).unwrap()
}

#[tokio::test]
async fn a_job_that_does_not_exist_is_an_error() {
    let kube = cluster().await;
    let seen = Followed::new(&client(&kube).await).finish("error: no Job `tune-1`").await;
    assert_eq!(seen.len(), 1);
}

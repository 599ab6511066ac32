//! A launch creates every object once, whatever happens on the way.

#![allow(clippy::unwrap_used)]

mod support;

use futures::future::join_all;
use kubernetes::{Error, Objects, Patience};
use serde_json::{Value, json};
use softkube::{FaultKind, FaultRule};
use std::time::Duration;
use support::{
    PATIENCE, SPACE, assert_complete, client, cluster, created, dependents, job, next_request,
    objects, objects_of, pass, pod, requests, stored,
};

/// The requests of an undisturbed launch.
const REQUESTS: [&str; 6] = [
    "create jobs",
    "create configmaps",
    "create services",
    "create secrets",
    "get jobs",
    "patch jobs",
];

/// Everything that may befall a request.
fn faults() -> Vec<FaultKind> {
    vec![
        FaultKind::Conflict,
        FaultKind::Expired,
        FaultKind::TooManyRequests { retry_after: Duration::from_secs(0) },
        FaultKind::InternalError,
        FaultKind::ServiceUnavailable,
        FaultKind::GatewayTimeout,
        FaultKind::CloseBefore,
        FaultKind::CloseAfter,
        FaultKind::TruncateBody,
    ]
}

#[tokio::test]
async fn a_launch_creates_a_suspended_job_then_the_rest_and_then_resumes_the_job() {
    let kube = cluster().await;
    let launched = client(&kube).await.launch(objects()).await.unwrap();
    assert!(!launched.existed && !launched.suspended);
    assert_eq!(launched.job, "tune-1");
    assert_eq!(requests(&kube), REQUESTS);
    assert_complete(&kube, "undisturbed");
    let first = kube.ledger().into_iter().find(|one| one.key.resource == "jobs").unwrap();
    assert_eq!(first.object["spec"]["suspend"], true);
    assert_eq!(first.object["metadata"]["annotations"]["muster.dev/incomplete"], "true");
    let job = stored(&kube, "jobs", "tune-1");
    assert_eq!(job["metadata"]["uid"], launched.uid);
    assert!(job["metadata"].get("ownerReferences").is_none());
    assert_eq!(job["metadata"]["annotations"]["muster.dev/submission"].as_str().unwrap().len(), 64);
    let owner =
        json!([{ "apiVersion": "batch/v1", "kind": "Job", "name": "tune-1", "uid": launched.uid }]);
    assert_eq!(stored(&kube, "services", "tune-1")["metadata"]["ownerReferences"], owner);
    assert_eq!(stored(&kube, "configmaps", "tune-1")["data"]["spec.yaml"], "model: tiny");
    pod(&kube, 1).await;
}

#[tokio::test]
async fn a_job_that_is_to_stay_suspended_is_not_resumed() {
    let kube = cluster().await;
    let mut queued = job(2);
    queued["spec"]["suspend"] = json!(true);
    queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] = json!("gpus");
    let queued = Objects::new(dependents("x").into_iter().chain([queued])).unwrap();
    let client = client(&kube).await;
    assert!(client.launch(queued.clone()).await.unwrap().suspended);
    let job = stored(&kube, "jobs", "tune-1");
    assert_eq!(job["spec"]["suspend"], true);
    assert!(job["metadata"]["annotations"].get("muster.dev/incomplete").is_none());
    assert!(client.launch(queued).await.unwrap().existed);
}

#[tokio::test]
async fn one_fault_at_any_request_leaves_one_job_and_all_that_belongs_to_it() {
    for kind in faults() {
        for (at, request) in REQUESTS.iter().enumerate() {
            for times in [1, 3] {
                let context = format!("{kind:?} at {request}, {times} times");
                let kube = cluster().await;
                kube.fault(pass(u32::try_from(at).unwrap()));
                kube.fault(next_request(kind.clone()).times(times));
                let launched = client(&kube).await.launch(objects()).await;
                launched.unwrap_or_else(|error| panic!("{context}: {error}"));
                assert_complete(&kube, &context);
            }
        }
    }
}

#[tokio::test]
async fn random_faults_leave_one_job_and_all_that_belongs_to_it() {
    let kinds = faults();
    let mut random: u64 = 7;
    let mut next = |below: usize| {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(random >> 33).unwrap() % below
    };
    for seed in 0..60 {
        let kube = cluster().await;
        for _ in 0..14 {
            match next(kinds.len() + 4) {
                fault if fault < kinds.len() => kube.fault(next_request(kinds[fault].clone())),
                _ => kube.fault(pass(1)),
            }
        }
        let client = client(&kube).await;
        let results = join_all((0..2).map(|_| client.launch(objects()))).await;
        let context = format!("seed {seed}: {:?}", requests(&kube));
        for result in results {
            result.unwrap_or_else(|error| panic!("{context}: {error}"));
        }
        assert_complete(&kube, &context);
    }
}

#[tokio::test]
async fn a_launcher_that_dies_after_any_request_is_completed_by_the_next_one() {
    let hours = Duration::from_secs(36_000);
    let stuck =
        Patience { first_pause: hours, longest_pause: hours, repetition: 2 * hours, ..PATIENCE };
    for (at, request) in REQUESTS.iter().enumerate() {
        for kind in [FaultKind::CloseBefore, FaultKind::CloseAfter] {
            let context = format!("{kind:?} at {request}");
            let kube = cluster().await;
            kube.fault(pass(u32::try_from(at).unwrap()));
            kube.fault(next_request(kind));
            let client = client(&kube).await;
            let hangs = client.clone().with_patience(stuck);
            tokio::select! {
                result = hangs.launch(objects()) => panic!("{context}: {result:?}"),
                waited = kube.wait("the request", |view| {
                    (view.requests().len() > at).then_some(())
                }) => waited.unwrap(),
            }
            let launched = client.launch(objects()).await.unwrap();
            assert_complete(&kube, &context);
            let existed = at > 0 || context.contains("After");
            assert_eq!(launched.existed, existed, "{context}");
        }
    }
}

#[tokio::test]
async fn simultaneous_launchers_of_the_same_submission_all_succeed() {
    let kube = cluster().await;
    let client = client(&kube).await;
    let results = join_all((0..8).map(|_| client.launch(objects()))).await;
    let uids: Vec<String> = results.into_iter().map(|one| one.unwrap().uid).collect();
    assert!(uids.iter().all(|uid| *uid == uids[0]));
    assert_complete(&kube, "eight launchers");
}

#[tokio::test]
async fn of_two_submissions_with_one_name_the_second_changes_nothing() {
    for _ in 0..5 {
        let kube = cluster().await;
        let client = client(&kube).await;
        let both = [objects_of(2, "model: a"), objects_of(2, "model: b")];
        let results = join_all(both.map(|one| client.launch(one))).await;
        let lost: Vec<&Error> = results.iter().filter_map(|one| one.as_ref().err()).collect();
        let [Error::Exists { job, state, .. }] = lost[..] else { panic!("{results:?}") };
        assert_eq!(job, "tune-1");
        assert!(state.contains("other objects"), "{state}");
        assert_complete(&kube, "two submissions");
        let winner = if results[0].is_ok() { "model: a" } else { "model: b" };
        assert_eq!(stored(&kube, "configmaps", "tune-1")["data"]["spec.yaml"], winner);
    }
}

#[tokio::test]
async fn a_job_that_was_suspended_since_is_not_resumed_by_a_second_launch() {
    let kube = cluster().await;
    let client = client(&kube).await;
    client.launch(objects()).await.unwrap();
    kube.modify("jobs", SPACE, "tune-1", |job| job["spec"]["suspend"] = json!(true)).unwrap();
    assert!(client.launch(objects()).await.unwrap().existed);
    assert_eq!(stored(&kube, "jobs", "tune-1")["spec"]["suspend"], true);
    assert_eq!(requests(&kube)[REQUESTS.len()..], ["create jobs", "get jobs"]);
}

#[tokio::test]
async fn a_job_that_is_suspended_between_two_tries_to_resume_it_stays_suspended() {
    let kube = cluster().await;
    let first_pause = Duration::from_millis(300);
    let slow = Patience { first_pause, longest_pause: first_pause, ..PATIENCE };
    let client = client(&kube).await.with_patience(slow);
    kube.fault(FaultRule::once("patch", "jobs", FaultKind::CloseAfter));
    let suspend = async {
        kube.wait("the first try", |view| {
            view.requests().iter().any(|one| one.verb == "patch").then_some(())
        })
        .await
        .unwrap();
        let change = |job: &mut Value| job["spec"]["suspend"] = json!(true);
        kube.modify("jobs", SPACE, "tune-1", change).unwrap();
    };
    let (launched, ()) = futures::join!(client.launch(objects()), suspend);
    launched.unwrap();
    assert_eq!(stored(&kube, "jobs", "tune-1")["spec"]["suspend"], true);
    assert_eq!(requests(&kube)[REQUESTS.len()..], ["patch jobs", "get jobs"]);
}

#[tokio::test]
async fn a_job_made_by_hand_or_ended_is_not_taken_over() {
    let kube = cluster().await;
    let client = client(&kube).await;
    kube.create("jobs", SPACE, job(2)).unwrap();
    let error = client.launch(objects()).await.unwrap_err().to_string();
    assert!(
        error.contains("Job `tune-1` exists since") && error.contains("it is pending"),
        "{error}"
    );
    assert!(
        error.contains("\nhint: launch another one with another --attempt or --run"),
        "{error}"
    );
    assert_eq!(created(&kube, "configmaps"), 0);

    let kube = cluster().await;
    let client = support::client(&kube).await;
    client.launch(objects_of(1, "x")).await.unwrap();
    let name = pod(&kube, 0).await;
    kube.kubelet().run(SPACE, &name).unwrap();
    kube.kubelet().exit(SPACE, &name, 65).unwrap();
    kube.wait("the end", |view| {
        let job = view.get("jobs", SPACE, "tune-1")?;
        view.condition(job, "Failed").then_some(())
    })
    .await
    .unwrap();
    let error = client.launch(objects_of(1, "x")).await.unwrap_err().to_string();
    assert!(error.contains("has ended: failed (the data set is wrong)"), "{error}");
}

#[tokio::test]
async fn a_job_that_is_being_deleted_is_waited_for_within_bounds() {
    let kube = cluster().await;
    let client = client(&kube).await;
    client.launch(objects()).await.unwrap();
    let name = pod(&kube, 0).await;
    kube.kubelet().run(SPACE, &name).unwrap();
    kube.kubelet().ignore_term(SPACE, &name).unwrap();
    assert!(client.delete("tune-1").await.unwrap());
    let hasty = client.clone().with_patience(Patience { deletion: Duration::ZERO, ..PATIENCE });
    let error = hasty.launch(objects()).await.unwrap_err().to_string();
    assert!(error.contains("is being deleted since") && error.contains("hint: "), "{error}");
    let reads = requests(&kube).iter().filter(|one| *one == "get jobs").count();
    let second = async {
        kube.wait("another look", |view| {
            let gets =
                view.requests().iter().filter(|one| one.verb == "get" && one.resource == "jobs");
            (gets.count() > reads + 2).then_some(())
        })
        .await
        .unwrap();
        kube.advance(Duration::from_secs(31));
    };
    let (launched, ()) = futures::join!(client.launch(objects()), second);
    assert!(!launched.unwrap().existed);
    assert_eq!(created(&kube, "jobs"), 2);
    assert!(!client.delete("tune-2").await.unwrap());
}

#[tokio::test]
async fn what_an_older_job_left_is_waited_for_and_what_others_own_is_not_touched() {
    let kube = cluster().await;
    let client = client(&kube).await;
    let mut old = dependents("old")[0].clone();
    old["metadata"]["finalizers"] = json!(["example.com/slow"]);
    kube.create("configmaps", SPACE, old).unwrap();
    kube.delete("configmaps", SPACE, "tune-1").unwrap();
    let free = async {
        kube.wait("a look at it", |view| {
            let mut gets = view.requests().iter();
            gets.any(|one| one.verb == "get" && one.resource == "configmaps").then_some(())
        })
        .await
        .unwrap();
        kube.modify("configmaps", SPACE, "tune-1", |one| {
            one["metadata"]["finalizers"] = json!([]);
        })
        .unwrap();
    };
    let (launched, ()) = futures::join!(client.launch(objects()), free);
    launched.unwrap();
    assert_eq!(stored(&kube, "configmaps", "tune-1")["data"]["spec.yaml"], "model: tiny");

    let kube = cluster().await;
    let client = support::client(&kube).await;
    kube.create("services", SPACE, dependents("x")[1].clone()).unwrap();
    let error = client.launch(objects()).await.unwrap_err();
    let Error::Taken { .. } = error else { panic!("{error}") };
    let text = error.to_string();
    assert!(text.contains("Service `tune-1` exists and belongs to no Job"), "{text}");
    assert!(text.contains("`kubectl delete service tune-1 --namespace default`"), "{text}");
    assert_eq!(stored(&kube, "jobs", "tune-1"), Value::Null, "the suspended Job is removed");
    kube.settle();
    assert_eq!(stored(&kube, "configmaps", "tune-1"), Value::Null);
}

#[tokio::test]
async fn a_launch_that_cannot_be_completed_says_what_exists() {
    let kube = cluster().await;
    let client =
        client(&kube).await.with_patience(Patience { repetition: Duration::ZERO, ..PATIENCE });
    kube.fault(FaultRule::once("create", "services", FaultKind::InternalError));
    let error = client.launch(objects()).await.unwrap_err();
    let Error::Incomplete { source, .. } = &error else { panic!("{error}") };
    assert!(source.to_string().contains("no answer to `create services `tune-1``"), "{source}");
    assert!(error.to_string().contains("`kubectl delete job tune-1 --namespace default`"));
    assert_eq!(stored(&kube, "jobs", "tune-1")["spec"]["suspend"], true);
    client.launch(objects()).await.unwrap();
    assert_complete(&kube, "second launch");
}

#[tokio::test]
async fn a_job_deleted_during_its_launch_is_noticed_even_if_another_takes_its_name() {
    for is_replaced in [false, true] {
        let kube = cluster().await;
        let client = client(&kube).await;
        let pause = FaultKind::Delay(Duration::from_millis(300));
        kube.fault(FaultRule::once("create", "secrets", pause));
        let delete = async {
            kube.wait("the service", |view| view.get("services", SPACE, "tune-1").map(|_| ()))
                .await
                .unwrap();
            kube.delete("jobs", SPACE, "tune-1").unwrap();
            if is_replaced {
                kube.create("jobs", SPACE, job(1)).unwrap();
            }
        };
        let (launched, ()) = futures::join!(client.launch(objects()), delete);
        assert!(matches!(launched, Err(Error::Vanished { .. })), "{launched:?}");
        assert_eq!(stored(&kube, "jobs", "tune-1").is_object(), is_replaced);
    }
}

#[tokio::test]
async fn retry_after_is_obeyed() {
    let kube = cluster().await;
    let client = client(&kube).await;
    kube.fault(FaultRule::once(
        "create",
        "jobs",
        FaultKind::TooManyRequests { retry_after: Duration::from_secs(1) },
    ));
    let started = std::time::Instant::now();
    client.launch(objects()).await.unwrap();
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(requests(&kube)[..3], ["create jobs", "create jobs", "create configmaps"]);
}

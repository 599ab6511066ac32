//! Overviews of the Jobs in a namespace.

#![allow(clippy::unwrap_used)]

mod support;

use kubernetes::{Objects, Overview, State};
use serde_json::json;
use softkube::NodeSpec;
use std::time::Duration;
use support::{SPACE, client, cluster, cluster_with, job, objects, pod};

/// The Job of a run and an attempt, with its pods.
fn job_of(run: &str, attempt: u32) -> Objects {
    let mut job = job(1);
    job["metadata"]["name"] = json!(format!("{run}-{attempt}"));
    for metadata in ["/metadata/labels", "/spec/template/metadata/labels"] {
        let labels = job.pointer_mut(metadata).unwrap();
        labels["muster.dev/run"] = json!(run);
        labels["muster.dev/attempt"] = json!(attempt.to_string());
    }
    Objects::new([job]).unwrap()
}

fn names(overviews: &[Overview]) -> Vec<&str> {
    overviews.iter().map(|one| one.job.as_str()).collect()
}

#[tokio::test]
async fn jobs_are_listed_by_age_and_by_run() {
    let kube = cluster().await;
    let client = client(&kube).await;
    for (run, attempt) in [("tune", 2), ("tune", 10), ("other", 1)] {
        client.launch(job_of(run, attempt)).await.unwrap();
        kube.advance(Duration::from_secs(1));
    }
    let mut foreign = job(1);
    foreign["metadata"] = json!({ "name": "foreign" });
    // A Job without labels would take those of its pods.
    foreign["spec"]["template"]["metadata"] = json!({});
    kube.create("jobs", SPACE, foreign).unwrap();
    assert_eq!(names(&client.jobs().await.unwrap()), ["tune-2", "tune-10", "other-1"]);
    let attempts = client.job("tune").await.unwrap();
    assert_eq!(names(&attempts), ["tune-2", "tune-10"]);
    assert_eq!(attempts[1].attempt, Some(10));
    assert!(attempts.iter().all(|one| one.pods.len() == 1 && one.run == "tune"));
    assert!(client.job("nothing").await.unwrap().is_empty());
}

#[tokio::test]
async fn an_overview_shows_what_the_cluster_says() {
    let kube = cluster_with(vec![NodeSpec::new("small", &[("cpu", "4")])]).await;
    let client = client(&kube).await;
    let mut large = job(2);
    large["spec"]["template"]["spec"]["containers"][0]["resources"] =
        json!({ "requests": { "nvidia.com/gpu": "8" }, "limits": { "nvidia.com/gpu": "8" } });
    client.launch(Objects::new([large]).unwrap()).await.unwrap();
    kube.wait("the scheduler", |view| {
        let events = view.list("events", SPACE);
        let refused = events.iter().filter(|event| event["reason"] == "FailedScheduling");
        (refused.count() == 2).then_some(())
    })
    .await
    .unwrap();
    let overview = client.job("tune").await.unwrap().remove(0);
    assert_eq!(overview.state, State::Pending);
    let text = overview.trouble[0].to_string();
    assert!(
        text.starts_with(
            "2 pods (0, 1): waits for a node: 0/1 nodes are available: \
             1 Insufficient nvidia.com/gpu\n"
        ),
        "{text}"
    );
    assert_eq!(overview.counts.wanted, 2);
}

#[tokio::test]
async fn a_pod_on_a_lost_node_is_explained_by_its_node() {
    let kube = cluster().await;
    let client = client(&kube).await;
    client.launch(objects()).await.unwrap();
    let first = pod(&kube, 0).await;
    kube.kubelet().run(SPACE, &first).unwrap();
    let node =
        support::stored(&kube, "pods", &first)["spec"]["nodeName"].as_str().unwrap().to_owned();
    kube.crash_node(&node);
    for _ in 0..50 {
        kube.advance(Duration::from_secs(10));
    }
    let overview = client.job("tune").await.unwrap().remove(0);
    let texts: Vec<String> = overview.trouble.iter().map(ToString::to_string).collect();
    let wanted = format!("; its node `{node}` is lost: ");
    assert!(texts.iter().any(|text| text.contains(&wanted)), "{texts:?}");
    assert!(overview.pods[0].state.starts_with("does not stop, "), "{overview:?}");
}

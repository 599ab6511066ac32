//! Containers as local processes.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

mod support;

use std::time::Duration;

use serde_json::{Value, json};
use softkube::{ClockMode, Cluster, ContainerStart, Options, View};
use support::{Client, JOBS, PODS, job, merge};
use tokio::process::Command;

/// Runs the command of the container, with the mount paths in its texts replaced by folders on disk.
fn command(start: &ContainerStart) -> Command {
    let local = |text: &String| {
        start.mounts.iter().fold(text.clone(), |text, mount| {
            text.replace(&mount.mount_path, &mount.host_path.display().to_string())
        })
    };
    let words: Vec<String> = start.command.iter().chain(&start.args).map(local).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).env_clear().env("PATH", "/usr/bin:/bin").envs(start.env.clone());
    command.env("TERMINATION_LOG", &start.termination_log);
    command
}

/// A cluster in which one real second is ten.
async fn cluster() -> Cluster {
    let options = Options { clock: ClockMode::Accelerated(10), ..Options::default() };
    Cluster::start_processes(options, command).await.unwrap()
}

/// A pod whose container runs a shell script.
fn script(name: &str, script: &str, spec: Value) -> Value {
    let mut pod = support::pod(name);
    pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
    merge(&mut pod["spec"], &spec);
    pod
}

fn with_container(name: &str, text: &str, container: Value) -> Value {
    let mut pod = script(name, text, json!({}));
    merge(&mut pod["spec"]["containers"][0], &container);
    pod
}

async fn phase(cluster: &Cluster, pod: &str, phase: &str) -> Value {
    let reached = |view: View<'_>| {
        view.get("pods", "default", pod).filter(|pod| pod["status"]["phase"] == phase).cloned()
    };
    cluster.wait(&format!("{pod} is {phase}"), reached).await.unwrap()
}

async fn logs(cluster: &Cluster, pod: &str, expected: &[&str]) {
    let written =
        |view: View<'_>| Some(view.log("default", pod, "main")).filter(|lines| lines == expected);
    cluster.wait(&format!("{pod} writes {expected:?}"), written).await.unwrap();
}

fn terminated(pod: &Value) -> Value {
    pod["status"]["containerStatuses"][0]["state"]["terminated"].clone()
}

#[tokio::test]
async fn an_indexed_job_runs_its_processes() {
    let cluster = cluster().await;
    let client = Client::new(&cluster);
    let mut object =
        job("train", json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3}));
    object["spec"]["template"]["spec"]["containers"][0]["command"] =
        json!(["sh", "-c", "echo index $(JOB_COMPLETION_INDEX) of $HOSTNAME"]);
    client.post(JOBS, &object).await;
    let complete = |view: View<'_>| {
        view.get("jobs", "default", "train").filter(|job| view.condition(job, "Complete")).cloned()
    };
    let done = cluster.wait("completion", complete).await.unwrap();
    assert_eq!(done["status"]["completedIndexes"], "0-2");
    let pods = cluster.view(|view| {
        let pods = view.pods_of("default", "train");
        pods.iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    });
    let log = client.get(&format!("{PODS}/{}/log", pods[1])).await;
    assert_eq!(log.body, "index 1 of train-1\n");
}

#[tokio::test]
async fn the_environment_is_resolved() {
    let cluster = cluster().await;
    cluster
        .create(
            "configmaps",
            "default",
            json!({"metadata": {"name": "c"}, "data": {"K": "1", "L": "2"}}),
        )
        .unwrap();
    cluster
        .create(
            "secrets",
            "default",
            json!({"metadata": {"name": "s"}, "stringData": {"k": "hidden"}}),
        )
        .unwrap();
    let env = json!([
        {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
        {"name": "ABSENT", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        {"name": "BOTH", "value": "$(POD)/$(K)/$$(L)/$(NONE)"},
    ]);
    let container = json!({"env": env, "envFrom": [{"configMapRef": {"name": "c"}}],
        "resources": {"limits": {"memory": "64Mi"}}});
    let text =
        "echo $BOTH; echo $SECRET ${ABSENT-unset} $L $LIMIT; case $IP in 127.*) echo local;; esac";
    cluster.create("pods", "default", with_container("p", text, container)).unwrap();
    phase(&cluster, "p", "Succeeded").await;
    logs(&cluster, "p", &["p/1/$(L)/$(NONE)", "hidden unset 2 64", "local"]).await;
}

#[tokio::test]
async fn a_missing_secret_delays_the_container() {
    let cluster = cluster().await;
    let env = json!([{"name": "S", "valueFrom": {"secretKeyRef": {"name": "late", "key": "k"}}}]);
    cluster.create("pods", "default", with_container("p", "echo $S", json!({"env": env}))).unwrap();
    let waiting = |view: View<'_>| {
        let pod = view.get("pods", "default", "p")?;
        Some(pod["status"]["containerStatuses"][0]["state"]["waiting"].clone())
            .filter(|waiting| waiting["reason"] == "CreateContainerConfigError")
    };
    let waiting = cluster.wait("the config error", waiting).await.unwrap();
    assert_eq!(waiting["message"], "secret \"late\" not found");
    cluster
        .create(
            "secrets",
            "default",
            json!({"metadata": {"name": "late"}, "stringData": {"k": "v"}}),
        )
        .unwrap();
    phase(&cluster, "p", "Succeeded").await;
    logs(&cluster, "p", &["v"]).await;
}

#[tokio::test]
async fn an_updated_secret_appears_at_once_with_its_mode() {
    let cluster = cluster().await;
    let data = |value: &str| json!({"a": value, "b": value});
    cluster
        .create("secrets", "default", json!({"metadata": {"name": "s"}, "stringData": data("1")}))
        .unwrap();
    let volume = json!({"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}});
    let text = "stat -L -c %a /etc/s/a; until [ \"$(cat /etc/s/a)\" = 2 ]; do sleep 0.01; done; cat /etc/s/b; echo";
    let mut pod =
        with_container("p", text, json!({"volumeMounts": [{"name": "v", "mountPath": "/etc/s"}]}));
    pod["spec"]["volumes"] = json!([volume]);
    cluster.create("pods", "default", pod).unwrap();
    logs(&cluster, "p", &["400"]).await;
    cluster.modify("secrets", "default", "s", |secret| secret["stringData"] = data("2")).unwrap();
    phase(&cluster, "p", "Succeeded").await;
    logs(&cluster, "p", &["400", "2"]).await;
}

#[tokio::test]
async fn a_projected_token_is_good_for_its_audience_and_pod() {
    let cluster = cluster().await;
    let client = Client::new(&cluster);
    let sources = json!([{"serviceAccountToken": {"path": "token", "audience": "muster", "expirationSeconds": 600}},
        {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]);
    let mounts = json!({"volumeMounts": [{"name": "v", "mountPath": "/var/v"}]});
    let mut pod = with_container("p", "cat /var/v/token; echo; cat /var/v/labels; echo", mounts);
    pod["spec"]["volumes"] = json!([{"name": "v", "projected": {"sources": sources}}]);
    cluster.create("pods", "default", pod).unwrap();
    phase(&cluster, "p", "Succeeded").await;
    let lines = cluster.view(|view| view.log("default", "p", "main"));
    assert_eq!(lines[1], "app=\"p\"");
    let review = json!({"spec": {"token": lines[0], "audiences": ["muster"]}});
    let status =
        client.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).await.body["status"]
            .clone();
    assert_eq!(status["user"]["extra"]["authentication.kubernetes.io/pod-name"], json!(["p"]));
}

#[tokio::test]
async fn init_containers_run_first_and_in_order() {
    let cluster = cluster().await;
    let mount = json!([{"name": "v", "mountPath": "/data"}]);
    let init = |name: &str, text: &str| {
        let command = ["sh", "-c", text];
        json!({"name": name, "image": "i", "command": command, "volumeMounts": mount})
    };
    let mut pod = with_container("p", "cat /data/f", json!({"volumeMounts": mount}));
    pod["spec"]["initContainers"] =
        json!([init("one", "echo 1 > /data/f"), init("two", "echo 2 >> /data/f")]);
    pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    cluster.create("pods", "default", pod).unwrap();
    phase(&cluster, "p", "Succeeded").await;
    logs(&cluster, "p", &["1", "2"]).await;
}

#[tokio::test]
async fn a_deleted_pod_may_end_gracefully_and_is_killed_after_its_grace() {
    let cluster = cluster().await;
    let polite = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done";
    let stubborn = "trap '' TERM; echo up; while :; do sleep 0.02; done";
    for (name, text, code) in [("polite", polite, 3), ("stubborn", stubborn, 137)] {
        let mut pod = script(name, text, json!({"terminationGracePeriodSeconds": 5}));
        pod["metadata"]["finalizers"] = json!(["a.b/c"]);
        cluster.create("pods", "default", pod).unwrap();
        logs(&cluster, name, &["up"]).await;
        cluster.delete("pods", "default", name).unwrap();
        let pod = phase(&cluster, name, "Failed").await;
        assert_eq!(terminated(&pod)["exitCode"], code, "{name}");
    }
    logs(&cluster, "polite", &["up", "bye"]).await;
}

#[tokio::test]
async fn exits_report_their_code_and_message() {
    let cluster = cluster().await;
    cluster
        .create("pods", "default", script("p", "echo broken > $TERMINATION_LOG; exit 7", json!({})))
        .unwrap();
    let pod = phase(&cluster, "p", "Failed").await;
    assert_eq!(terminated(&pod)["exitCode"], 7);
    assert_eq!(terminated(&pod)["message"], "broken\n");
    cluster.create("pods", "default", script("q", "kill -KILL $$$$", json!({}))).unwrap();
    assert_eq!(terminated(&phase(&cluster, "q", "Failed").await)["exitCode"], 137);
    let mut absent = support::pod("r");
    absent["spec"]["containers"][0]["command"] = json!(["/does/not/exist"]);
    cluster.create("pods", "default", absent).unwrap();
    assert_eq!(terminated(&phase(&cluster, "r", "Failed").await)["reason"], "StartError");
}

#[tokio::test]
async fn probes_decide_readiness_and_restart_the_dead() {
    let cluster = cluster().await;
    let mount = json!([{"name": "v", "mountPath": "/data"}]);
    let container = json!({
        "volumeMounts": mount,
        "readinessProbe": {"exec": {"command": ["test", "-e", "/data/ready"]}, "periodSeconds": 1},
        "livenessProbe": {"exec": {"command": ["test", "!", "-e", "/data/dead"]}, "periodSeconds": 1},
    });
    let text = "if [ -e /data/dead ]; then rm /data/dead; exit 0; fi; sleep 0.5; touch /data/ready; sleep 1; \
        touch /data/dead; sleep 100";
    let mut pod = with_container("p", text, container);
    merge(
        &mut pod["spec"],
        &json!({"restartPolicy": "OnFailure", "volumes": [{"name": "v", "emptyDir": {}}]}),
    );
    cluster.create("pods", "default", pod).unwrap();
    let pod = phase(&cluster, "p", "Running").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["ready"], false);
    let ready = |view: View<'_>| {
        view.get("pods", "default", "p").filter(|pod| view.condition(pod, "Ready")).map(drop)
    };
    cluster.wait("readiness", ready).await.unwrap();
    let pod = phase(&cluster, "p", "Succeeded").await;
    assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 1);
}

#[tokio::test]
async fn a_crashed_node_takes_its_processes_with_it() {
    let cluster = cluster().await;
    cluster.create("pods", "default", script("p", "echo up; sleep 100", json!({}))).unwrap();
    logs(&cluster, "p", &["up"]).await;
    cluster.crash_node("node-0");
    tokio::time::timeout(Duration::from_millis(300), phase(&cluster, "p", "Failed"))
        .await
        .unwrap_err();
    cluster.return_node("node-0");
    let pod = phase(&cluster, "p", "Failed").await;
    assert_eq!(terminated(&pod)["exitCode"], 137);
}

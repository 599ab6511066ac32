//! The objects of a Job, checked against the schemas of Kubernetes and by kubectl.

use muster_tests::{Process, programs};
use serde::Deserialize;
use serde_json::{Value, json};
use softkube::{ClockMode, Cluster, Options, View};
use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

const SPEC: &str = "\
name: tune
model: {base: hf://org/base}
data: {train: [{source: s3://bucket/data.jsonl}]}
workers: {min: 2}
output: s3://bucket/runs
";

/// Everything that `render` can be asked for.
const ALL: [&str; 39] = [
    "--workers",
    "4",
    "--gpus",
    "8",
    "--trust-network",
    "--attempt",
    "2",
    "--namespace",
    "training",
    "--cpu",
    "32",
    "--memory",
    "256Gi",
    "--shm",
    "8Gi",
    "--scratch",
    "100Gi",
    "--env-secret",
    "store",
    "--env",
    "HTTPS_PROXY=http://proxy:3128",
    "--env",
    "NO_PROXY=.svc,10.0.0.0/8",
    "--node-selector",
    "gpu=h200",
    "--toleration",
    "dedicated=training:NoSchedule",
    "--toleration",
    "spot",
    "--colocate",
    "topology.kubernetes.io/zone",
    "--priority-class",
    "high",
    "--pull-secret",
    "registry",
    "--queue",
    "team-a",
    "--grace",
    "300s",
];

/// Prints the objects as JSON lines after checking each against the schemas of two releases, strictly.
const CHECK: &str = "\
import json, sys, yaml, kubernetes_validate
for document in yaml.safe_load_all(sys.stdin):
    for release in ['1.34', kubernetes_validate.latest_version()]:
        kubernetes_validate.validate(document, release, strict=True)
    print(json.dumps(document))
";

/// The spec with one text replaced by another.
fn change_spec((old, new): (&str, &str)) -> String {
    if old.is_empty() { SPEC.to_owned() } else { SPEC.replace(old, new) }
}

fn render(arguments: &[&str]) -> String {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spec = folder.path().join("spec.yaml");
    std::fs::write(&spec, SPEC).expect("the folder can be written");
    let spec = spec.to_str().expect("a temporary path");
    let all = [&["kubernetes", "render", spec, "--image", "muster@sha256:0"], arguments].concat();
    Process::start(&programs::coordinator(), &all).end_with_text(0).0
}

fn credentials(run: &str) -> String {
    let arguments = ["kubernetes", "credentials", run, "--namespace", "training"];
    Process::start(&programs::coordinator(), &arguments).end_with_text(0).0
}

/// Feeds `input` to a command, which must succeed; returns its output.
fn pipe(command: &mut Command, input: &str) -> String {
    let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the command starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).expect("it reads");
    drop(stdin);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn rendered_objects_are_valid_and_belong_together() {
    let name = "rendered_objects_are_valid_and_belong_together";
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        println!("{name}: skipped, MUSTER_PEER_PYTHON is not set");
        return;
    };
    let check = |text: &str| -> Vec<Value> {
        let lines = pipe(Command::new(&python).args(["-c", CHECK]), text);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    };
    for arguments in [&["--run", "tune-x"][..], &["--insecure", "--run", "tune-x"], &ALL] {
        let objects = check(&render(arguments));
        let [config, service, job] = &objects[..] else { panic!("{objects:?}") };
        let kinds = [config, service, job].map(|object| object["kind"].as_str().expect("a kind"));
        assert_eq!(kinds, ["ConfigMap", "Service", "Job"]);
        let name = job["metadata"]["name"].as_str().expect("a name");
        assert!(objects.iter().all(|object| object["metadata"]["name"] == name));
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!((&pod["subdomain"], &pod["restartPolicy"]), (&name.into(), &"Never".into()));
        assert_eq!(service["spec"]["selector"]["batch.kubernetes.io/job-name"], name);
        let container = &pod["containers"][0];
        let rule = &job["spec"]["podFailurePolicy"]["rules"][0];
        assert_eq!(rule["onExitCodes"]["containerName"], container["name"]);
        assert_eq!(rule["onExitCodes"]["values"].to_string(), "[64,65,66,67]");
        // Every volume is mounted, and every mount has its volume.
        let names = |list: &Value| -> Vec<String> {
            let all = list.as_array().expect("a list").iter();
            let mut names: Vec<_> = all.map(|item| item["name"].to_string()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&pod["volumes"]), names(&container["volumeMounts"]));
        let spec = config["data"]["spec.yaml"].as_str().expect("the spec");
        let workers = if arguments.len() == ALL.len() { "min: 32" } else { "min: 2" };
        assert!(spec.contains(workers), "{spec}");
    }
    let secret = &check(&credentials("tune-x"))[0];
    assert_eq!(secret["metadata"]["name"], "tune-x-1-credentials");
    assert_eq!(secret["type"], "kubernetes.io/tls");
}

#[test]
fn rendered_objects_can_be_part_of_a_kustomization() {
    let name = "rendered_objects_can_be_part_of_a_kustomization";
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        println!("{name}: skipped, there is no kubectl");
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("the folder can be written");
    };
    write("job.yaml", &render(&ALL));
    write("secret.yaml", &credentials("tune"));
    write("kustomization.yaml", "resources: [job.yaml, secret.yaml]\nnameSuffix: -a\n");
    let built = pipe(Command::new("kubectl").arg("kustomize").arg(folder.path()), "");
    assert_eq!(built.matches("\nkind: ").count() + usize::from(built.starts_with("kind")), 4);
}

/// A software Kubernetes to which the objects of a Job are applied, and the Job's name. Its namespace enforces the
/// strictest Pod Security.
async fn applied(arguments: &[&str]) -> (Cluster, String) {
    let options = Options { clock: ClockMode::Manual, ..Options::default() };
    let cluster = Cluster::start(options).await.expect("a free port");
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let namespace = json!({ "metadata": { "name": "training", "labels": labels } });
    cluster.create("namespaces", "", namespace).expect("a valid namespace");
    let mut name = String::new();
    for text in [credentials("tune"), render(arguments)] {
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).expect("an object");
            let kind = object["kind"].as_str().expect("a kind").to_lowercase();
            name = object["metadata"]["name"].as_str().expect("a name").to_owned();
            cluster.create(&format!("{kind}s"), "training", object).expect("a valid object");
        }
    }
    (cluster, name)
}

/// The pods of the Job that have not ended, by index, once there are this many.
async fn pods(cluster: &Cluster, job: &str, count: usize) -> Vec<String> {
    cluster.settle();
    let live = |view: View<'_>| {
        let mut pods = view.pods_of("training", job);
        pods.retain(|pod| !matches!(pod["status"]["phase"].as_str(), Some("Failed" | "Succeeded")));
        pods.retain(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        let name = |pod: &&Value| pod["metadata"]["name"].as_str().map(str::to_owned);
        let names: Vec<_> = pods.iter().filter_map(name).collect();
        (names.len() == count).then_some(names)
    };
    cluster.wait(&format!("{count} pods"), live).await.expect("the pods")
}

/// The types of the Job's conditions.
fn conditions(cluster: &Cluster, job: &str) -> Vec<String> {
    cluster.settle();
    let of = |view: View<'_>| view.get("jobs", "training", job).expect("the Job")["status"].clone();
    let status = cluster.view(of);
    let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    conditions.iter().map(|c| c["type"].as_str().expect("a type").to_owned()).collect()
}

const TWO: [&str; 4] = ["--run", "tune", "--namespace", "training"];

#[tokio::test]
async fn a_rendered_job_completes_only_once_every_pod_has_succeeded() {
    let (cluster, job) = applied(&TWO).await;
    let names = pods(&cluster, &job, 2).await;
    assert!(names[0].starts_with("tune-1-0-") && names[1].starts_with("tune-1-1-"), "{names:?}");
    for name in &names {
        cluster.kubelet().run("training", name).expect("it was scheduled");
        assert_eq!(conditions(&cluster, &job), [""; 0]);
        cluster.kubelet().exit("training", name, 0).expect("it runs");
    }
    assert!(conditions(&cluster, &job).contains(&"Complete".to_owned()));
}

#[tokio::test]
async fn a_rendered_job_fails_for_good_when_its_run_has_failed() {
    for code in [64, 65, 66, 67] {
        let (cluster, job) = applied(&TWO).await;
        let names = pods(&cluster, &job, 2).await;
        cluster.kubelet().run("training", &names[0]).expect("it was scheduled");
        cluster.kubelet().exit("training", &names[0], code).expect("it runs");
        assert!(conditions(&cluster, &job).contains(&"FailureTarget".to_owned()), "{code}");
    }
}

#[tokio::test]
async fn pods_that_stop_crash_or_are_evicted_are_replaced() {
    let (cluster, job) = applied(&TWO).await;
    // Graceful stops, kills for lack of memory, and errors of the infrastructure.
    for code in [75, 137, 1, 75, 70, 75, 75, 143, 75] {
        let names = pods(&cluster, &job, 2).await;
        cluster.kubelet().run("training", &names[0]).expect("it was scheduled");
        cluster.kubelet().exit("training", &names[0], code).expect("it runs");
        cluster.settle();
        assert_eq!(conditions(&cluster, &job), [""; 0], "{code}");
        // The longest pause before a replacement.
        cluster.advance(Duration::from_secs(600));
    }
    let names = pods(&cluster, &job, 2).await;
    cluster.kubelet().run("training", &names[1]).expect("it was scheduled");
    cluster.preempt("training", &names[1]).expect("it runs");
    // It is killed after its grace. Kubernetes pauses before it replaces a pod, even one that does not count.
    for _ in 0..2 {
        cluster.settle();
        cluster.advance(Duration::from_secs(600));
    }
    let replaced = pods(&cluster, &job, 2).await;
    assert!(replaced[1] != names[1] && replaced[1].starts_with("tune-1-1-"), "{replaced:?}");
    assert_eq!(conditions(&cluster, &job), [""; 0]);
}

#[tokio::test]
async fn a_queued_job_has_no_pods_until_it_is_admitted() {
    let (cluster, job) = applied(&[&TWO[..], &["--queue", "team-a"]].concat()).await;
    assert_eq!(pods(&cluster, &job, 0).await.len(), 0);
    assert_eq!(conditions(&cluster, &job), ["Suspended"]);
    let admit = |object: &mut Value| object["spec"]["suspend"] = json!(false);
    cluster.modify("jobs", "training", &job, admit).expect("the Job");
    pods(&cluster, &job, 2).await;
}

#[test]
fn what_cannot_be_a_job_is_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let spec = folder.path().join("spec.yaml");
    let path = spec.to_str().expect("a temporary path");
    for (change, arguments, why) in [
        (("s3://bucket/runs", "./runs"), &[][..], "name a bucket, such as s3://bucket/prefix"),
        (("", ""), &["--run", "Tune_it"], "cannot be the name of a Job"),
        (
            ("", ""),
            &["--run", "a-name-that-is-much-too-long-to-be-the-host-name-of-any-pod-1"],
            "at most 58",
        ),
        (("", ""), &["--toleration", "a=b:Sometimes"], "the effect must be NoSchedule"),
        (("", ""), &["--env", "=x"], "write NAME=VALUE"),
    ] {
        std::fs::write(&spec, change_spec(change)).expect("it can be written");
        let all = [&["kubernetes", "render", path, "--image", "muster"], arguments].concat();
        let (_, stderr) = Process::start(&programs::coordinator(), &all).end_with_text(2);
        assert!(stderr.contains(why), "{why}: {stderr}");
    }
}

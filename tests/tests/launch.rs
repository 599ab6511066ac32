//! `--launch kubernetes`: runs as Jobs of a software Kubernetes, and pods that join with the token of their service
//! account.

use muster_tests::certs::Certs;
use muster_tests::pool::{address, folder, serve};
use muster_tests::process::PATIENCE;
use muster_tests::{Ended, Fixture, Process, programs};
use serde_json::{Value, json};
use softkube::{ClockMode, Cluster, FaultKind, FaultRule, NodeSpec, Options, Tls, View};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};
use tempfile::TempDir;

const NAMESPACE: &str = "default";
const SPEC: &str = "\
name: tune
model: {base: hf://org/base}
data: {train: [{source: s3://bucket/data.jsonl}]}
workers: {min: 2}
output: s3://bucket/runs
";

/// A cluster, and a user's files.
struct Launching {
    kube: Cluster,
    files: TempDir,
}

impl Launching {
    async fn start(nodes: Vec<NodeSpec>) -> Self {
        // kubectl sends tokens over TLS only.
        let certified =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a key");
        let tls = Tls {
            chain: vec![certified.cert.der().to_vec()],
            key: certified.signing_key.serialize_der(),
            authority_pem: certified.cert.pem(),
        };
        let clock = ClockMode::Manual;
        let options = Options { clock, nodes, tls: Some(tls), ..Options::default() };
        let kube = Cluster::start(options).await.expect("a free port");
        let files = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            std::fs::write(files.path().join(name), text).expect("the folder can be written");
        };
        write("spec.yaml", SPEC);
        write("kubeconfig", &kube.kubeconfig());
        Self { kube, files }
    }

    fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }

    fn command(&self, arguments: &[&str]) -> Process {
        let all = [arguments, &["--launch", "kubernetes", "--json"]].concat();
        let environment = [("KUBECONFIG", self.path("kubeconfig"))];
        Process::start_in(&programs::coordinator(), &all, &environment)
    }

    fn submit(&self, more: &[&str]) -> Process {
        let spec = self.path("spec.yaml");
        let all = [&["submit", &spec, "--image", "muster", "--follow"], more].concat();
        self.command(&all)
    }

    /// The pods of the Job that have not ended, by index, once there are two.
    async fn pods(&self, job: &str) -> Vec<String> {
        let live = |view: View<'_>| {
            let pods = view.pods_of(NAMESPACE, job);
            let is_live = |pod: &&Value| pod["status"]["phase"] == "Pending";
            let name = |pod: &Value| pod["metadata"]["name"].as_str().map(str::to_owned);
            let names: Vec<_> = pods.into_iter().filter(is_live).filter_map(name).collect();
            (names.len() == 2).then_some(names)
        };
        self.kube.wait("two pods", live).await.expect("the pods")
    }

    async fn run_and_exit(&self, pods: &[String], code: i32) {
        for pod in pods {
            self.kube.kubelet().run(NAMESPACE, pod).expect("it was scheduled");
        }
        for pod in pods {
            self.kube.kubelet().exit(NAMESPACE, pod, code).expect("it runs");
        }
        self.kube.settle();
    }

    /// The number of Jobs that have ever been created.
    fn jobs_created(&self) -> usize {
        self.kube.ledger().iter().filter(|created| created.key.resource == "jobs").count()
    }
}

/// Waits for a process without blocking the cluster, whose clock a test moves.
async fn end(process: Process) -> Ended {
    tokio::task::spawn_blocking(move || process.end()).await.expect("no panic")
}

fn one_node() -> Vec<NodeSpec> {
    Options::default().nodes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submitted_job_is_followed_to_its_end_and_its_exit_code_says_how_it_ended() {
    for (code, exit) in [(0, 0), (64, 2), (65, 3), (66, 1), (67, 4)] {
        let launching = Launching::start(one_node()).await;
        let submitted = launching.submit(&["--run", "tune"]);
        let pods = launching.pods("tune-1").await;
        launching.run_and_exit(&pods[..if code == 0 { 2 } else { 1 }], code).await;
        if code != 0 {
            // The other pod is deleted, and takes its grace.
            launching.kube.advance(Duration::from_secs(200));
        }
        let ended = end(submitted).await.with_code(exit);
        assert_eq!(ended.events[0].text("job"), "tune-1");
        let how = if code == 0 { "succeeded" } else { "failed" };
        assert_eq!(ended.events.last().expect("lines").text("end"), how);
        assert_eq!(launching.jobs_created(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_owns_what_belongs_to_it_and_has_certificates_of_its_own() {
    let launching = Launching::start(one_node()).await;
    let spec = launching.path("spec.yaml");
    let submit = ["submit", &spec, "--image", "muster", "--run", "tune"];
    end(launching.command(&submit)).await.with_code(0);
    launching.kube.view(|view| {
        let job = view.get("jobs", NAMESPACE, "tune-1").expect("the Job");
        assert_eq!(job["spec"]["suspend"], json!(false));
        assert!(job["metadata"]["ownerReferences"].is_null());
        for (resource, name) in
            [("configmaps", "tune-1"), ("services", "tune-1"), ("secrets", "tune-1-credentials")]
        {
            let owner = &view.get(resource, NAMESPACE, name).expect(name)["metadata"];
            assert_eq!(owner["ownerReferences"][0]["uid"], job["metadata"]["uid"], "{name}");
        }
    });
    // The same command again finds its Job; another spec does not get its name.
    end(launching.command(&submit)).await.with_code(0);
    let changed = SPEC.replace("min: 2", "min: 3");
    std::fs::write(launching.path("spec.yaml"), changed).expect("the folder can be written");
    let refused = end(launching.command(&submit)).await.with_code(2).stderr;
    assert!(refused.contains("Job `tune-1` exists since"), "{refused}");
    assert_eq!(launching.jobs_created(), 1);

    let chosen = ["submit", &spec, "--image", "muster", "--resume", "tune", "--attempt", "7"];
    let refused = end(launching.command(&chosen)).await.with_code(2).stderr;
    assert!(refused.contains("leave out --run and --attempt"), "{refused}");
    // The run goes on, so another Job for it is refused until this one has ended.
    let next = ["submit", &spec, "--image", "muster", "--resume", "tune"];
    let refused = end(launching.command(&next)).await.with_code(2).stderr;
    assert!(refused.contains("Job `tune-1` exists since"), "{refused}");
    let pods = launching.pods("tune-1").await;
    launching.run_and_exit(&pods[..1], 66).await;
    launching.kube.advance(Duration::from_secs(200));
    launching.kube.settle();
    let resumed = end(launching.command(&next)).await.with_code(0);
    assert_eq!(resumed.events[0].text("job"), "tune-2");
    // The same command again finds its Job.
    let again = end(launching.command(&next)).await.with_code(0);
    assert_eq!(again.events[0].text("job"), "tune-2");
    let cancelled = end(launching.command(&["cancel", "tune"])).await.with_code(0);
    assert_eq!(cancelled.events[0].text("job"), "tune-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_api_server_make_no_second_job() {
    let one_second = Duration::from_secs(1);
    for kind in [
        FaultKind::CloseAfter,
        FaultKind::CloseBefore,
        FaultKind::TruncateBody,
        FaultKind::InternalError,
        FaultKind::TooManyRequests { retry_after: one_second },
    ] {
        let launching = Launching::start(one_node()).await;
        for resource in ["jobs", "configmaps", "secrets"] {
            launching.kube.fault(FaultRule::once("create", resource, kind.clone()));
        }
        launching.kube.fault(FaultRule::once("watch", "*", FaultKind::Expired));
        let submitted = launching.submit(&["--run", "tune"]);
        let pods = launching.pods("tune-1").await;
        launching.run_and_exit(&pods, 0).await;
        end(submitted).await.with_code(0);
        assert_eq!(launching.jobs_created(), 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_and_status_say_what_kubernetes_says() {
    let small = NodeSpec::new("small", &[("cpu", "4"), ("memory", "8Gi")]);
    let launching = Launching::start(vec![small]).await;
    let spec = launching.path("spec.yaml");
    let submit = ["submit", &spec, "--image", "muster", "--run", "tune", "--gpus", "8"];
    let refused = end(launching.command(&submit)).await.with_code(2).stderr;
    assert!(refused.contains("hint: write --trust-network"), "{refused}");
    let submit = [&submit[..], &["--trust-network"]].concat();
    end(launching.command(&submit)).await.with_code(0);
    launching.pods("tune-1").await;
    launching.kube.settle();
    let status = end(launching.command(&["status", "tune"])).await.with_code(0);
    let seen = &status.events[0].0;
    assert_eq!((&seen["state"], &seen["wanted"]), (&json!("pending"), &json!(2)));
    assert!(seen["trouble"][0].as_str().expect("trouble").contains("Insufficient nvidia.com/gpu"));

    let plain = ["list", "--launch", "kubernetes"];
    let environment = [("KUBECONFIG", launching.path("kubeconfig"))];
    let listed = Process::start_in(&programs::coordinator(), &plain, &environment);
    let (table, _) =
        tokio::task::spawn_blocking(|| listed.end_with_text(0)).await.expect("no panic");
    assert!(table.contains("tune-1") && table.contains("pending"), "{table}");
    let unknown = end(launching.command(&["status", "other"])).await.with_code(2).stderr;
    assert!(unknown.contains("no Job of run `other` in namespace `default`"), "{unknown}");
}

#[test]
fn options_of_a_job_are_refused_without_one() {
    let submit = ["submit", "spec.yaml", "--gpus", "8"];
    let refused = Process::start(&programs::coordinator(), &submit).end().with_code(2).stderr;
    assert!(refused.contains("--launch"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_joins_with_its_service_accounts_token_and_only_in_its_own_name() {
    let name = "a_pod_joins_with_its_service_accounts_token_and_only_in_its_own_name";
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        println!("{name}: skipped, there is no kubectl");
        return;
    }
    let launching = Launching::start(one_node()).await;
    for pod in ["gpu-1", "gpu-2"] {
        let spec = json!({ "containers": [{ "name": "worker", "image": "muster" }] });
        let pod = json!({ "metadata": { "name": pod }, "spec": spec });
        launching.kube.create("pods", NAMESPACE, pod).expect("a valid pod");
    }
    let kubeconfig = launching.path("kubeconfig");
    let token = |pod: &str, audience: &str| {
        let bound = json!({ "kind": "Pod", "apiVersion": "v1", "name": pod });
        let spec = json!({ "audiences": [audience], "boundObjectRef": bound });
        let request = launching.path("request.json");
        let body = json!({ "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec });
        std::fs::write(&request, body.to_string()).expect("the folder can be written");
        let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
        let output = Command::new("kubectl")
            .args(["create", "--raw", path, "-f", &request])
            .env("KUBECONFIG", &kubeconfig)
            .output()
            .expect("kubectl starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    };
    // The coordinator has a certificate and asks for tokens; pods have the authority and a token.
    let (fixture, certs) = (Fixture::tiny(2), Certs::new(&[]));
    let own = certs.folder("coordinator");
    std::fs::remove_file(format!("{own}/ca.crt")).expect("it was made");
    certs.issue("pod", "muster:nothing", SystemTime::now());
    let of_pod = certs.folder("pod");
    for file in ["tls.crt", "tls.key"] {
        std::fs::remove_file(format!("{of_pod}/{file}")).expect("it was made");
    }
    // The list is for users.
    certs.token("user", "submit", &[]);
    let environment = [("KUBECONFIG", kubeconfig.clone())];
    let more = ["--credentials", &own, "--token-review"];
    let coordinator = serve(&folder(&fixture), "127.0.0.1:0", &more, &environment);
    let url = address(&coordinator);
    let worker = |name: &str, token: &str| {
        std::fs::write(format!("{of_pod}/token"), token).expect("the folder can be written");
        let arguments = ["--coordinator", &url, "--name", name, "--credentials", &of_pod];
        Process::start(&programs::worker(), &arguments)
    };
    let refused = |name: &str, token: &str, why: &str| {
        worker(name, token).wait_for_text(why);
    };
    refused("gpu-1", &token("gpu-1", "another"), "does not know this token");
    refused("gpu-1", "eyJhbGciOiJSUzI1NiJ9.e30.c2ln", "does not know this token");
    refused("gpu-1", &token("gpu-2", "muster"), "not for `gpu-1-0`");
    refused("gpu-1-7", &token("gpu-1", "muster"), "not for `gpu-1-7-0`");
    let _joined = worker("gpu-1", &token("gpu-1", "muster"));
    let user = certs.folder("user");
    let list = ["list", "--workers", "--coordinator", &url, "--credentials", &user, "--json"];
    let until = Instant::now() + PATIENCE;
    let listed = loop {
        let listed = Process::start(&programs::coordinator(), &list).end().with_code(0);
        assert!(Instant::now() < until, "the worker does not join");
        if !listed.events.is_empty() {
            break listed;
        }
    };
    assert_eq!(listed.events[0].text("worker"), "gpu-1-0");
    // A worker's token is no user's.
    let list = ["list", "--coordinator", &url, "--credentials", &of_pod];
    let refused = Process::start(&programs::coordinator(), &list).end().with_code(2).stderr;
    assert!(refused.contains("is not allowed to submit and see runs"), "{refused}");
}

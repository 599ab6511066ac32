//! The files in `deploy/`: Kubernetes accepts them, and monitoring works with real programs.

use muster_tests::{Process, programs};
use serde::Deserialize;
use serde_json::{Value, json};
use softkube::{Cluster, Options};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Checks objects against the schemas of two releases, strictly. Those of other groups have no schema there.
const CHECK: &str = "\
import sys, yaml, kubernetes_validate
for document in yaml.safe_load_all(sys.stdin):
    for release in ['1.34', kubernetes_validate.latest_version()]:
        kubernetes_validate.validate(document, release, strict=True)
";

fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").canonicalize().expect("it exists")
}

/// What Kustomize makes of an overlay; `None` if there is no kubectl.
fn overlay(name: &str) -> Option<String> {
    kustomize(&deploy().join("kubernetes/overlays").join(name))
}

/// The pool, whose workers join with the tokens of their service accounts.
fn pool_with_token_review() -> Option<String> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    symlink(deploy().join("kubernetes"), folder.path().join("kubernetes")).expect("a new name");
    let all =
        "resources: [kubernetes/overlays/pool]\ncomponents: [kubernetes/components/token-review]\n";
    std::fs::write(folder.path().join("kustomization.yaml"), all).expect("the folder is ours");
    kustomize(folder.path())
}

fn kustomize(folder: &Path) -> Option<String> {
    let output = Command::new("kubectl").arg("kustomize").arg(folder).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).expect("text"))
}

#[tokio::test]
async fn overlays_are_valid_and_their_pods_satisfy_the_strictest_pod_security() {
    let test = "overlays_are_valid_and_their_pods_satisfy_the_strictest_pod_security";
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        println!("{test}: skipped, MUSTER_PEER_PYTHON is not set");
        return;
    };
    for name in ["one-shot", "pool", "pool-gpu", "token-review"] {
        let text = if name == "token-review" { pool_with_token_review() } else { overlay(name) };
        let Some(text) = text else {
            println!("{test}: skipped, there is no kubectl");
            return;
        };
        let checked = Command::new(&python).args(["-c", CHECK]).stdin(Stdio::piped()).spawn();
        let mut checked = checked.expect("python starts");
        let mut stdin = checked.stdin.take().expect("it is piped");
        stdin.write_all(text.as_bytes()).expect("it reads");
        drop(stdin);
        assert!(checked.wait().expect("it ends").success(), "{name}");

        let cluster = Cluster::start(Options::default()).await.expect("a free port");
        let mut pods = 0;
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let object = Value::deserialize(document).expect("an object");
            if object["kind"] == "Namespace" {
                let enforced = &object["metadata"]["labels"]["pod-security.kubernetes.io/enforce"];
                assert_eq!(enforced, "restricted", "{name}");
                cluster.create("namespaces", "", object.clone()).expect("a valid namespace");
            }
            let Some(template) = object.pointer("/spec/template") else { continue };
            pods += 1;
            for account in ["muster-coordinator", "muster-worker"] {
                let account = json!({ "metadata": { "name": account } });
                // Both kinds of pods have one in a pool.
                let _ = cluster.create("serviceaccounts", "muster", account);
            }
            let mut pod = template.clone();
            pod["metadata"]["name"] = json!(format!("pod-{pods}"));
            cluster.create("pods", "muster", pod).unwrap_or_else(|e| panic!("{name}: {e:?}"));
        }
        assert_eq!(pods, if name == "one-shot" { 1 } else { 2 }, "{name}");
    }
}

#[test]
fn the_job_of_the_overlay_is_the_one_that_render_prints() {
    let folder = deploy().join("kubernetes/overlays/one-shot");
    let spec = folder.join("spec.yaml");
    let arguments = [
        "kubernetes",
        "render",
        spec.to_str().expect("a path"),
        "--run",
        "smollm2-alpaca",
        "--workers",
        "2",
        "--image",
        "ghcr.io/muster/muster:0.1.0",
        "--cpu",
        "2",
        "--memory",
        "8Gi",
        "--env-secret",
        "muster-store",
    ];
    let (rendered, _) = Process::start(&programs::coordinator(), &arguments).end_with_text(0);
    let stored = std::fs::read_to_string(folder.join("job.yaml")).expect("the Job");
    // Comments at the top say how it was made.
    let objects = stored.find("---").map_or("", |start| &stored[start..]);
    assert_eq!(objects, rendered);
}

#[test]
fn alerts_and_the_dashboard_work_with_real_programs() {
    let test = "alerts_and_the_dashboard_work_with_real_programs";
    let Some(prometheus) = std::env::var_os("MUSTER_TEST_PROMETHEUS") else {
        println!("{test}: skipped, MUSTER_TEST_PROMETHEUS is not set");
        return;
    };
    let coordinator = programs::coordinator();
    let folder = coordinator.parent().expect("a folder");
    let mut check = Command::new(deploy().join("monitoring/check.sh"));
    let output = check.arg(folder).arg(prometheus).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("expressions of the dashboard have data"), "{said}");
}

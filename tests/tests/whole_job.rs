//! A whole Kubernetes Job on a network: the objects that `render` and `credentials` print, applied to a software
//! Kubernetes whose pods have their own addresses, names and file systems, and an object store at another address.
//!
//! Four pods train with certificates: the first one, which coordinates too, and three others. Needs SeaweedFS
//! (MUSTER_TEST_WEED), and a user who may make namespaces.

use anyhow::{Context, Result, ensure};
use muster_tests::certs::Certs;
use muster_tests::fixture::{EVERY, STEPS, files};
use muster_tests::model::assert_bit_equal;
use muster_tests::namespaces::{self, NODE, Network, PODS, STORE};
use muster_tests::process::{PATIENCE, kill_all_with};
use muster_tests::seaweed::{self, BUCKET, SeaweedFs};
use muster_tests::server::{Place, free_ports};
use muster_tests::stored::{Stored, newest_commit, starts};
use muster_tests::undisturbed::Reference;
use muster_tests::{Fixture, Process, names, pods, programs};
use proto::event::Fact;
use serde::Deserialize;
use serde_json::{Value, json};
use softkube::{ClockMode, Cluster, Options, Tls, View};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use storage::Storage;
use tempfile::TempDir;
use tokio::net::UdpSocket;

const NAMESPACE: &str = "default";
const CONTAINER: &str = "muster";
const RUN: &str = "tune";
const WORKERS: usize = 4;
/// Kubernetes' seconds in a real one, so that no test waits for 10 s until a pod is replaced.
const HURRY: u32 = 5;
/// The finalizer with which a test keeps pods that have ended.
const KEPT: &str = "muster.test/kept";
/// How long the first certificates of a Job are valid that are renewed.
const LIFETIME: Duration = Duration::from_secs(20);
const STOPPED: i64 = 75;
const KILLED: i64 = 137;

/// The cluster, its network and its store.
struct Whole {
    kube: Arc<Cluster>,
    network: Arc<Network>,
    fixture: Fixture,
    storage: Storage,
    _store: SeaweedFs,
    _root: TempDir,
}

/// A pod of the Job.
#[derive(Clone, Debug, PartialEq)]
struct Pod {
    name: String,
    address: IpAddr,
    /// The exit code of its container, once it has ended.
    code: Option<i64>,
}

impl Whole {
    /// Starts everything but the Job. The base and the data are in the store.
    async fn start(fixture: Fixture) -> Result<Self> {
        let network = Arc::new(Network::make());
        let place = Place {
            address: STORE.into(),
            enter: network.enter(STORE),
            port: Some(seaweed::here().port()),
        };
        let store = SeaweedFs::start_at("whole_job", &place).context("MUSTER_TEST_WEED")?;
        for name in files(&fixture.path("base")) {
            store.put(&format!("base/{name}"), &std::fs::read(fixture.path("base").join(&name))?);
        }
        store.put("data.jsonl", fixture.read("data.jsonl").as_bytes());

        let root = tempfile::tempdir()?;
        let (of_pods, path) = (network.clone(), root.path().to_owned());
        // kubectl sends tokens over TLS only.
        let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()])?;
        let tls = Tls {
            chain: vec![certified.cert.der().to_vec()],
            key: certified.signing_key.serialize_der(),
            authority_pem: certified.cert.pem(),
        };
        let options = Options {
            tls: Some(tls),
            clock: ClockMode::Accelerated(HURRY),
            pod_network: PODS,
            ..Options::default()
        };
        let hook = move |start: &_| pods::command(&of_pods, &path, start);
        let kube = Arc::new(Cluster::start_processes(options, hook).await?);
        let socket = UdpSocket::bind((NODE, 53)).await?;
        let resolving = kube.clone();
        tokio::spawn(names::serve(socket, move |name| {
            let found = resolving.view(|view| view.resolve(name, NAMESPACE));
            let of_pods = found.into_iter().filter_map(|address| match address {
                IpAddr::V4(address) => Some(address),
                IpAddr::V6(_) => None,
            });
            of_pods.collect()
        }));
        let storage = Storage::open(&format!("s3://{BUCKET}/runs"))?;
        let environment: BTreeMap<_, _> = store.environment().into();
        let whole = Self { kube, network, fixture, storage, _store: store, _root: root };
        whole.create(json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "store" }, "stringData": environment,
        }));
        Ok(whole)
    }

    fn create(&self, object: Value) {
        let kind = object["kind"].as_str().expect("a kind").to_lowercase();
        self.kube.create(&format!("{kind}s"), NAMESPACE, object).expect("a valid object");
    }

    /// The objects that a command prints.
    fn printed(&self, arguments: &[&str]) -> Vec<Value> {
        let all = [&["kubernetes"], arguments].concat();
        let (text, _) = Process::start(&programs::coordinator(), &all).end_with_text(0);
        let documents = serde_yaml_ng::Deserializer::from_str(&text);
        documents.map(|document| Value::deserialize(document).expect("an object")).collect()
    }

    /// Applies what a command prints.
    fn apply(&self, arguments: &[&str]) {
        self.printed(arguments).into_iter().for_each(|object| self.create(object));
    }

    /// Makes a Job for the run, with certificates, and returns its name.
    fn job(&self, attempt: u32) -> String {
        self.apply(&["credentials", RUN, "--attempt", &attempt.to_string()]);
        self.job_with_present_credentials(attempt)
    }

    fn job_with_present_credentials(&self, attempt: u32) -> String {
        let spec = self.remote_spec();
        let (attempt, workers) = (attempt.to_string(), WORKERS.to_string());
        let run = ["render", &spec, "--run", RUN, "--attempt", &attempt, "--workers", &workers];
        self.apply(&[&run[..], &["--image", "muster", "--env-secret", "store"]].concat());
        format!("{RUN}-{attempt}")
    }

    /// The path of the fixture's spec, with everything in the store.
    fn remote_spec(&self) -> String {
        let remote = self.fixture.read("spec.yaml");
        let remote = remote.replace("./base", &format!("s3://{BUCKET}/base"));
        let remote = remote.replace("./data.jsonl", &format!("s3://{BUCKET}/data.jsonl"));
        let remote = remote.replace("./runs", &format!("s3://{BUCKET}/runs"));
        self.fixture.write("remote.yaml", &remote);
        self.fixture.path("remote.yaml").display().to_string()
    }

    /// Waits until `look` finds something.
    async fn wait<R>(&self, what: &str, look: impl FnMut(View<'_>) -> Option<R>) -> Result<R> {
        let waited = self.kube.wait_within(PATIENCE, what, look).await;
        waited.map_err(|error| anyhow::anyhow!("{error}\n{}", self.logs()))
    }

    /// What all pods have printed.
    fn logs(&self) -> String {
        self.kube.view(|view| {
            let mut text = String::new();
            for pod in view.list("pods", NAMESPACE) {
                let name = pod["metadata"]["name"].as_str().expect("a name");
                text += &format!("{name}:\n{}\n", view.log(NAMESPACE, name, CONTAINER).join("\n"));
            }
            text
        })
    }

    /// Waits for a step of the run, as the first pod of the Job prints it.
    async fn step(&self, job: &str, step: u64) -> Result<()> {
        let reached = |view: View<'_>| steps(view, job).last().filter(|at| **at >= step).map(drop);
        self.wait(&format!("step {step}"), reached).await
    }

    /// Suspends the Job, as Kueue does in favour of another one, and returns its pods once they have ended.
    async fn preempt(&self, job: &str) -> Result<Vec<Pod>> {
        let pods = self.pods(job);
        for pod in &pods {
            self.finalizers(&pod.name, |all| all.push(KEPT.into()))?;
        }
        let suspend = |object: &mut Value| object["spec"]["suspend"] = json!(true);
        self.kube.modify("jobs", NAMESPACE, job, suspend)?;
        let ended = |view: View<'_>| {
            let all = seen(view, job);
            all.iter().all(|pod| pod.code.is_some()).then_some(all)
        };
        self.wait("the end of all pods", ended).await
    }

    /// Deletes a Job, and the pods that were kept.
    fn delete(&self, job: &str) -> Result<()> {
        for pod in self.pods(job) {
            self.finalizers(&pod.name, |all| all.retain(|one| one != KEPT))?;
        }
        Ok(self.kube.delete("jobs", NAMESPACE, job)?)
    }

    fn finalizers(&self, pod: &str, change: impl FnOnce(&mut Vec<Value>)) -> Result<()> {
        let modified = self.kube.modify("pods", NAMESPACE, pod, |object| {
            change(object["metadata"]["finalizers"].as_array_mut().expect("that of the Job"));
        });
        Ok(modified.map(drop)?)
    }

    /// Waits until the Job is complete, and returns its pods.
    async fn complete(&self, job: &str) -> Result<Vec<Pod>> {
        let ended = |view: View<'_>| {
            let object = view.get("jobs", NAMESPACE, job)?;
            let how = ["Complete", "Failed"].into_iter().find(|how| view.condition(object, how))?;
            Some((how, seen(view, job)))
        };
        let (how, pods) = self.wait("the Job's end", ended).await?;
        ensure!(how == "Complete", "{how}: {pods:?}\n{}", self.logs());
        Ok(pods)
    }

    /// The pods of the Job, by index.
    fn pods(&self, job: &str) -> Vec<Pod> {
        self.kube.view(|view| seen(view, job))
    }

    /// The run in the store.
    async fn run(&self) -> Result<Stored<'_>> {
        Stored::find(&self.storage).await?.context("a run")
    }

    /// Checks that the model is that of the same run on local files, bit for bit.
    async fn assert_as_undisturbed(&self) -> Result<()> {
        let reference = Reference::of_workers(&self.fixture, WORKERS);
        assert_bit_equal(&self.run().await?.weights().await?, &reference.weights);
        Ok(())
    }
}

/// The exit codes of pods.
fn codes(pods: &[Pod]) -> Vec<Option<i64>> {
    pods.iter().map(|pod| pod.code).collect()
}

/// The steps that the first pod of a Job has printed.
fn steps(view: View<'_>, job: &str) -> Vec<u64> {
    let first = format!("{job}-0-");
    let pods = seen(view, job);
    let Some(pod) = pods.iter().find(|pod| pod.name.starts_with(&first)) else {
        return Vec::new();
    };
    let lines = view.log(NAMESPACE, &pod.name, CONTAINER);
    let step = |line: &String| line.split_once(" step ")?.1.split_once('/')?.0.parse().ok();
    lines.iter().filter_map(step).collect()
}

/// A Secret with certificates of a Job that expire at this time.
fn credentials(job: &str, expires: SystemTime) -> Value {
    let certs = Certs::new(&[]);
    let host = format!("{job}-0.{job}");
    certs.issue_with("short", &[&host], &format!("muster:join:{job}-"), expires);
    let folder = PathBuf::from(certs.folder("short"));
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("it was issued");
    let files = ["tls.crt", "tls.key", "ca.crt"].map(|name| (name, read(name)));
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": format!("{job}-credentials") },
        "type": "kubernetes.io/tls",
        "stringData": BTreeMap::from(files),
    })
}

fn seen(view: View<'_>, job: &str) -> Vec<Pod> {
    let pod = |pod: &Value| {
        let state = &pod["status"]["containerStatuses"][0]["state"];
        Some(Pod {
            name: pod["metadata"]["name"].as_str()?.to_owned(),
            address: pod["status"]["podIP"].as_str()?.parse().ok()?,
            code: state["terminated"]["exitCode"].as_i64(),
        })
    };
    view.pods_of(NAMESPACE, job).into_iter().filter_map(pod).collect()
}

/// Runs an ignored test in a network of its own.
fn alone(test: &str, name: &str) -> Result<()> {
    if std::env::var_os("MUSTER_TEST_WEED").is_none() {
        println!("{test}: skipped, MUSTER_TEST_WEED is not set");
        return Ok(());
    }
    let [port] = free_ports();
    let store = (STORE, port).into();
    let programs = programs::coordinator();
    let folder = programs.parent().context("a folder")?.display().to_string();
    let environment = [&SeaweedFs::environment_at(store)[..], &[("MUSTER_TEST_PROGRAMS", folder)]];
    namespaces::run_alone(test, name, &environment.concat())
}

#[test]
fn a_job_trains_the_model_of_a_local_run_and_every_pod_succeeds() -> Result<()> {
    alone("a_job_trains_the_model_of_a_local_run_and_every_pod_succeeds", "undisturbed")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a network of its own"]
async fn undisturbed() -> Result<()> {
    let whole = Whole::start(Fixture::new()).await?;
    let job = whole.job(1);
    let pods = whole.complete(&job).await?;
    ensure!(codes(&pods) == [Some(0); WORKERS], "{pods:?}");
    let addresses: BTreeSet<_> = pods.iter().map(|pod| pod.address).collect();
    ensure!(addresses.len() == WORKERS, "{pods:?}");
    ensure!(starts(&whole.run().await?.history().await?) == [0]);
    whole.assert_as_undisturbed().await
}

#[test]
fn the_job_after_one_that_was_preempted_repeats_no_step() -> Result<()> {
    alone("the_job_after_one_that_was_preempted_repeats_no_step", "preempted")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a network of its own"]
async fn preempted() -> Result<()> {
    let fixture = Fixture::new();
    // The only checkpoint before the last one is that of the preemption.
    fixture.respec("{every: 8, keep: 100}", "{every: 1000, keep: 100}");
    let whole = Whole::start(fixture).await?;
    let job = whole.job(1);
    whole.step(&job, 10).await?;
    let pods = whole.preempt(&job).await?;
    ensure!(codes(&pods) == [Some(STOPPED); WORKERS], "{pods:?}\n{}", whole.logs());
    let trained = whole.kube.view(|view| steps(view, &job)).last().copied();
    let run = whole.run().await?;
    let newest = newest_commit(&run.history().await?);
    ensure!(newest == trained, "trained {trained:?}, stored {newest:?}\n{}", whole.logs());
    let newest = newest.context("a checkpoint")?;
    ensure!((10..STEPS).contains(&newest), "{newest}");
    let (stored, leftovers) = run.checkpoints().await?;
    ensure!(stored.iter().any(|id| id.step == newest) && leftovers.is_empty(), "{leftovers:?}");
    whole.delete(&job)?;

    let job = whole.job(2);
    let pods = whole.complete(&job).await?;
    ensure!(codes(&pods) == [Some(0); WORKERS], "{pods:?}");
    let history = run.history().await?;
    ensure!(starts(&history) == [0, newest], "{history:#?}");
    whole.assert_as_undisturbed().await
}

#[test]
fn a_first_pod_that_is_preempted_or_lost_is_replaced_and_the_others_stay() -> Result<()> {
    alone("a_first_pod_that_is_preempted_or_lost_is_replaced_and_the_others_stay", "first_pods")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a network of its own"]
async fn first_pods() -> Result<()> {
    let whole = Whole::start(Fixture::new()).await?;
    let job = whole.job(1);
    whole.step(&job, 2).await?;
    let first = whole.pods(&job);
    whole.kube.preempt(NAMESPACE, &first[0].name)?;
    whole.step(&job, 2 * EVERY + 1).await?;
    let second = whole.pods(&job);
    ensure!(second[0] != first[0] && second[1..] == first[1..], "{second:?}\n{}", whole.logs());
    let IpAddr::V4(address) = second[0].address else { anyhow::bail!("{second:?}") };
    // The others must find out by themselves: no connection is closed.
    whole.network.unplug(address);
    kill_all_with(&format!("POD_NAME={}", second[0].name));
    let mut third = whole.complete(&job).await?;
    let lost = third.iter().position(|pod| pod.name == second[0].name).context("the lost pod")?;
    ensure!(third.remove(lost).code == Some(KILLED), "{third:?}");
    ensure!(codes(&third) == [Some(0); WORKERS], "{third:?}");
    let names = |pods: &[Pod]| pods.iter().map(|pod| pod.name.clone()).collect::<Vec<_>>();
    ensure!(names(&third)[1..] == names(&first)[1..], "{third:?}");
    let addresses = [&first, &second, &third].map(|pods| pods[0].address);
    ensure!(BTreeSet::from(addresses).len() == 3, "{addresses:?}");
    let history = whole.run().await?.history().await?;
    let starts = starts(&history);
    ensure!(starts.len() == 3 && starts[1] >= 2 && starts[2] >= EVERY, "{starts:?}");
    whole.assert_as_undisturbed().await
}

#[test]
fn a_job_outlives_its_certificates_if_they_are_renewed() -> Result<()> {
    alone("a_job_outlives_its_certificates_if_they_are_renewed", "renewed")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a network of its own"]
async fn renewed() -> Result<()> {
    let fixture = Fixture::new();
    // Longer than this test.
    fixture.respec("max_steps: 40", "max_steps: 4000");
    fixture.respec("epochs: 20", "epochs: 1000");
    fixture.respec("{every: 8, keep: 100}", "{every: 1000, keep: 100}");
    let whole = Whole::start(fixture).await?;
    let job = format!("{RUN}-1");
    // Certificates have whole seconds.
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let expires = UNIX_EPOCH + Duration::from_secs(now.as_secs()) + LIFETIME;
    whole.create(credentials(&job, expires));
    whole.job_with_present_credentials(1);
    whole.step(&job, 1).await?;
    let pods = whole.pods(&job);
    let secret = whole.printed(&["credentials", RUN]).pop().context("a Secret")?;
    let name = format!("{job}-credentials");
    whole.kube.modify("secrets", NAMESPACE, &name, |stored| {
        stored["stringData"] = secret["stringData"].clone();
    })?;
    ensure!(SystemTime::now() < expires, "it was too slow");
    // Connections end with the first certificates.
    let connected = |view: View<'_>, pod: &Pod| {
        let lines = view.log(NAMESPACE, &pod.name, CONTAINER);
        lines.iter().filter(|line| line.contains("\"message\":\"connected\"")).count()
    };
    let again = |view: View<'_>| pods.iter().all(|pod| connected(view, pod) == 2).then_some(());
    whole.wait("new connections", again).await?;
    ensure!(SystemTime::now() >= expires, "connections ended early\n{}", whole.logs());
    let reached = whole.kube.view(|view| steps(view, &job)).last().copied().context("steps")?;
    whole.step(&job, reached + 50).await?;
    // Probes are answered with the new certificates, too.
    let ready = |view: View<'_>| {
        let all = view.pods_of(NAMESPACE, &job);
        all.iter().all(|pod| view.condition(pod, "Ready")).then_some(())
    };
    whole.wait("readiness", ready).await?;
    ensure!(whole.pods(&job) == pods, "{pods:?}\n{:?}", whole.pods(&job));
    let history = whole.run().await?.history().await?;
    ensure!(starts(&history) == [0], "{history:#?}");
    ensure!(!history.iter().any(|fact| matches!(fact, Fact::Incident { .. })), "{history:#?}");
    Ok(())
}

#[test]
fn the_check_of_a_real_cluster_passes_on_this_one() -> Result<()> {
    let test = "the_check_of_a_real_cluster_passes_on_this_one";
    if Command::new("kubectl").arg("version").arg("--client").output().is_err() {
        println!("{test}: skipped, there is no kubectl");
        return Ok(());
    }
    alone(test, "checked")
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a network of its own"]
async fn checked() -> Result<()> {
    let whole = Whole::start(Fixture::new()).await?;
    whole.fixture.write("kubeconfig", &whole.kube.kubeconfig());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/check-cluster");
    let programs = programs::coordinator();
    let programs = programs.parent().context("a folder")?.display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH")?);
    let checked = tokio::process::Command::new(script)
        .args([&whole.remote_spec(), "muster", "--env-secret", "store"])
        .env("KUBECONFIG", whole.fixture.path("kubeconfig"))
        .env("PATH", path)
        .env("CHECK_PATIENCE", PATIENCE.as_secs().to_string())
        .output()
        .await?;
    let [out, err] = [&checked.stdout, &checked.stderr].map(|text| String::from_utf8_lossy(text));
    println!("{out}");
    ensure!(checked.status.success(), "{out}\n{err}\n{}", whole.logs());
    ensure!(out.contains("== all is well"), "{out}");
    Ok(())
}

//! Runs whose base, data and output are remote: on the hub, in a bucket, on a web server. They must end like the same
//! run on local files, bit for bit. Missing or forbidden inputs are refused before a run is created.
//!
//! The hub is a test hub, which the hub's Python client also reads (MUSTER_PEER_PYTHON). S3 is SeaweedFS
//! (MUSTER_TEST_WEED), Azure's blob storage is Azurite (MUSTER_TEST_AZURITE), and Google's API is a translation to
//! S3. If one is missing, its tests say that they are skipped.

use anyhow::Result;
use muster_tests::azurite::{Azurite, CONTAINER};
use muster_tests::fixture::{RECORDS, files, journal};
use muster_tests::http::{content, serve};
use muster_tests::hub::{self, Access, Repositories, TOKEN, TestHub};
use muster_tests::ignored::run_ignored;
use muster_tests::model::{Weights, assert_bit_equal, weights};
use muster_tests::proxy::{Faults, Proxy};
use muster_tests::seaweed::{BUCKET, SeaweedFs};
use muster_tests::{Fixture, Process, programs};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use storage::Storage;

const BASE: &str = "models/tiny/base";
const DATA: &str = "datasets/tiny/instructions";

fn short() -> Fixture {
    let fixture = Fixture::new();
    fixture.respec("max_steps: 40", "max_steps: 4");
    fixture
}

/// The model of the same run on local files. It depends on the order and content of the data only.
struct Local {
    weights: Weights,
    files: BTreeMap<String, Vec<u8>>,
}

static LOCAL: LazyLock<Local> = LazyLock::new(|| {
    let fixture = short();
    Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    let model = fixture.run().join("model");
    Local { weights: weights(&model), files: hub::folder(&model) }
});

fn some_hub(fixture: &Fixture) -> TestHub {
    let mut base = hub::folder(&fixture.path("base"));
    base.insert("pytorch_model.bin".into(), b"the same, in another format".to_vec());
    base.insert("onnx/config.json".into(), b"{}".to_vec());
    let lines = fixture.read("data.jsonl").into_bytes();
    let data = [("README.md", b"# About".to_vec()), ("data/all.jsonl", lines.clone())];
    let data = data.map(|(name, body)| (name.to_owned(), body));
    let splits = ["data/train-0.jsonl", "data/train-1.jsonl", "data/test-0.jsonl"];
    let splits = splits.map(|name| (name.to_owned(), lines.clone()));
    Repositories::default()
        .with(BASE, Access::Private, base)
        .with(DATA, Access::Private, data.into())
        .with("datasets/tiny/splits", Access::Public, splits.into())
        .with("datasets/tiny/pictures", Access::Public, BTreeMap::from([("a.png".into(), vec![1])]))
        .with("models/tiny/gated", Access::Gated, BTreeMap::new())
        .serve()
}

#[test]
fn a_run_on_the_hubs_base_and_data_equals_the_run_on_local_files() {
    let fixture = short();
    let hub = some_hub(&fixture);
    fixture.respec("./base", "hf://tiny/base");
    fixture.respec("./data.jsonl", "hf://datasets/tiny/instructions@v1");
    let environment = hub.environment();
    let ended = Process::run_in(&fixture, &["--workers", "2"], &environment).end().with_code(0);
    let run = fixture.run();
    assert_bit_equal(&weights(&run.join("model")), &LOCAL.weights);
    assert_eq!(hub.leaks(), 0, "the token went to another host");
    assert!(hub.downloads() > 0, "no large file was read");

    // Both names are pinned, and what the user wrote is also recorded.
    let facts = journal(&run);
    let spec = facts[0]["spec_yaml"].as_str().expect("a run begins with its spec");
    let (base, data) = (hub::commit(BASE), hub::commit(DATA));
    assert!(spec.contains(&format!("hf://tiny/base#{base}")), "{spec}");
    assert!(spec.contains(&format!("hf://datasets/tiny/instructions@v1#{data}")), "{spec}");
    // The base is staged whole, without what no model folder needs.
    let staged = files(&fixture.path(&format!("runs/staged/tiny--base-{base}")));
    let mut wanted = files(&fixture.path("base"));
    wanted.push("staged.json".into());
    wanted.sort();
    assert_eq!(staged, wanted);
    assert!(!ended.stderr.contains(TOKEN));

    // A second run downloads nothing.
    let downloads = hub.downloads();
    Process::run_in(&fixture, &["--workers", "2"], &environment).end().with_code(0);
    assert_eq!(hub.downloads(), downloads, "staged and prepared once");
}

/// Checks that `coordinator run` refuses a spec whose inputs cannot be read, and that no run was created.
fn refused(fixture: &Fixture, environment: &[(&'static str, String)], words: &[&str]) {
    let ended = Process::run_in(fixture, &["--workers", "1"], environment).end().with_code(2);
    for word in words {
        assert!(ended.stderr.contains(word), "`{word}` in:\n{}", ended.stderr);
    }
    let errors = ended.stderr.lines().filter(|l| l.starts_with("error: ")).count();
    assert_eq!(errors, 1, "{}", ended.stderr);
    assert!(!ended.stderr.contains(TOKEN) && !SeaweedFs::leaks_secret(&ended.stderr));
    assert!(ended.events.is_empty(), "{:?}", ended.events);
    assert_eq!(files(&fixture.path("runs")), [""; 0]);
}

#[test]
fn what_the_hub_does_not_serve_is_refused_before_a_run_exists() {
    let environment = {
        let fixture = short();
        some_hub(&fixture).environment()
    };
    let [endpoint, _] = environment.clone();
    let stranger = [endpoint, ("HF_TOKEN_PATH", "/nowhere".into()), ("HF_TOKEN", "".into())];
    let cases: [(&str, &str, &[_], &[&str]); 7] = [
        (
            "./base",
            "hf://tiny/nothing",
            &environment,
            &["model.base", "the hub has no `tiny/nothing`"],
        ),
        ("./base", "hf://tiny/base", &stranger, &["or it is private", "hint: ", "HF_TOKEN"]),
        ("./base", "hf://tiny/gated", &environment, &["`tiny/gated` is gated", "accept its terms"]),
        ("./base", "hf://tiny/base@v2", &environment, &["no revision `v2`", "hint: name a branch"]),
        (
            "./data.jsonl",
            "hf://datasets/tiny/splits",
            &environment,
            &["several splits: test, train", "splits/data/train-0.jsonl"],
        ),
        ("./data.jsonl", "hf://datasets/tiny/pictures", &environment, &["no file that ends in"]),
        ("./base", "hf://datasets/tiny/splits", &environment, &["that is a data set", "hint: "]),
    ];
    for (local, remote, environment, words) in cases {
        let fixture = short();
        fixture.respec(local, remote);
        refused(&fixture, environment, words);
    }
}

#[test]
fn the_hubs_own_client_reads_the_same_hub() {
    let test = "the_hubs_own_client_reads_the_same_hub";
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        return println!("{test}: skipped, MUSTER_PEER_PYTHON is not set");
    };
    let fixture = Fixture::new();
    let hub = some_hub(&fixture);
    let there = tempfile::tempdir().expect("a temporary folder");
    let script = "import sys, huggingface_hub as h\n\
                  h.snapshot_download('tiny/base', revision='v1', local_dir=sys.argv[1])\n\
                  print([f.path for f in h.HfApi().list_repo_tree('tiny/base', recursive=True)])";
    let ended = Command::new(python)
        .args(["-c", script])
        .arg(there.path())
        .envs(hub.environment())
        .env("HF_HOME", there.path().join("home"))
        .output()
        .expect("MUSTER_PEER_PYTHON starts");
    let output = String::from_utf8_lossy(&ended.stdout) + String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{output}");
    assert!(
        output.contains("'onnx/config.json'") && output.contains("'tokenizer.json'"),
        "{output}"
    );
    for (name, body) in hub::folder(&fixture.path("base")) {
        assert!(std::fs::read(there.path().join(&name)).expect(&name) == body, "{name} differs");
    }
    assert_eq!(hub.leaks(), 0);
}

#[test]
fn a_file_on_a_web_server_is_read_in_place() {
    let fixture = short();
    let lines: &'static [u8] = fixture.read("data.jsonl").into_bytes().leak();
    let address = serve(move |request| match request.target.as_str() {
        "/some%20folder/data.jsonl?version=2" => content(request, lines),
        _ => muster_tests::http::Answer { status: 404, ..Default::default() },
    });
    let url = format!("http://{address}/some%20folder/data.jsonl?version=2");
    fixture.respec("./data.jsonl", &format!("\"{url}\""));
    Process::run(&fixture, &["--workers", "2"]).end().with_code(0);
    assert_bit_equal(&weights(&fixture.run().join("model")), &LOCAL.weights);

    let fixture = short();
    fixture.respec("./data.jsonl", &format!("http://{address}/none.jsonl"));
    refused(&fixture, &[], &["none.jsonl", "there is no such file"]);
    let fixture = short();
    fixture.respec("./data.jsonl", "http://example.com/data.jsonl");
    refused(&fixture, &[], &["`http://` is unencrypted", "hint: write `https://`"]);
}

#[test]
fn a_run_on_s3_equals_the_run_on_local_files() {
    let Some(server) = SeaweedFs::start("a_run_on_s3_equals_the_run_on_local_files") else {
        return;
    };
    let fixture = short();
    for (name, body) in hub::folder(&fixture.path("base")) {
        server.put(&format!("bases/tiny/{name}"), &body);
    }
    let data = fixture.read("data.jsonl");
    let lines: Vec<_> = data.lines().collect();
    for (index, part) in (0..).zip(lines.chunks(RECORDS / 3)) {
        server.put(&format!("data/part-{index}.jsonl"), (part.join("\n") + "\n").as_bytes());
    }
    server.put("data/about.pdf", b"no data");
    let template = fixture.read("base/chat_template.jinja");
    server.put("templates/mine.jinja", template.as_bytes());
    fixture.respec("./base", &format!("s3://{BUCKET}/bases/tiny"));
    fixture.respec("./data.jsonl", &format!("s3://{BUCKET}/data/*.jsonl"));
    fixture.respec("./runs", &format!("s3://{BUCKET}/out"));
    let template = format!("max_tokens: 128\n  chat_template: s3://{BUCKET}/templates/mine.jinja");
    fixture.respec("max_tokens: 128", &template);
    fixture.respec("save_dtype: f32", "save_dtype: f32, max_shard_size: 2MB");
    // The spec is also in the bucket, and names everything else relative to it.
    let spec = fixture.read("spec.yaml").replace(&format!("s3://{BUCKET}/"), "../");
    server.put("specs/spec.yaml", spec.as_bytes());
    let cache = ("MUSTER_CACHE", fixture.path("cache").to_string_lossy().into_owned());
    let environment: Vec<_> = server.environment().into_iter().chain([cache]).collect();
    let run = |spec: &str| {
        let spec = format!("s3://{BUCKET}/specs/{spec}");
        let arguments = ["run", &spec, "--workers", "2", "--json"];
        Process::start_in(&programs::coordinator(), &arguments, &environment).end()
    };
    let ended = run("spec.yaml").with_code(0);
    assert!(!SeaweedFs::leaks_secret(&ended.stderr), "{}", ended.stderr);

    let model = ended.only("finished").text("model").to_owned();
    let key = model.strip_prefix(&format!("s3://{BUCKET}/")).expect("the model is in the bucket");
    let here = fixture.path("model");
    std::fs::create_dir(&here).expect("a fresh folder");
    server.download(key, &here);
    assert!(here.join("model.safetensors.index.json").is_file(), "it is in several files");
    assert_bit_equal(&weights(&here), &LOCAL.weights);
    assert_loads_as_the_local_one(&here);
    // Two ranks and the preparation needed the base, which was fetched once.
    let fetched = files(&fixture.path("cache/models"));
    let base = files(&fixture.path("base"));
    assert_eq!(fetched.len(), base.len() + 1, "the base and a lock, not {fetched:?}");

    let folder = key.strip_suffix("/model").expect("in the run's folder");
    assert!(folder.starts_with("out/small-"), "{folder}");
    assert_eq!(server.get(&format!("{folder}/spec.yaml")), spec.as_bytes(), "as the user wrote it");

    // Errors are reported before a run is created.
    let missing = run("none.yaml").with_code(2);
    assert!(missing.stderr.starts_with("error: run spec: "), "{}", missing.stderr);
    assert!(missing.stderr.contains("specs/none.yaml"), "{}", missing.stderr);
    let cases = [
        (format!("s3://{BUCKET}/out"), "s3://nowhere/out".to_owned(), "NoSuchBucket"),
        (format!("{BUCKET}/data/*.jsonl"), format!("{BUCKET}/data/*.csv"), "matches no file"),
        (format!("{BUCKET}/bases/tiny"), format!("{BUCKET}/bases/none"), "there is no model in"),
    ];
    for (old, new, words) in cases {
        fixture.respec(&old, &new);
        refused(&fixture, &environment, &[words, "hint: "]);
        fixture.respec(&new, &old);
    }
}

#[test]
fn a_run_on_azure_equals_the_run_on_local_files() -> Result<()> {
    let name = "a_run_on_azure_equals_the_run_on_local_files";
    let Some(server) = Azurite::start(name) else { return Ok(()) };
    let place = (PLACE, format!("az://{CONTAINER}/muster"));
    run_ignored("a_run_elsewhere", &[&server.environment()[..], &[place]].concat())
}

#[test]
fn a_run_on_googles_api_equals_the_run_on_local_files() -> Result<()> {
    let name = "a_run_on_googles_api_equals_the_run_on_local_files";
    let Some(server) = SeaweedFs::start(name) else { return Ok(()) };
    let proxy = Proxy::start(server.address());
    proxy.inject(Faults::none().in_google());
    let place = (PLACE, format!("gs://{BUCKET}/muster"));
    run_ignored("a_run_elsewhere", &[&proxy.environment_of_google()[..], &[place]].concat())
}

/// Environment variable with the URL at which [`a_run_elsewhere`] stores everything.
const PLACE: &str = "MUSTER_TEST_PLACE";

#[tokio::test]
#[ignore = "run by others in a store's environment"]
async fn a_run_elsewhere() -> Result<()> {
    let url = std::env::var(PLACE)?;
    let storage = Storage::open(&url)?;
    let fixture = short();
    for (name, body) in hub::folder(&fixture.path("base")) {
        storage.put(&format!("base/{name}"), body).await?;
    }
    storage.put("data.jsonl", fixture.read("data.jsonl")).await?;
    for name in ["base", "data.jsonl", "runs"] {
        fixture.respec(&format!("./{name}"), &format!("{url}/{name}"));
    }
    let cache = ("MUSTER_CACHE", fixture.path("cache").to_string_lossy().into_owned());
    let ended = Process::run_in(&fixture, &["--workers", "2"], &[cache]).end().with_code(0);
    let model = ended.only("finished").text("model").to_owned();
    let key = model.strip_prefix(&format!("{url}/")).expect("the model is in the store");
    let here = fixture.path("model");
    std::fs::create_dir(&here)?;
    for object in storage.list(key).await? {
        let name = object.key.rsplit('/').next().unwrap_or_default();
        std::fs::write(here.join(name), storage.read(&object.key).await?)?;
    }
    assert_bit_equal(&weights(&here), &LOCAL.weights);
    Ok(())
}

/// Checks that `transformers` treats the folder like the local run's: it loads without a network, generation stops at
/// the template's stop token, and a conversation is rendered as by the template.
fn assert_loads_as_the_local_one(folder: &Path) {
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        return println!("not loaded in transformers: MUSTER_PEER_PYTHON is not set");
    };
    let local = tempfile::tempdir().expect("a temporary folder");
    for (name, body) in &LOCAL.files {
        std::fs::write(local.path().join(name), body).expect("a temporary folder");
    }
    let empty = tempfile::tempdir().expect("a temporary folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/load.py");
    let mut peer = Command::new(python);
    peer.arg(script).args([folder, local.path()]).env("HF_HOME", empty.path());
    let peer = peer.output().expect("MUSTER_PEER_PYTHON starts");
    assert!(peer.status.success(), "{}", String::from_utf8_lossy(&peer.stderr));
    let text = String::from_utf8(peer.stdout).expect("JSON");
    let seen: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let [remote, local] = &seen[..] else { panic!("one line for each folder: {text}") };
    assert_eq!(remote, local);
    assert_eq!(remote["misfits"], json!([]));
    assert_eq!((&remote["finite"], &remote["dtype"]), (&json!(true), &json!("torch.float32")));
    assert_eq!(remote["eos"], json!([remote["own_eos"], remote["stop"]]));
    let prompt = "<|im_start|>user\nSay hello.<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(remote["prompt"], prompt);
    assert_eq!(remote["text"], format!("{prompt}Hello there<|im_end|>\n"));
}

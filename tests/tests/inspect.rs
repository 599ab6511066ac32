//! `inspect` and `plan` show what the run will do, and leave nothing behind but the prepared data set.

use muster_tests::fixture::{RECORDS, STEPS, files};
use muster_tests::{Ended, Fixture, Process, programs};
use serde_json::Value;
use std::process::Command;

const USER: i32 = 2;
const DATA: i32 = 3;
/// A tenth of the records, according to the fixture's spec.
const HELD_OUT: u64 = 24;

/// `coordinator COMMAND SPEC` with further arguments.
fn start(fixture: &Fixture, command: &str, arguments: &[&str]) -> Process {
    let spec = fixture.path("spec.yaml");
    let mut all = vec![command, spec.to_str().expect("a temporary path")];
    all.extend(arguments);
    Process::start(&programs::coordinator(), &all)
}

/// Checks that a command succeeded without a message on standard error, such as that a worker had to be killed.
fn quietly(ended: Ended) -> Ended {
    let ended = ended.with_code(0);
    assert_eq!(ended.stderr, "");
    ended
}

/// Checks that the output contains nothing but the prepared data set.
fn assert_only_prepared(fixture: &Fixture) {
    let names = files(&fixture.path("runs"));
    assert!(names.iter().any(|name| name.ends_with("manifest.json")), "{names:?}");
    assert!(names.iter().all(|name| name.starts_with("prepared/")), "{names:?}");
}

/// The conversation on a line of the data, counted from 1: its text in the base's template, and its trained parts.
fn conversation(fixture: &Fixture, line: usize) -> (String, Vec<String>) {
    let data = fixture.read("data.jsonl");
    let record = data.lines().nth(line - 1).expect("as many lines as samples");
    let record: Value = serde_json::from_str(record).expect("the fixture is valid");
    let (mut text, mut trained) = (String::new(), Vec::new());
    for message in record["messages"].as_array().expect("messages") {
        let [role, content] = ["role", "content"].map(|key| message[key].as_str().expect(key));
        let message = format!("{content}<|im_end|>");
        text += &format!("<|im_start|>{role}\n{message}\n");
        if role == "assistant" {
            trained.push(message);
        }
    }
    (text, trained)
}

#[test]
fn samples_show_what_must_be_trained_and_nothing_else() {
    let fixture = Fixture::new();
    let ended = quietly(start(&fixture, "inspect", &["--json", "--samples", "1000"]).end());
    let samples = ended.all("sample");
    assert_eq!(samples.len(), RECORDS);
    let mut evaluated = 0;
    for (sample, line) in samples.into_iter().zip(1..) {
        let sample = &sample.0["sample"];
        let origin = sample["origin"].as_str().expect("a place");
        assert_eq!(origin, format!("{}, line {line}", fixture.path("data.jsonl").display()));
        let pieces = sample["pieces"].as_array().expect("pieces").iter();
        let words = |piece: &Value| piece["text"].as_str().expect("a text").to_owned();
        let shown = pieces.clone().map(words).collect::<String>();
        let trained: Vec<_> = pieces.filter(|p| p["weight"] == 1.0).map(words).collect();
        assert_eq!((shown, trained), conversation(&fixture, line), "line {line}");
        evaluated += u64::from(sample["fate"] == "evaluated");
    }
    assert_eq!(evaluated, HELD_OUT);
    assert_only_prepared(&fixture);
}

#[test]
fn a_run_matches_inspect_and_plan_and_finds_its_data_prepared() {
    let fixture = Fixture::new();
    fixture.respec("max_steps: 40", "max_steps: 2");
    let inspected = quietly(start(&fixture, "inspect", &["--json"]).end());
    let planned = quietly(start(&fixture, "plan", &["--json", "--no-measure"]).end());
    let measured = quietly(start(&fixture, "plan", &["--json", "--workers", "2"]).end());
    assert_only_prepared(&fixture);
    let ran = Process::run(&fixture, &["--workers", "2"]).end().with_code(0);

    let prepared = &ran.only("prepared").0;
    assert_eq!(prepared["cached"], true);
    assert_eq!(prepared["receipt"], inspected.only("receipt").0["receipt"]);
    let counts = prepared["receipt"]["sources"].as_object().expect("by source").values().next();
    let counts = counts.expect("one source");
    for (key, count) in [("read", 240), ("eligible", 240), ("samples", 240), ("held_out", HELD_OUT)]
    {
        assert_eq!(counts[key], count, "{key}");
    }
    let format = &counts["formats"][0];
    let detected = ["format", "container", "why"].map(|key| format[key].as_str().expect(key));
    assert_eq!(detected, ["messages", "JSON lines", "as the run spec says"]);

    let announced = ran.only("planned");
    let [plan] = &planned.events[..] else { panic!("one object: {:?}", planned.events) };
    assert_eq!(plan.0, inspected.only("plan").0["plan"]);
    for key in ["steps", "steps_per_epoch", "packs_per_epoch", "max_tokens", "held_out", "sources"]
    {
        assert_eq!(plan.0[key], announced.0[key], "{key}");
    }
    assert_eq!(plan.count("steps"), ran.only("finished").count("steps"));
    let tokens: u64 = ran.all("step").iter().map(|step| step.count("tokens")).sum();
    let wanted = plan.number("tokens_per_step") * 2.0;
    assert!((tokens as f64 - wanted).abs() <= 0.1 * wanted, "{tokens} tokens, {wanted} planned");

    let [plan] = &measured.events[..] else { panic!("one object: {:?}", measured.events) };
    let cost = &plan.0["measured"];
    let config: Value = serde_json::from_str(&fixture.read("base/config.json")).expect("a config");
    let embedding = config["vocab_size"].as_u64().zip(config["hidden_size"].as_u64());
    let least = embedding.map(|(rows, columns)| rows * columns).expect("sizes");
    assert!(cost["parameters"].as_u64().expect("a count") > least, "{cost}");
    let [model, checkpoint] =
        ["model_bytes", "checkpoint_bytes"].map(|key| cost[key].as_u64().expect(key));
    let stored = files(&fixture.run().join("model"));
    let weights = stored.iter().filter(|name| name.ends_with(".safetensors"));
    let stored: u64 = weights
        .map(|name| fixture.run().join("model").join(name).metadata().expect("listed").len())
        .sum();
    // Each file has a header in addition.
    assert!(
        (model..model + model / 100 + 10_000).contains(&stored),
        "{model} planned, {stored} stored"
    );
    assert_eq!(checkpoint, 4 * model, "masters and two moments, in f32 as the model is");
    for key in ["eta_seconds", "tokens_per_second", "memory_bytes_per_worker"] {
        assert!(cost[key].as_f64().expect(key) > 0.0, "{key}: {cost}");
    }
}

#[test]
fn plan_states_its_assumptions_and_warns_of_few_steps() {
    let fixture = Fixture::new();
    let (text, messages) = start(&fixture, "plan", &[]).end_with_text(0);
    assert_eq!(messages, "");
    for words in [
        "240 records: 0 dropped; 216 samples to train on, 24 held out",
        &format!("{STEPS} steps of "),
        "with 1 worker on this machine",
        "from the fastest of 3 micro-batches of ",
        "for each worker",
        "are the model; 5 checkpoints in the run",
        "warning: fewer than 50 steps",
    ] {
        assert!(text.contains(words), "`{words}` in:\n{text}");
    }
}

#[test]
fn inspecting_data_loads_no_weights() {
    let fixture = Fixture::new();
    for name in files(&fixture.path("base")).iter().filter(|name| name.ends_with(".safetensors")) {
        // A worker that opens the weights blocks, does not exit when it is dismissed, and is killed with a message.
        let weights = fixture.path("base").join(name);
        std::fs::remove_file(&weights).expect("a copy");
        let made = Command::new("mkfifo").arg(&weights).status().expect("it can be started");
        assert!(made.success());
    }
    quietly(start(&fixture, "inspect", &["--json"]).end());
    quietly(start(&fixture, "plan", &["--json", "--no-measure"]).end());
    assert_only_prepared(&fixture);
}

/// The fixture with a second source, an array of two questions, and with a duplicate and a broken line in the first.
fn mixed() -> Fixture {
    let fixture = Fixture::new();
    fixture.respec(
        "      format: messages\n",
        "      format: messages\n    - source: ./more.json\n      repeat: 2\n",
    );
    fixture.respec("max_dropped: 0.01", "max_dropped: 0.05\n  quality: {duplicates: filter}");
    let hostile = "<script>alert(1)</script>";
    let more = serde_json::json!([
        {"question": "Which?", "answer": format!("{hostile}\u{1b}[2J")},
        {"question": "", "answer": ""},
    ]);
    fixture.write("more.json", &more.to_string());
    let data = fixture.read("data.jsonl");
    let first = data.lines().next().expect("a line");
    fixture.write("data.jsonl", &format!("{data}{first}\n{{\"messages\n"));
    fixture
}

#[test]
fn text_json_and_page_agree() {
    let fixture = mixed();
    let (data, more) = (fixture.path("data.jsonl"), fixture.path("more.json"));
    let (data, more) = (data.display(), more.display());
    let page = fixture.path("page.html");
    let page = page.to_str().expect("a temporary path");
    let records = ["--record", "more.json:1", "--record", "data.jsonl:241"];
    let (words, messages) =
        start(&fixture, "inspect", &[&records[..], &["--html", page]].concat()).end_with_text(0);
    assert_eq!(messages, format!("wrote {page}\n"));
    let json = quietly(start(&fixture, "inspect", &[&records[..], &["--json"]].concat()).end());
    assert_only_prepared(&fixture);

    let sources = &json.only("receipt").0["receipt"]["sources"];
    let (of_data, of_more) = (&sources[data.to_string()], &sources[more.to_string()]);
    assert_eq!(of_data["dropped"]["duplicate"]["examples"][0]["line"], 241);
    assert_eq!(of_data["dropped"]["malformed"]["examples"][0]["line"], 242);
    assert_eq!(of_more["dropped"]["empty"]["examples"][0]["record"], 2);
    assert_eq!(of_more["formats"][0]["format"], "alpaca");
    let samples = json.all("sample");
    let fates: Vec<_> = samples.iter().map(|s| s.0["sample"]["fate"].as_str()).collect();
    assert_eq!(fates.len(), 2);
    assert_eq!(fates[0], Some("left_out"), "the duplicate");

    let page = fixture.read("page.html").replace("&#x2f;", "/");
    assert!(!page.contains("<script") && !page.contains('\u{1b}'), "it would run");
    assert!(!words.contains('\u{1b}'), "it would clear the terminal:\n{words}");
    for line in [
        &*format!("alpaca, a JSON array: {more}, record 1 (line 1) has `question` and `answer`; "),
        "messages, JSON lines: as the run spec says",
        "in no step of the run",
        "is never seen",
    ] {
        // No sample is never seen, so that line must be absent.
        let expected = line != "is never seen";
        assert_eq!(words.contains(line), expected, "`{line}` in:\n{words}");
        assert_eq!(page.contains(line), expected, "`{line}` in:\n{page}");
    }
    for (in_words, in_page) in [
        (
            format!("  duplicate: {data}, line 241: the same as {data}, line 1\n"),
            format!("<code>{data}, line 241</code>: <bdi>the same as {data}, line 1</bdi>"),
        ),
        (
            format!("  empty: {more}, record 2 (line 1): "),
            format!("<code>{more}, record 2 (line 1)</code>"),
        ),
        (
            "⟦<script>alert(1)</script>\\u{1b}[2J<|im_end|>⟧".into(),
            "<mark>&lt;script&gt;alert(1)&lt;/script&gt;\\u{1b}[2J&lt;|im_end|&gt;</mark>".into(),
        ),
        ("   2.000  ".into(), "<td>2.000</td>".into()),
        ("  tokens per sample: 50% below ".into(), "tokens per sample<span>half below ".into()),
    ] {
        assert!(words.contains(&in_words), "`{in_words}` in:\n{words}");
        assert!(page.contains(&in_page), "`{in_page}` in:\n{page}");
    }
}

#[test]
fn a_record_without_a_sample_is_refused() {
    let fixture = Fixture::new();
    let (text, error) =
        start(&fixture, "inspect", &["--record", "data.jsonl:9999"]).end_with_text(USER);
    assert_eq!(text, "");
    assert!(
        error.starts_with("error: --record: no sample was made of data.jsonl:9999\nhint: "),
        "{error}"
    );
    assert_only_prepared(&fixture);
}

/// Checks that a command is refused with a hint, and returns its error from `error: ` on.
fn error(fixture: &Fixture, command: &str, arguments: &[&str], code: i32) -> String {
    let ended = start(fixture, command, arguments).end().with_code(code);
    let at = ended.stderr.find("error: ").unwrap_or_else(|| panic!("none in:\n{}", ended.stderr));
    assert!(ended.stderr.contains("\nhint: "), "{}", ended.stderr);
    ended.stderr[at..].to_owned()
}

#[test]
fn inspect_and_plan_fail_with_the_same_error_as_the_run() {
    let fixture = Fixture::new();
    fixture.respec("./base", "./bse");
    let missing = error(&fixture, "inspect", &["--json"], USER);
    assert!(missing.contains("there is no folder"), "{missing}");
    assert_eq!(missing, error(&fixture, "run", &["--json"], USER));
    assert_eq!(files(&fixture.path("runs")), [""; 0]);
    fixture.respec("./bse", "./base");

    let mut lines: Vec<_> = fixture.read("data.jsonl").lines().map(str::to_owned).collect();
    lines[6..9].iter_mut().for_each(|line| line.truncate(20));
    fixture.write("data.jsonl", &lines.join("\n"));
    let dropped = error(&fixture, "inspect", &["--json"], DATA);
    assert!(dropped.contains("3 of 240 records are lost"), "{dropped}");
    assert_only_prepared(&fixture);
    assert_eq!(dropped, error(&fixture, "plan", &["--json"], DATA), "from the cache");
    assert_only_prepared(&fixture);
    // A run also says where its receipt is.
    let run = error(&fixture, "run", &["--json"], DATA);
    let place =
        run.strip_prefix(&dropped).and_then(|rest| rest.strip_prefix("hint: the receipt is "));
    let place = place.unwrap_or_else(|| panic!("{run}")).trim_end();
    let receipt = std::fs::read_to_string(place).expect("it is there");
    assert!(receipt.contains(r#""read": 240"#), "{receipt}");
}

#[test]
fn plan_reports_a_damaged_base_as_a_run_does() {
    let fixture = Fixture::new();
    let path = fixture.path("base/model-00001-of-00002.safetensors");
    let bytes = std::fs::read(&path).expect("the base has weights");
    std::fs::write(&path, &bytes[..bytes.len() / 2]).expect("a temporary file");
    let measuring = error(&fixture, "plan", &["--json"], USER);
    assert!(measuring.contains("cut short"), "{measuring}");
    assert_only_prepared(&fixture);
    assert_eq!(measuring, error(&fixture, "run", &["--json"], USER));
}

//! A base that lacks tokens of its chat template: the vocabulary grows equally on every rank, through a checkpoint,
//! and in the finished model.
//!
//! If MUSTER_PEER_PYTHON is set, the finished model is also loaded in `transformers`.

use std::path::Path;
use std::process::Command;

use data::{Folder, Options, Preparer};
use muster_tests::model::weights;
use muster_tests::{Fixture, Process};
use rustix::process::Signal;
use serde_json::{Value, json};

/// Rows of the quick start's base.
const ROWS: usize = 2048;
const NEW: [&str; 3] = ["<|im_start|>", "<|im_end|>", "<|tool|>"];

/// The quick start's base without chatml's tokens and template, tuned with chatml.
fn fixture() -> Fixture {
    let fixture = Fixture::new();
    for name in ["base/tokenizer.json", "base/tokenizer_config.json"] {
        let text = fixture.read(name).replace("<|im_start|>", "<|one|>");
        fixture.write(name, &text.replace("<|im_end|>", "<|two|>"));
    }
    let template = fixture.path("base/chat_template.jinja");
    std::fs::remove_file(template).expect("the base has a template");
    fixture.respec("save_dtype: f32", "save_dtype: f32, add_tokens: ['<|tool|>']");
    fixture.respec("max_tokens: 128", "max_tokens: 128\n  chat_template: chatml");
    fixture.respec("max_steps: 40", "max_steps: 12");
    fixture
}

#[test]
fn a_base_without_the_templates_tokens_is_tuned_and_resumed() {
    let fixture = fixture();
    let mut process = Process::run(&fixture, &["--workers", "2"]);
    process.step(3);
    process.signal(Signal::INT);
    process.end().with_code(75);
    let resumed = Process::run(&fixture, &["--workers", "2", "--resume"]).end().with_code(0);
    assert!(resumed.only("generation").count("step") >= 3);
    assert_eq!(resumed.only("finished").count("steps"), 12);

    let model = fixture.run().join("model");
    let config: Value = read(&model.join("config.json"));
    assert_eq!(config["vocab_size"], ROWS + NEW.len());
    let (shape, _) = &weights(&model)["model.embed_tokens.weight"];
    assert_eq!(shape[0], ROWS + NEW.len());

    // The folder itself contains the template and the tokens that it was tuned with.
    let folder = Folder::read(&model).expect("a model folder");
    let preparer = Preparer::new(&folder, Options::default()).expect("a whole tokenizer");
    assert_eq!(preparer.new_tokens(), []);
    for (id, token) in (ROWS..).zip(NEW) {
        assert_eq!(preparer.tokenizer().token_to_id(token), Some(id as u32));
    }
    assert!(preparer.stop_ids().contains(&(ROWS as u32 + 1)), "{:?}", preparer.stop_ids());
    assert_read_by_transformers(&model);
}

fn assert_read_by_transformers(model: &Path) {
    let Some(python) = std::env::var_os("MUSTER_PEER_PYTHON") else {
        println!("not compared with transformers: MUSTER_PEER_PYTHON is not set");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/growth.py");
    let peer = Command::new(python).arg(script).arg(model).arg(NEW[1]).args(NEW).output();
    let peer = peer.expect("MUSTER_PEER_PYTHON starts");
    assert!(peer.status.success(), "{}", String::from_utf8_lossy(&peer.stderr));
    let seen: Value = serde_json::from_slice(&peer.stdout).expect("one JSON object");
    let rows = ROWS + NEW.len();
    assert_eq!(seen["token_ids"], json!([ROWS, ROWS + 1, ROWS + 2]));
    assert_eq!(seen["one_token_each"], json!([[ROWS], [ROWS + 1], [ROWS + 2]]));
    assert_eq!(seen["tokens"], rows);
    assert_eq!((&seen["embedding"][0], &seen["head"][0]), (&json!(rows), &json!(rows)));
    assert_eq!(
        seen["text"],
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n"
    );
    let ids: Vec<u64> = serde_json::from_value(seen["ids"].clone()).expect("ids");
    assert_eq!((ids[0], ids[ids.len() - 2]), (ROWS as u64, ROWS as u64 + 1));
    assert_eq!(seen["said"], 3, "it stops at the new token");
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).expect("the model has it");
    serde_json::from_slice(&text).expect("JSON")
}

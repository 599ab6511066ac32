//! Renders a real data set of tool calls in ShareGPT's format, and compares with `transformers`.
//!
//! Needs a Python with `transformers` (MUSTER_PEER_PYTHON), a tokenizer (MUSTER_TEST_MODEL) and the data set
//! (MUSTER_TEST_DATA). If one is missing, the test says that it is skipped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use data::{
    ChatTemplate, Conversation, Folder, Object, Options, Preparer, Record, SourceOptions, Template,
    detect,
};
use serde_json::Value;

const RECORDS: usize = 300;

fn variable(name: &str) -> Option<PathBuf> {
    let value = std::env::var_os(name).map(PathBuf::from);
    if value.is_none() {
        println!("skipped: {name} is not set");
    }
    value
}

/// The file of a data set.
fn demo(name: &str) -> Option<PathBuf> {
    Some(variable("MUSTER_TEST_DATA")?.join("data").join(name))
}

/// The data set of tool calls in ShareGPT's format.
fn glaive() -> Option<PathBuf> {
    demo("glaive_toolcall_en_demo.json")
}

fn template(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("templates").join(name)
}

fn conversations(file: &Path) -> Result<Vec<Conversation>> {
    let object = Object::open("glaive.json", Arc::new(File::open(file)?), data::Given::default())?;
    let source = SourceOptions::default();
    let detection = detect("glaive.json", object.container(), &object.head()?.take_raws(), &source);
    let shape = detection?.context("records")?.shape(&source);
    let mut conversations = Vec::new();
    for block in object.blocks(0..u64::MAX)? {
        for raw in block?.take_raws() {
            match shape.parse(raw.body)?.record {
                Record::Conversation(conversation) => conversations.push(conversation),
                other => anyhow::bail!("{other:?}"),
            }
        }
    }
    Ok(conversations)
}

#[test]
fn sharegpts_tool_calls_render_to_the_bytes_of_transformers() -> Result<()> {
    let (Some(python), Some(model), Some(file)) =
        (variable("MUSTER_PEER_PYTHON"), variable("MUSTER_TEST_MODEL"), glaive())
    else {
        return Ok(());
    };
    let names = ["qwen2_5.jinja", "llama3.jinja", "chatml.jinja", "zephyr.jinja"];
    let templates = names.map(template);
    let output = Command::new(python)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peer/formats.py"))
        .args([&model, &file])
        .args(&templates)
        .output()
        .context("MUSTER_PEER_PYTHON does not start")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: Vec<Value> = std::str::from_utf8(&output.stdout)?
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()?;
    let conversations = conversations(&file)?;
    ensure!(conversations.len() == RECORDS, "{} records", conversations.len());
    ensure!(theirs.len() == RECORDS * names.len(), "{} answers", theirs.len());
    let special = Folder::read(&model)?.special_tokens();
    let mut theirs = theirs.iter();
    for path in &templates {
        let ours = Template::new(&std::fs::read_to_string(path)?, &special, Default::default())?;
        for (i, (conversation, theirs)) in conversations.iter().zip(&mut theirs).enumerate() {
            let ours = ours.render(conversation, conversation.messages.len(), false);
            let ours = ours.ok().map(|rendered| rendered.text);
            let theirs = theirs["text"].as_str();
            ensure!(ours.as_deref() == theirs, "{}, record {i}: {theirs:?}", path.display());
        }
    }
    Ok(())
}

#[test]
fn every_record_of_sharegpts_tool_calls_becomes_a_sample() -> Result<()> {
    let (Some(model), Some(file)) = (variable("MUSTER_TEST_MODEL"), glaive()) else {
        return Ok(());
    };
    let options = Options {
        max_tokens: 16384,
        chat_template: ChatTemplate::Jinja(std::fs::read_to_string(template("qwen2_5.jinja"))?),
        ..Options::default()
    };
    let preparer = Preparer::new(&Folder::read(&model)?, options)?;
    let bytes = std::fs::read(&file)?;
    let prepared = preparer.prepare("glaive.json", &bytes, &SourceOptions::default())?;
    let counts = &prepared.counts;
    ensure!(counts.eligible == RECORDS as u64, "{:?}", counts.dropped);
    let why = prepared.detection.context("records")?.to_string();
    ensure!(why.ends_with("`sharegpt`: record 1 (line 2) has `conversations`"), "{why}");
    Ok(())
}

#[test]
fn a_real_preference_set_is_refused() -> Result<()> {
    let Some(file) = demo("dpo_en_demo.json") else {
        return Ok(());
    };
    let object = Object::open("dpo.json", Arc::new(File::open(file)?), data::Given::default())?;
    let (mut head, source) = (object.head()?, SourceOptions::default());
    let refused = detect("dpo.json", object.container(), &head.take_raws(), &source);
    let error = refused.expect_err("better and worse answers").to_string();
    ensure!(error.contains("a preference set (DPO)") && error.contains("\nhint: "), "{error}");
    Ok(())
}

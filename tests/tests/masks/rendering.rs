//! Compares rendered bytes and printed expressions with `transformers`.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use data::{Conversation, Message, Role, Template};
use serde_json::{Map, Value, json};

use crate::comparison::DAY;
use crate::conversations;
use crate::family::Family;
use crate::peer::{Peer, manifest};

#[test]
fn templates_render_to_the_bytes_of_transformers() -> Result<()> {
    let Some(peer) = Peer::find("templates_render_to_the_bytes_of_transformers") else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let families = Family::all(at.path())?;
    let texts = conversations::all();
    let parts: Vec<Value> = texts.iter().map(conversations::in_parts).collect();
    let mut cases = Vec::new();
    for (model, family) in families.iter().enumerate() {
        // A template that ignores plain text always gets parts from us.
        let mut records: Vec<&Value> =
            if family.wants_parts() { vec![] } else { texts.iter().collect() };
        // These concatenate a list of parts with `~`, which is known to differ and is not intended by their authors.
        if !family.name.starts_with("nemotron") {
            records.extend(&parts);
        }
        for record in records {
            for add_generation_prompt in [false, true] {
                cases.push(json!({"model": model, "template": family.source,
                                  "messages": record["messages"], "tools": record["tools"],
                                  "add_generation_prompt": add_generation_prompt}));
            }
        }
    }
    let folders: Vec<_> = families.iter().map(|family| family.folder.clone()).collect();
    let answers = peer.answers(&folders, &cases)?;
    let mut differences = Vec::new();
    let (mut rendered, mut lenient) = (0, 0);
    for (case, theirs) in cases.iter().zip(&answers) {
        let model = case["model"].as_u64().context("written above")?;
        let family = &families[usize::try_from(model)?];
        let ours = render(&family.source, &family.read()?.special_tokens(), case);
        rendered += usize::from(ours.is_ok());
        // Python raises a TypeError where minijinja does nothing, such as for a loop over `None`.
        let raises = theirs["error"].as_str().is_some_and(|e| e.starts_with("TypeError"));
        if ours.is_ok() && raises {
            lenient += 1;
        } else if !same(ours.as_deref().ok(), theirs) {
            let name = &family.name;
            let messages = &case["messages"];
            differences.push(format!("{name}: {messages}\nours   {ours:?}\ntheirs {theirs}\n"));
        }
    }
    println!(
        "{} templates, {} renderings, {rendered} to a text, {lenient} of them where Python raises a TypeError, \
         {} differ",
        families.len(),
        cases.len(),
        differences.len()
    );
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

/// Whether both sides rendered the same text or both failed. The texts of errors may differ.
fn same(ours: Option<&str>, theirs: &Value) -> bool {
    ours == theirs.get("text").and_then(Value::as_str)
}

/// Our text for a case, or our error.
fn render(source: &str, special: &Map<String, Value>, case: &Value) -> Result<String, String> {
    try_render(source, special, case).map_err(|error| error.to_string())
}

fn try_render(source: &str, special: &Map<String, Value>, case: &Value) -> Result<String> {
    let template = Template::new(source, special, DAY.context("a day")?)?;
    let mut conversation = conversation(&case["messages"])?;
    conversation.tools = Some(case["tools"].clone()).filter(Value::is_array);
    let prompt = case["add_generation_prompt"] == true;
    let rendered = template.render(&conversation, conversation.messages.len(), prompt);
    Ok(rendered.map_err(|reject| anyhow::anyhow!(reject))?.text)
}

fn conversation(messages: &Value) -> Result<Conversation> {
    let messages = messages.as_array().context("a list")?;
    let messages = messages.iter().map(|message| {
        let Value::Object(fields) = message.clone() else {
            anyhow::bail!("not an object: {message}");
        };
        let role = fields.get("role").and_then(Value::as_str).and_then(Role::parse);
        let mut message = Message::new(role.context("a known role")?, "");
        message.fields = fields;
        Ok(message)
    });
    Ok(Conversation::of(messages.collect::<Result<Vec<_>>>()?))
}

/// Expressions whose output depends on Python. Each is a template by itself, so that a failure names the expression.
#[test]
fn expressions_print_as_python_prints_them() -> Result<()> {
    let Some(peer) = Peer::find("expressions_print_as_python_prints_them") else {
        return Ok(());
    };
    let base = manifest("../deploy/quickstart/base");
    let special = data::Folder::read(Path::new(&base))?.special_tokens();
    let messages = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]);
    let expressions = fs::read_to_string(manifest("peer/expressions.json"))?;
    let expressions: Vec<String> = serde_json::from_str(&expressions)?;
    let case = |template: &String| json!({"model": 0, "template": template, "messages": messages});
    let cases: Vec<Value> = expressions.iter().map(case).collect();
    let mut differences = Vec::new();
    for (case, theirs) in cases.iter().zip(peer.answers(&[base], &cases)?) {
        let template = case["template"].as_str().context("written above")?;
        let ours = render(template, &special, case);
        if !same(ours.as_deref().ok(), &theirs) {
            differences.push(format!("{template}\nours   {ours:?}\ntheirs {theirs}\n"));
        }
    }
    println!("{} expressions, {} differ", cases.len(), differences.len());
    ensure!(differences.is_empty(), "{}", differences.join("\n"));
    Ok(())
}

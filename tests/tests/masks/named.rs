//! Tokenizers with several chat templates. Like `transformers`, we use `tool_use` for conversations with tools.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use data::{ChatTemplate, Think};
use serde_json::{Value, json};

use crate::comparison::{Pair, prepare};
use crate::conversations;
use crate::peer::{Peer, manifest};

/// A template whose output begins with its name.
fn named(name: &str) -> String {
    format!(
        "{name}:{{{{ tools | tojson }}}}\n\
         {{% for m in messages %}}<|im_start|>{{{{ m.role }}}}\n{{% if m.role == 'assistant' %}}\
         {{% generation %}}{{{{ m.content }}}}<|im_end|>{{% endgeneration %}}{{% else %}}\
         {{{{ m.content }}}}<|im_end|>{{% endif %}}\n{{% endfor %}}"
    )
}

/// Places of templates: the configuration's value, whether there is a template file, and additional files.
fn shapes() -> Vec<(&'static str, Value, bool, &'static [&'static str])> {
    let list = |names: &[&str]| {
        let named = names.iter().map(|name| json!({"name": name, "template": named(name)}));
        Value::from_iter(named)
    };
    vec![
        ("a list", list(&["tool_use", "default"]), false, &[]),
        ("a list without tool_use", list(&["rag", "default"]), false, &[]),
        ("a list without default", list(&["rag", "tool_use"]), false, &[]),
        ("files", Value::Null, true, &["tool_use"]),
        ("files beside a list", list(&["tool_use", "default"]), true, &[]),
        ("a file beside a text", json!(named("text")), false, &["tool_use"]),
    ]
}

fn write(at: &Path, chat_template: &Value, has_file: bool, further: &[&str]) -> Result<()> {
    let base = manifest("../deploy/quickstart/base");
    fs::create_dir(at)?;
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(base.join(name), at.join(name))?;
    }
    let mut config: Value = serde_json::from_slice(&fs::read(base.join("tokenizer_config.json"))?)?;
    config.as_object_mut().context("an object")?.remove("chat_template");
    if !chat_template.is_null() {
        config["chat_template"] = chat_template.clone();
    }
    fs::write(at.join("tokenizer_config.json"), serde_json::to_vec(&config)?)?;
    if has_file {
        fs::write(at.join("chat_template.jinja"), named("file"))?;
    }
    let folder = at.join("additional_chat_templates");
    for name in further {
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{name}.jinja")), named(&format!("further {name}")))?;
    }
    Ok(())
}

#[test]
fn a_conversation_with_tools_takes_the_template_for_tools() -> Result<()> {
    const TEST: &str = "a_conversation_with_tools_takes_the_template_for_tools";
    let Some(peer) = Peer::find(TEST) else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let messages =
        json!([{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}]);
    let tool = json!({"type": "function", "function": {"name": "f", "description": "d", "parameters": {}}});
    let records = [
        json!({"messages": messages}),
        json!({"messages": messages, "tools": [tool]}),
        json!({"messages": messages, "tools": null}),
    ];
    let (mut folders, mut cases) = (Vec::new(), Vec::new());
    for (model, (name, chat_template, has_file, further)) in shapes().iter().enumerate() {
        let folder = at.path().join(name);
        write(&folder, chat_template, *has_file, further)?;
        folders.push(folder);
        let case = |record: &Value| {
            json!({"model": model, "template": null, "mask": true,
                   "messages": record["messages"], "tools": record["tools"]})
        };
        cases.extend(records.iter().map(case));
    }
    let answers = peer.answers(&folders, &cases)?;
    let mut refused = 0;
    for ((folder, shape), theirs) in
        folders.into_iter().zip(shapes()).zip(answers.chunks(records.len()))
    {
        let pair = Pair {
            name: shape.0.to_owned(),
            folder,
            ours: ChatTemplate::Tokenizer,
            marked: String::new(),
            wanted: conversations::as_it_is,
            think: Think::Train,
        };
        let (_, outcomes) = prepare(&pair, &records)?;
        for ((ours, theirs), record) in outcomes.into_iter().zip(theirs).zip(&records) {
            println!("{:25} {:10} {}", shape.0, record["tools"].to_string(), theirs);
            match (ours, theirs.get("error")) {
                (Ok(sample), None) => {
                    ensure!(json!(sample.tokens) == theirs["tokens"], "{}: {record}", shape.0);
                    let ours = sample.weights.iter().map(|&weight| u8::from(weight > 0.0));
                    ensure!(Value::from_iter(ours) == theirs["mask"], "{}: {record}", shape.0);
                }
                (Err(why), Some(error)) => {
                    let theirs = error.as_str().context("a text")?;
                    ensure!(theirs.contains("no default specified"), "{theirs}");
                    ensure!(why.contains("none of them is named default"), "{why}");
                    refused += 1;
                }
                (ours, theirs) => anyhow::bail!("{}: {record}: {ours:?} and {theirs:?}", shape.0),
            }
        }
    }
    ensure!(refused > 0, "nothing was refused");
    Ok(())
}

//! The files that turn weights into a model folder: those of the base, adapted to the tuned model.

use crate::inputs::trouble;
use crate::model::Dtype;
use crate::session::Trouble;
use data::{NewToken, Preparer};
use proto::manifest::Staged;
use proto::protocol::Cause;
use serde_json::{Map, Value};
use std::fs::DirEntry;
use std::io::ErrorKind;
use std::path::Path;

/// A file's name and content.
pub(super) type Companion = (String, Vec<u8>);

/// Reads the files of the base's folder that belong to a model, except weights.
fn read(base: &Path) -> Result<Vec<Companion>, Trouble> {
    const NAMES: [&str; 10] = [
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "vocab.json",
        "merges.txt",
        "tokenizer.model",
    ];
    let mut files = Vec::new();
    for name in NAMES.map(str::to_owned).into_iter().chain(templates(base)?) {
        match std::fs::read(base.join(&name)) {
            Ok(body) => files.push((name, body)),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(unread(&base.join(name), &e)),
        }
    }
    Ok(files)
}

/// The names of the base's additional chat templates.
fn templates(base: &Path) -> Result<Vec<String>, Trouble> {
    let folder = base.join(Staged::TEMPLATES);
    let found = match folder.read_dir() {
        Ok(found) => found.collect::<std::io::Result<Vec<_>>>(),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    };
    let found = found.map_err(|e| unread(&folder, &e))?;
    let name =
        |entry: &DirEntry| Some(format!("{}{}", Staged::TEMPLATES, entry.file_name().to_str()?));
    let mut names: Vec<String> = found.iter().filter_map(name).collect();
    names.retain(|name| Staged::takes(name));
    names.sort();
    Ok(names)
}

fn unread(path: &Path, error: &std::io::Error) -> Trouble {
    trouble(Cause::Model)(format!("{}: {error}", path.display()))
}

/// How a tuned model differs from its base.
pub(super) struct Tuned<'a> {
    /// Element type of the weights.
    pub(super) dtype: Dtype,
    /// Number of rows of the embedding.
    pub(super) vocab_size: usize,
    /// The template and the tokenizer that it was tuned with.
    pub(super) preparer: &'a Preparer,
}

/// The companions of a tuned model.
///
/// `generation_config.json` gets the tokens that end an answer in the template that was trained: `transformers`, vLLM
/// and llama.cpp's converter read them there, and the base's own may be others.
///
/// # Errors
/// [`Cause::Model`] for a file that cannot be read.
pub(super) fn of(base: &Path, tuned: &Tuned<'_>) -> Result<Vec<Companion>, Trouble> {
    let mut files = read(base)?;
    edit(&mut files, "config.json", |config| {
        let key = if config.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        config.insert(key.into(), tuned.dtype.name().into());
        config.insert("vocab_size".into(), tuned.vocab_size.into());
    });
    if !files.iter().any(|(name, _)| name == GENERATION) {
        files.push((GENERATION.into(), b"{}".to_vec()));
    }
    edit(&mut files, GENERATION, |config| {
        let stops: Vec<Value> = tuned.preparer.stop_ids().iter().map(|id| (*id).into()).collect();
        match &stops[..] {
            [] => {}
            [one] => drop(config.insert("eos_token_id".into(), one.clone())),
            _ => drop(config.insert("eos_token_id".into(), stops.into())),
        }
    });
    if let Some(template) = tuned.preparer.own_template() {
        put(&mut files, TEMPLATE, template.as_bytes());
        files.retain(|(name, _)| !name.starts_with(Staged::TEMPLATES));
        // Older models keep the template here. Programs that read both places might choose this one.
        edit(&mut files, TOKENIZER_CONFIG, |config| drop(config.shift_remove("chat_template")));
    }
    if let Some(tokenizer) = tuned.preparer.grown_tokenizer() {
        put(&mut files, "tokenizer.json", tokenizer);
        describe(&mut files, tuned.preparer.new_tokens());
    }
    Ok(files)
}

const GENERATION: &str = "generation_config.json";
const ADDED_TOKENS: &str = "added_tokens.json";
const TEMPLATE: &str = "chat_template.jinja";
const TOKENIZER_CONFIG: &str = "tokenizer_config.json";

/// Adds new tokens to those files of the base that repeat what `tokenizer.json` says.
///
/// A program that reads `tokenizer.model` instead, such as llama.cpp's converter, needs them in
/// `tokenizer_config.json` or `added_tokens.json`.
fn describe(files: &mut Vec<Companion>, tokens: &[NewToken]) {
    let mut described = false;
    edit(files, TOKENIZER_CONFIG, |config| {
        if let Some(Value::Object(added)) = config.get_mut("added_tokens_decoder") {
            added.extend(tokens.iter().map(|token| (token.id.to_string(), token.described())));
            described = true;
        }
    });
    let has = |files: &[Companion], wanted| files.iter().any(|(name, _)| name == wanted);
    if !described && has(files, "tokenizer.model") && !has(files, ADDED_TOKENS) {
        put(files, ADDED_TOKENS, b"{}");
    }
    edit(files, ADDED_TOKENS, |added| {
        added.extend(tokens.iter().map(|token| (token.content.clone(), token.id.into())));
    });
}

/// Adds a file, or replaces it.
fn put(files: &mut Vec<Companion>, name: &str, body: &[u8]) {
    files.retain(|(known, _)| known != name);
    files.push((name.to_owned(), body.to_owned()));
}

/// Edits a file that is a JSON object; leaves any other file unchanged.
fn edit(files: &mut [Companion], name: &str, change: impl FnOnce(&mut Map<String, Value>)) {
    let Some((_, body)) = files.iter_mut().find(|(n, _)| n == name) else {
        return;
    };
    if let Ok(mut object) = serde_json::from_slice(body) {
        change(&mut object);
        *body = serde_json::to_vec_pretty(&object).expect("JSON stays JSON");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::{ChatTemplate, Folder, Options};
    use serde_json::json;

    /// A base with two tokens, and the files of a model tuned on it with `chatml`.
    fn tuned_with_chatml(config: &Value, tokenizer_config: &Value) -> Vec<Companion> {
        tuned(config, tokenizer_config, ChatTemplate::Chatml)
    }

    fn tuned(
        config: &Value,
        tokenizer_config: &Value,
        chat_template: ChatTemplate,
    ) -> Vec<Companion> {
        let base = tempfile::tempdir().unwrap();
        let tokenizer = json!({
            "version": "1.0", "truncation": null, "padding": null, "normalizer": null,
            "added_tokens": [{"id": 1, "content": "</s>", "single_word": false, "lstrip": false,
                              "rstrip": false, "normalized": false, "special": true}],
            "pre_tokenizer": null, "post_processor": null, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "</s>": 1}, "unk_token": "a"},
        });
        for (name, content) in [
            ("config.json", config),
            ("tokenizer.json", &tokenizer),
            ("tokenizer_config.json", tokenizer_config),
            ("added_tokens.json", &json!({"</s>": 1})),
        ] {
            std::fs::write(base.path().join(name), content.to_string()).unwrap();
        }
        std::fs::create_dir(base.path().join(Staged::TEMPLATES)).unwrap();
        for name in ["rag.jinja", "tool_use.jinja", "notes.txt"] {
            std::fs::write(base.path().join(Staged::TEMPLATES).join(name), name).unwrap();
        }
        let folder = Folder::read(base.path()).unwrap();
        let options = Options { chat_template, ..Options::default() };
        let preparer = Preparer::new(&folder, options).unwrap();
        let tuned = Tuned { dtype: Dtype::Bf16, vocab_size: 4, preparer: &preparer };
        of(base.path(), &tuned).unwrap()
    }

    #[test]
    fn additional_templates_are_copied_with_the_bases_own_template() {
        let templates = |chat_template| {
            let files = tuned(&json!({}), &json!({"eos_token": "</s>"}), chat_template);
            let names = files.into_iter().map(|(name, _)| name);
            names.filter(|name| name.ends_with(".jinja")).collect::<Vec<_>>()
        };
        let own =
            ["additional_chat_templates/rag.jinja", "additional_chat_templates/tool_use.jinja"];
        assert_eq!(templates(ChatTemplate::Tokenizer), own);
        assert_eq!(templates(ChatTemplate::Chatml), [TEMPLATE]);
    }

    fn json_of(files: &[Companion], name: &str) -> Value {
        let (_, body) = files.iter().find(|(n, _)| n == name).unwrap();
        serde_json::from_slice(body).unwrap()
    }

    #[test]
    fn a_tuned_model_stops_where_its_template_stops() {
        let files =
            tuned_with_chatml(&json!({"torch_dtype": "float32"}), &json!({"eos_token": "</s>"}));
        assert_eq!(json_of(&files, "config.json")["torch_dtype"], "bfloat16");
        assert_eq!(json_of(&files, "generation_config.json")["eos_token_id"], json!([1, 3]));
    }

    #[test]
    fn a_tuned_model_includes_its_template_and_its_tokens() {
        let files = tuned_with_chatml(
            &json!({"vocab_size": 2}),
            &json!({"added_tokens_decoder": {"1": {"content": "</s>"}}, "chat_template": "old"}),
        );
        assert_eq!(json_of(&files, "config.json")["vocab_size"], 4);
        let ids = |list: &Value| -> Vec<(u64, String)> {
            let token =
                |t: &Value| (t["id"].as_u64().unwrap(), t["content"].as_str().unwrap().into());
            list.as_array().unwrap().iter().map(token).collect()
        };
        let expected = [(1, "</s>".into()), (2, "<|im_start|>".into()), (3, "<|im_end|>".into())];
        assert_eq!(ids(&json_of(&files, "tokenizer.json")["added_tokens"]), expected);
        let config = json_of(&files, "tokenizer_config.json");
        assert_eq!(config["added_tokens_decoder"]["3"]["content"], "<|im_end|>");
        assert_eq!(config.get("chat_template"), None);
        assert_eq!(json_of(&files, "added_tokens.json")["<|im_start|>"], 2);
        let (_, template) = files.iter().find(|(name, _)| name == TEMPLATE).unwrap();
        assert!(String::from_utf8_lossy(template).contains("<|im_start|>"));
    }
}

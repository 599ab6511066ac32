//! Tokens that only `tokenizer_config.json` has: their ids are those of `AutoTokenizer`, for the base and the tuned
//! model.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use data::{ChatTemplate, Folder, Options, Preparer, Think};
use serde_json::{Value, json};

use crate::comparison::{Pair, compare};
use crate::conversations;
use crate::peer::{Peer, manifest};

/// Additions to the base's `tokenizer_config.json`.
fn shapes() -> Vec<(&'static str, Value)> {
    let token = |content: &str, special: bool| {
        json!({"content": content, "special": special, "lstrip": false, "rstrip": false,
               "single_word": false, "normalized": !special})
    };
    let stripped = json!({"__type": "AddedToken", "content": "<|b|>", "special": true, "lstrip": true, "rstrip": true,
                          "single_word": false, "normalized": false});
    let extra = token("<|extra|>", true);
    let (z, y) = (token("<|z|>", true), token("<|y|>", true));
    vec![
        ("unchanged", json!({})),
        ("a token", json!({"added_tokens_decoder": {"2048": extra}})),
        ("two, the later first", json!({"added_tokens_decoder": {"2049": y, "2048": z}})),
        (
            "two, the later named",
            json!({"added_tokens_decoder": {"2048": z}, "pad_token": "<|y|>"}),
        ),
        ("behind a gap", json!({"added_tokens_decoder": {"2050": extra}})),
        ("that are not special", json!({"added_tokens_decoder": {"2048": token("zebra", false)}})),
        ("extra ones", json!({"extra_special_tokens": ["<|a|>", stripped]})),
        ("additional ones", json!({"additional_special_tokens": ["<|a|>", stripped]})),
        ("a named one", json!({"pad_token": "<|pad|>"})),
        ("a named one that the vocabulary has", json!({"unk_token": "the"})),
    ]
}

/// Writes the quick start's base with these additions.
fn write(at: &Path, more: &Value) -> Result<()> {
    let base = manifest("../deploy/quickstart/base");
    fs::create_dir(at)?;
    for name in ["config.json", "tokenizer.json"] {
        fs::copy(base.join(name), at.join(name))?;
    }
    let mut config: Value = serde_json::from_slice(&fs::read(base.join("tokenizer_config.json"))?)?;
    let config = config.as_object_mut().context("an object")?;
    config.extend(more.as_object().context("an object")?.clone());
    Ok(fs::write(at.join("tokenizer_config.json"), serde_json::to_vec(config)?)?)
}

#[test]
fn ids_are_those_of_transformers_for_every_shape_of_folder() -> Result<()> {
    const TEST: &str = "ids_are_those_of_transformers_for_every_shape_of_folder";
    let Some(peer) = Peer::find(TEST) else {
        return Ok(());
    };
    let at = tempfile::tempdir()?;
    let marked = fs::read_to_string(manifest("../worker/data/src/templates/chatml.jinja"))?;
    let pair = |name: &str, folder: PathBuf| Pair {
        name: name.to_owned(),
        folder,
        ours: ChatTemplate::Chatml,
        marked: marked.clone(),
        wanted: conversations::as_it_is,
        think: Think::Train,
    };
    let text = "Who is <|extra|> the zebra, zebras <|a|> and <|b|> <|pad|>the <|y|><|z|> ?";
    let record = json!({"messages": [{"role": "user", "content": text},
                                     {"role": "assistant", "content": format!("A. {text}")}]});
    let mut pairs = Vec::new();
    for (i, (name, more)) in shapes().iter().enumerate() {
        let folder = at.path().join(i.to_string());
        write(&folder, more)?;
        let options = Options { chat_template: ChatTemplate::Chatml, ..Options::default() };
        let preparer = Preparer::new(&Folder::read(&folder)?, options)?;
        ensure!(preparer.grown_tokenizer().is_some() == (i > 0), "{name}");
        if let Some(grown) = preparer.grown_tokenizer() {
            let tuned = at.path().join(format!("{i}, tuned"));
            write(&tuned, more)?;
            fs::write(tuned.join("tokenizer.json"), grown)?;
            pairs.push(pair(&format!("{name}, tuned"), tuned));
        }
        pairs.push(pair(name, folder));
    }
    for (pair, found) in pairs.iter().zip(compare(&peer, &pairs, &[record])?) {
        println!("{:40} {found}", pair.name);
        ensure!(found.equal == 1, "{}: {found} {:?}", pair.name, found.different);
    }
    Ok(())
}
